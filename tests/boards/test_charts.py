"""The charts' descriptions: places on axes, ticks, means with bands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lazybench.boards import build
from lazybench.boards.charts import (
    cost_chart,
    learning_chart,
    linear,
    linear_ticks,
    logarithmic,
    mean_and_band,
    short,
    success_chart,
)
from lazybench.boards.plot_data import plot_data
from lazybench.records import Trials


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (77, 99, [80, 85, 90, 95]),
        (0.1, 0.13, [0.1, 0.105, 0.11, 0.115, 0.12, 0.125, 0.13]),
        (5, 5, [5]),
        (-1e100, 1e100, [-1e100, -5e99, 0, 5e99, 1e100]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high) == pytest.approx(ticks)


def test_numbers_are_short() -> None:
    numbers = (0, 0.12345, 1503, 9999, 12_345, 3_000_000, 2.5e9, 1e100)
    assert [short(number) for number in numbers] == [
        *("0", "0.1235", "1503", "9999", "12.3k", "3M", "2.5G", "1e+100")
    ]


def test_a_linear_axis_runs_from_end_to_end() -> None:
    axis = linear("x", 10, 20)
    assert [axis.at(value) for value in (10, 15, 20)] == [0, 0.5, 1]
    assert all(0 <= at <= 1 for at, _ in axis.ticks)
    assert math.isfinite(linear("x", 3, 3).at(3))


def test_a_logarithmic_axis_has_no_zero() -> None:
    axis = logarithmic("cost", [0, 10, 1000])
    assert "0" not in [text for _, text in axis.ticks]
    assert axis.ticks[0] == (axis.gutter / 2, "none")
    assert axis.at(0) < axis.gutter < axis.at(10) < axis.at(1000) < 1
    # Equal factors are equal distances.
    assert axis.at(100) - axis.at(10) == pytest.approx(axis.at(1000) - axis.at(100))
    places = {text: at for at, text in axis.ticks}
    assert places["100"] == pytest.approx(axis.at(100))
    without = logarithmic("cost", [10, 1000])
    assert without.gutter == 0
    assert "none" not in [text for _, text in without.ticks]


def test_the_mean_is_over_seeds_and_the_band_holds_them() -> None:
    """Against plain sums where seeds share their places, and by hand where they don't."""
    rng = np.random.default_rng(0)
    curves = [tuple((float(x), float(rng.random())) for x in (5, 10, 15)) for _ in range(3)]
    mean, band = mean_and_band(curves)
    for k, (x, y) in enumerate(mean):
        values = [curve[k][1] for curve in curves]
        assert x == curves[0][k][0]
        assert y == pytest.approx(sum(values) / 3)
        assert band[k] == (min(values), max(values))
    mean, band = mean_and_band([((0, 0), (10, 10)), ((5, 1), (15, 3))])
    assert mean == ((5, 3), (10, 6))
    assert band == ((1, 5), (2, 10))
    assert mean_and_band(curves[:1]) == (curves[0], ())


def test_curves_become_one_line_for_each_agent(make_run: Any) -> None:
    curve = [{"step": 5, "val": 0.2}, {"step": 10, "val": 0.4}]
    other = [{"step": 5, "val": 0.4}, {"step": 10, "val": 0.8}]
    runs = [make_run("a", seed=s, curve=c) for s, c in enumerate((curve, other))]
    (shown,) = plot_data(build(runs), runs)
    chart = learning_chart(shown)
    assert chart is not None
    (mark,) = chart.marks
    assert [chart.y.at(value) for value in (30, 60)] == pytest.approx([y for _, y in mark.line])
    assert len(mark.band) == 2
    assert chart.note == "Line: mean over seeds. Band: lowest to highest seed."


def test_rows_beyond_the_axis_are_named_in_the_cost_chart(make_run: Any) -> None:
    shifts = {"a": 0.3, "b": 0.28, "c": 0.27, "chance": -0.3}
    runs = [make_run(n, s, cost={"train_cpu_s": 5.0}) for n, s in shifts.items()]
    (shown,) = plot_data(build(runs), runs)
    chart = cost_chart(shown, "train_cpu_s")
    assert [shown.series[mark.series].name for mark in chart.marks] == ["a", "b", "c"]
    assert chart.note.startswith("Beyond the axis: chance (")
    assert all(0 <= y <= 1 for mark in chart.marks for _, y in mark.line)


def test_steps_keep_what_changes(make_run: Any) -> None:
    trials = Trials.of([1.0, 0.0], columns={"success_query": [7, 0]})
    env = {"env__family": "attack", "env__protocol": {"query_budget": 100}}
    runs = [make_run("a", trials=trials, **env)]
    (shown,) = plot_data(build(runs), runs)
    chart = success_chart(shown)
    assert chart is not None
    line = chart.marks[0].line
    assert len(line) == 3
    assert [y for _, y in line] == [0, 0.5, 0.5]
    assert [x for x, _ in line] == pytest.approx([chart.x.at(n) for n in (1, 7, 100)], abs=0.02)
