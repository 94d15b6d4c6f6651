"""Command lines in children that can be starved, cut off and killed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lazybench
from lazybench.records import Record, canonical_json

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Children import what they run by name.
sys.path.insert(0, str(HERE))

import faultkit  # noqa: E402

PATIENCE_S = 120.0
"""Seconds in which what a test waits for must happen, on a machine that does other things too."""


class Done(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


class Running:
    """A command line under way."""

    def __init__(self, process: BaseProcess, out: Path, err: Path) -> None:
        self.process, self.out, self.err = process, out, err

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds; the command mustn't end before."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert self.process.exitcode is None, f"it ended before: {self.err.read_text()}"
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.02)

    def wait(self) -> Done:
        self.process.join(PATIENCE_S)
        assert self.process.exitcode is not None, f"it hangs: {self.err.read_text()}"
        return Done(self.process.exitcode, self.out.read_text(), self.err.read_text())


class Commands:
    """Runs `lazybench` command lines in one folder; store and runs are `store/` and `runs/` there.

    Calling it waits for the end; `start` gives what is under way.
    """

    def __init__(self, context: ForkServerContext, folder: Path, environment: dict[str, str]):
        self.context, self.folder, self.environment = context, folder, environment
        self.started: list[BaseProcess] = []

    def start(self, *argv: str, prepare: faultkit.Prepare | None = None, **env: str) -> Running:
        number = len(self.started)
        out, err = (self.folder / f"{name}-{number}.txt" for name in ("out", "err"))
        for path in (out, err):
            path.touch()
            path.chmod(0o666)
        process = self.context.Process(
            target=faultkit.child,
            args=(
                argv,
                str(self.folder),
                self.environment | env,
                (str(out), str(err)),
                prepare,
            ),
        )
        process.start()
        self.started.append(process)
        return Running(process, out, err)

    def __call__(self, *argv: str, prepare: faultkit.Prepare | None = None, **env: str) -> Done:
        return self.start(*argv, prepare=prepare, **env).wait()

    def play(self, agent: str, *more: str, env: str = "sinusoid-5shot", **options: Any) -> Running:
        """A smoke run of one of the agents in players.py, on one thread."""
        where = ("--out", "store", "--runs", "runs", "--threads", "1", "--budget", "smoke")
        player = f"{PLAYERS}:{agent}"
        return self.start("run", "-a", player, "-e", env, *where, *more, **options)

    @property
    def record(self) -> Record:
        """The only record in the store."""
        (path,) = (self.folder / "store" / "records").rglob("*.json")
        return Record.from_json(path.read_bytes())

    @property
    def result(self) -> str:
        """The only record's text without times, memory, machine and code."""
        return canonical_json(self.record.comparable())

    @property
    def run(self) -> Path:
        """The only run's folder."""
        (path,) = (self.folder / "runs").iterdir()
        return path

    def temporaries(self) -> list[Path]:
        """Temporary files that somebody left."""
        return [path for path in self.folder.rglob(".tmp-*") if path.is_file()]

    def end(self) -> None:
        for process in self.started:
            if process.is_alive():
                process.kill()
            process.join()


PLAYERS = HERE / "players.py"


@pytest.fixture(scope="session")
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faultkit", *faultkit.PRELOADED])
    return context


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests share, so that data is prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def commands(
    forks: ForkServerContext, cache: Path, tmp_path: Path
) -> Iterator[Callable[..., Commands]]:
    """A function from a name to command lines in a folder of that name."""
    made: list[Commands] = []

    def make(name: str = "here", **env: str) -> Commands:
        folder = tmp_path / name
        folder.mkdir()
        environment = {
            "LAZYBENCH_DATA": str(tmp_path / "no-data"),
            "LAZYBENCH_CACHE": str(cache),
            "PYTHONPATH": str(Path(lazybench.__file__).parents[1]),
            **env,
        }
        made.append(Commands(forks, folder, environment))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture(scope="session")
def reference(
    forks: ForkServerContext, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Commands, list[str]]]:
    """A function from an agent to its undisturbed run, made once, and what that changed on disk."""
    made: dict[str, tuple[Commands, list[str]]] = {}

    def run(agent: str) -> tuple[Commands, list[str]]:
        if agent not in made:
            folder = tmp_path_factory.mktemp("whole")
            commands = Commands(forks, folder, {"LAZYBENCH_CACHE": str(cache)})
            log = folder / "changes.txt"
            listed = partial(faultkit.list_changes, str(folder), str(log))
            done = commands.play(agent, prepare=listed).wait()
            assert done.code == 0, done.err
            made[agent] = commands, log.read_text().splitlines()
        return made[agent]

    return run


@pytest.fixture
def here(commands: Callable[..., Commands]) -> Commands:
    """Command lines in one empty folder."""
    return commands()
