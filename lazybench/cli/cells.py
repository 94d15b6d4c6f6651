"""Cells of a suite run from the command line: shown as they go, stopped by Ctrl-C, boarded."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lazybench.cli import out

if TYPE_CHECKING:
    from lazybench.harness.suite import SuiteCell
    from lazybench.harness.sweep import CellOutcome, Sweep, SweepRequest


def run_cells(
    cells: Sequence[SuiteCell], request: SweepRequest, *, quiet: bool
) -> list[CellOutcome]:
    """Return what became of the cells, each run in a process of its own; write the boards anew."""
    from lazybench import boards
    from lazybench.harness.sweep import Sweep
    from lazybench.records import Store

    sweep = Sweep(request)
    with _stopping(sweep):
        outcomes = list(_shown(sweep, cells, quiet=quiet))
    boards.write(Store(request.out))
    return outcomes


@contextmanager
def _stopping(sweep: Sweep) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop a sweep's cells, which write their checkpoints."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        out.note("stopping: cells under way write their checkpoints; the same command continues")
        sweep.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(sweep: Sweep, cells: Sequence[SuiteCell], *, quiet: bool) -> Iterator[CellOutcome]:
    """The outcomes as they come, each told in a line."""
    from lazybench.cli.progress import watching

    with watching(quiet=quiet) as watch:
        if cells:
            watch.stage("cells", len(cells))
        for outcome in sweep.run(cells, lambda cell: watch.note(f"begun: {cell.name}")):
            told = "" if outcome.score is None else f" {outcome.score:.4g}"
            why = f": {outcome.reason}" if outcome.reason else ""
            watch.note(
                f"{outcome.status}{told} in {out.seconds(outcome.wall_s)}: {outcome.cell.name}{why}"
            )
            watch.advance(1, {})
            yield outcome
