from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lazybench.envs.attack.summary import (
    BAD_CHECKPOINTS,
    BAD_COLUMNS,
    CHECKPOINTS,
    COLUMNS,
    MEASURES,
    summary,
)


class Task:
    """What of a task the measures depend on."""

    def __init__(self, query_budget: int, mode: str = "first", bad: int | None = None) -> None:
        self.query_budget, self.mode, self.bad_query_budget = query_budget, mode, bad
        self.defence = "none"


def measures(success: np.ndarray, given: dict[str, np.ndarray], task: Any) -> dict[str, float]:
    return summary(success, given, task)


def columns(**given: list[float]) -> dict[str, np.ndarray]:
    rows = len(given["success_query"])
    return {name: np.array(given.get(name, [-1.0] * rows), float) for name in COLUMNS}


def test_failures_are_charged_the_budget_and_the_papers_triple_leaves_them_out() -> None:
    result = measures(
        np.array([1.0, 0.0, 1.0, 0.0]),
        columns(
            success_query=[10, 0, 30, 0],
            success_8bit=[1, 0, 0, 0],
            best_l2=[1.0, -1.0, 2.0, 5.0],
            l2_at_100=[1.0, -1, 2.5, 5.0],
            l2_at_300=[1.0, -1, 2.0, -1],
        ),
        Task(1000),
    )
    assert result["mean_queries"] == (10 + 1000 + 30 + 1000) / 4
    assert result["median_queries"] == (30 + 1000) / 2
    assert (result["success_l2"], result["success_queries"]) == (1.5, 20.0)
    assert result["success_8bit"] == 0.25
    # An image without any adversarial is farther than all others.
    assert result["median_l2_at_100"] == pytest.approx((2.5 + 5.0) / 2)
    assert np.isnan(result["median_l2_at_300"])
    assert np.isnan(result["median_l2_at_3000"]), "the budget ends before"


def test_no_success_leaves_measures_of_successes_undefined() -> None:
    result = measures(np.zeros(2), columns(success_query=[0, 0], success_8bit=[0, 0]), Task(50))
    assert np.isnan([result["success_l2"], result["success_queries"]]).all()
    assert result["mean_queries"] == 50


def test_every_measure_is_reported() -> None:
    result = measures(np.ones(1), columns(success_query=[1], success_8bit=[1]), Task(10_000))
    assert set(result) == {measure.name for measure in MEASURES}
    assert [name for name in COLUMNS if name.startswith("l2_at_")] == [
        *(f"l2_at_{count}" for count in CHECKPOINTS),
        *(f"l2_at_bad_{count}" for count in BAD_CHECKPOINTS),
    ]


def test_bad_queries_of_failures_are_the_budget() -> None:
    given = columns(
        success_query=[10, 0, 900, 5],
        success_8bit=[0, 0, 0, 0],
        success_bad_queries=[99, -1, 100, 0],
        l2_at_bad_100=[1.0, -1.0, 3.0, 2.0],
        l2_at_bad_200=[1.0, -1.0, -1.0, 2.0],
    )
    success = np.array([1.0, 0.0, 1.0, 1.0])
    ends = measures(success, given, Task(1000))
    assert ends["mean_bad_queries"] == (99 + 1000 + 100 + 0) / 4
    assert ends["median_bad_queries"] == (99 + 100) / 2
    # A budget of 100 bad queries would have ended the third attack before its success.
    assert ends["success_at_bad_100"] == 0.5
    assert ends["success_at_bad_200"] == 0.75
    assert np.isnan(ends["median_l2_at_bad_100"])
    curve = measures(success, given, Task(1000, "minimise"))
    assert curve["median_l2_at_bad_100"] == pytest.approx(2.5)
    assert np.isnan(curve["median_l2_at_bad_200"]), "half of the images have none"
    assert np.isnan(curve["success_at_bad_100"])
    limited = measures(success, given, Task(1000, bad=120))
    assert limited["mean_bad_queries"] == (99 + 120 + 100 + 0) / 4
    assert limited["success_at_bad_100"] == 0.5
    assert np.isnan(limited["success_at_bad_200"]), "the budget ends before"


def test_columns_of_earlier_records_give_the_measures_of_that_time() -> None:
    given = columns(success_query=[1], success_8bit=[1])
    earlier = {name: part for name, part in given.items() if name not in BAD_COLUMNS}
    result = measures(np.ones(1), earlier, Task(10_000))
    undefined = {name for name, value in result.items() if np.isnan(value) and "l2" not in name}
    later = {name for name in result if "_bad_" in name and "l2" not in name}
    assert undefined == {*later, "detection_rate", "flagged_queries"}


def test_detection_is_a_share_of_images_and_of_queries() -> None:
    given = columns(success_query=[0, 3, 0, 0], success_8bit=[0, 1, 0, 0])
    given |= {"queries": np.array([10, 3, 5, 2]), "flagged": np.array([6, 0, 1, 0])}
    given["detected"] = np.array([4, 0, 5, 0])
    task = Task(10)
    task.defence = "detect:blacklight"
    result = measures(np.array([0.0, 1.0, 0.0, 0.0]), given, task)
    assert result["detection_rate"] == 0.5
    assert result["flagged_queries"] == 7 / 20
