"""Cells of a suite run from the command line: shown as they go, stopped by Ctrl-C, boarded."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lazybench.cli import out

if TYPE_CHECKING:
    from lazybench.harness.suite import SuiteCell
    from lazybench.harness.sweep import CellOutcome, Engine, SweepRequest

BAD = ("failed", "crashed", "oom", "timeout", "busy", "absent", "untrained", "refused", "diverged")
"""What a cell may come to that leaves it without a score."""


def exit_code(outcomes: Sequence[CellOutcome]) -> int:
    """Return 130 where cells were stopped, 3 where some have no score, 0 otherwise."""
    statuses = {outcome.status for outcome in outcomes}
    if "stopped" in statuses:
        return 128 + signal.SIGINT
    return _BAD_CELLS if statuses & set(BAD) else 0


_BAD_CELLS = 3


def run_cells(
    cells: Sequence[SuiteCell],
    request: SweepRequest,
    *,
    quiet: bool,
    engine: Engine | None = None,
) -> list[CellOutcome]:
    """Return what became of the cells, each run in a process of its own; write the boards anew.

    They run on this machine unless an engine for elsewhere is given.
    """
    from lazybench import boards
    from lazybench.harness.sweep import Sweep
    from lazybench.records import Store

    engine = engine or Sweep(request)
    with _stopping(engine):
        outcomes = list(_shown(engine, cells, quiet=quiet))
    boards.write(Store(request.out))
    return outcomes


@contextmanager
def _stopping(engine: Engine) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop a sweep's cells, which write their checkpoints; a second kills."""
    from lazybench.harness.cell_process import GRACE_S

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = 0

    def stop(number: int, frame: object) -> None:
        nonlocal heard
        heard += 1
        engine.stop(at_once=heard > 1)
        told = (
            f"stopping: cells under way have {GRACE_S:g} s to write their checkpoints; once more "
            "kills them now; the same command continues"
        )
        # The main program may be amidst writing to the same stream, which Python refuses.
        with contextlib.suppress(RuntimeError):
            out.note(told if heard == 1 else "killing the cells under way")

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(engine: Engine, cells: Sequence[SuiteCell], *, quiet: bool) -> Iterator[CellOutcome]:
    """The outcomes as they come, each told in a line."""
    from lazybench.cli.cells_table import watching_cells

    with watching_cells(len(cells), quiet=quiet) as watch:
        for outcome in engine.run(cells, watch.begun):
            watch.ended(outcome)
            yield outcome
