"""What shells and pipes see: completion, no colours, no progress bars, exit codes in the help."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lazybench import errors
from lazybench.cli.command import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]
RUN = ("run", "-a", "chance", "-e", "sinusoid-5shot", "-b", "smoke", "--limit", "8")
COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


def start(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lazybench", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(tmp_path: Path, shell: str) -> None:
    done = start(tmp_path, _LAZYBENCH_COMPLETE=f"source_{shell}")
    assert done.returncode == 0
    assert "_LAZYBENCH_COMPLETE" in done.stdout


@pytest.mark.parametrize("words", [("sweep", "table2", "--dry-run"), ("list", "agents")])
def test_processes_of_torchrun_share_runs_alone(
    lazybench: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = lazybench(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: torchrun started 2 processes")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert lazybench(*words).code != 2


def test_runs_are_shared_among_processes_of_torchrun(
    lazybench: Any, requests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert lazybench("run", "-a", "reptile", "-e", "glyphs-5way-1shot").code == 0
    assert len(requests) == 1


def test_completion_knows_agents_and_environments(tmp_path: Path) -> None:
    asked = {"COMP_WORDS": "lazybench run --agent lazy_rep", "COMP_CWORD": "3"}
    done = start(tmp_path, _LAZYBENCH_COMPLETE="complete_bash", **asked)
    assert done.stdout.split() == ["lazy_reptile"]


def test_completion_knows_settings_of_the_agent(tmp_path: Path) -> None:
    asked = {"COMP_WORDS": "lazybench run --agent maml --set inner_st", "COMP_CWORD": "5"}
    done = start(tmp_path, _LAZYBENCH_COMPLETE="complete_bash", **asked)
    assert "inner_steps=" in done.stdout.split()


def test_pipes_get_plain_lines(tmp_path: Path) -> None:
    done = start(tmp_path, *RUN, FORCE_COLOR="", TERM="xterm-256color")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert "\x1b" not in text
        assert "\r" not in text
    assert "test: 8/8" in done.stderr
    assert len(done.stderr.splitlines()) < 8, "no line for each step"
    assert start(tmp_path, *RUN, "--quiet").stderr == ""


def test_no_color_is_kept_on_a_terminal(tmp_path: Path) -> None:
    def shown(**variables: str) -> str:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables}
        command = [sys.executable, "-m", "lazybench", *RUN, "--force"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=theirs, stdout=subprocess.DEVNULL
        ) as process:
            os.close(theirs)
            seen = b""
            try:
                while piece := os.read(ours, 4096):
                    seen += piece
            except OSError:
                # What Linux says once the other end is closed.
                pass
        os.close(ours)
        assert process.returncode == 0
        return seen.decode()

    assert COLOUR.search(shown()), "a terminal gets colours"
    plain = shown(NO_COLOR="1")
    assert "test" in plain
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][;m]", plain)


LISTINGS = (
    ("list", "agents", "--json"),
    ("list", "envs", "--json"),
    ("list", "data", "--json"),
    ("list", "runs", "--json"),
    ("data", "list", "--json"),
    ("targets", "list", "--json"),
    ("leaderboard", "--format", "json"),
    ("version", "--json"),
)


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_every_listing_has_json(lazybench: Any, words: tuple[str, ...]) -> None:
    done = lazybench(*words)
    assert done.code == 0, done.err
    assert json.loads(done.out) is not None


def test_exit_codes_are_in_the_help(lazybench: Any) -> None:
    shown = lazybench("--help").out
    for line in EXIT_CODES:
        assert line in shown
    reported = {int(code) for code in re.findall(r"\d+", " ".join(EXIT_CODES))}
    raised = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.LazybenchError)
    }
    assert raised | {0, 130, 143} == reported


@pytest.mark.parametrize(
    "raised", [SystemExit(0), GeneratorExit(), type("Own", (BaseException,), {})()]
)
def test_code_that_ends_python_does_not_end_a_command_well(
    lazybench: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    """Code of others that called `exit(0)` ended the command with exit code 0 and no word."""

    def end(**_: Any) -> None:
        raise raised

    monkeypatch.setattr("lazybench.cli.data.list_data", end)
    done = lazybench("list", "data")
    assert done.code == 3
    assert f"error: {type(raised).__name__}: " in done.err
    assert "was raised by code that lazybench called" in done.err
