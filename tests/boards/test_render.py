from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from lazybench.boards import build, to_csv, to_html, to_json, to_latex, to_markdown
from lazybench.boards.columns import measures_of
from lazybench.boards.render import board_text, reported_text
from lazybench.records import Reported
from lazybench.tables import csv_cell, text_table

HOSTILE = ["../x", "<script>alert(1)</script>", "a|b", "_%&", "=1+1", "@x", "-1", "🙂", "x" * 300]
HOSTILE += ["a\nb", "\t=1", "[a](javascript:b)", "`a`", "\x1b[31m", "--> <b>"]


def papers() -> list[Reported]:
    facts: dict[str, Any] = {"source": "Paper", "table": "Table 5", "agent": None, "unit": "%"}
    facts |= {"env": "glyphs-5way-1shot", "metric": "accuracy"}
    return [
        Reported(**facts, row="Ours", value=48.7, ci95_half=1.84, batch_norm="inductive"),
        Reported(**facts, row="Drawn", value=None),
    ]


def test_headings_wrap_before_a_table_is_cut() -> None:
    table = text_table(("agent", "training time, s"), [("maml", "12"), ("lazy", "3")], columns=16)
    assert table.splitlines() == [
        "       training",
        "agent   time, s",
        "-----  --------",
        "maml         12",
        "lazy          3",
    ]
    wide = text_table(("agent", "training time, s"), [("maml", "12")], columns=80)
    assert wide.splitlines()[0] == "agent  training time, s"


def test_every_file_opens_with_its_command_and_count(make_run: Any) -> None:
    boards = build([make_run("a"), make_run("b"), make_run("a", budget="smoke")])
    for render in (to_markdown, to_json):
        head = "".join(render(boards, command="lazybench x").splitlines()[:2])
        assert "Made by `lazybench x` from 3 records" in head
    # A line above its header would be taken for the header.
    rows = list(csv.DictReader(io.StringIO(to_csv(boards, command="lazybench x"))))
    assert [row["made_by"] for row in rows] == ["lazybench x"] * 3
    assert "from 2 records" in to_markdown(boards[0])


def test_markdown_shows_scores_differences_and_papers(make_run: Any) -> None:
    text = to_markdown(build([make_run("a", 0.1), make_run("b")], papers()))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    first = [cell.strip() for cell in lines[1].strip("|").split("|")]
    assert first[:2] == ["1", "a"]
    assert " to " in first[2]
    assert "batch norm" not in lines[0]
    assert "48.70 ± 1.84" in text
    assert "figure only" in text
    assert text.index("Reported for") > text.index("## glyphs-5way-1shot-v1")


def test_papers_occur_once_after_the_boards_of_their_env(make_run: Any) -> None:
    text = to_markdown(build([make_run("a"), make_run("a", budget="paper")], papers()))
    assert text.count("## glyphs-5way-1shot-v1") == 2
    assert text.count("Reported for") == 1


def test_long_reasons_are_cut_in_text_and_whole_in_csv(make_run: Any) -> None:
    reason = "the loss is not a number " * 20
    boards = build([make_run("a"), make_run("b", seed=1, status="failed", reason=reason)])
    text = board_text(boards[0])
    assert "failed: the loss is not a number" in text
    assert max(map(len, text.splitlines())) < 250
    assert " ".join(reason.split()) in to_csv(boards)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_no_format(make_run: Any, name: str) -> None:
    lost = make_run(name, seed=1, status="failed", reason=name)
    boards = build([make_run(name, config={"x": 1}, overrides={"x": name}), lost, make_run("b")])
    text = to_markdown(boards)
    assert "<script" not in text
    assert "<b>" not in text
    assert "](javascript" not in text.replace("\\]", "")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for line in tables:
        assert line.replace("\\|", "").count("|") in {
            row.count("|") for row in tables if "--" in row
        }
    rows = list(csv.reader(io.StringIO(to_csv(boards))))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 4
    for row in rows[1:]:
        for cell in row:
            assert not cell.startswith(("=", "@", "+", "\t")), cell
            assert not cell.startswith("-") or math.isfinite(float(cell))
    assert json.loads(to_json(boards))["boards"][0]["failed"][0]["agent_id"] == name


NAMES = [*HOSTILE, "+1", "\r=1", "\n=1", " =1", "a;=1", "a; @x", "\N{FULLWIDTH EQUALS SIGN}1"]
NAMES += ["rank", '=HYPERLINK("http://e.invalid","x")', "\\input{x}", "a & b", "score", "score 2"]


def test_hostile_metrics_break_no_format(make_run: Any) -> None:
    """Names of metrics become names of columns."""
    fact = {"value": 0.5, "n": 40, "unit": "=1|x", "better": "higher"}
    metrics = {"accuracy": fact | {"value": 0.9}} | dict.fromkeys(NAMES, fact)
    runs = [make_run("a", metrics=metrics), make_run("b", -0.2)]
    boards = build(runs)
    header, first, second = csv.reader(io.StringIO(to_csv(boards)))
    assert len(header) == len(set(header)) == len(first) == len(second)
    reported = dict(zip(header, first, strict=True))
    names = ("rank 2", "score 2", "score 2 2")
    assert [reported[name] for name in ("rank", *names)] == ["1", *["0.5"] * 3]
    for name in header:
        for part in name.split(";"):
            assert not part.lstrip().startswith(("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}"))
    lines = [line for line in to_markdown(boards).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<script>alert" not in to_markdown(boards) + to_html(boards, runs)
    latex = to_latex(boards)
    assert "\\input{x}" not in latex
    assert r"\textbackslash{}input\{x\}" in latex


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1", "'=1"),
        (" @x", "' @x"),
        ("\t=1", "' =1"),
        ("\tx", "' x"),
        ("a;-1; +2", "a;'-1;' +2"),
        ("a-1; b=2", "a-1; b=2"),
        (-1.5, -1.5),
        (None, ""),
        (("-1", "=2"), "'-1 =2"),
    ],
)
def test_cells_that_spreadsheets_take_for_text(value: Any, shown: Any) -> None:
    assert csv_cell(value) == shown


def test_csv_and_json_hold_numbers(make_run: Any) -> None:
    boards = build([make_run("a", 0.1), make_run("b")], papers())
    rows = list(csv.DictReader(io.StringIO(to_csv(boards))))
    assert [row["block"] for row in rows] == ["ranked", "ranked", "reported", "reported"]
    assert float(rows[0]["lo"]) < float(rows[0]["score"]) < float(rows[0]["hi"])
    assert float(rows[1]["diff_lo"]) < float(rows[1]["diff"]) < float(rows[1]["diff_hi"])
    assert rows[3]["score"] == ""
    facts = json.loads(to_json(boards))["boards"][0]
    assert facts["ranked"][1]["diff"]["mean"] == float(rows[1]["diff"])
    assert facts["protocol"] == {"trials": 40}


def test_reported_numbers_of_another_metric_are_under_its_name(make_run: Any) -> None:
    given = {"source": "S", "table": "T", "row": "R", "agent": "a", "env": "glyphs-5way-1shot"}
    error = Reported(**given, metric="top1_error_pct", value=61.7, unit="%", note="one run")
    boards = build([make_run("a")], [error])
    measured, printed = csv.DictReader(io.StringIO(to_csv(boards)))
    assert (measured["metric"], printed["metric"]) == ("accuracy", "top1_error_pct")
    assert (printed["score"], printed["note"]) == ("61.7", "one run")
    assert "top1 error pct" in reported_text(boards[0])


def test_tuning_trials_are_reported_or_whose_choice_the_settings_are(make_run: Any) -> None:
    searched = make_run("a", 0.2, tuning={"trials": 9, "cpu_s": 60.0})
    boards = build([searched, make_run("b", 0.1), make_run("c", untuned=True)])
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")]
        for line in to_markdown(boards).splitlines()
        if line.startswith("|")
    ]
    place = head.index("tuning trials")
    assert [row[place] for row in rows] == ["9", "preset", "none"]
    reported = csv.DictReader(io.StringIO(to_csv(boards)))
    assert [(r["tuned"], r["tuning_trials"]) for r in reported] == [
        ("yes", "9.0"),
        ("yes", ""),
        ("no", ""),
    ]


def test_rendering_hides_the_last_bits(make_run: Any) -> None:
    (board,) = build([make_run("a")])
    row = board.ranked[0]
    assert row.score is not None
    other = replace(board, ranked=(replace(row, score=math.nextafter(row.score, 100)),))
    for render in (to_markdown, to_csv, to_json):
        assert render(other) == render(board)


def test_further_metrics_track_and_cost_are_columns_of_their_own(make_run: Any) -> None:
    extra = {
        "accuracy": {"value": 0.9, "n": 40, "unit": "fraction", "better": "higher"},
        "few_accuracy": {"value": 0.25, "n": 40, "unit": "fraction", "better": "higher"},
        "nll": {"value": 1.5, "n": 40, "unit": "nats", "better": "lower"},
    }
    cost = {"gradient_equivalents": 1234.5}
    records = [make_run("a", 0.1, metrics=extra, track="LT+dev", cost=cost), make_run("b")]
    boards = build(records)
    head, _, row, other = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in to_markdown(boards).splitlines()
        if line.startswith("|")
    )
    reported = dict(zip(head, row, strict=True))
    assert reported["few accuracy (%)"] == "25.00"
    assert reported["nll (nats)"] == "1.5"
    assert (reported["track"], reported["gradient-equivalents (F)"]) == ("LT+dev", "1,234")
    assert dict(zip(head, other, strict=True))["few accuracy (%)"] == ""
    (first, second) = csv.DictReader(io.StringIO(to_csv(boards)))
    assert (float(first["few_accuracy"]), second["few_accuracy"]) == (25.0, "")
    assert json.loads(to_json(boards))["boards"][0]["ranked"][0]["track"] == "LT+dev"


def test_further_metrics_are_in_natural_order_whoever_has_them_first(make_run: Any) -> None:
    def extra(*names: str) -> dict[str, Any]:
        facts = {"value": 1.0, "n": 40, "unit": "L2", "better": "lower"}
        accuracy = {"value": 0.5, "n": 40, "unit": "fraction", "better": "higher"}
        return {"accuracy": accuracy} | dict.fromkeys(names, facts)

    runs = [
        make_run("a", metrics=extra("l2_at_3000", "l2_at_100", "l2_at_1000")),
        make_run("b", metrics=extra("l2_at_300", "8bit", "l2", "queries")),
    ]
    want = ["8bit", "l2", "l2_at_100", "l2_at_300", "l2_at_1000", "l2_at_3000", "queries"]
    (board,) = build(runs)
    assert [name for name, _ in measures_of(board.rows)] == want
    header = to_csv(board).splitlines()[0].split(",")
    # A cost has this name already.
    assert header[-len(want) :] == [*want[:-1], "queries 2"]
