from __future__ import annotations

import numpy as np
import pytest

from lazybench.envs.attack.summary import CHECKPOINTS, COLUMNS, MEASURES, summary


def columns(**given: list[float]) -> dict[str, np.ndarray]:
    rows = len(given["success_query"])
    return {name: np.array(given.get(name, [-1.0] * rows), float) for name in COLUMNS}


def test_failures_are_charged_the_budget_and_the_papers_triple_leaves_them_out() -> None:
    result = summary(
        np.array([1.0, 0.0, 1.0, 0.0]),
        columns(
            success_query=[10, 0, 30, 0],
            success_8bit=[1, 0, 0, 0],
            best_l2=[1.0, -1.0, 2.0, 5.0],
            l2_at_100=[1.0, -1, 2.5, 5.0],
            l2_at_300=[1.0, -1, 2.0, -1],
        ),
        1000,
    )
    assert result["mean_queries"] == (10 + 1000 + 30 + 1000) / 4
    assert result["median_queries"] == (30 + 1000) / 2
    assert (result["success_l2"], result["success_queries"]) == (1.5, 20.0)
    assert result["success_8bit"] == 0.25
    # An image without any adversarial is farther than all others.
    assert result["median_l2_at_100"] == pytest.approx((2.5 + 5.0) / 2)
    assert np.isnan(result["median_l2_at_300"])
    assert np.isnan(result["median_l2_at_3000"]), "the budget ends before"


def test_no_success_leaves_what_is_told_of_successes_undefined() -> None:
    result = summary(np.zeros(2), columns(success_query=[0, 0], success_8bit=[0, 0]), 50)
    assert np.isnan([result["success_l2"], result["success_queries"]]).all()
    assert result["mean_queries"] == 50


def test_every_measure_is_told() -> None:
    result = summary(np.ones(1), columns(success_query=[1], success_8bit=[1]), 10_000)
    assert set(result) == {measure.name for measure in MEASURES}
    assert [name for name in COLUMNS if name.startswith("l2_at_")] == [
        f"l2_at_{count}" for count in CHECKPOINTS
    ]
