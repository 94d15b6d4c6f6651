"""The ledger against one that is kept row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazybench.envs.attack.ledger import Ledger, improvements


class ByHand:
    """The same ledger as plain lists."""

    def __init__(self, images: int, budget: int, first: bool) -> None:
        self.budget, self.first = budget, first
        self.rows: list[list[tuple[bool, bool, float, float]]] = [[] for _ in range(images)]
        self.done = [False] * images

    def call(self, owner: list[int], outcome: list[tuple[bool, bool, float, float]]) -> list[bool]:
        served = []
        for image, row in zip(owner, outcome, strict=True):
            fits = not self.done[image] and len(self.rows[image]) < self.budget
            served.append(fits)
            if fits:
                self.rows[image].append(row)
        for image, rows in enumerate(self.rows):
            hit = self.first and any(row[0] and row[1] for row in rows)
            self.done[image] |= hit or len(rows) == self.budget
        return served

    def success_query(self, image: int) -> int:
        rows = enumerate(self.rows[image], 1)
        return next((at for at, (wrong, near, _, _) in rows if wrong and near), 0)

    def trace(self, image: int) -> list[list[float]]:
        found: list[list[float]] = []
        for at, (wrong, _, _, l2) in enumerate(self.rows[image], 1):
            if wrong and (not found or l2 < found[-1][1]):
                found.append([at, l2])
        return found

    def nearest(self, image: int) -> float:
        return min((far for wrong, _, far, _ in self.rows[image] if wrong), default=math.inf)


def replay(ledger: Ledger, owner: np.ndarray, outcome: np.ndarray) -> tuple[Any, np.ndarray]:
    """One call; returns what was charged and the rows that became the nearest."""
    result = ledger.charge(owner)
    wrong = np.flatnonzero(result.served & (outcome[:, 0] > 0))
    hit = outcome[wrong, 1] > 0
    chosen = ledger.record(
        owner[wrong], result.position[wrong], hit, outcome[wrong, 2], outcome[wrong, 3]
    )
    ledger.close()
    return result, wrong[chosen]


outcomes = st.tuples(
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    # Few values, so that ties happen.
    st.sampled_from([0.5, 1.0, 1.5, 2.0]),
    st.sampled_from([0.25, 1e-9, 2e-9, 3.0]),
)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(outcomes, max_size=12), max_size=6),
    budget=st.integers(1, 9),
    first=st.booleans(),
)
def test_a_ledger_kept_row_by_row_says_the_same(calls: Any, budget: int, first: bool) -> None:
    ledger, by_hand = Ledger(4, budget, ends_at_success=first), ByHand(4, budget, first)
    ledger.open(np.ones(4, np.bool_))
    for call in calls:
        owner = [row[0] for row in call]
        before = [by_hand.nearest(image) for image in range(4)]
        array = np.array([row[1:] for row in call], dtype=np.float64).reshape(-1, 4)
        result, chosen = replay(ledger, np.array(owner, dtype=np.int64), array)
        assert result.served.tolist() == by_hand.call(owner, [row[1:] for row in call])
        assert sum(result.served) == sum(result.position > 0)
        assert ledger.queries.tolist() == [len(rows) for rows in by_hand.rows]
        assert ledger.left.tolist() == [budget - len(rows) for rows in by_hand.rows]
        assert ledger.done.tolist() == by_hand.done
        now = [by_hand.nearest(image) for image in range(4)]
        assert ledger.nearest.tolist() == now
        fell = [image for image in range(4) if now[image] < before[image]]
        assert sorted(np.array(owner)[chosen].tolist()) == fell
        assert [array[row, 2] for row in chosen] == [now[owner[row]] for row in chosen]
    for image in range(4):
        assert ledger.success_query[image] == by_hand.success_query(image)
        trace = by_hand.trace(image)
        assert ledger.trace(image).tolist() == trace
        for by in (1, 2, budget, None):
            within = [far for at, far in trace if by is None or at <= by]
            assert ledger.least_l2(by)[image] == min(within, default=math.inf)


def test_positions_count_each_owners_rows_in_order() -> None:
    ledger = Ledger(3, 4, ends_at_success=False)
    ledger.open(np.ones(3, np.bool_))
    assert ledger.charge(np.array([2, 0, 2, 2])).position.tolist() == [1, 1, 2, 3]
    result = ledger.charge(np.array([2, 2, 1, 2, 0]))
    assert result.position.tolist() == [4, 0, 1, 0, 2]
    assert result.served.tolist() == [True, False, True, False, True]
    assert ledger.queries.tolist() == [2, 1, 4]


def test_what_is_closed_is_refused_and_what_is_opened_again_begins_again() -> None:
    ledger = Ledger(2, 3, ends_at_success=True)
    assert not ledger.charge(np.array([0, 1])).served.any()
    ledger.open(np.array([True, True]))
    for image in (0, 1):
        replay(ledger, np.array([image]), np.array([[1, 1, 0.5, 0.5]]))
    assert ledger.done.all()
    assert not ledger.charge(np.array([0, 1, 1])).served.any()
    ledger.open(np.array([False, True]))
    assert ledger.queries.tolist() == [1, 0]
    assert ledger.trace(0).tolist() == [[1, 0.5]]
    assert ledger.trace(1).tolist() == []
    assert ledger.least_l2(1).tolist() == [0.5, math.inf]
    ledger.give_up()
    assert ledger.left.tolist() == [2, 3]
    assert not ledger.charge(np.array([1])).served.any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_improvements_are_exact_at_any_scale(scale: float) -> None:
    owner = np.array([1, 0, 1, 0, 1])
    value = np.array([3.0, 2.0, np.nextafter(3.0, 2), 2.0, 1.0]) * scale
    position = np.array([1, 1, 2, 2, 3])
    rows = improvements(owner, position, value, np.full(2, np.inf))
    assert rows.tolist() == [1, 0, 2, 4]
    assert improvements(owner, position, value, np.array([0.0, 2.0 * scale])).tolist() == [4]


@pytest.mark.parametrize("asked", [[0, 1], [0, 0, 1, 1]], ids=["one row each", "several"])
def test_charging_alone_keeps_the_budget(asked: list[int]) -> None:
    """Whoever charges twice before closing gets no row more."""
    ledger = Ledger(2, 2, ends_at_success=False)
    ledger.open(np.ones(2, np.bool_))
    served = [ledger.charge(np.array(asked)).served.sum() for _ in range(4)]
    assert sum(served) == 4
    assert ledger.queries.tolist() == [2, 2]
    assert ledger.left.tolist() == [0, 0]


def test_images_that_are_opened_again_have_no_nearest_and_no_success() -> None:
    ledger = Ledger(2, 3, ends_at_success=True)
    ledger.open(np.ones(2, np.bool_))
    replay(ledger, np.array([0, 1]), np.array([[1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5]]))
    ledger.open(np.array([False, True]))
    assert ledger.nearest.tolist() == [0.5, math.inf]
    assert ledger.success_query.tolist() == [1, 0]
    assert ledger.least_l2().tolist() == [0.5, math.inf]
