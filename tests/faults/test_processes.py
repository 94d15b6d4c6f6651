"""Rows 14 to 16: several processes at one run and one store."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

SLOW = {"LAZYBENCH_TEST_PAUSE_S": "0.1", "LAZYBENCH_TEST_ANSWER_S": "0.02"}


def test_14_two_processes_at_one_run(here: Any) -> None:
    running = here.play("Steady", **SLOW)
    running.until(lambda: list(here.folder.glob("runs/*/ckpt")))
    other = here.play("Steady").wait()
    assert other.code == 75
    reported = other.err.splitlines()[-1]
    assert "another process is executing this run" in reported
    assert f"process {running.process.pid} on" in reported
    assert running.wait().code == 0
    assert here.record.status == "ok"
    assert not (here.run / "lock.json").exists()


def test_14_two_processes_started_together(here: Any) -> None:
    both = [here.play("Steady", **SLOW) for _ in range(2)]
    codes = sorted(each.wait().code for each in both)
    # The second may come so late that the first is done.
    assert codes in ([0, 75], [0, 0])
    assert here.record.status == "ok"
    assert here("leaderboard", "--check", "--out", "store").code == 0


@pytest.mark.parametrize("cells", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_15_boards_while_runs_end(here: Any, cells: int) -> None:
    """Other keys of one environment, ending at about the same time, each writing all boards."""
    running = [
        here.play("Steady", "--seed", str(seed), "--quiet", LAZYBENCH_TEST_PAUSE_S=f"{seed / 4}")
        for seed in range(cells)
    ]
    board = here.folder / "store" / "boards" / "sinusoid-5shot-v1"
    seen = 0
    while any(each.process.exitcode is None for each in running):
        for ending in ("md", "csv", "json"):
            try:
                text = board.with_suffix(f".{ending}").read_text()
            except FileNotFoundError:
                continue
            seen += 1
            assert text.endswith("\n")
            if ending == "json":
                json.loads(text)
            elif ending == "csv":
                widths = {line.count(",") for line in text.splitlines() if line[0] != "#"}
                assert len(widths) == 1, text
        time.sleep(0.01)
    shown = here("leaderboard", "--out", "store", "--format", "json")
    assert shown.code == 0
    json.loads(shown.out)
    assert [each.wait().code for each in running] == [0] * cells
    assert seen > 0
    assert here("leaderboard", "--check", "--out", "store").code == 0, "the last one saw all"
    (entry,) = json.loads(board.with_suffix(".json").read_text())["boards"]
    (row,) = entry["ranked"] + entry["unranked"]
    assert len(row["keys"]) == cells


def test_16_the_lock_of_a_dead_process(here: Any) -> None:
    """Better than a message and a timeout: the system lets go of it, so that none is stale."""
    running = here.play("Steady", **SLOW)
    running.until(lambda: list(here.folder.glob("runs/*/ckpt")))
    assert json.loads((here.run / "lock.json").read_bytes())["pid"] == running.process.pid
    running.send(signal.SIGKILL)
    running.wait()
    assert (here.run / "lock").exists()
    assert (here.run / "lock.json").exists()
    begin_s = time.monotonic()
    done = here.play("Steady").wait()
    assert done.code == 0, done.err
    assert time.monotonic() - begin_s < 60


@pytest.mark.parametrize("content", [b"", b"1\n", b'{"pid": 4, "host": "elsewhere"}', b"\xff"])
def test_16_a_lock_file_from_anywhere(here: Any, content: bytes) -> None:
    running = here.play("Steady", **SLOW)
    running.until(lambda: list(here.folder.glob("runs/*/ckpt")))
    running.send(signal.SIGKILL)
    running.wait()
    for name in ("lock", "lock.json"):
        (here.run / name).write_bytes(content)
    assert here.play("Steady").wait().code == 0
