"""Class counts as published, and a dev set and a tail that never meet."""

from __future__ import annotations

import numpy as np
import pytest

from lazybench.data.pool import Labelled, Part
from lazybench.data.splits import most_imbalance
from lazybench.envs.longtail.stream import class_counts, images_at, largest_head, tail
from lazybench.errors import UsageError


def made_up(counts: list[int]) -> Labelled:
    """Images of one pixel, whose value is their row."""
    count = np.array(counts)
    x = np.arange(count.sum(), dtype=np.uint8).reshape(-1, 1, 1, 1)
    part = Part(x, np.arange(len(x)), count)
    names = tuple(f"class {c}" for c in range(len(counts)))
    return Labelled("made-up", "0" * 64, "1", "nowhere", names, part, part)


# Totals, smallest class, and classes of many, medium and few images, as the reference codes give.
@pytest.mark.parametrize(
    ("head", "imbalance", "total", "least", "bands"),
    [
        (500, 200, 9_502, 2, (30, 31, 39)),
        (500, 100, 10_847, 5, (35, 35, 30)),
        (500, 50, 12_608, 10, (41, 41, 18)),
        (500, 20, 15_907, 25, (53, 47, 0)),
        (500, 10, 19_573, 50, (69, 31, 0)),
        (490, 200, 9_304, 2, (30, 30, 40)),
        (490, 100, 10_626, 4, (34, 35, 31)),
        (490, 50, 12_354, 9, (40, 41, 19)),
        (490, 20, 15_594, 24, (53, 47, 0)),
        (490, 10, 19_183, 49, (68, 32, 0)),
    ],
)
def test_counts_are_the_published_ones(
    head: int, imbalance: int, total: int, least: int, bands: tuple[int, int, int]
) -> None:
    counts = class_counts(head, imbalance, 100)
    assert (sum(counts), min(counts), counts[0]) == (total, least, head)
    assert list(counts) == sorted(counts, reverse=True)
    many, few = sum(n > 100 for n in counts), sum(n < 20 for n in counts)
    assert (many, 100 - many - few, few) == bands


def test_no_imbalance_is_balanced() -> None:
    assert class_counts(7, 1, 5) == (7,) * 5


@pytest.mark.parametrize("head", [1, 2, 7, 48, 49, 98, 103, 490, 1500])
def test_the_largest_imbalance_leaves_each_class_an_image(head: int) -> None:
    """Of 49 and 98, times their inverse, floats are just below 1."""
    most = most_imbalance(head)
    assert head - 1 <= most <= head
    assert min(class_counts(head, most, 5)) == 1
    with pytest.raises(UsageError, match=f"the largest one here is {most}"):
        class_counts(head, most + 1, 5)


@pytest.mark.parametrize("imbalance", [0.5, 0, -3, float("nan"), float("inf"), "100"])
def test_an_imbalance_is_a_number_of_at_least_1(imbalance: float) -> None:
    with pytest.raises(UsageError, match="at least 1; got"):
        class_counts(490, imbalance, 100)


def test_a_class_without_images_is_reported() -> None:
    with pytest.raises(
        UsageError, match=r"leaves 2 of 12 classes without an image.*largest one here is 14"
    ):
        class_counts(14, 20, 12)
    with pytest.raises(UsageError, match="at least 2 classes, got 1"):
        class_counts(14, 2, 1)


def test_dev_and_train_never_meet_and_depend_on_the_seed() -> None:
    labelled = made_up([20] * 6)
    counts = class_counts(15, 5, 6)
    drawn = tail(labelled, counts, 5, seed=3)
    assert drawn.dev.count.tolist() == [5] * 6
    assert drawn.train.count.tolist() == list(counts)
    for part in (drawn.dev, drawn.train):
        np.testing.assert_array_equal(part.rows // 20, part.labels)
    assert not set(drawn.dev.rows) & set(drawn.train.rows)
    assert len(set(drawn.train.rows)) == sum(counts)
    same, other = tail(labelled, counts, 5, seed=3), tail(labelled, counts, 5, seed=4)
    np.testing.assert_array_equal(same.train.rows, drawn.train.rows)
    assert set(other.dev.rows) != set(drawn.dev.rows)


def test_a_longer_tail_holds_a_shorter_one_and_has_the_same_dev_set() -> None:
    labelled = made_up([20] * 6)
    long, short = (tail(labelled, class_counts(15, n, 6), 5, seed=0) for n in (2, 15))
    assert set(short.train.rows) < set(long.train.rows)
    np.testing.assert_array_equal(short.dev.rows, long.dev.rows)


def test_every_image_is_as_likely_as_any_other() -> None:
    labelled = made_up([10, 10])
    seen = np.zeros(20)
    for seed in range(400):
        seen[tail(labelled, (1, 1), 2, seed).dev.rows] += 1
    # 80 expected, standard deviation 8.
    assert 45 < seen.min() <= seen.max() < 115


def test_images_are_copies_of_the_right_rows() -> None:
    part = tail(made_up([9] * 3), (4, 3, 2), 5, seed=1).train
    places = np.array([8, 0, 0, 5])
    got = images_at(part, places)
    np.testing.assert_array_equal(got[:, 0, 0, 0], part.rows[places])
    assert got.flags.writeable
    assert not np.shares_memory(got, part.x)


def test_the_head_is_what_the_smallest_class_leaves() -> None:
    assert largest_head(made_up([30, 20, 25]), 10) == 10
    for dev in (20, 21, -1):
        with pytest.raises(UsageError, match=r"\[0, 19\] for made-up, whose class class 1 has 20"):
            largest_head(made_up([30, 20, 25]), dev)
