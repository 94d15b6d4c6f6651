"""Splits of data sets by class; imported data has its own split, a listed one or a random one.

Nothing here loads numpy, since listings read the names of splits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lazybench.errors import DataUnavailable, UsageError, nearest
from lazybench.files import read_text, unique

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

FRACTIONS = (0.64, 0.16, 0.2)
"""Fractions of the classes in random splits (train, val, test), as in miniImageNet."""

LEAST_CLASSES = 2
"""Smallest number of classes of a split, so that a task can have two ways."""

HELD_OUT = 5
"""One in this many images of a class is held out for the test of a long-tailed stream, if the data
set has no test part of the same classes."""


QUERIES = 15
"""Query instances of a class in official few-shot trials."""

DEV_PER_CLASS = 10
"""Images of each class in the dev set of a long-tailed stream, by default."""


def held_out_each(least: int) -> int:
    """Return the number of test images per class, if the smallest class has `least` images."""
    return least // HELD_OUT


def most_imbalance(head: int) -> int:
    """Return the largest imbalance that leaves each class an image, if the largest has `head`."""
    # Rounded as the counts of the classes are: some heads times their inverse are just below 1.
    return head if int(head * (1.0 / head)) else head - 1


@dataclass(frozen=True)
class ClassSplit:
    """The split of each class.

    Attributes:
        of: split of each class by name; without classes that are left out.
        how: a few words for the data set's `source`.
    """

    of: Mapping[str, Split]
    how: str

    def classes(self, split: Split) -> list[str]:
        """Sorted names of the classes of `split`."""
        return sorted(name for name, at in self.of.items() if at == split)


def given_split(labels: Sequence[str], splits: Sequence[Split], where: str) -> ClassSplit:
    """The split that the source itself names, instance by instance.

    Args:
        labels: class of each instance.
        splits: split of each instance.
        where: source of the splits, for messages (`the folders`).

    Raises:
        UsageError: a class is in two splits, as in data sets made for plain classification.
    """
    of: dict[str, Split] = {}
    for label, split in zip(labels, splits, strict=True):
        if of.setdefault(label, split) != split:
            raise UsageError(
                f"class '{label}' is in both {of[label]} and {split} by {where}, but few-shot "
                "splits share no class; add --split-seed 0 to put all instances of a class "
                "together and re-make the split by class (images whose train and test have all "
                "classes in common make long-tailed environments)"
            )
    return ClassSplit(of, f"split given by {where}")


def listed_split(path: Path, groups: Mapping[str, str | None]) -> ClassSplit:
    """The split that a JSON file lists: `{"train": [names], "val": [names], "test": [names]}`.

    A name is a class, or a super-category for all its classes. Other classes are left out.

    Args:
        path: the file.
        groups: super-category of each class, or None.

    Raises:
        DataUnavailable: the file can't be read.
        UsageError: another form, an unknown name, or a class named twice.
    """
    try:
        found = json.loads(read_text(path), object_pairs_hook=unique)
    except DataUnavailable as error:
        raise DataUnavailable(f"{path} can't be read ({error}); check --split") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} isn't a JSON file ({error}); {_FORM}") from error
    if not isinstance(found, dict) or set(found) != set(SPLITS):
        got = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise UsageError(f"{path} holds {got or 'nothing'}; {_FORM}")
    members: dict[str, list[str]] = {name: [name] for name in groups}
    for name, group in groups.items():
        if group is not None and group not in groups:
            members.setdefault(group, []).append(name)
    of: dict[str, Split] = {}
    for split in SPLITS:
        names = found[split]
        if not isinstance(names, list):
            raise UsageError(f"{path} gives no list for '{split}'; {_FORM}")
        for name in map(str, names):
            if name not in members:
                raise UsageError(
                    f"{path} names '{name}' in {split}, which is no class or super-category of "
                    f"the data.{nearest(name, members)}"
                )
            for label in members[name]:
                if label in of:
                    raise UsageError(f"{path} names class '{label}' twice; name it once")
                of[label] = split
    return ClassSplit(of, f"split listed in {path.name}")


_FORM = 'give {"train": [names], "val": [names], "test": [names]}, names of classes'


def ranked_split(
    name: str, seed: int, fractions: Sequence[float], groups: Mapping[str, str | None]
) -> ClassSplit:
    """A random split, the same on every machine: classes in the order of a hash of their names.

    If there are super-categories, each belongs to one split as a whole, and the fractions are met
    as closely as their sizes allow.

    Args:
        name: name of the data set.
        seed: another seed gives another split.
        fractions: fractions of the classes in train, val and test.
        groups: super-category of each class, or None for all.

    Raises:
        UsageError: invalid fractions, or too few classes or super-categories.

    Choice: the rank is the sha256 of `NAME:class:seed`, so adding a class moves few others.

    Choice: super-categories are assigned in the same order, each to the split that lacks most
    classes.
    """
    if (
        len(fractions) != len(SPLITS)
        or not all(0 < share < 1 for share in fractions)
        or not math.isclose(sum(fractions), 1, abs_tol=1e-3)
    ):
        got = ",".join(f"{share:g}" for share in fractions)
        raise UsageError(
            f"--fractions takes three shares above 0 that sum to 1, such as .64,.16,.2; got {got}"
        )
    least = LEAST_CLASSES * len(SPLITS)
    if len(groups) < least:
        raise UsageError(
            f"{len(groups)} classes can't make three splits of at least {LEAST_CLASSES}; "
            f"{least} or more are needed"
        )
    shares = "/".join(f"{100 * share:g}" for share in fractions)
    how = f"split re-made: {shares} % of the classes, ranked by sha256 of {name}:class:{seed}"
    if all(group is None for group in groups.values()):
        ranked = _ranked(name, seed, groups)
        sizes = _sizes(len(ranked), fractions)
        ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
        of = {
            label: SPLITS[next(at for at, end in enumerate(ends) if place < end)]
            for place, label in enumerate(ranked)
        }
        return ClassSplit(of, how)
    members: dict[str, list[str]] = {}
    for label, group in groups.items():
        members.setdefault(group or label, []).append(label)
    return ClassSplit(
        _dealt(_ranked(name, seed, members), members, fractions),
        f"{how}; super-categories are disjoint between splits",
    )


def _ranked(name: str, seed: int, labels: Mapping[str, object]) -> list[str]:
    return sorted(
        labels, key=lambda label: hashlib.sha256(f"{name}:{label}:{seed}".encode()).digest()
    )


def _sizes(classes: int, fractions: Sequence[float]) -> list[int]:
    """Classes of each split: the shares rounded, at least two, the largest making up the sum."""
    sizes = [max(LEAST_CLASSES, round(share * classes)) for share in fractions]
    while sum(sizes) != classes:
        sizes[sizes.index(max(sizes))] += 1 if sum(sizes) < classes else -1
    return sizes


def _dealt(
    ranked: Sequence[str], members: Mapping[str, Sequence[str]], fractions: Sequence[float]
) -> dict[str, Split]:
    classes = sum(len(labels) for labels in members.values())
    lacking = {split: share * classes for split, share in zip(SPLITS, fractions, strict=True)}
    of: dict[str, Split] = {}
    for place, group in enumerate(ranked):
        empty = [split for split in SPLITS if split not in of.values()]
        open_to = empty if len(ranked) - place <= len(empty) else SPLITS
        split = max(open_to, key=lacking.__getitem__)
        lacking[split] -= len(members[group])
        of.update(dict.fromkeys(members[group], split))
    counts = {split: list(of.values()).count(split) for split in SPLITS}
    if min(counts.values()) < LEAST_CLASSES:
        got = ", ".join(f"{count} in {split}" for split, count in counts.items())
        raise UsageError(
            f"{len(ranked)} super-categories can't be shared out over three splits without "
            f"splitting one ({got}); try another --split-seed or --fractions, or list the split "
            "with --split FILE.json"
        )
    return of
