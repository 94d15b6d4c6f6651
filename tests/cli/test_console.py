"""Text, tables and progress; pipes that close, terminals that are narrow."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lazybench.cli import console
from lazybench.cli.progress import EVERY_S, Bars, Lines, Stage, watching
from lazybench.runner.callbacks import SILENT

ROOT = Path(__file__).resolve().parents[2]


def test_table_aligns_and_leaves_out_empty_columns() -> None:
    text = console.table(("name", "none", "n"), [("a", "", "1"), ("bcdef", "", "1,000")])
    assert text.splitlines() == ["name       n", "-----  -----", "a          1", "bcdef  1,000"]


def test_table_cuts_the_last_column_to_the_terminal() -> None:
    text = console.table(("a", "about"), [("x", "y" * 100)], columns=40)
    assert max(map(len, text.splitlines())) == 40
    assert text.endswith("…")


def test_table_without_rows() -> None:
    assert console.table(("a", "b"), []).splitlines()[0] == "a  b"


def test_facts_nest() -> None:
    assert console.facts({"a": 1.0, "long": True, "in": {"b": None}, "no": {}}).splitlines() == [
        "a     1",
        "long  yes",
        "in:",
        "  b  none",
        "no: none",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.21, "4.2 s"), (185, "3 min 05 s"), (7625, "2 h 07 min"), (59.9, "59.9 s")],
)
def test_seconds(value: float, text: str) -> None:
    assert console.seconds(value) == text


def test_text_that_a_stream_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.line("a…")
    assert raw.getvalue() == b"a\\u2026\n"


@pytest.mark.parametrize("argv", [["list", "envs"], ["version"]])
def test_closed_pipe_keeps_the_exit_code(argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lazybench", *argv],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_exits_74() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lazybench", "list", "agents"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 74
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("width", ["20", "200"])
def test_help_fits_any_width(lazybench: Any, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    done = lazybench("run", "--help")
    assert done.code == 0
    assert "  lazybench run --agent lazy_reptile --env tiered-20way\n" in done.out
    assert "\x1b" not in done.out


class Clock:
    """A clock that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_left_counts_this_sitting_alone() -> None:
    stage = Stage("train", total=100, done=80)
    assert stage.left_s is None
    stage.advance(5, {"loss": 1.0}, elapsed_s=10.0)
    assert stage.left_s == pytest.approx(30.0)
    assert stage.time_text == "30.0 s left"


def test_time_left_survives_overshooting() -> None:
    stage = Stage("train", total=2)
    stage.advance(3, {}, elapsed_s=1.0)
    assert stage.time_text == "in 1.0 s"


def test_a_shown_loss_is_an_average_over_the_last_steps() -> None:
    stage = Stage("train", total=200)
    for value in [1.0, 3.0] * 100:
        stage.advance(1, {"loss": value, "val": value}, elapsed_s=0.1)
    assert stage.values["loss"] == pytest.approx(2.0, abs=0.1)
    assert stage.values["val"] == 3.0
    at_once = Stage("train", total=200)
    at_once.advance(1, {"loss": 1.0}, elapsed_s=0.1)
    at_once.advance(500, {"loss": 2.0}, elapsed_s=0.1)
    assert at_once.values["loss"] == pytest.approx(2.0)


def test_lines_are_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    lines.advance(1, {})
    lines.stage("train", 100, 10)
    for _ in range(90):
        clock.now_s += EVERY_S / 20
        lines.advance(1, {"loss": 0.25})
    lines.finished()
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "train: 10/100"
    assert err[1] == "train: 30/100, 35.0 s left, loss 0.25"
    assert err[-1] == "train: 100/100, in 45.0 s, loss 0.25"
    assert len(err) == 6


def test_bars_end_with_the_last_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    bars = Bars(Clock())
    bars.note("a [bold]note")
    bars.stage("train", 3)
    bars.advance(3, {"loss": 0.125})
    bars.finished()
    bars.close()
    err = capsys.readouterr().err
    assert "a [bold]note" in err
    assert "3/3" in err
    assert "loss 0.125" in err


def test_watch_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(quiet=True) as watch:
        assert watch is SILENT
    with watching(quiet=False) as watch:
        assert isinstance(watch, Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with watching(quiet=False) as watch:
        assert isinstance(watch, Bars)
    monkeypatch.setenv("TERM", "dumb")
    with watching(quiet=False) as watch:
        assert isinstance(watch, Lines)


def test_json_is_json_whatever_the_numbers_and_the_stream(monkeypatch: Any) -> None:
    value = {"sd": float("nan"), "clip": [float("inf"), 1.5], "licence": "© \N{PLUS-MINUS SIGN} 🙂"}
    for encoding in ("utf-8", "latin-1", "ascii", "cp437"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        console.as_json(value)
        sys.stdout.flush()
        found = json.loads(raw.getvalue().decode(encoding), parse_constant=pytest.fail)
        assert found == {"sd": None, "clip": [None, 1.5], "licence": value["licence"]}
