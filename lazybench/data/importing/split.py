"""Labelled instances of a user's source, and the choice of their split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.arguments import MOST_SIZE
from lazybench.data.importing.catalogue import Kind, Part
from lazybench.data.splits import (
    DEV_PER_CLASS,
    FRACTIONS,
    LEAST_CLASSES,
    QUERIES,
    SPLITS,
    ClassSplit,
    Split,
    given_split,
    listed_split,
    ranked_split,
)
from lazybench.errors import UsageError

GREY_MODES = ("1", "L", "LA")
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names of modes with at most 8 bits per channel."""


class Read(NamedTuple):
    """Some instances.

    Attributes:
        x: `[n, *shape]`, prepared.
        hashes: 32 bytes over the source content of each.
    """

    x: NDArray[Any]
    hashes: list[bytes]


@dataclass(frozen=True)
class Rows:
    """A source of M labelled instances.

    Attributes:
        kind: `images` or `features`.
        labels: class of each instance.
        groups: super-category of each instance, or None.
        splits: split of each instance, or None if the source names none.
        split_by: source of the splits, for messages.
        shape: shape of one prepared instance.
        prep: name of the preparation.
        what: a few words for the data set's `source`.
        read: returns instances by their numbers, int64 `[n]`.
        notes: lines for the user.
    """

    kind: Kind
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    splits: tuple[Split, ...] | None
    split_by: str
    shape: tuple[int, ...]
    prep: str
    what: str
    read: Callable[[NDArray[np.int64]], Read] = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """Preparation of images.

    Attributes:
        size: side of the resized images in pixels, or None to keep their size.
        grey: whether to convert them to greyscale.

    Choice: images are converted to greyscale first and then resized to a square by LANCZOS,
        whatever their aspect ratio, as miniImageNet's are. Transparency is dropped and an EXIF
        orientation isn't applied, as in torchvision's `ImageFolder`.
    """

    size: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            UsageError: a size that no image can have.
        """
        if self.size is not None and not 1 <= self.size <= MOST_SIZE:
            raise UsageError(
                f"--size takes pixels in [1, {MOST_SIZE}], such as 28 or 84; got {self.size}"
            )

    @property
    def name(self) -> str:
        """Version of the preparation."""
        grey = "grey-" if self.grey else ""
        return f"{grey}as-is-1" if self.size is None else f"{grey}{self.size}-lanczos-1"

    def shape(self, channels: int, edges: tuple[int, int]) -> tuple[int, int, int]:
        """Shape `[channels, height, width]` of prepared images of such sources."""
        height, width = edges if self.size is None else (self.size, self.size)
        return (1 if self.grey else channels, height, width)

    def __call__(self, pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
        """Return a prepared image.

        Args:
            pixels: source image `[1 or 3, height, width]`.
            channels: channels of the result; a grey channel is repeated if it has more.
        """
        kept = pixels.shape[1:] if self.size is None else (self.size, self.size)
        if kept != pixels.shape[1:] or (channels == 1) != (len(pixels) == 1):
            image = Image.fromarray(
                pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
            )
            image = image.convert("L" if channels == 1 else "RGB")
            if self.size is not None:
                image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
            pixels = channels_first(np.asarray(image))
        return pixels


def channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image `[H, W]` or `[H, W, C]` as `[C, H, W]`."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def stacked(pictures: list[tuple[NDArray[np.uint8], bytes]]) -> Read:
    """Images and their hashes as one `Read`."""
    return Read(np.stack([pixels for pixels, _ in pictures]), [digest for _, digest in pictures])


LEAST_INSTANCES = 1 + QUERIES
LONGEST_LABEL = 200


LEAST_TRAIN = DEV_PER_CLASS + 1
"""Training images that a class of a long-tailed stream needs: 10 for the dev set, and another."""

Members = Mapping[str, NDArray[np.int64]]
"""Numbers of the instances of each class, by its name."""


@dataclass(frozen=True)
class ChosenSplit:
    """Classes and their splits.

    Attributes:
        members: numbers of the instances of each class, int64.
        groups: super-category of each class, or None.
        split: split of the imported classes.
        notes: lines for the user.
    """

    members: Members
    groups: Mapping[str, str | None]
    split: ClassSplit
    notes: tuple[str, ...]

    def members_of(self, split: Split) -> Members:
        """The classes of a split, sorted, with the numbers of their instances."""
        return {label: self.members[label] for label in self.split.classes(split)}


@dataclass(frozen=True)
class ChosenParts:
    """A train and a test part of the same classes.

    Attributes:
        members: of each part, the classes, sorted, with the numbers of their instances.
        groups: super-category of each class, or None.
        notes: lines for the user.
    """

    members: Mapping[Part, Members]
    groups: Mapping[str, str | None]
    notes: tuple[str, ...]


def choose_parts(rows: Rows, *, skip_small: bool = False) -> ChosenParts | None:
    """Return the train and test part of images that the source splits as for classification.

    None for other sources: features, and splits that share no class.

    Choice: instances of val join train, since streams take their dev set out of train.

    Args:
        rows: the source.
        skip_small: leave out classes with too few training images, instead of refusing them.

    Raises:
        UsageError: a class with too few training images, or too few classes.
    """
    if rows.splits is None or rows.kind != "images":
        return None
    labels, splits = np.array(rows.labels), np.array(rows.splits)
    held = {split: set(labels[splits == split].tolist()) for split in SPLITS}
    if not held["train"] or held["train"] != held["test"] or not held["val"] <= held["train"]:
        return None
    groups = _groups(rows)
    _check_texts([*groups, *(group for group in groups.values() if group is not None)])
    _check_alike(groups)
    in_test = splits == "test"
    names = sorted(held["train"])
    train = {label: np.flatnonzero((labels == label) & ~in_test) for label in names}
    small = {label: len(of) for label, of in train.items() if len(of) < LEAST_TRAIN}
    if small and not skip_small:
        few = min(small, key=lambda label: (small[label], label))
        raise UsageError(
            f"{len(small)} of {len(names)} classes have fewer than {LEAST_TRAIN} training images, "
            f"such as '{few}' with {small[few]}: a long-tailed stream takes {LEAST_TRAIN - 1} for "
            "its dev set; add images, or leave such classes out with --skip-small"
        )
    kept = [label for label in names if label not in small]
    if len(kept) < LEAST_CLASSES:
        raise UsageError(
            f"{len(kept)} classes are left, and a stream needs {LEAST_CLASSES}; give more classes"
        )
    test = {label: np.flatnonzero((labels == label) & in_test) for label in kept}
    notes = ["train and test have the same classes, so it has long-tailed environments alone"]
    if held["val"]:
        notes.append("images of val join train, from which streams take their dev set")
    if small:
        notes.append(
            f"left out {len(small)} classes of fewer than {LEAST_TRAIN} training images, such as "
            f"'{min(small)}'"
        )
    each = min(map(len, test.values()))
    beyond = sum(map(len, test.values())) - each * len(test)
    if beyond:
        notes.append(
            f"left out {beyond} test images: each class has {each}, as many as the smallest has"
        )
    return ChosenParts({"train": {k: train[k] for k in kept}, "test": test}, groups, tuple(notes))


def choose_split(
    rows: Rows,
    name: str,
    *,
    listed: Path | None = None,
    seed: int | None = None,
    fractions: Sequence[float] | None = None,
    skip_small: bool = False,
) -> ChosenSplit:
    """Return the split: listed in a file, random, or the source's own.

    If the source has none and none is chosen, it is a random one with seed 0.

    Args:
        rows: the source.
        name: name of the data set.
        listed: JSON file that lists the classes of each split.
        seed: seed of a random split, which replaces the source's own.
        fractions: fractions of the classes in a random split; None for 64/16/20.
        skip_small: leave out classes with too few instances, instead of refusing them.

    Raises:
        UsageError: options that contradict each other, a class with too few instances or in two
            splits or groups, or too few classes.
        DataUnavailable: the file of the split can't be read.
    """
    remade = listed is None and (rows.splits is None or seed is not None)
    if listed is not None and seed is not None:
        raise UsageError("give either --split or --split-seed, not both")
    if fractions is not None and not remade:
        raise UsageError(
            "--fractions goes with a re-made split; add --split-seed 0, or leave it out"
        )
    labels, owner = np.unique(np.array(rows.labels), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    members = {str(label): part for label, part in zip(labels, parts, strict=True)}
    groups = _groups(rows)
    _check_texts([*members, *(group for group in groups.values() if group is not None)])
    _check_alike(members)
    small = {label: len(of) for label, of in members.items() if len(of) < LEAST_INSTANCES}
    if listed is not None:
        split = listed_split(listed, groups)
    elif rows.splits is not None and not remade:
        split = given_split(rows.labels, rows.splits, rows.split_by)
    else:
        skipped = small if skip_small else {}
        kept = {label: group for label, group in groups.items() if label not in skipped}
        split = ranked_split(name, seed or 0, fractions or FRACTIONS, kept)
    if not skip_small:
        _check_instances(split, small)
    of = {label: at for label, at in split.of.items() if label not in small}
    _check_classes(of)
    how, left_out = split.how, len(members) - len(of)
    if left_out:
        how += f"; a subset: {left_out} of {len(members)} classes left out"
    notes = (*_left_out(small, set(members) - set(split.of)), *_shared_groups(of, groups))
    return ChosenSplit(members, groups, ClassSplit(of, how), notes)


def _left_out(small: Mapping[str, int], unlisted: Collection[str]) -> Iterator[str]:
    """Lines on the classes that aren't imported."""
    if small:
        yield (
            f"left out {len(small)} classes of fewer than {LEAST_INSTANCES} instances, such as "
            f"'{min(small)}'"
        )
    others = set(unlisted) - set(small)
    if others:
        yield f"left out {len(others)} classes that no split names, such as '{min(others)}'"


def _groups(rows: Rows) -> dict[str, str | None]:
    if rows.groups is None:
        return dict.fromkeys(rows.labels)
    group_of: dict[str, str | None] = {}
    for label, group in zip(rows.labels, rows.groups, strict=True):
        if group_of.setdefault(label, group) != group:
            raise UsageError(
                f"class '{label}' is in two groups, '{group_of[label]}' and '{group}'; give each "
                "class one, for example by labels such as 'group/class'"
            )
    return group_of


def _check_texts(names: Iterable[str]) -> None:
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > LONGEST_LABEL:
            raise UsageError(
                f"a class is named {name[:40]!r}; names have 1 to {LONGEST_LABEL} printable "
                "characters; rename it"
            )


def _check_alike(names: Iterable[str]) -> None:
    """Check that no two classes have names that look the same.

    Raises:
        UsageError: two names differ only in surrounding spaces, or in the encoding of an accent.
    """
    seen: dict[str, str] = {}
    for name in names:
        plain = "/".join(part.strip() for part in unicodedata.normalize("NFC", name).split("/"))
        if seen.setdefault(plain, name) != name:
            raise UsageError(
                f"classes {seen[plain]!a} and {name!a} look the same; give both one name, or "
                "rename one"
            )


def _check_instances(split: ClassSplit, small: Mapping[str, int]) -> None:
    few = sorted((count, label) for label, count in small.items() if label in split.of)
    if few:
        named = ", ".join(f"'{label}' {count}" for count, label in few[:3])
        raise UsageError(
            f"{len(few)} of {len(split.of)} classes have too few instances ({named}): K shots take "
            f"K + {QUERIES} of a class, so 1 shot takes {LEAST_INSTANCES}; add instances, or leave "
            "such classes out with --skip-small"
        )


def _check_classes(of: Mapping[str, Split]) -> None:
    for split in SPLITS:
        count = sum(at == split for at in of.values())
        if count < LEAST_CLASSES:
            raise UsageError(
                f"{split} has {count} classes, and a task needs {LEAST_CLASSES}; give more classes "
                "or another split"
            )


def _shared_groups(of: Mapping[str, Split], groups: Mapping[str, str | None]) -> tuple[str, ...]:
    homes: dict[str, set[Split]] = {}
    for label, split in of.items():
        group = groups[label]
        if group is not None:
            homes.setdefault(group, set()).add(split)
    shared = sorted(group for group, splits in homes.items() if len(splits) > 1)
    if not shared:
        return ()
    return (f"{len(shared)} super-categories are in more than one split, such as '{shared[0]}'",)
