"""Flags of rows: below baseline, still rising, and comparisons across processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from lazybench.boards import build, compare
from lazybench.boards.build import FLAGS_NOTE
from lazybench.boards.flags import (
    Against,
    against_baselines,
    flags,
    is_still_rising,
    mixed_processors,
    rise,
)
from lazybench.boards.group import Group, groups
from lazybench.records import Packed


def _rows(records: list[Any]) -> dict[str, Group]:
    return {group.name: group for group in groups(records)}


def _curve(values: list[float]) -> list[dict[str, float]]:
    return [{"step": 10.0 * (i + 1), "val": value} for i, value in enumerate(values)]


def test_a_row_is_above_a_baseline_where_the_paired_interval_is(make_run: Any) -> None:
    baseline = make_run("finetune", 0.1)
    for shift in (0.09, 0.1, 0.102, 0.104, 0.108, 0.12):
        row = make_run("maml", shift)
        one, other = (each.trials.scores_array().astype("f8") for each in (row, baseline))
        above = ttest_rel(one, other).confidence_interval(0.95).low > 0
        rows = _rows([row, baseline])
        want = () if above else ("finetune",)
        assert against_baselines(rows["maml"], [*rows.values()]) == Against(
            ("nearest_pixel",), want
        ), shift


@pytest.mark.parametrize(
    "changes",
    [
        {"agent__trained_by": "external"},
        {"agent__origin": "mine"},
        {"trained_on": "glyphs-20way-5shot best 3"},
    ],
)
def test_a_users_agent_of_a_baselines_name_is_no_baseline(
    make_run: Any, changes: dict[str, Any]
) -> None:
    rows = groups([make_run("a", 0.1), make_run("finetune", 0.3, **changes)])
    found = against_baselines(rows[0], rows)
    assert found == Against(("finetune", "nearest_pixel"), ())


def test_a_curve_on_images_that_training_saw_says_nothing_of_a_rise(make_run: Any) -> None:
    curve = _curve([0.2, 0.3, 0.4, 0.5])
    for track, want in (("LT", True), ("LT+dev", False)):
        (row,) = groups([make_run("a", curve=curve, track=track, env__family="longtail")])
        assert is_still_rising(row) is want
        assert (rise(row) is None) is not want


def test_a_column_that_one_record_lacks_is_not_compared(make_run: Any) -> None:
    queries = {"queries": Packed.of(np.arange(40.0))}

    def run(agent: str, seed: int, *, has: bool = True) -> Any:
        made = make_run(agent, seed=seed)
        trials = made.trials.model_copy(update={"columns": queries if has else {}})
        return made.model_copy(update={"trials": trials})

    runs = [run("a", 0), run("a", 1), run("a", 2, has=False), *(run("b", seed) for seed in (0, 1))]
    rows = _rows(runs)
    assert rows["a"].estimate(rows["b"], "queries") is None
    assert rows["b"].estimate(rows["b"], "queries") is not None


def test_where_less_is_better_a_row_above_has_less(make_run: Any) -> None:
    records = [make_run(name, by, env__better="lower") for name, by in (("a", 0.1), ("b", -0.1))]
    rows = _rows([*records, make_run("finetune", env__better="lower")])
    assert against_baselines(rows["a"], [*rows.values()]).not_above == ("finetune",)
    assert against_baselines(rows["b"], [*rows.values()]).not_above == ()


def test_every_baseline_of_the_family_counts(make_run: Any) -> None:
    records = [make_run("a", 0.1), make_run("finetune"), make_run("nearest_pixel", 0.2)]
    rows = _rows(records)
    found = against_baselines(rows["a"], [*rows.values()])
    assert found == Against((), ("nearest_pixel",))
    assert flags(rows["a"], [*rows.values()]) == ("below baseline",)
    assert flags(rows["finetune"], [*rows.values()]) == ()
    other = _rows([make_run("a", 0.1, env__family="longtail")])
    assert against_baselines(other["a"], [*other.values()]).missing == ("cross_entropy",)
    other = _rows([make_run("a", 0.1, env__family="another")])
    assert against_baselines(other["a"], [*other.values()]) == Against((), ())


def test_the_baseline_has_no_settings_and_the_rows_batch_norm(make_run: Any) -> None:
    def row(name: str, by: float, norm: str, **more: Any) -> Any:
        return make_run(name, by, config={"batch_norm": norm, **more}, overrides=more)

    own = row("a", 0.1, "inductive")
    strong = row("finetune", 0.2, "transductive")
    rows = groups([own, strong, row("finetune", 0.3, "inductive", lr=1)])
    assert against_baselines(rows[0], rows).not_above == ("finetune",)
    rows = groups([own, strong, row("finetune", 0.0, "inductive")])
    assert against_baselines(rows[0], rows).not_above == ()


def _attack(make_run: Any, name: str, queries: float, success: float, **changes: Any) -> Any:
    hits = (np.arange(40) < 40 * success).astype(float)
    run = make_run(name, scores=hits, env__family="attack", env__metric="success", **changes)
    spread = np.random.default_rng(len(name)).normal(0, 5, 40)
    run.trials.columns["queries"] = Packed.of(queries + spread)
    return run


@pytest.mark.parametrize(
    ("queries", "success", "error", "below"),
    [
        (100.0, 1.0, 0.8, ()),
        (300.0, 1.0, 0.8, ("coordinate",)),
        (100.0, 0.5, 0.8, ("coordinate",)),
        (100.0, 1.0, 1.04, ("a map of zeros",)),
    ],
)
def test_attacks_need_fewer_queries_no_less_success_and_a_small_error(
    make_run: Any, queries: float, success: float, error: float, below: tuple[str, ...]
) -> None:
    reported = {"held_out_mse": error}
    records = [
        _attack(make_run, "meta_attack", queries, success, diagnostics=reported),
        _attack(make_run, "coordinate", 200.0, 0.95),
    ]
    rows = _rows(records)
    found = against_baselines(rows["meta_attack"], [*rows.values()])
    assert found == Against(("meta_attack_untrained",), below)


def test_a_curve_rises_by_the_line_through_its_last_half(make_run: Any) -> None:
    values = [0.1, 0.5, 0.6, 0.62, 0.70, 0.71, 0.715, 0.71, 0.72]
    (row,) = groups([make_run("a", curve=_curve(values))])
    x, y = np.arange(5.0), np.array(values[-5:])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert rise(row) == pytest.approx(100 * slope * 4)
    assert is_still_rising(row)


@pytest.mark.parametrize(
    ("values", "changes", "rises"),
    [
        ([0.1, 0.5, 0.7, 0.705], {}, False),
        ([0.1, 0.5, 0.7, 0.715], {}, True),
        ([0.5, 0.4], {}, False),
        ([0.5], {}, False),
        ([0.9, 0.4, 0.3, 0.2], {"env__family": "attack"}, True),
        ([0.2, 0.3, 0.4, 0.5], {"env__family": "attack"}, False),
        ([9.0, 4.0, 3.9, 3.8], {"env__unit": "mse", "env__better": "lower"}, False),
        ([9.0, 4.0, 3.9, 3.5], {"env__unit": "mse", "env__better": "lower"}, True),
        ([0.1, 0.5, 0.7, float("nan")], {}, False),
    ],
)
def test_still_rising(
    make_run: Any, values: list[float], changes: dict[str, Any], rises: bool
) -> None:
    (row,) = groups([make_run("a", curve=_curve(values), **changes)])
    assert is_still_rising(row) == rises
    assert flags(row, [row]) == (("still rising",) if rises else ())


def test_the_rise_is_the_mean_over_seeds(make_run: Any) -> None:
    curves = ([0.5, 0.60, 0.60, 0.63], [0.5, 0.6, 0.6, 0.59])
    (row,) = groups([make_run("a", 0.0, i, curve=_curve(each)) for i, each in enumerate(curves)])
    assert rise(row) == pytest.approx(1.0)
    assert rise(Group((), "none")) is None


def test_boards_and_comparisons_show_the_flags(make_run: Any) -> None:
    records = [
        make_run("a", curve=_curve([0.1, 0.2, 0.3, 0.4])),
        make_run("finetune", 0.1),
        make_run("nearest_pixel", -0.1),
    ]
    (board,) = build(records)
    marks = {row.agent: row.marks for row in board.ranked}
    assert marks["a"] == ("below baseline", "still rising")
    assert marks["finetune"] == ()
    assert FLAGS_NOTE in board.notes
    found = compare(records, "a", "finetune")
    assert (found.left.flags, found.right.flags) == (marks["a"], ())
    (board,) = build(records[1:])
    assert FLAGS_NOTE not in board.notes


def _on(make_run: Any, agent: str, *processors: str) -> list[Any]:
    return [
        make_run(agent, 0.0, seed, machine__processor=name) for seed, name in enumerate(processors)
    ]


@pytest.mark.parametrize(
    ("left", "right", "mixed"),
    [
        (("x", "x"), ("x", "x"), ()),
        (("x", "y"), ("x", "y"), ()),
        (("x", "y"), ("y", "x"), ("x", "y")),
        (("x", "x"), ("x", "y"), ("x", "y")),
        (("x", "x"), ("x",), ()),
        (("x", "y"), ("x",), ("x", "y")),
    ],
)
def test_pairs_across_processors_are_marked(
    make_run: Any, left: tuple[str, ...], right: tuple[str, ...], mixed: tuple[str, ...]
) -> None:
    records = _on(make_run, "a", *left) + _on(make_run, "b", *right)
    rows = _rows(records)
    assert mixed_processors(rows["a"], rows["b"]) == mixed
    found = compare(records, "a", "b")
    assert found.processors == mixed
    assert ("Mixed processors (x, y)" in found.note) == bool(mixed)


def test_a_gpu_counts_as_the_processor(make_run: Any) -> None:
    rows = _rows([make_run("a", machine__gpu="g"), make_run("b")])
    assert mixed_processors(rows["a"], rows["b"]) == ("g", "x86_64")
