"""A sweep on stderr: on a terminal a live table of the cells, elsewhere a line for each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from lazybench.cli import out
from lazybench.cli.cells import BAD
from lazybench.cli.progress import Stage, drawable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lazybench.harness.suite import SuiteCell
    from lazybench.harness.sweep import CellOutcome

_MOST_BAD = 8


class CellWatch(Protocol):
    """Hears what becomes of the cells of a sweep."""

    def begun(self, cell: SuiteCell) -> None:
        """A cell is under way; may be called from any thread."""
        ...

    def ended(self, outcome: CellOutcome) -> None:
        """A cell has ended."""
        ...


class SilentCells:
    """A watch that shows nothing."""

    def begun(self, cell: SuiteCell) -> None:
        """Show nothing."""

    def ended(self, outcome: CellOutcome) -> None:
        """Show nothing."""


class CellLines:
    """A watch that writes a line when a cell begins and when it ends."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet."""
        self._stage, self._clock, self._moved_s = Stage("cells", total), clock, clock()

    def begun(self, cell: SuiteCell) -> None:
        """Write which."""
        out.note(out.one_line(f"begun: {cell.name}"))

    def ended(self, outcome: CellOutcome) -> None:
        """Write what became of it, and how many there are left."""
        now = self._clock()
        self._stage.advance(1, {}, now - self._moved_s)
        self._moved_s = now
        head = f"{self._stage.done}/{self._stage.total}"
        left = f" ({self._stage.time_text})" if self._stage.time_text else ""
        out.note(f"{head} {_told(outcome)}{left}")


class CellTable:
    """A watch that draws the cells under way and those without a score, above a bar."""

    def __init__(
        self, total: int, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show nothing yet."""
        self._stage, self._console, self._clock = Stage("cells", total), console, clock
        self._moved_s = clock()
        self._since: dict[str, float] = {}
        self._bad: list[CellOutcome] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begun(self, cell: SuiteCell) -> None:
        """Add a row."""
        with self._lock:
            self._since[f"{cell.budget} {cell.name}"] = self._clock()

    def ended(self, outcome: CellOutcome) -> None:
        """Take the row away, and write what became of the cell above the table."""
        now = self._clock()
        with self._lock:
            self._since.pop(f"{outcome.cell.budget} {outcome.cell.name}", None)
            self._stage.advance(1, {}, now - self._moved_s)
            self._moved_s = now
            self._counts[outcome.status] += 1
            if outcome.status in BAD:
                self._bad.append(outcome)
        self._console.print(_told(outcome), markup=False, highlight=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """Return the table as it stands now; called a few times a second."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=True)
        for name in ("status", "cell", "took", ""):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        now = self._clock()
        with self._lock:
            for bad in self._bad[-_MOST_BAD:]:
                took = out.seconds(bad.wall_s) if bad.wall_s else ""
                reason = out.one_line(bad.reason)
                table.add_row(bad.status, *map(Text, (bad.cell.name, took, reason)))
            for name, since_s in self._since.items():
                table.add_row("running", Text(name), out.seconds(now - since_s), "")
            told = [f"{count} {status}" for status, count in sorted(self._counts.items())]
            done = f"{self._stage.done}/{self._stage.total}"
            parts = (done, ", ".join(told), self._stage.time_text)
        # Not the table's caption, which would be as narrow as the table: without rows, its header.
        line = "  ".join(part for part in parts if part)
        last = Text(line, no_wrap=True, overflow="ellipsis")
        return Group(table, last) if table.row_count else last


def _told(outcome: CellOutcome) -> str:
    """One line of what became of a cell."""
    score = "" if outcome.score is None else f" {outcome.score:.4g}"
    why = f": {outcome.reason}" if outcome.reason else ""
    took = out.seconds(outcome.wall_s)
    return out.one_line(f"{outcome.status}{score} in {took}: {outcome.cell.name}{why}")


@contextmanager
def watching_cells(total: int, *, quiet: bool) -> Iterator[CellWatch]:
    """A watch that fits stderr, closed at the end even if the sweep is interrupted."""
    if quiet or not total:
        yield SilentCells()
    elif not drawable():
        yield CellLines(total)
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        table = CellTable(total, console)
        with Live(table, console=console, refresh_per_second=4, transient=True):
            yield table
