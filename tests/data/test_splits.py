"""Splits of imported data: given, listed in a file, or re-made the same way on every machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazybench.data.splits import SPLITS, given_split, listed_split, ranked_split
from lazybench.errors import DataUnavailable, UsageError

VAL = ["c11", "c2", "c23", "c7"]
TEST = ["c13", "c15", "c20", "c24", "c8"]
ALONE: dict[str, str | None] = {f"c{at}": None for at in range(25)}
GROUPED: dict[str, str | None] = {f"g{at % 7}/c{at}": f"g{at % 7}" for at in range(60)}


def test_a_remade_split_never_changes() -> None:
    # VAL and TEST are the ends of `sorted` by sha256 of `birds:<class>:0`, made apart from this.
    split = ranked_split("birds", 0, (0.64, 0.16, 0.2), ALONE)
    assert [len(split.classes(each)) for each in SPLITS] == [16, 4, 5]
    assert split.classes("val") == VAL
    assert split.classes("test") == TEST
    assert split.of == ranked_split("birds", 0, (0.64, 0.16, 0.2), dict(reversed(ALONE.items()))).of
    assert split.how.startswith("split re-made: 64/16/20 % of the classes")
    assert split.of != ranked_split("birds", 1, (0.64, 0.16, 0.2), ALONE).of
    assert split.of != ranked_split("trees", 0, (0.64, 0.16, 0.2), ALONE).of


@settings(deadline=None, max_examples=50)
@given(st.integers(6, 200), st.integers(1, 98), st.integers(1, 98))
def test_every_split_has_classes_and_every_class_a_split(classes: int, one: int, two: int) -> None:
    total = one + two + 50
    shares = (one / total, two / total, 50 / total)
    split = ranked_split("n", 0, shares, {f"c{at}": None for at in range(classes)})
    counts = [len(split.classes(each)) for each in SPLITS]
    assert sum(counts) == classes
    assert min(counts) >= 2
    if min(shares) * classes >= 2:
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - share * classes) <= 1.001


def test_super_categories_stay_whole_and_shares_are_met() -> None:
    split = ranked_split("n", 0, (0.6, 0.2, 0.2), GROUPED)
    homes = {GROUPED[name]: set() for name in GROUPED}
    for name, at in split.of.items():
        homes[GROUPED[name]].add(at)
    assert all(len(home) == 1 for home in homes.values())
    counts = [len(split.classes(each)) for each in SPLITS]
    # Seven groups of eight or nine classes: the shares 36, 12, 12 are met within a group's half.
    assert sum(counts) == 60
    assert abs(counts[0] - 36) <= 9
    assert "super-categories are disjoint" in split.how


def test_three_super_categories_are_one_each() -> None:
    groups: dict[str, str | None] = {
        f"{g}/{c}": g for g in "abc" for c in range(3 + 9 * (g == "a"))
    }
    for seed in range(6):
        split = ranked_split("n", seed, (0.64, 0.16, 0.2), groups)
        assert all(split.classes(each) for each in SPLITS)


@pytest.mark.parametrize(
    ("fractions", "groups", "message"),
    [
        ((0.5, 0.5), ALONE, "--fractions takes three shares above 0 that sum to 1"),
        ((0.5, 0.5, 0.5), ALONE, "got 0.5,0.5,0.5"),
        ((1.2, -0.1, -0.1), ALONE, "--fractions"),
        ((float("nan"), 0.5, 0.5), ALONE, "--fractions"),
        ((0.6, 0.2, 0.2), {"a": None}, "1 classes can't make three splits"),
        ((0.6, 0.2, 0.2), {f"g{c % 2}/{c}": f"g{c % 2}" for c in range(8)}, "2 super-categories"),
    ],
)
def test_a_split_that_cannot_be_made(fractions: Any, groups: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ranked_split("n", 0, fractions, groups)


def test_a_listed_split_takes_classes_and_super_categories(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    names = {"train": ["g0", "g1/c1"], "val": ["g2"], "test": ["g3"]}
    path.write_text(json.dumps(names))
    split = listed_split(path, GROUPED)
    assert split.classes("train") == sorted([n for n in GROUPED if n[:2] == "g0"] + ["g1/c1"])
    assert len(split.of) < len(GROUPED)
    assert split.how == "split listed in s.json"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(json.dumps(names), encoding=encoding)
        assert listed_split(path, GROUPED).of == split.of
    path.write_text(json.dumps({"train": [1, 2], "val": [3], "test": [4]}))
    assert listed_split(path, {str(at): None for at in range(5)}).classes("train") == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "isn't a JSON file"),
        ("[1]", "holds list"),
        ('{"train": [], "val": []}', "holds train, val"),
        ('{"train": [], "val": [], "test": {"c0": 1}}', "no list for 'test'"),
        ('{"train": ["c0"], "val": ["c1"], "test": ["c00"]}', "names 'c00' in test.*Did you mean"),
        ('{"train": ["c0"], "val": ["c0"], "test": []}', "class 'c0' twice"),
        ('{"train": ["c0"], "val": ["c1"], "test": [], "train": []}', "twice, such as train"),
    ],
)
def test_a_listed_split_that_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        listed_split(path, ALONE)


def test_a_listed_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="check --split"):
        listed_split(tmp_path / "no.json", ALONE)


def test_a_given_split_shares_no_class() -> None:
    split = given_split(["a", "a", "b", "c"], ["train", "train", "val", "test"], "the folders")
    assert split.of == {"a": "train", "b": "val", "c": "test"}
    with pytest.raises(UsageError, match="class 'a' is in both train and test by the folders"):
        given_split(["a", "a"], ["train", "test"], "the folders")
