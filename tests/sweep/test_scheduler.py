from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from lazybench.cli.sweep import run_cells
from lazybench.errors import UsageError
from lazybench.records import Store
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runtime import pipes
from lazybench.sweep import process
from lazybench.sweep.process import Ended
from lazybench.sweep.scheduler import Sweep, SweepRequest, call, outcome, split
from lazybench.sweep.suite import SuiteCell

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"
ENV = "glyphs-5way-1shot"


def cell(agent: str, **settings: object) -> SuiteCell:
    return SuiteCell(agent, ENV, 0, "smoke", dict(settings))


class Begun(Callback):
    """Calls a function with each cell that begins."""

    def __init__(self, then: Callable[[SuiteCell], object]) -> None:
        self.run_begun = then


def asked(tmp_path: Path, **changes: object) -> SweepRequest:
    folders = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    return SweepRequest(**{**folders, **changes})  # type: ignore[arg-type]


def test_one_cell_that_fails_affects_no_other_and_nothing_is_run_twice(tmp_path: Path) -> None:
    request = asked(tmp_path, jobs=2)
    cells = [cell("chance"), cell(f"{PLAYERS}:Raises"), cell("nearest_pixel"), cell("no_such")]
    missing, known = split(cells, request)
    assert missing == cells[:3]
    assert [(each.cell, each.status) for each in known] == [(cells[3], "refused")]
    begun: list[str] = []
    ended = {
        out.cell.agent: out
        for out in Sweep(request).run(missing, Begun(lambda c: begun.append(c.agent)))
    }
    assert sorted(begun) == sorted(c.agent for c in missing)
    assert ended["chance"].status == ended["nearest_pixel"].status == "ok"
    assert ended["nearest_pixel"].score > ended["chance"].score
    failed = ended[f"{PLAYERS}:Raises"]
    assert (failed.status, failed.score) == ("failed", None)
    assert "out of ideas" in failed.reason
    assert len(Store(request.out).records()) == 3
    missing, known = split(cells, request)
    assert missing == [cells[1]]
    done = {out.cell.agent: out for out in known}
    assert done["chance"].status == "done"
    assert done["chance"].score == ended["chance"].score


def test_a_run_under_two_spellings_is_made_once(tmp_path: Path) -> None:
    request = SweepRequest(out=tmp_path / "store", runs=tmp_path / "runs")
    cells = [
        SuiteCell("protonet", ENV, 0, "smoke", {"iterations": number})
        for number in (3, 3.0, "3", 4)
    ]
    missing, known = split(cells, request)
    assert (missing, known) == ([cells[0], cells[3]], [])


def test_what_isnt_here_is_distinguished_from_what_isnt_allowed(tmp_path: Path) -> None:
    cells = [SuiteCell("chance", "tieredimagenet-5way-1shot", 0, "smoke", {}), cell("square")]
    missing, known = split(cells, asked(tmp_path))
    assert missing == []
    assert [each.status for each in known] == ["absent", "refused"]


def test_a_cell_past_its_time_is_stopped_with_a_checkpoint(tmp_path: Path) -> None:
    # Its process may need seconds to start.
    request = asked(tmp_path, timeout_s=15.0)
    slow = cell("reptile", iterations=100_000)
    (reported,) = Sweep(request).run([slow], SILENT)
    assert reported.status == "timeout"
    assert reported.wall_s < 45
    (begun,) = (tmp_path / "runs").glob("*/config.json")
    assert list(begun.parent.glob("ckpt/step-*")), "no checkpoint was kept"
    assert Store(request.out).records() == []


def test_stopping_ends_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    request = asked(tmp_path)
    sweep = Sweep(request)
    cells = [cell("reptile", iterations=100_000), cell("chance")]

    def begun(_: SuiteCell) -> None:
        threading.Thread(target=stop_once_under_way).start()

    def stop_once_under_way() -> None:
        while not list(request.runs.glob("*/config.json")):
            time.sleep(0.1)
        sweep.stop()

    statuses = {out.cell.agent: out.status for out in sweep.run(cells, Begun(begun))}
    assert statuses == {"reptile": "stopped", "chance": "stopped"}


HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[sys.argv.index("--runs") + 1], "w").close()
time.sleep(600)
"""
"""A cell that ignores every signal, as in native code, with a child that holds its output open."""


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "command", lambda words: [sys.executable, "-c", HANGS, *words])


@pytest.mark.usefixtures("hangs")
def test_a_cell_that_ignores_signals_is_killed_once_it_had_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.5)
    request = asked(tmp_path)
    sweep = Sweep(request)

    def stop_once_under_way() -> None:
        wait_for(request.runs.exists)
        sweep.stop()
        sweep.stop()

    threading.Thread(target=stop_once_under_way).start()
    begin_s = time.monotonic()
    ended = list(sweep.run([cell("chance"), cell("nearest_pixel")], SILENT))
    assert time.monotonic() - begin_s < 60
    assert [each.status for each in ended] == ["stopped", "stopped"]
    reasons = sorted(each.reason for each in ended)
    assert reasons[0].startswith("killed, since it didn't end on request")


@pytest.mark.usefixtures("hangs")
def test_a_cell_past_its_time_that_is_killed_mentions_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.5)
    (reported,) = Sweep(asked(tmp_path, timeout_s=1.0)).run([cell("chance")], SILENT)
    assert reported.status == "timeout"
    _, _, why = reported.reason.partition(" s: ")
    assert why == (
        "killed, since it didn't end on request; it resumes from its last checkpoint, if any"
    )


@pytest.mark.parametrize(
    ("code", "errors", "status", "reason"),
    [
        (143, "a\ninterrupted at meta-iteration 2 of 6\n", "stopped", "interrupted at meta-it"),
        (-signal.SIGTERM, "", "stopped", "ended at once; it had no work to save"),
        (2, "error: no agent 'x'\n", "refused", "no agent 'x'"),
        (1, "", "failed", "no message"),
    ],
)
def test_last_words_of_a_cell(code: int, errors: str, status: str, reason: str) -> None:
    reported = outcome(cell("chance"), Ended(code, "", errors, 1.0))
    assert reported.status == status
    assert reported.reason.startswith(reason)
    late = outcome(cell("chance"), Ended(code, "", errors, 1.0, timed_out=True))
    assert late.status == "timeout"
    assert late.reason.startswith(f"stopped after 1 s: {reason}")


@pytest.mark.usefixtures("hangs")
def test_a_second_ctrl_c_kills_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = asked(tmp_path)

    def press_twice() -> None:
        wait_for(request.runs.exists)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=press_twice).start()
    begin_s = time.monotonic()
    (reported,) = run_cells([cell("chance")], request, quiet=True)
    assert time.monotonic() - begin_s < process.GRACE_S
    assert reported.status == "stopped"
    first, second = capsys.readouterr().err.splitlines()
    assert "have 30 s to save their checkpoints; interrupt again to kill them now" in first
    assert second == "killing the active runs"


def test_the_command_of_a_cell_is_a_run(tmp_path: Path) -> None:
    one = SuiteCell("a", "e", 3, "small", {"x": [1, 2], "y": "auto"}, {"eps": 1.5})
    command = call(one, asked(tmp_path)).arguments
    assert command[:7] == ("run", "--agent", "a", "--env", "e", "--seed", "3")
    assert command[command.index("--set") + 1] == "x=[1, 2]"
    assert "y=auto" in command
    assert command[command.index("--protocol") + 1] == "eps=1.5"
    # The sweep writes the boards, once.
    assert "--no-boards" in command


@pytest.mark.parametrize(
    "limits",
    [
        {"jobs": 0},
        {"timeout_s": 0.0},
        {"timeout_s": math.nan},
        {"timeout_s": 2.5e6},
        {"memory_bytes": -1},
        {"memory_bytes": math.inf},
        {"memory_bytes": math.nan},
        {"episode_timeout_s": 0.0},
        {"episode_timeout_s": math.inf},
    ],
)
def test_limits_must_be_positive_and_what_the_system_can_set(
    tmp_path: Path, limits: dict[str, float]
) -> None:
    with pytest.raises(UsageError, match="must be"):
        asked(tmp_path, **limits)


def test_a_cell_that_a_signal_ends_has_crashed_and_the_next_one_runs(tmp_path: Path) -> None:
    request = asked(tmp_path)
    ended = list(Sweep(request).run([cell(f"{PLAYERS}:Segfaults"), cell("chance")], SILENT))
    assert [each.status for each in ended] == ["crashed", "ok"]
    assert ended[0].reason == "ended by SIGSEGV, twice"


def test_a_cell_ends_with_the_sweep_that_began_it(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'name = "one"\n[[cells]]\nagents = ["reptile"]\nenvs = ["{ENV}"]\nbudget = "smoke"\n'
        "set = { iterations = 100000 }\n"
    )
    words = ["sweep", str(suite), "--out", "store", "--runs", "runs", "--quiet"]
    sweep = subprocess.Popen([sys.executable, "-m", "lazybench", *words], cwd=tmp_path)
    try:
        wait_for(lambda: list(tmp_path.glob("runs/reptile*/config.json")))
    finally:
        sweep.kill()
        sweep.wait()
    (config,) = tmp_path.glob("runs/reptile*/config.json")
    # It would go on for an hour: that another process can get its lock shows that it has ended.
    lock = FileLock(config.parent / "lock")
    with lock.acquire(timeout=30):
        pass


def wait_for(true: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)


ENDS = {
    "crash": (
        "os.write(1, b'begun'); os.kill(os.getpid(), 11)",
        "crashed",
        "ended by SIGSEGV, twice",
    ),
    "bytes": (r"os.write(2, b'\xff\xfe broken\n'); sys.exit(1)", "failed", "\ufffd\ufffd broken"),
    "exit": ("os.write(1, b'{}'); os._exit(0)", "failed", "exited without a record"),
    "no record": (
        "open(os.environ['LAZYBENCH_REPORT'], 'w').write('{}'); sys.exit(0)",
        "failed",
        "its record can't be read",
    ),
    "no text": (
        r"open(os.environ['LAZYBENCH_REPORT'], 'wb').write(b'\xff'); sys.exit(3)",
        "failed",
        "no message",
    ),
    "flood": (
        r"[os.write(2, b'x' * 65536) for _ in range(800)]; os.write(2, b'\nlast\n'); sys.exit(1)",
        "failed",
        "last",
    ),
    "orphan": (
        r"subprocess.Popen(['sleep', '600']); os.write(2, b'gone\n'); os._exit(1)",
        "failed",
        "gone",
    ),
}
"""What an agent does to its process: a line of Python, the status and the reason it comes to."""


@pytest.mark.parametrize("name", ENDS)
def test_whatever_a_process_writes_or_ends_with_is_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    does, status, reason = ENDS[name]
    text = f"import os, subprocess, sys; {does}"
    monkeypatch.setattr(process, "command", lambda words: [sys.executable, "-c", text])
    begin_s = time.monotonic()
    (reported,) = Sweep(asked(tmp_path)).run([cell("chance")], SILENT)
    assert (reported.status, reported.reason[: len(reason)]) == (status, reason)
    assert time.monotonic() - begin_s < 30


def test_a_machine_that_was_suspended_has_used_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = {"wall": 0.0, "busy": 0.0}
    monkeypatch.setattr(pipes.time, "perf_counter", lambda: now_s["wall"])
    monkeypatch.setattr(pipes.time, "process_time", lambda: now_s["busy"])
    limit = pipes.Patience(60.0)
    now_s["wall"] += 3600
    assert not limit.tick()
    assert limit.spent_s == 2 * limit.tick_s
    # Native code that lets nothing else run isn't a suspended machine.
    now_s["wall"], now_s["busy"] = 3630.0, 30.0
    assert not limit.tick()
    assert limit.spent_s == pytest.approx(32.0)
    for _ in range(27):
        now_s["wall"] += 1
        assert not limit.tick()
    now_s["wall"] += 1
    assert limit.tick()


STOPPED = """
import sys, time
from lazybench.errors import TooSlow
from lazybench.runner.signals import Signals
with Signals(episode_timeout_s=1.0) as signals:
    try:
        with signals.in_time(1, "a nap"):
            print("begun", flush=True)
            for _ in range(int(sys.argv[1])):
                time.sleep(0.05)
    except TooSlow:
        print("late")
    else:
        print("in time")
"""


@pytest.mark.parametrize(("naps", "reported"), [(8, "in time"), (60, "late")])
def test_a_stopped_process_is_no_slow_agent(naps: int, reported: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(naps)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=30)[0] == f"{reported}\n"
