"""Which of a source's classes are imported, and into which split."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lazybench.data.imported import QUERIES
from lazybench.data.rows import Rows
from lazybench.data.splits import (
    FRACTIONS,
    LEAST_CLASSES,
    SPLITS,
    ClassSplit,
    Split,
    given_split,
    listed_split,
    ranked_split,
)
from lazybench.errors import UsageError

LEAST_INSTANCES = 1 + QUERIES
LONGEST_LABEL = 200


@dataclass(frozen=True)
class ChosenSplit:
    """Classes and where they go.

    Attributes:
        members: numbers of the instances of each class, int64.
        groups: super-category of each class, or None.
        split: split of the classes that are taken.
        notes: what the user may want to know, a line each.
    """

    members: Mapping[str, NDArray[np.int64]]
    groups: Mapping[str, str | None]
    split: ClassSplit
    notes: tuple[str, ...]


def choose_split(
    rows: Rows,
    name: str,
    *,
    listed: Path | None = None,
    seed: int | None = None,
    fractions: Sequence[float] | None = None,
    skip_small: bool = False,
) -> ChosenSplit:
    """The split asked for: listed in a file, re-made by a seed, or the source's own.

    Where the source has none and nothing is asked for, it is re-made by seed 0.

    Args:
        rows: the source.
        name: name of the data set.
        listed: JSON file that lists the classes of each split.
        seed: re-make the split by this seed, even where the source gives one.
        fractions: shares of the classes in a re-made split; None for 64/16/20.
        skip_small: leave out classes of too few instances, instead of refusing.

    Raises:
        UsageError: options that contradict each other, classes of too few instances, a class in two
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
    found: dict[str, str | None] = {}
    for label, group in zip(rows.labels, rows.groups, strict=True):
        if found.setdefault(label, group) != group:
            raise UsageError(
                f"class '{label}' is in two groups, '{found[label]}' and '{group}'; give each "
                "class one, for example by labels such as 'group/class'"
            )
    return found


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
        UsageError: two names differ in spaces around them, or in how an accent is stored, alone.
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
