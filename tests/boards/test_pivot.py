from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest

from lazybench.boards.pivot import (
    Cell,
    Choice,
    Wanted,
    footnotes,
    pivot,
    pivot_csv,
    pivot_latex,
    pivot_markdown,
    unfilled,
)
from lazybench.errors import UnknownName, UsageError

E1, E2 = "glyphs-5way-1shot", "omniglot-5way-1shot"


def want(*names: str) -> list[Wanted]:
    return [Wanted(name, (name,)) for name in names]


def cell(table: Any, label: str, column: int = 0) -> Cell:
    found = table.cells(label)[column]
    assert isinstance(found, Cell)
    return found


def test_the_best_of_each_column_and_the_average_rank(make_run: Any) -> None:
    runs = [make_run(a, s) for a, s in (("a", 0.1), ("b", 0.0), ("c", -0.1))]
    runs += [make_run(a, s, env__id=E2) for a, s in (("a", 0.0), ("b", 0.1), ("c", -0.1))]
    table = pivot(runs, want("c", "a", "b"), [E1, E2], Choice())
    assert [cell(table, name, 0).best for name in "abc"] == [True, False, False]
    assert [cell(table, name, 1).best for name in "abc"] == [False, True, False]
    assert table.average == (3.0, 1.5, 1.5)
    text = pivot_markdown(table, command="x")
    line = next(line for line in text.splitlines() if line.startswith("| a "))
    assert line.count("**") == 2
    assert "accuracy (%): means" in text


def test_lower_is_better_where_the_board_says_so(make_run: Any) -> None:
    runs = [make_run(a, s, env__better="lower") for a, s in (("a", 0.1), ("b", 0.0))]
    table = pivot(runs, want("a", "b"), [E1], Choice())
    assert cell(table, "b").best
    assert table.average == (2.0, 1.0)


def test_ties_are_reported_among_the_rows_shown(make_run: Any) -> None:
    shifts = {"winner": 0.2, "a": 0.0, "bb": 0.0, "far": -0.2}
    runs = [make_run(name, s, seed) for name, s in shifts.items() for seed in range(3)]
    table = pivot(runs, want("a", "bb", "far"), [E1], Choice())
    near = [cell(table, name) for name in ("a", "bb")]
    assert sorted((c.best, c.tied) for c in near) == [(False, True), (True, False)]
    assert {c.place for c in near} == {1.5}
    assert (cell(table, "far").place, cell(table, "far").tied) == (3.0, False)
    assert pivot_markdown(table, command="x").count("<u>") == 1
    assert pivot_latex(table, command="x").count(r"\underline{") == 1
    whole = pivot(runs, want("winner", "a", "bb"), [E1], Choice())
    assert not any(cell(whole, name).tied for name in ("a", "bb"))


def test_missing_cells_and_ranks_without_the_rows_that_have_gaps(make_run: Any) -> None:
    runs = [make_run(a, s) for a, s in (("a", 0.1), ("gap", 0.05), ("b", 0.0))]
    runs += [make_run(a, s, env__id=E2) for a, s in (("a", 0.1), ("b", 0.0))]
    runs.append(make_run("gap", env__id=E2, status="diverged", reason="loss is NaN"))
    table = pivot(runs, want("a", "gap", "b", "none"), [E1, E2], Choice())
    # Beside the row with a gap, b would be third on one environment and second on the other.
    assert table.average == (1.0, None, 2.0, None)
    assert table.cells("gap")[1] == "diverged: loss is NaN"
    assert unfilled(table) == ["none"]
    text = pivot_markdown(table, command="x")
    assert "-- diverged: loss is NaN: gap on omniglot-5way-1shot." in text
    row = next(line for line in text.splitlines() if line.startswith("| none"))
    assert [part.strip() for part in row.strip("|").split("|")] == ["none", "--", "--", "--"]
    rows = list(csv.reader(io.StringIO(pivot_csv(table, command="x"))))
    assert len({len(row) for row in rows}) == 1
    assert rows[4] == ["none", *[""] * 9, "x"]
    assert float(rows[1][1]) == pytest.approx(cell(table, "a").score, rel=1e-5)


def test_other_backbones_are_shown_and_not_ranked(make_run: Any) -> None:
    def net(name: str) -> dict[str, Any]:
        return {"name": name, "parameters": 10}

    runs = [make_run("a", network=net("conv4")), make_run("b", -0.1, network=net("conv4"))]
    runs.append(make_run("big", 0.2, network=net("resnet12")))
    table = pivot(runs, want("a", "b", "big"), [E1], Choice())
    assert cell(table, "a").best
    assert (cell(table, "big").place, cell(table, "big").outside) == (None, True)
    assert "†" in pivot_markdown(table, command="x")
    assert r"$^\dagger$" in pivot_latex(table, command="x")


def test_a_name_of_several_rows_is_refused_and_can_be_distinguished(make_run: Any) -> None:
    runs = [make_run("a", config={"batch_norm": b}) for b in ("inductive", "transductive")]
    runs.append(make_run("b"))
    with pytest.raises(UsageError, match=r"'a' names 2 rows .*--batch-norm"):
        pivot(runs, want("a"), [E1], Choice())
    chosen = pivot(runs, want("a", "b"), [E1], Choice(batch_norm="inductive"))
    assert cell(chosen, "a").row.batch_norm == "inductive"
    assert isinstance(chosen.cells("b")[0], Cell)
    by_key = [Wanted("Ours", (runs[1].key12[:8], "a"))]
    assert cell(pivot(runs, by_key, [E1], Choice()), "Ours").row.keys == (runs[1].key12,)


def test_boards_of_several_protocols_are_never_mixed(make_run: Any) -> None:
    runs = [make_run("a", env__protocol={"query_budget": b}) for b in (500, 1000)]
    with pytest.raises(UsageError, match=r"2 boards .*query_budget \(1000, 500\)"):
        pivot(runs, want("a"), [E1], Choice())
    table = pivot(runs, want("a"), [E1], Choice(protocol={"query_budget": "500"}))
    assert cell(table, "a").row.keys == (runs[0].key12,)


def test_the_newest_version_counts_unless_one_is_named(make_run: Any) -> None:
    runs = [make_run("a"), make_run("a", 0.1, env__version=2)]
    assert cell(pivot(runs, want("a"), [E1], Choice()), "a").row.keys == (runs[1].key12,)
    old = pivot(runs, want("a"), [f"{E1}-v1"], Choice())
    assert cell(old, "a").row.keys == (runs[0].key12,)


def test_a_further_metric_has_its_own_direction_and_no_ranks(make_run: Any) -> None:
    def extra(value: float) -> dict[str, Any]:
        accuracy = {"value": 0.5, "n": 40, "unit": "fraction", "better": "higher"}
        asked = {"value": value, "n": 40, "unit": "queries", "better": "lower"}
        return {"accuracy": accuracy, "median_queries": asked}

    runs = [make_run("a", metrics=extra(900)), make_run("b", metrics=extra(300))]
    table = pivot(runs, want("a", "b"), [E1], Choice(metric="median_queries"))
    assert [cell(table, name).best for name in "ab"] == [False, True]
    assert table.average == (None, None)
    assert "average rank" not in pivot_markdown(table, command="x")
    assert not any("Average" in note for note in footnotes(table))
    reported = "median_queries (queries): each run's value over its test trials, mean over seeds"
    assert footnotes(table)[0] == f"{reported}, budget small."
    with pytest.raises(UnknownName, match=r"metric 'no'.*accuracy, median_queries"):
        pivot(runs, want("a"), [E1], Choice(metric="no"))


def test_nothing_at_all_is_an_error(make_run: Any) -> None:
    with pytest.raises(UnknownName, match="no ranked row of x on"):
        pivot([make_run("a")], want("x"), [E1], Choice())


def test_marks_and_few_seeds_are_in_the_footnote(make_run: Any) -> None:
    table = pivot([make_run("a", code__dirty=True, untuned=True)], want("a"), [E1], Choice())
    notes = " ".join(footnotes(table))
    assert f"dirty: a on {E1}." in notes
    assert f"untuned: a on {E1}." in notes
    assert "All cells have fewer than 3 seeds: a trained model" in notes
    assert "Seeds: 1." in notes


def test_cells_of_few_seeds_are_marked_where_others_have_enough(make_run: Any) -> None:
    runs = [make_run("firm", 0.1, seed) for seed in range(3)]
    table = pivot([*runs, make_run("few")], want("firm", "few"), [E1], Choice())
    firm, few = (
        next(
            line for line in pivot_markdown(table, command="x").splitlines() if f"| {name}" in line
        )
        for name in ("firm", "few")
    )
    assert ("‡" in firm, "‡" in few) == (False, True)
    assert pivot_latex(table, command="x").count(r"$^\ddagger$") == 2
    assert "‡: fewer than 3 seeds: a trained model" in " ".join(footnotes(table))
    rows = list(csv.DictReader(pivot_csv(table, command="x").splitlines()))
    assert [row[f"{E1} seeds"] for row in rows] == ["3", "1"]
    assert "‡" not in pivot_markdown(pivot(runs, want("firm"), [E1], Choice()), command="x")


def test_a_mark_of_all_cells_is_reported_once(make_run: Any) -> None:
    runs = [make_run(name, untuned=True, code__dirty=name == "a") for name in "ab"]
    notes = footnotes(pivot(runs, want("a", "b"), [E1], Choice()))
    assert "untuned: all cells." in notes
    assert f"dirty: a on {E1}." in notes


def test_hostile_labels_break_no_format(make_run: Any) -> None:
    runs = [make_run("a")]
    for label in ("=1+1", "<script>|x", "a & b", "--> <b>"):
        table = replace(pivot(runs, want("a"), [E1], Choice()), labels=(label,))
        text = pivot_markdown(table, command="lazybench --> <b>")
        assert "<script" not in text
        assert text.count("-->") == 1
        row = pivot_csv(table, command="x\ny").splitlines()[1]
        assert not row.startswith("=")
        latex = pivot_latex(table, command="x\n\\bad")
        assert latex.splitlines()[0].endswith(r"\bad`. Don't edit.")
