"""Runs the cells of a suite, each in its own process, so one failure doesn't affect the others.

`slots` reads the devices to run on, such as `cuda:0-7`, with a number of cells on each.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lazybench.errors import (
    DataUnavailable,
    DeviceUnavailable,
    LazybenchError,
    NotTrained,
    StoreError,
    UsageError,
)
from lazybench.records import RETRIABLE, Record, Store
from lazybench.runner.callbacks import Callback
from lazybench.runner.request import MOST_S, RunRequest
from lazybench.runner.resolve import resolve
from lazybench.sweep.process import Call, Ended, Processes
from lazybench.sweep.suite import SuiteCell

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_RANGE = re.compile(r"(?:cuda:)?(\d{1,9})(?:-(\d{1,9}))?")
_FORM = "cpu, cuda (all there are), cuda:0, cuda:0-7 or cuda:0,2,4-6"
_MOST = 1024


@dataclass(frozen=True)
class Slot:
    """Room for one cell at a time.

    Attributes:
        device: as for a run.
        environment: variables that pin a process to it.
    """

    device: str = "cpu"
    environment: Mapping[str, str] = field(default_factory=dict)


def slots(devices: str, cells_per_device: int = 1) -> tuple[Slot, ...]:
    """Return the slots on the named devices, first one on each device, then a second on each.

    A process is pinned by CUDA_VISIBLE_DEVICES, so its `cuda` is only that device. If the variable
    is set already, as by a queueing system, numbers refer to the devices that it names.

    Raises:
        UsageError: names of another form, a repeated name, or fewer than one cell per device.
        DeviceUnavailable: a device that this machine doesn't have.
    """
    if not 1 <= cells_per_device <= _MOST:
        raise UsageError(
            f"cells per device must be at least 1 and at most {_MOST}, got {cells_per_device}"
        )
    if devices.strip() == "cpu":
        return (Slot(),) * cells_per_device
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    numbers = list(range(there)) if devices.strip() == "cuda" else _numbers(devices)
    lacking = [number for number in numbers if number >= there]
    if lacking or not numbers:
        has = f"cuda:0-{there - 1}" if there > 1 else "only cuda:0" if there else "no CUDA device"
        raise DeviceUnavailable(
            f"--devices {devices}: {', '.join(f'cuda:{n}' for n in lacking[:8]) or 'cuda'} isn't "
            f"there; this torch finds {has}; choose among those, or --devices cpu"
        )
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    names = [visible[n] if n < len(visible) else str(n) for n in numbers]
    once = tuple(Slot("cuda", {_VISIBLE: name}) for name in names)
    return once * cells_per_device


def _numbers(devices: str) -> list[int]:
    found: list[int] = []
    for part in devices.removeprefix("cuda:").split(","):
        match = _RANGE.fullmatch(part.strip()) if devices.startswith("cuda:") else None
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first >= _MOST:
            raise UsageError(f"--devices takes {_FORM}; got '{devices}'")
        found.extend(range(first, last + 1))
    if len(set(found)) < len(found):
        raise UsageError(
            f"--devices {devices} names a device twice; several cells on one: --cells-per-device"
        )
    return found


BUSY = 75
"""Exit code of a run that another process is executing."""
_MOST_BYTES = 1 << 62
MOST_JOBS = 4096
"""Largest number of parallel cells: more than any machine can start."""


@dataclass(frozen=True)
class SweepRequest:
    """How to run the cells of a suite.

    Attributes:
        jobs: parallel cells; they share the available cores.
        timeout_s: time limit per cell in seconds; None for no limit.
        episode_timeout_s: as for a run.
        isolated: as for a run; a run that was recorded without it is repeated.
        memory_bytes: memory limit of a cell's process; None for no limit.
        device: as for a run.
        out: the store of records.
        runs: folder of working state.
        slots: the device of each parallel cell; empty for `jobs` cells on `device`.
        elsewhere: whether the cells run on other machines, so their device needn't exist here.
        threads: as for a run; None for an even share of the cores.
    """

    jobs: int = 1
    timeout_s: float | None = None
    memory_bytes: float | None = None
    device: str = "cpu"
    out: Path = Path("leaderboards")
    runs: Path = Path("runs")
    slots: tuple[Slot, ...] = ()
    elsewhere: bool = False
    episode_timeout_s: float | None = None
    isolated: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            UsageError: fewer than one job, or a limit that isn't positive or that the system can't
                set.
        """
        if not 1 <= self.jobs <= MOST_JOBS:
            raise UsageError(f"jobs must be at least 1 and at most {MOST_JOBS}, got {self.jobs}")
        limits = {
            "timeout": (self.timeout_s, MOST_S, "s"),
            "timeout-per-episode": (self.episode_timeout_s, MOST_S, "s"),
            "memory": (self.memory_bytes, _MOST_BYTES, "bytes"),
        }
        for name, (value, most, unit) in limits.items():
            # NaN fails both comparisons.
            if value is not None and not 0 < value <= most:
                raise UsageError(
                    f"{name} must be positive and at most {most:g} {unit}, got {value:g}; leave it "
                    "out for none"
                )


@dataclass(frozen=True)
class CellOutcome:
    """The outcome of a cell.

    Attributes:
        cell: the cell.
        status: `ok`, `done` (recorded before), `diverged`, `failed`, `oom`, `timeout`, `stopped`,
            `crashed` (ended by a signal), `busy` (another process is executing it), `absent` (data
            isn't installed), `untrained` (a network to attack isn't trained), or `refused` (an
            invalid name or setting).
        score: the headline metric, if there is one.
        wall_s: wall seconds of the process.
        reason: why there is no score.
    """

    cell: SuiteCell
    status: str
    score: float | None = None
    wall_s: float = 0.0
    reason: str = ""


class Engine(Protocol):
    """Runs the cells of a sweep somewhere."""

    def run(self, cells: Sequence[SuiteCell], callback: Callback) -> Iterator[CellOutcome]:
        """Yield the outcome of each cell when it ends; `callback` is called when a cell begins."""
        ...

    def stop(self, *, at_once: bool = False) -> None:
        """Start no further cell, and ask running ones to save their checkpoints and end.

        They have `GRACE_S` to do so; with `at_once`, they are killed immediately.
        """
        ...


@dataclass
class Sweep:
    """Runs cells on this machine."""

    request: SweepRequest
    _processes: Processes = field(default_factory=Processes)

    def run(self, cells: Sequence[SuiteCell], callback: Callback) -> Iterator[CellOutcome]:
        """Yield the outcome of each cell when it ends; `callback` is called when a cell begins."""
        free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in self.request.slots or (Slot(),) * self.request.jobs:
            free.put(slot)
        with ThreadPoolExecutor(self._side_by_side) as pool:
            waiting: set[Future[CellOutcome]] = {
                pool.submit(partial(self._one, cell, free, callback)) for cell in cells
            }
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)

    def stop(self, *, at_once: bool = False) -> None:
        """Start no further cell, and ask running ones to end, or kill them at once."""
        self._processes.stop(at_once=at_once)

    @property
    def _side_by_side(self) -> int:
        return len(self.request.slots) or self.request.jobs

    def _one(
        self, cell: SuiteCell, free: queue.SimpleQueue[Slot], callback: Callback
    ) -> CellOutcome:
        slot = free.get()
        try:
            if not self._processes.stopped:
                callback.run_begun(cell)
            asked = call(cell, self.request).sharing(self._side_by_side)
            asked = replace(asked, environment=slot.environment)
            return outcome(cell, self._processes.run_again_if_crashed(asked))
        finally:
            free.put(slot)


def call(cell: SuiteCell, request: SweepRequest) -> Call:
    """Return the call that runs a cell, with the request's limits."""
    # The sweep writes the boards once, after all cells.
    words = (*arguments(cell, request), "--json", "--quiet", "--no-boards")
    memory = request.memory_bytes
    return Call(words, request.timeout_s, None if memory is None else round(memory))


def arguments(cell: SuiteCell, request: SweepRequest) -> tuple[str, ...]:
    """Return the arguments of `lazybench` that run a cell."""
    words = ["run", "--agent", cell.agent, "--env", cell.env]
    words += ["--seed", str(cell.seed), "--budget", cell.budget, "--device", request.device]
    for option, pairs in (("--set", cell.settings), ("--protocol", cell.protocol)):
        for name, value in pairs.items():
            text = value if isinstance(value, str) else json.dumps(value)
            words += [option, f"{name}={text}"]
    if request.episode_timeout_s is not None:
        words += ["--timeout-per-episode", f"{request.episode_timeout_s:g}"]
    words += ["--isolated"] * request.isolated
    words += ["--threads", str(request.threads)] if request.threads is not None else []
    return (*words, "--out", str(request.out), "--runs", str(request.runs))


def key_of(cell: SuiteCell, request: SweepRequest) -> str:
    """Return the key of a cell's run.

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
    return resolve(asked, here=not request.elsewhere).key


def split(
    cells: Sequence[SuiteCell], request: SweepRequest
) -> tuple[list[SuiteCell], list[CellOutcome]]:
    """Return the cells to run, and the outcomes of those that are recorded or can't run.

    Of several cells that are one run, such as one with the preset's own value of a setting, the
    first is kept.
    """
    missing: list[SuiteCell] = []
    known: list[CellOutcome] = []
    keys: set[str] = set()
    for cell in cells:
        try:
            key = key_of(cell, request)
        except LazybenchError as error:
            known.append(CellOutcome(cell, _status(error), reason=str(error)))
            continue
        if key in keys:
            continue
        keys.add(key)
        record = Store(request.out).find(key)
        if (
            record is None
            or record.status in RETRIABLE
            or (record.status == "ok" and request.isolated and not record.isolated)
        ):
            missing.append(cell)
        else:
            # A diverged run would diverge again, and has no score.
            status = "done" if record.status == "ok" else record.status
            known.append(_recorded(cell, record.model_dump(mode="json"), status, 0.0))
    return missing, known


def _status(error: LazybenchError) -> str:
    """The status of a cell that can't be started here."""
    if isinstance(error, NotTrained):
        return "untrained"
    return "absent" if isinstance(error, DataUnavailable) else "refused"


def _recorded(cell: SuiteCell, record: dict[str, Any], status: str, wall_s: float) -> CellOutcome:
    metric = record["metrics"].get(record["env"]["metric"])
    score = None if metric is None else metric["value"]
    return CellOutcome(cell, status, score, wall_s, record.get("reason") or "")


def outcome(cell: SuiteCell, ended: Ended | None) -> CellOutcome:
    """Return the outcome of a cell from the end of its process; None if it wasn't started."""
    if ended is None:
        return CellOutcome(cell, "stopped", reason="not started")
    code, wall_s = ended.code, ended.wall_s
    if ended.timed_out:
        reason = f"stopped after {wall_s:.0f} s: {_last_line(ended)}"
        return CellOutcome(cell, "timeout", None, wall_s, reason)
    if ended.record is not None:
        try:
            record = Record.from_json(ended.record)
        except StoreError as error:
            return CellOutcome(cell, "failed", None, wall_s, f"its record can't be read: {error}")
        return _recorded(cell, record.model_dump(mode="json"), record.status, wall_s)
    last = _last_line(ended)
    # Stopped at a checkpoint, before it could catch the signal, or killed.
    if ended.killed or code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        return CellOutcome(cell, "stopped", None, wall_s, last)
    if ended.crashed:
        reason = f"ended by {_signal_name(-code)}" + ", twice" * (ended.tries - 1)
        return CellOutcome(cell, "crashed", None, wall_s, reason)
    status = {2: "refused", DataUnavailable.exit_code: "absent", BUSY: "busy"}.get(code, "failed")
    return CellOutcome(cell, status, None, wall_s, last)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has none
        return f"signal {number}"


def _last_line(ended: Ended) -> str:
    """Why a process has no record: its last line of output, or how it ended."""
    if ended.killed:
        return "killed, since it didn't end on request; it resumes from its last checkpoint, if any"
    if ended.code in (-signal.SIGINT, -signal.SIGTERM):
        return "ended at once; it had no work to save"
    last = (ended.errors.strip().splitlines() or [""])[-1]
    if ended.code == 0:
        return f"exited without a record (os._exit or similar) {last}".rstrip()
    last = last or "no message"
    # The prefix repeats the status.
    return last.removeprefix("error: ")
