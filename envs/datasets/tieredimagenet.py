"""tieredImageNet: 608 classes of ImageNet in 34 categories, which splits don't share, 84x84.

Reference: M. Ren et al., "Meta-learning for semi-supervised few-shot classification", ICLR 2018
    (20/6/8 categories, 351/97/160 classes, 448,695/124,261/206,209 images).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import data_root
from lazybench.data.pickles import as_text, load_pickle, text_keys
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.datasets.image_set import (
    Images,
    ImageSet,
    Named,
    Roster,
    checker,
    decode_all,
    few_shot_roster,
    missing,
    open_images,
)
from lazybench.errors import DataUnavailable

NAME = "tieredimagenet"
PREP = "84-lanczos-1"
SIDE = 84
IMAGES: Mapping[Split, int] = {"train": 448_695, "val": 124_261, "test": 206_209}
EXPECTED = (
    "{train,val,test}_images_png.pkl and {train,val,test}_labels.pkl, with or without "
    "'tiered-imagenet-' before, in tieredimagenet/ or tiered-imagenet/"
)

_FOLDERS = ("tieredimagenet", "tiered-imagenet", "tieredimagenet/tiered-imagenet")
_PREFIXES = ("", "tiered-imagenet-")
_KEYS = ("label_specific", "label_general", "label_specific_str", "label_general_str")
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class TieredImageNet:
    """tieredImageNet's pickled PNG images below a data folder.

    Attributes:
        root: data folder.
        roster: the split; classes named otherwise than by their ImageNet ids are only counted.
        images: how many images each split of the whole data set has.
    """

    root: Path
    roster: Roster
    images: tuple[int, ...] = tuple(IMAGES.values())

    def find(self) -> tuple[Path, ...]:
        """For each split the images, then the labels.

        Raises:
            DataUnavailable: they aren't all there.
        """
        for folder in _FOLDERS:
            for prefix in _PREFIXES:
                found = tuple(
                    self.root / folder / f"{prefix}{split}_{kind}.pkl"
                    for split in SPLITS
                    for kind in ("images_png", "labels")
                )
                if all(path.is_file() for path in found):
                    return found
        raise self._missing("not found")

    def read(self) -> Iterator[tuple[Split, Images]]:
        """Each split, classes by name.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        found = self.find()
        try:
            for at, split in enumerate(SPLITS):
                yield split, _read(found[2 * at], found[2 * at + 1], self.roster[split])
        except DataUnavailable as error:
            raise self._missing(str(error)) from error

    def about(self, fingerprint: str, counts: Mapping[Split, NDArray[np.int64]]) -> str:
        """The packaging, and how much of the whole it is."""
        del fingerprint  # Nobody publishes one, and no copy was at hand.
        text = "tieredImageNet, the pickled PNG images"
        have = tuple(int(counts[split].sum()) for split in SPLITS)
        if have == self.images:
            return text
        return f"{text}; a subset: {_slashed(have)} of {_slashed(self.images)} images"

    def _missing(self, what: str) -> DataUnavailable:
        return missing(NAME, what, EXPECTED, self.root)


def open_tieredimagenet() -> ImageSet:
    """tieredImageNet: 351/97/160 classes, images `[3, 84, 84]` uint8, groups the categories.

    The first opening decodes all images, which takes minutes and, while it lasts, twice the 16.5 GB
    on disk that it keeps, and memory for the pickled images of one split (about 8 GB).

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.

    Choice: colours are as the PNG images have them, as learn2learn and torchmeta read them.
    """
    return open_images(NAME, PREP, _official())


def _official() -> TieredImageNet:
    return TieredImageNet(data_root(), few_shot_roster(NAME))


check = checker(_official)


def _slashed(counts: Sequence[int]) -> str:
    return "/".join(map(str, counts))


def _read(images_path: Path, labels_path: Path, expected: tuple[Named, ...]) -> Images:
    labels = text_keys(load_pickle(labels_path), str(labels_path), _KEYS)
    try:
        specific = np.asarray(labels["label_specific"], np.int64)
        general = np.asarray(labels["label_general"], np.int64)
        names = _unique([as_text(name) for name in labels["label_specific_str"]])
        categories = [as_text(name) for name in labels["label_general_str"]]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataUnavailable(f"{labels_path} holds no labels ({error})") from error
    pngs = load_pickle(images_path)
    if not isinstance(pngs, list | np.ndarray) or not len(pngs) == len(specific) == len(general):
        raise DataUnavailable(f"{images_path} and {labels_path} don't hold an image for each label")
    order = np.argsort(specific, kind="stable")
    present, first, counts = np.unique(specific[order], return_index=True, return_counts=True)
    if not len(present) or present[0] < 0 or present[-1] >= len(names):
        raise DataUnavailable(f"{labels_path} has labels without a class")
    group = general[order][first]
    if np.any(general[order] != np.repeat(group, counts)):
        raise DataUnavailable(f"{labels_path} has classes in two categories")
    found = [
        Named(names[label], _category(categories, int(of)))
        for label, of in zip(present, group, strict=True)
    ]
    classes = _placed(labels_path, found, expected)
    by_name = sorted(range(len(classes)), key=classes.__getitem__)
    rows = np.concatenate([order[first[at] : first[at] + counts[at]] for at in by_name])

    def png(row: int) -> tuple[bytes, str]:
        where = f"image {rows[row]} of {images_path}"
        return _png_bytes(pngs[rows[row]], where), where

    x, hashes = decode_all(len(rows), png, kind="PNG", side=SIDE)
    return Images(x, hashes, counts[by_name], tuple(classes[at] for at in by_name))


def _png_bytes(held: Any, where: str) -> bytes:
    if isinstance(held, bytes):
        return held
    if isinstance(held, np.ndarray) and held.dtype == np.uint8:
        return held.tobytes()
    raise DataUnavailable(f"{where} is a {type(held).__name__}, not the bytes of a PNG")


def _category(names: Sequence[str], number: int) -> str:
    # The distribution's list of names is known to be shorter than the numbers in use.
    return names[number] if 0 <= number < len(names) else f"category {number}"


def _unique(names: Sequence[str]) -> list[str]:
    """The names; a word that names two classes gets a number from the second on."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out


def _placed(path: Path, found: Sequence[Named], expected: tuple[Named, ...]) -> list[Named]:
    """The classes, in the published categories where they go by their ImageNet ids.

    Raises:
        DataUnavailable: they aren't those of the split, by names and number.
    """
    names, known = {each.name for each in found}, dict(expected)
    if len(names) != len(known):
        raise DataUnavailable(f"{path} has {len(names)} classes, not the {len(known)} of its split")
    if not all(_WNID.fullmatch(name) for name in names):
        return list(found)
    if names != set(known):
        raise DataUnavailable(
            f"{path} has other classes than its split: {min(names - set(known))} isn't one of them"
        )
    return [Named(each.name, known[each.name]) for each in found]
