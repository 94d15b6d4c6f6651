"""Rows 1 to 4: killed at any moment, interrupted once and twice, preempted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faultkit
import pytest

SOON_S = 20.0
"""Seconds in which a command must end that has nothing left to do; a fraction of one when idle."""
SLOW = {"LAZYBENCH_TEST_PAUSE_S": "0.1", "LAZYBENCH_TEST_ANSWER_S": "0.02"}


class Whole(NamedTuple):
    """What a run that no one disturbed came to, and what it changed on the disk, in order."""

    result: str
    changes: list[str]


@pytest.fixture
def whole(reference: Callable[[str], Any]) -> Whole:
    commands, log = reference("Steady")
    return Whole(commands.result, log)


def lines(commands: Any) -> int:
    found = list(commands.folder.glob("runs/*/episodes.jsonl"))
    return found[0].read_bytes().count(b"\n") if found else 0


def saved(commands: Any, step: int) -> bool:
    return bool(list(commands.folder.glob(f"runs/*/ckpt/step-{step}/manifest.json")))


def assert_same_again(commands: Any, whole: Whole, agent: str = "Steady") -> None:
    """The same command comes to the end, to the same record, and leaves nothing lying about."""
    done = commands.play(agent).wait()
    assert done.code == 0, done.err
    assert commands.result == whole.result
    assert [path for path in commands.temporaries() if "runs" in path.parts] == []
    assert commands("leaderboard", "--check", "--out", "store").code == 0
    assert json.loads((commands.run / "done.json").read_bytes())["status"] == "ok"


@pytest.mark.parametrize(
    "reached",
    [
        pytest.param(lambda c: list(c.folder.glob("runs/*/config.json")), id="before-any"),
        pytest.param(lambda c: saved(c, 2), id="step-2", marks=pytest.mark.slow),
        pytest.param(lambda c: saved(c, 4), id="step-4"),
        pytest.param(lambda c: lines(c) >= 1, id="trial-8", marks=pytest.mark.slow),
        pytest.param(lambda c: lines(c) >= 4, id="trial-32"),
    ],
)
def test_01_sigkill_at_a_step(here: Any, whole: Whole, reached: Callable[[Any], Any]) -> None:
    running = here.play("Steady", **SLOW)
    running.until(lambda: reached(here))
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    assert not list(here.folder.glob("store/records/**/*.json"))
    assert_same_again(here, whole)


def test_01_sigkill_twice_in_a_row(here: Any, whole: Whole) -> None:
    for step in (2, 4):
        running = here.play("Steady", **SLOW)
        running.until(lambda step=step: saved(here, step))
        running.send(signal.SIGKILL)
        running.wait()
    assert_same_again(here, whole)


def killed_at(commands: Any, number: int, agent: str = "Steady") -> None:
    die = partial(faultkit.die_at_change, str(commands.folder), number)
    assert commands.play(agent, prepare=die).wait().code == -signal.SIGKILL


@pytest.mark.parametrize(
    "change",
    [
        "open ckpt/.new-4/.tmp",
        "os.rename ckpt/.new-4/tensors.safetensors",
        "os.rename ckpt/.new-4/state.json",
        "os.rename ckpt/.new-4/manifest.json",
        "os.rename ckpt/step-4",
        "shutil.rmtree ckpt/step-2",
    ],
)
def test_02_sigkill_inside_a_checkpoint(here: Any, whole: Whole, change: str) -> None:
    event, _, place = change.partition(" ")
    number = next(
        i
        for i, reported in enumerate(whole.changes)
        if reported.startswith(event) and place in reported
    )
    killed_at(here, number)
    assert saved(here, 2)
    assert saved(here, 4) == (event == "shutil.rmtree")
    assert_same_again(here, whole)


@pytest.mark.slow
def test_02_sigkill_before_every_change_on_the_disk(
    commands: Callable[[str], Any], whole: Whole
) -> None:
    """Checkpoints, lines, record, boards: whatever was to be written next."""
    assert len(whole.changes) > 60
    for number in range(len(whole.changes)):
        one = commands(f"at-{number}")
        killed_at(one, number)
        for path in one.folder.glob("store/boards/*"):
            assert path.name.startswith(".tmp-") or path.stat().st_size > 0, whole.changes[number]
        assert_same_again(one, whole)


@pytest.mark.parametrize(
    "size", [pytest.param(5_000, marks=pytest.mark.slow), 24_000, 30_000], ids=lambda n: f"at-{n}"
)
def test_02_killed_by_the_system_during_a_write(
    here: Any, reference: Callable[[str], Any], size: int
) -> None:
    """Half a file is on the disk, under a name that no one reads."""
    undisturbed, _ = reference("Growing")
    limited = partial(faultkit.full_disk, size, deadly=True)
    assert here.play("Growing", prepare=limited).wait().code == -signal.SIGXFSZ
    (torn,) = [path for path in here.temporaries() if path.stat().st_size == size]
    assert torn.parent.parent.name == "ckpt"
    assert_same_again(here, Whole(undisturbed.result, []), "Growing")
    assert not torn.exists()


def test_02_what_was_left_in_a_store_is_cleaned_once_no_one_can_be_at_it(
    here: Any, whole: Whole
) -> None:
    number = next(
        i for i, reported in enumerate(whole.changes) if reported.startswith("os.link store")
    )
    killed_at(here, number)
    (left,) = [path for path in here.temporaries() if "store" in path.parts]
    assert_same_again(here, whole)
    assert left.exists(), "it may be another process's"
    an_hour_ago = time.time() - 4000
    os.utime(left, (an_hour_ago, an_hour_ago))
    assert here("leaderboard", "--write", "--out", "store").code == 0
    assert not left.exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="row03-ctrl-c"),
        pytest.param(signal.SIGTERM, 143, id="row04-sigterm"),
    ],
)
@pytest.mark.parametrize("stage", ["train", "test"])
def test_03_04_once(here: Any, number: int, code: int, stage: str) -> None:
    if stage == "train":
        running = here.play("Steady", "--set", "updates=2000", **SLOW)
        running.until(lambda: saved(here, 2))
    else:
        running = here.play("Mute")
        running.until(lambda: (here.folder / "answering").exists())
    begin_s = time.monotonic()
    running.send(number)
    done = running.wait()
    assert time.monotonic() - begin_s < SOON_S
    assert done.code == code
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("interrupted at ")
    assert last.endswith("; the same command continues")
    assert not list(here.folder.glob("store/records/**/*.json"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["row03", "row04"])
def test_03_04_continues_to_the_same_record(here: Any, whole: Whole, number: int) -> None:
    running = here.play("Steady", **SLOW)
    running.until(lambda: saved(here, 2))
    running.send(number)
    assert running.wait().code == 128 + number
    assert_same_again(here, whole)


def test_03_ctrl_c_twice_ends_at_once(here: Any, whole: Whole) -> None:
    running = here.play("Steady", LAZYBENCH_TEST_PAUSE_S="3600")
    running.until(lambda: "train: 0/6" in running.err.read_text())
    running.send(signal.SIGINT)
    running.until(lambda: "interrupt again to stop at once" in running.err.read_text())
    begin_s = time.monotonic()
    running.send(signal.SIGINT)
    done = running.wait()
    assert time.monotonic() - begin_s < SOON_S
    assert done.code == 130
    assert "Traceback" not in done.err
    assert_same_again(here, whole)


def test_03_ctrl_c_twice_fifty_milliseconds_apart(here: Any, whole: Whole) -> None:
    running = here.play("Steady", **SLOW)
    running.until(lambda: saved(here, 4))
    running.send(signal.SIGINT)
    time.sleep(0.05)
    running.send(signal.SIGINT)
    assert running.wait().code == 130
    assert_same_again(here, whole)


def test_03_ctrl_c_in_a_validation_repeats_that_alone(here: Any, whole: Whole) -> None:
    running = here.play("Steady", LAZYBENCH_TEST_ANSWER_S="60")
    running.until(lambda: "train: 0/6" in running.err.read_text())
    time.sleep(1.0)
    running.send(signal.SIGINT)
    done = running.wait()
    assert (done.code, "meta-iteration 2 of 6" in done.err) == (130, True), done.err
    assert_same_again(here, whole)


def test_03_ctrl_c_in_a_loop_of_the_agents_own(here: Any) -> None:
    running = here.play("Loop")
    running.until(lambda: (here.folder / "begun").exists())
    running.send(signal.SIGINT)
    done = running.wait()
    assert done.code == 130
    assert "its own training loop, which starts again" in done.err


def test_03_ctrl_c_while_a_record_is_written_stops_the_seeds_after_it(here: Any) -> None:
    """It used to be forgotten: the next seed was trained."""
    interrupt = partial(faultkit.signal_at_change, str(here.folder), "os.link store", signal.SIGINT)
    done = here.play("Steady", "--seeds", "0-2", prepare=interrupt).wait()
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert here.record.seed == 0
    assert here.play("Steady", "--seeds", "0-2").wait().code == 0
    assert len(list(here.folder.glob("store/records/**/*.json"))) == 3


def test_03_ctrl_c_while_python_still_imports() -> None:
    code = (
        "import os, signal, sys\n"
        # What a shell begins in its background inherits that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def hook(event, args):\n"
        "    if event == 'import' and args[0] == 'typer':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(hook)\n"
        "from lazybench.cli import main\n"
        "sys.exit(main(['list', 'agents']))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
