"""How alike boards order agents, against orders counted by hand."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from lazybench.paper.validity import FEWEST, agreements, validity_page
from lazybench.stats import standard_error

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


def test_the_range_draws_scores_with_their_standard_errors(make_run: Any) -> None:
    def over(shifts: list[float], **changes: Any) -> list[Any]:
        # Seeds that differ: their interval is 4.3 standard errors to a side.
        return [
            make_run(agent, by + 0.01 * seed * (1 + i % 3), seed, **changes)
            for i, (agent, by) in enumerate(zip(AGENTS, shifts, strict=True))
            for seed in range(3)
        ]

    shifts = [0.01 * i for i in range(6)]
    records = over(shifts, data__name="glyphs"), over(shifts, **REAL)
    (found,) = agreements(records[0] + records[1])
    means, errors = [], []
    for side in records:
        by_agent = [[r.trials.scores_array() for r in side if r.agent.id == a] for a in AGENTS]
        means.append([100 * np.mean([x.mean(dtype=float) for x in each]) for each in by_agent])
        errors.append([100 * standard_error(each) for each in by_agent])
    rng = np.random.default_rng(0)
    draws = [
        np.array(m) + np.array(e) * rng.standard_normal((2000, 6))
        for m, e in zip(means, errors, strict=True)
    ]
    taus = [kendalltau(a, b)[0] for a, b in zip(*draws, strict=True)]
    assert (found.lo, found.hi) == pytest.approx(tuple(np.quantile(taus, (0.025, 0.975))))


def test_scores_keep_their_signs(make_run: Any) -> None:
    def side(better: str, **changes: Any) -> list[Any]:
        return [
            make_run(
                agent,
                scores=np.linspace(-1, -0.5, 40) - 0.1 * i,
                env__better=better,
                env__unit="nats",
                **changes,
            )
            for i, agent in enumerate(AGENTS)
        ]

    for better in ("lower", "higher"):
        records = side(better, data__name="glyphs") + side(better, **REAL)
        (found,) = agreements(records)
        assert all(row.left < 0 and row.right < 0 for row in found.rows)
        assert {row.name: row.left_place for row in found.rows}["a"] == (
            6 if better == "lower" else 1
        )


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
    reported = "+0.00 over all pairs; -1.00 with cifarfs-5way-1shot, small, +1.00 with omniglot"
    assert f"Median tau: {reported}" in page
