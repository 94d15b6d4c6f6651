"""How alike boards order agents, against orders counted by hand."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from lazybench.boards.validity import FEWEST, agreements, validity_page

AGENTS = "abcdef"
REAL = {"env__id": "omniglot-5way-1shot", "data__name": "omniglot"}


def runs(make_run: Any, shifts: list[float], **changes: Any) -> list[Any]:
    return [make_run(a, by, **changes) for a, by in zip(AGENTS, shifts, strict=False)]


def by_hand(one: list[float], other: list[float]) -> float:
    pairs = list(combinations(range(len(one)), 2))
    alike = [(one[i] - one[j]) * (other[i] - other[j]) > 0 for i, j in pairs]
    return (2 * sum(alike) - len(pairs)) / len(pairs)


@pytest.mark.parametrize(
    "there",
    [
        [0.0, 0.05, 0.1, 0.15, 0.2, 0.25],
        [0.25, 0.2, 0.15, 0.1, 0.05, 0.0],
        [0.2, 0.0, 0.1, 0.15, 0.05, 0.25],
    ],
)
def test_tau_is_the_count_of_pairs_in_the_same_order(make_run: Any, there: list[float]) -> None:
    here = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25]
    records = runs(make_run, here, data__name="glyphs") + runs(make_run, there, **REAL)
    (found,) = agreements(records)
    assert found.left == "glyphs-5way-1shot, small"
    assert found.tau == pytest.approx(by_hand(here, there))
    assert [row.left_place for row in found.rows] == [1, 2, 3, 4, 5, 6]
    assert [row.right_place for row in found.rows] == [
        1 + sorted(there, reverse=True).index(there[AGENTS.index(row.name)]) for row in found.rows
    ]


def test_scores_that_noise_could_turn_widen_the_range(make_run: Any) -> None:
    def spread(step: float) -> float:
        here = [i * step for i in range(6)]
        records = runs(make_run, here, data__name="glyphs") + runs(make_run, here, **REAL)
        (found,) = agreements(records)
        return found.hi - found.lo

    assert spread(0.04) < spread(0.002)


def test_few_rows_other_budgets_of_other_data_and_real_pairs_are_left_out(make_run: Any) -> None:
    step = [0.04 * i for i in range(6)]
    glyphs = runs(make_run, step, data__name="glyphs")
    assert agreements(glyphs + runs(make_run, step[: FEWEST - 1], **REAL)) == []
    assert agreements(glyphs + runs(make_run, step, budget="smoke")) == []
    other = {"env__id": "cifarfs-5way-1shot", "data__name": "cifarfs"}
    assert agreements(runs(make_run, step, **REAL) + runs(make_run, step, **other)) == []
    (found,) = agreements(glyphs + runs(make_run, step, data__name="glyphs", budget="paper"))
    assert {found.left, found.right} == {f"glyphs-5way-1shot, {b}" for b in ("small", "paper")}


def test_the_page_has_the_numbers_and_says_where_there_are_none(make_run: Any) -> None:
    assert f"No two boards share {FEWEST} rows." in validity_page([])
    step = [0.04 * i for i in range(6)]
    records = runs(make_run, step, data__name="glyphs") + runs(make_run, step, **REAL)
    page = validity_page(agreements(records))
    assert "| glyphs-5way-1shot, small | omniglot-5way-1shot, small | 6 | +1.00 |" in page
    assert "| f |" in page
    assert "Median" not in page
    turned = [0.2, 0.16, 0.12, 0.08, 0.04, 0.0]
    other = {"env__id": "cifarfs-5way-1shot", "data__name": "cifarfs"}
    page = validity_page(agreements(records + runs(make_run, turned, **other)))
    told = "+0.00 over all pairs; -1.00 with cifarfs-5way-1shot, small, +1.00 with omniglot"
    assert f"Median tau: {told}" in page
