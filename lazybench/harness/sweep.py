"""The cells of a suite, each in a process of its own; one that fails harms no other."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lazybench.errors import LazybenchError, UsageError
from lazybench.harness.cell import resolve
from lazybench.harness.request import RunRequest
from lazybench.harness.suite import SuiteCell
from lazybench.parallel import usable_cores
from lazybench.records import Record, Store

GRACE_S = 30.0
"""Seconds that a process has to write its checkpoint once it was told to stop."""


@dataclass(frozen=True)
class SweepRequest:
    """How the cells of a suite are run.

    Attributes:
        jobs: cells side by side; they share the usable cores.
        timeout_s: seconds after which a cell is stopped; None lets it take what it takes.
        memory_bytes: what a cell's process may hold; None sets no limit.
        device: as for a run.
        out: the store of records.
        runs: folder of working state.
    """

    jobs: int = 1
    timeout_s: float | None = None
    memory_bytes: int | None = None
    device: str = "cpu"
    out: Path = Path("leaderboards")
    runs: Path = Path("runs")

    def __post_init__(self) -> None:
        """Look at the limits.

        Raises:
            UsageError: fewer than one job, or a limit that isn't positive.
        """
        if self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {self.jobs}")
        for name, value in (("timeout", self.timeout_s), ("memory", self.memory_bytes)):
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be positive, got {value:g}; leave it out for none")


@dataclass(frozen=True)
class CellOutcome:
    """What became of one cell.

    Attributes:
        cell: which.
        status: `ok`, `done` (the record stood already), `diverged`, `failed`, `oom`, `timeout`,
            `stopped`, `crashed` (a signal ended it), or `refused` (a name, a setting or data that
            isn't there).
        score: the headline metric where there is one.
        wall_s: seconds that the process took.
        reason: why there is no score.
    """

    cell: SuiteCell
    status: str
    score: float | None = None
    wall_s: float = 0.0
    reason: str = ""


@dataclass
class Sweep:
    """Runs cells; `stop` tells those under way to write their checkpoints and end."""

    request: SweepRequest
    _live: set[subprocess.Popen[str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def run(
        self, cells: Sequence[SuiteCell], begun: Callable[[SuiteCell], None]
    ) -> Iterator[CellOutcome]:
        """Yield the outcome of each cell as it ends; `begun` hears which are under way."""
        with ThreadPoolExecutor(self.request.jobs) as pool:
            waiting: set[Future[CellOutcome]] = {
                pool.submit(partial(self._one, cell, begun)) for cell in cells
            }
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)

    def stop(self) -> None:
        """Begin no further cell, and ask those under way to end."""
        with self._lock:
            self._stopped = True
            for process in self._live:
                process.send_signal(signal.SIGTERM)

    def _one(self, cell: SuiteCell, begun: Callable[[SuiteCell], None]) -> CellOutcome:
        begin_s = time.perf_counter()
        with self._lock:
            if self._stopped:
                return CellOutcome(cell, "stopped", reason="not begun")
            process = subprocess.Popen(
                words(cell, self.request),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                preexec_fn=partial(_limit, self.request.memory_bytes),
            )
            self._live.add(process)
        begun(cell)
        timed_out = False
        try:
            out, errors = process.communicate(timeout=self.request.timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            out, errors = _ended(process)
        finally:
            with self._lock:
                self._live.discard(process)
        wall_s = time.perf_counter() - begin_s
        if timed_out:
            limit = self.request.timeout_s or 0.0
            told = f"stopped after {limit:g} s; its checkpoint is kept"
            return CellOutcome(cell, "timeout", None, wall_s, told)
        return _outcome(cell, process.returncode, out, errors, wall_s)


def words(cell: SuiteCell, request: SweepRequest) -> list[str]:
    """Return the command that runs a cell."""
    threads = max(1, usable_cores() // request.jobs)
    command = [sys.executable, "-m", "lazybench", "run", "--agent", cell.agent, "--env", cell.env]
    command += ["--seed", str(cell.seed), "--budget", cell.budget, "--device", request.device]
    for option, pairs in (("--set", cell.settings), ("--protocol", cell.protocol)):
        for name, value in pairs.items():
            text = value if isinstance(value, str) else json.dumps(value)
            command += [option, f"{name}={text}"]
    command += ["--out", str(request.out), "--runs", str(request.runs)]
    return [*command, "--threads", str(threads), "--json", "--quiet"]


def standing(cell: SuiteCell, request: SweepRequest) -> Record | None:
    """Return the record that a cell has in the store already, or None.

    Raises:
        UsageError: a name or setting that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
    """
    asked = RunRequest(
        agent=cell.agent,
        env=cell.env,
        budget=cell.budget,
        seed=cell.seed,
        overrides=cell.settings,
        protocol=cell.protocol,
        device=request.device,
        out=request.out,
        runs=request.runs,
    )
    return Store(request.out).find(resolve(asked).key)


def split(
    cells: Sequence[SuiteCell], request: SweepRequest
) -> tuple[list[SuiteCell], list[CellOutcome]]:
    """Return the cells that are to run, and the outcomes of those that needn't or can't."""
    missing: list[SuiteCell] = []
    known: list[CellOutcome] = []
    for cell in cells:
        try:
            record = standing(cell, request)
        except LazybenchError as error:
            known.append(CellOutcome(cell, "refused", reason=str(error)))
            continue
        if record is None or record.status in ("failed", "oom", "timeout"):
            missing.append(cell)
        else:
            known.append(_told(cell, record.model_dump(mode="json"), "done", 0.0))
    return missing, known


def _told(cell: SuiteCell, record: dict[str, Any], status: str, wall_s: float) -> CellOutcome:
    metric = record["metrics"].get(record["env"]["metric"])
    score = None if metric is None else metric["value"]
    return CellOutcome(cell, status, score, wall_s, record.get("reason") or "")


def _outcome(cell: SuiteCell, code: int, out: str, errors: str, wall_s: float) -> CellOutcome:
    last = (errors.strip().splitlines() or ["no message"])[-1]
    if out.strip():
        record = json.loads(out.strip().splitlines()[-1])
        return _told(cell, record, record["status"], wall_s)
    # Asked to end at a checkpoint, or before it could listen.
    if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        return CellOutcome(cell, "stopped", None, wall_s, last)
    if code < 0:
        return CellOutcome(cell, "crashed", None, wall_s, f"ended by {signal.Signals(-code).name}")
    return CellOutcome(cell, "refused" if code in (2, 69) else "failed", None, wall_s, last)


def _ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ask a process to end, and make it end where it doesn't."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        # With its children: one that lived on would hold the pipes open, and this would never end.
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()


def _limit(memory_bytes: int | None) -> None:
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
