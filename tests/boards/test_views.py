from __future__ import annotations

import csv
import io
from typing import Any

import pytest

import lazybench
from lazybench.boards.columns import COLUMNS
from lazybench.errors import UnknownName, UsageError

ENV = "glyphs-5way-1shot"


@pytest.fixture
def board(store: Any) -> Any:
    return lazybench.board(ENV, out=store.root)


def test_a_board_prints_what_the_command_prints(board: Any) -> None:
    text = str(board)
    assert repr(board) == text
    assert text.startswith(f"{ENV}-v1, budget small")
    lines = [line.split()[:2] for line in text.splitlines()]
    assert [line for line in lines if line[0].isdecimal()] == [["1", "a"], ["2", "b"]]
    assert len(board.records) == 3


def test_a_board_exports_its_rows(board: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(board.to_csv())))
    mine = [row for row in rows if row["block"] == "ranked"]
    assert [row["agent"] for row in mine] == ["a", "b"]
    assert f"--env {ENV} --budget small --format csv" in mine[0]["made_by"]
    assert "| a " in board.to_markdown()
    assert r"\toprule" in board.to_latex()
    scores = [f"{float(row['score']):.2f}" for row in mine]
    for text in (board.to_html(), board._repr_html_()):
        assert all(f"<td>{score} (" in text for score in scores)
    # The notebook shows the columns that the page shows first, and an export all of them.
    assert "train wall s" in board.to_html()
    assert "train wall s" not in board._repr_html_()


def test_a_board_as_a_frame_has_the_numbers_of_its_csv(board: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = board.to_frame()
    text = pandas.read_csv(io.StringIO(board.to_csv()))
    assert list(frame.columns) == [name for name in text.columns if name != "made_by"]
    ranked = frame[frame["block"] == "ranked"]
    assert list(ranked["rank"]) == [1, 2]
    assert list(ranked["seeds"]) == [(0,), (0, 1)]
    same = text[text["block"] == "ranked"]
    for name in ("score", "lo", "hi", "diff", "train_wall_s"):
        assert list(ranked[name].astype(float)) == pytest.approx(
            list(same[name]), rel=1e-5, nan_ok=True
        )
    assert {column.key for column in COLUMNS if column.csv and not column.optional} <= set(frame)


@pytest.mark.parametrize("kind", ["scores", "pareto"])
def test_a_board_draws(board: Any, kind: str) -> None:
    figure = board.plot(kind)
    assert figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_board_names_the_kinds_of_figures(board: Any) -> None:
    with pytest.raises(
        UsageError, match="kind must be one of scores, learning, success, shifts, pareto"
    ):
        board.plot("bars")
    with pytest.raises(UsageError, match="no data for kind='success'"):
        board.plot("success")


def test_budgets_with_records_are_named(store: Any, make_run: Any) -> None:
    store.publish(make_run("a", budget="paper"))
    for call in (
        lambda: lazybench.board(ENV, budget="medium", out=store.root),
        lambda: lazybench.compare("a", "b", env=ENV, budget="medium", out=store.root),
    ):
        with pytest.raises(UnknownName, match=r"\(there are some at budget small and paper\);"):
            call()
    with pytest.raises(UsageError, match="budget must be one of"):
        lazybench.board(ENV, budget="huge", out=store.root)


def test_the_protocol_selects_a_board(store: Any, make_run: Any) -> None:
    store.publish(make_run("q", env__protocol={"trials": 40, "query_budget": 300}))
    with pytest.raises(UsageError, match="has 2 boards"):
        lazybench.board(ENV, out=store.root)
    found = lazybench.board(ENV, protocol={"query_budget": 300}, out=store.root)
    assert [row.agent for row in found.board.rows] == ["q"]


def test_a_comparison_prints_draws_and_exports(store: Any) -> None:
    found = lazybench.compare("a", "b", env=ENV, out=store.root)
    mean, lo, hi, p = found.result.difference
    line = f"a - b: {mean:+.2f} % (95 % interval {lo:+.2f} to {hi:+.2f}, p = {p:.2g})"
    for text in (str(found), repr(found), found._repr_html_()):
        assert line in text
    assert r"a - b: +" in found.to_latex()
    assert "| a " in found.to_markdown()
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["side"] for row in rows] == ["left", "right", "difference"]
    assert float(rows[2]["score"]) == pytest.approx(mean, rel=1e-5)
    left, right = (float(row["score"]) for row in rows[:2])
    assert left - right == pytest.approx(mean, rel=1e-4)
    assert found.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_comparison_as_a_frame(store: Any) -> None:
    pytest.importorskip("pandas")
    frame = lazybench.compare("a", "b", env=ENV, out=store.root).to_frame().set_index("side")
    assert frame.loc["difference", "row"] == "a - b"
    assert frame.loc["left", "seeds"] == 1
    assert frame.loc["right", "seeds"] == 2
    assert frame.loc["difference", "p"] < 1e-6


def test_names_are_escaped(store: Any, make_run: Any) -> None:
    store.publish(make_run("x", overrides={"path": "<script>&"}))
    board = lazybench.board(ENV, out=store.root)
    found = lazybench.compare("x", "a", env=ENV, out=store.root)
    for text in (board.to_html(), board._repr_html_(), found.to_html()):
        assert "x (path=&lt;script&gt;&amp;)" in text
        assert "<script" not in text
