"""Batches are functions of their number, and distributed as their sampler says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lazybench import seeding
from lazybench.envs.longtail.stream import Batches, Stage, dev_places, stages
from lazybench.errors import UsageError

COUNTS = np.array([40, 16, 4, 1])
FIRST = np.cumsum(COUNTS) - COUNTS
KEY = seeding.mix("test")


def batches(plan: Any, *, batch: int = 8, steps: int = 1000, seed: int = 0) -> Batches:
    return Batches(seeding.mix(KEY, seed), COUNTS, batch, stages(plan, steps))


def classes_of(places: np.ndarray) -> np.ndarray:
    return np.searchsorted(FIRST, places, side="right") - 1


def test_instance_passes_over_every_image_again_and_again() -> None:
    drawn = np.concatenate([batches("instance").places(step) for step in range(61)])
    # 61 images: 61 batches of 8 are 8 whole epochs, however batches lie across their ends.
    epochs = drawn.reshape(8, 61)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(61))
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_a_batch_may_be_longer_than_an_epoch() -> None:
    drawn = batches("instance", batch=150).places(1)
    assert np.bincount(drawn, minlength=61).min() >= 1
    assert np.bincount(drawn).max() <= 4


@pytest.mark.parametrize(
    ("sampler", "shares"), [("class", np.full(4, 0.25)), ("sqrt", np.sqrt(COUNTS) / 13)]
)
def test_classes_are_drawn_as_the_sampler_says(sampler: str, shares: np.ndarray) -> None:
    drawn = batches(sampler, batch=20_000).places(3)
    got = np.bincount(classes_of(drawn), minlength=4) / len(drawn)
    np.testing.assert_allclose(got, shares, atol=0.02)
    inside = np.bincount(drawn, minlength=61)[:40]
    assert inside.min() > 0.6 * inside.mean()
    assert inside.max() < 1.4 * inside.mean()


@pytest.mark.parametrize("plan", ["instance", "class", "sqrt", [("instance", 0.5), ("sqrt", 0.5)]])
def test_a_batch_is_a_function_of_its_number(plan: Any) -> None:
    steps = [7, 499, 500, 3, 2000]
    forth = {step: batches(plan).places(step) for step in steps}
    one = batches(plan)
    for step in reversed(steps):
        np.testing.assert_array_equal(one.places(step), forth[step])
    assert not np.array_equal(batches(plan, seed=1).places(7), forth[7])
    assert len({tuple(places) for places in forth.values()}) == len(steps)


def test_a_schedule_is_one_sampler_after_the_other() -> None:
    plan = stages([["instance", 0.8], ["class", 0.2]], 55)
    assert plan == (Stage("instance", 0), Stage("class", 44))
    mixed = Batches(KEY, COUNTS, 100, plan)
    rare = [int((mixed.places(step) == 60).sum()) for step in range(55)]
    # A batch of 100 is one epoch of 61 and parts of at most two others.
    assert max(rare[:44]) <= 3
    assert min(rare[44:]) > 10
    # The second stage doesn't go on where another sampler would be by then.
    alone = Batches(KEY, COUNTS, 100, stages("instance", 55))
    np.testing.assert_array_equal(mixed.places(43), alone.places(43))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([("instance", 0.8), ("class", 0.1)], "must sum to 1, got 0.9 from instance 0.8, class"),
        ([("instance", 0.8), ("class", 0.8)], "must sum to 1, got 1.6"),
        ([("instance", 1.5), ("class", -0.5)], r"must lie in \(0, 1\], got 1.5"),
        ([("instance", float("nan"))], r"must lie in \(0, 1\], got nan"),
        ("clas", "one of instance, class, sqrt, got 'clas'. Did you mean: class"),
        ([("reverse", 1.0)], "one of instance, class, sqrt, got 'reverse'"),
        ([], "a list of"),
        (3, "a list of"),
        (["instance", "class"], "a list of"),
        ([("instance", "most")], "a list of"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(schedule: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stages(schedule, 100)


def test_dev_batches_go_round_the_classes_without_repeating() -> None:
    for size in (1, 7, 10, 25, 30):
        places = dev_places(KEY, 10, 3, size)
        assert len(set(places)) == size
        each = np.bincount(places // 3, minlength=10)
        assert each.max() - each.min() <= 1
    halves = dev_places(KEY, 10, 3, 20).reshape(2, 10) // 3
    np.testing.assert_array_equal(np.sort(halves), [np.arange(10)] * 2)
    other = dev_places(seeding.mix(KEY, 1), 10, 3, 20)
    assert set(other) != set(dev_places(KEY, 10, 3, 20))
