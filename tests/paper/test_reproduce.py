"""Reported numbers beside measured ones, cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lazybench.paper.reproduce import paper_vs_measured
from lazybench.records.schema import Reported
from lazybench.stats import over_seeds

ENV = "glyphs-5way-1shot"


def paper(agent: str | None = "a", **changes: Any) -> Reported:
    given = {"env": ENV, "metric": "accuracy", "value": 60.0, "unit": "%", "ci95_half": 1.0}
    return Reported(source="S", table="T", row="R", agent=agent, **{**given, **changes})


def metrics(value: float, **more: float) -> dict[str, Any]:
    made = {"accuracy": (value, "fraction"), **{name: (v, "%") for name, v in more.items()}}
    return {
        name: {"value": v, "ci95": None, "n": 40, "unit": unit, "better": "higher"}
        for name, (v, unit) in made.items()
    }


def test_seeds_are_averaged_with_the_boards_interval(make_run: Any) -> None:
    plain = [make_run("a", seed=seed) for seed in range(3)]
    scores = [record.trials.scores_array() for record in plain]
    reported = [
        make_run("a", seed=seed, metrics=metrics(float(each.mean())))
        for seed, each in enumerate(scores)
    ]
    (line,) = paper_vs_measured([paper()], reported, "small")
    assert line.measured is not None
    summary = over_seeds(scores)
    assert line.measured.value == pytest.approx(100 * summary.mean)
    assert (line.measured.lo, line.measured.hi) == pytest.approx(
        (100 * summary.lo, 100 * summary.hi)
    )
    assert line.measured.seeds == (0, 1, 2)
    assert line.difference == pytest.approx(100 * summary.mean - 60)
    assert line.same_protocol is False
    assert "budget small" in line.note


def test_the_interval_of_shares_stays_within_them(make_run: Any) -> None:
    """Seeds that disagree widely have a t interval that passes 0 and 100 %."""
    reported = [
        make_run("a", seed=seed, metrics=metrics(level), scores=np.full(40, level))
        for seed, level in enumerate((0.01, 0.99))
    ]
    (line,) = paper_vs_measured([paper()], reported, "small")
    assert line.measured is not None
    assert (line.measured.lo, line.measured.hi) == (0.0, 100.0)


def test_what_fills_a_cell_and_what_never_does(make_run: Any) -> None:
    mean = float(make_run("a").trials.scores_array().mean())
    good = {"metrics": metrics(mean)}
    for other in (
        {"limited": True},
        {"trained_on": "omniglot-5way-1shot"},
        {"overrides": {"inner_steps": 3}},
        {"budget": "paper"},
        {"env__id": "glyphs-20way-1shot"},
        {"agent__trained_by": "external"},
    ):
        (line,) = paper_vs_measured([paper()], [make_run("a", **good, **other)], "small")
        assert (line.measured, line.difference, line.same_protocol) == (None, None, None)
        assert line.note == "not measured yet"
    (line,) = paper_vs_measured(
        [paper(settings={"hull": 3})], [make_run("a", **good, overrides={"hull": 3})], "small"
    )
    assert line.measured is not None


def test_the_batch_norm_is_the_papers_and_transductive_where_it_doesnt_tell(make_run: Any) -> None:
    runs = [
        make_run("a", shift, config={"batch_norm": norm}, overrides=given)
        for norm, shift, given in (
            ("transductive", 0.2, {}),
            ("inductive", 0.0, {"batch_norm": "inductive"}),
        )
    ]
    runs = [
        record.model_copy(
            update={
                "metrics": make_run(
                    "a", metrics=metrics(float(record.trials.scores_array().mean()))
                ).metrics
            }
        )
        for record in runs
    ]
    rows = [paper(), paper(batch_norm="transductive"), paper(batch_norm="inductive")]
    unsaid, over, under = paper_vs_measured(rows, runs, "small")
    for line in (unsaid, over, under):
        assert line.measured is not None
    assert unsaid.measured == over.measured
    assert over.measured.value > under.measured.value + 10
    assert "doesn't state its batch norm" in unsaid.note
    assert "doesn't state" not in over.note


def test_a_full_run_has_the_papers_protocol(make_run: Any) -> None:
    mean = float(make_run("a").trials.scores_array().mean())
    (line,) = paper_vs_measured(
        [paper()], [make_run("a", metrics=metrics(mean), budget="paper")], "paper"
    )
    assert line.same_protocol is True
    assert line.note == ""
    subset = make_run("a", metrics=metrics(mean), budget="paper", data__source="subset of it")
    (line,) = paper_vs_measured([paper()], [subset], "paper")
    assert (line.same_protocol, line.note) == (False, "a subset of the data")


def test_metrics_besides_the_headline(make_run: Any) -> None:
    mean = float(make_run("a").trials.scores_array().mean())
    run = make_run("a", metrics=metrics(mean, top1_error_pct=61.5))
    drawn, wrong, absent = paper_vs_measured(
        [
            paper(metric="top1_error_pct", value=None),
            paper(metric="top1_error_pct", value=60.0),
            paper(metric="nothing"),
        ],
        [run],
        "small",
    )
    assert drawn.measured is not None
    assert (drawn.measured.value, drawn.measured.lo, drawn.difference) == (61.5, None, None)
    assert wrong.difference == pytest.approx(1.5)
    assert absent.measured is None


def test_an_agent_that_isnt_ours(make_run: Any) -> None:
    (line,) = paper_vs_measured([paper(None)], [make_run("a")], "small")
    assert line.note == "not measured: lazybench has no such agent"


def test_why_nothing_was_measured_and_what_the_figure_prints_all_the_same(make_run: Any) -> None:
    drawn = paper(value=None, note="the figure prints 34.28 and 29.15, unassigned")
    why = {("a", ENV): "images absent: not found", ("b", ENV): "another's"}
    (line,) = paper_vs_measured([drawn], [], "small", why)
    assert line.note == "not measured: images absent: not found; " + drawn.note
    (line,) = paper_vs_measured([drawn], [], "small")
    assert line.note == "not measured yet; " + drawn.note
    # The number was measured elsewhere, whatever keeps the cell from running here.
    mean = float(make_run("a").trials.scores_array().mean())
    (line,) = paper_vs_measured([drawn], [make_run("a", metrics=metrics(mean))], "small", why)
    assert line.measured is not None
    assert "not measured" not in line.note


def test_a_measure_of_successes_where_nothing_succeeded(make_run: Any) -> None:
    run = make_run("a", metrics=metrics(0.0), scores=np.zeros(40))
    why = {("a", ENV): "not trained on this machine"}
    (line,) = paper_vs_measured([paper(metric="success_l2")], [run], "small", why)
    assert line.measured is None
    assert line.note == "its runs have no value of this, as where nothing succeeded"
