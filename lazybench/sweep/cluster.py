"""Runs the cells of a sweep on the workers of a Dask cluster, which may be on other machines.

A cell is the same process as in a sweep on one machine, and doesn't rely on Dask: its run's lock
admits one process, and a recorded run isn't repeated. So if a worker dies, its cell is started
again on another worker.

`Choice:` no shared folder is needed. If the workers share the caller's folder (by the same path), a
cell resumes from a checkpoint of another machine; otherwise it starts again. In both cases the
record is returned as the task's result, and the caller publishes it unless the store has it
already.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from lazybench.errors import ClusterUnavailable, LazybenchError, UsageError
from lazybench.records import Record, Store
from lazybench.runner.callbacks import Callback
from lazybench.runtime.threads import usable_cores
from lazybench.sweep.process import Call, Ended, Processes
from lazybench.sweep.scheduler import BUSY, CellOutcome, SweepRequest, call, key_of, outcome
from lazybench.sweep.suite import SuiteCell

CONNECT_S = 20.0
"""Time limit in seconds for a scheduler to respond."""
BUSY_S = 60.0
"""Seconds that a cell waits for the process of a killed worker to save its checkpoint and end."""
DEATHS = 2
"""On a local cluster, how many workers a cell may crash before it counts as crashed itself."""
_PAUSE_S = 0.5
_PROCESSES: dict[str, Processes] = {}
"""On a worker: the processes of each sweep."""


@contextmanager
def on_cluster(
    request: SweepRequest, *, scheduler: str | None = None, workers: int = 0
) -> Iterator[ClusterSweep]:
    """A sweep on the cluster of a scheduler, or on a local cluster of `workers` processes.

    Raises:
        UsageError: the extra `cluster` isn't installed, or the address is invalid.
        ClusterUnavailable: no scheduler responds there.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError(
            "--scheduler and --workers need Dask distributed, which isn't installed; install it "
            "with: pip install 'lazybench[cluster]' (cells on this machine alone: --jobs)"
        ) from error
    settings: dict[str, Any] = {
        "distributed.comm.timeouts.connect": CONNECT_S,
        "distributed.scheduler.allowed-failures": DEATHS - 1,
    }
    with dask.config.set(settings):
        if scheduler is not None:
            with _client(Client, scheduler) as client:
                yield ClusterSweep(request, client)
            return
        with (
            # Cells have their own memory limit, so workers need none.
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            # A worker knows its own threads alone, not how many workers share the machine.
            share = request.threads or max(1, usable_cores() // workers)
            yield ClusterSweep(replace(request, threads=share), client)


def _client(factory: Callable[..., Any], address: str) -> Any:
    try:
        return factory(address, timeout=CONNECT_S)
    except (OSError, TimeoutError) as error:
        raise ClusterUnavailable(
            f"no Dask scheduler responds at {address} ({error}); start one with: dask scheduler"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"--scheduler takes an address such as tcp://host:8786, got '{address}' ({error})"
        ) from error


class _Begun(NamedTuple):
    """A submitted cell, the key of its run, and the time of its submission."""

    cell: SuiteCell
    key: str
    at_s: float


class ClusterSweep:
    """Runs cells on a cluster's workers, at most as many as the workers have threads."""

    def __init__(self, request: SweepRequest, client: Any) -> None:
        """Run none yet."""
        self._request, self._client = request, client
        self._name = uuid.uuid4().hex
        self._stopped = self._at_once = False

    def run(self, cells: Sequence[SuiteCell], callback: Callback) -> Iterator[CellOutcome]:
        """Yield the outcome of each cell as it ends; `callback` is called as each begins.

        A cell is submitted only when a thread is free, so that a worker's death doesn't count
        against waiting cells.
        """
        from distributed import wait

        left = list(reversed(cells))
        waiting: dict[Any, _Begun] = {}
        alone = False
        while left or waiting:
            if self._client.status != "running":
                yield from self._lost(waiting.values(), left)
                return
            if not self._client.nthreads() and not alone:
                callback.note("no worker is connected to the scheduler; waiting for one")
                alone = True
            room = sum(self._client.nthreads().values()) - len(waiting)
            for _ in range(min(room, len(left)) if not self._stopped else 0):
                cell = left.pop()
                callback.run_begun(cell)
                key = key_of(cell, self._request)
                waiting[self._begun(cell, key)] = _Begun(cell, key, time.perf_counter())
            if self._stopped:
                # Repeated, since a new worker may have taken over the cell of a dead one.
                self._client.run(_stop, self._name, self._at_once, on_error="ignore")
                yield from (CellOutcome(cell, "stopped", reason="not started") for cell in left)
                left.clear()
            if not waiting:
                time.sleep(_PAUSE_S)
                continue
            try:
                ended = wait(list(waiting), timeout=_PAUSE_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            except CancelledError:
                yield from self._lost(waiting.values(), left)
                return
            for future in ended:
                yield self._outcome(waiting.pop(future), future)

    def _lost(self, begun: Iterable[_Begun], left: Iterable[SuiteCell]) -> Iterator[CellOutcome]:
        """The outcomes of the cells that the loss of the scheduler leaves without one."""
        why = "the scheduler is gone; start it again and re-run the same command to resume"
        for each in begun:
            wall_s = time.perf_counter() - each.at_s
            yield CellOutcome(each.cell, "failed", None, wall_s, why)
        yield from (CellOutcome(cell, "failed", None, 0.0, why) for cell in left)

    def stop(self, *, at_once: bool = False) -> None:
        """Start no further cell, and ask running ones to end, or kill them at once."""
        self._stopped, self._at_once = True, at_once

    def _begun(self, cell: SuiteCell, key: str) -> Any:
        asked = replace(call(cell, self._request), folder=str(Path.cwd()))
        # The run's key, so that the same cell of two sweeps is one task.
        return self._client.submit(
            _run, asdict(asked), self._name, key=f"lazybench-{key}", pure=False
        )

    def _outcome(self, begun: _Begun, future: Any) -> CellOutcome:
        from distributed import KilledWorker

        wall_s = time.perf_counter() - begun.at_s
        error = future.exception()
        if isinstance(error, KilledWorker):
            why = f"its worker died {error.allowed_failures + 1} times"
            return CellOutcome(begun.cell, "crashed", None, wall_s, why)
        if error is not None:
            why = " ".join(f"{type(error).__name__} on a worker: {error}".split())
            return CellOutcome(begun.cell, "failed", None, wall_s, why)
        answer = future.result()
        ended = None if answer is None else Ended(**answer)
        result = outcome(begun.cell, ended)
        if ended is not None and ended.record is not None:
            try:
                self._keep(begun.key, Record.from_json(ended.record))
            except LazybenchError as error:
                return replace(result, status="failed", score=None, reason=str(error))
        return result

    def _keep(self, expected: str, record: Record) -> None:
        """Publish a worker's record after checking that it has the expected key."""
        if record.key != expected:
            raise UsageError(
                f"a worker returned the run {record.key12} instead of {expected[:12]}: it has "
                "another version of lazybench, other data or other files than this machine; its "
                "record was discarded"
            )
        Store(self._request.out).publish(record)


def _run(fields: Mapping[str, Any], sweep: str) -> dict[str, Any] | None:
    """On a worker: run a cell and return how its process ended; None if it wasn't started."""
    from distributed import get_worker

    asked = Call(**fields).sharing(get_worker().state.nthreads)
    processes = _PROCESSES.setdefault(sweep, Processes())
    begin_s = time.monotonic()
    while True:
        ended = processes.run_again_if_crashed(asked)
        if ended is None or ended.code != BUSY or time.monotonic() - begin_s > BUSY_S:
            return None if ended is None else asdict(ended)
        time.sleep(_PAUSE_S)


def _stop(sweep: str, at_once: bool) -> None:
    """On a worker: end a sweep's processes, and start none of the queued ones."""
    _PROCESSES.setdefault(sweep, Processes()).stop(at_once=at_once)
