"""A sweep on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from lazybench.cli.sweep import CellTable
from lazybench.sweep.scheduler import CellOutcome
from lazybench.sweep.suite import SuiteCell


def test_the_line_below_the_table_stays_one_when_no_row_is_left() -> None:
    console = Console(file=io.StringIO(), width=80)
    now = iter(range(100))
    table = CellTable(1, console, clock=lambda: float(next(now)))
    cell = SuiteCell("chance", "sinusoid-5shot", 0, "smoke")

    def drawn() -> list[str]:
        with console.capture() as captured:
            console.print(table)
        return captured.get().splitlines()

    table.run_begun(cell)
    assert [line.split()[0] for line in drawn()] == ["status", "running", "0/1"]
    table.run_ended(CellOutcome(cell, "stopped", wall_s=2.0))
    (last,) = drawn()
    assert last.startswith("1/1  1 stopped  in ")
