"""`lazybench sweep`: run the cells of a suite, each in a process of its own."""

from __future__ import annotations

import fnmatch
import shlex
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out
from lazybench.cli.cells import run_cells

if TYPE_CHECKING:
    from lazybench.harness.suite import SuiteCell
    from lazybench.harness.sweep import CellOutcome

HELP = "Run the cells of a suite, skipping those that stand; the same command continues."
EXAMPLES = (
    "lazybench sweep table2 --dry-run",
    "lazybench sweep table2",
    "lazybench sweep mine.toml --jobs 2 --timeout 3600 --memory-gib 8",
    "lazybench sweep table2 --only '*cifar100-lt-100*'",
    "lazybench sweep mine.toml --emit-commands > cells.txt",
)
_BAD = ("failed", "crashed", "oom", "timeout", "refused", "diverged")
_BAD_SWEEP = 3


def sweep_command(  # noqa: PLR0913 - one parameter for each option
    suite: Annotated[str, typer.Argument(help="SUITE.toml, or the name of a shipped suite.")],
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Cells side by side.")] = 1,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds that a cell may take.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option("--memory-gib", help="Memory that a cell may hold.")
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="PATTERN", help="Only cells whose line matches.")
    ] = "*",
    device: options.Device = "cpu",
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what stands and what is missing; run nothing.")
    ] = False,
    emit_commands: Annotated[
        bool,
        typer.Option(
            "--emit-commands", help="Write the missing cells' commands, for another scheduler."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Outcomes on stdout as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Run what is missing of a suite and write the board files anew.

    Raises:
        UsageError: a suite that can't be read, or limits that aren't positive.
        typer.Exit: some cells have no score, or it was interrupted.
    """
    options.need_folder(out_dir, "--out")
    options.need_folder(runs, "--runs")
    from lazybench.harness.suite import expand, read_suite
    from lazybench.harness.sweep import SweepRequest, split, words

    cells = [cell for cell in expand(read_suite(suite)) if fnmatch.fnmatch(cell.name, only)]
    memory = None if memory_gib is None else round(memory_gib * 2**30)
    request = SweepRequest(jobs, timeout, memory, device, out_dir, runs)
    missing, known = split(cells, request)
    if emit_commands:
        for cell in missing:
            command = [word for word in words(cell, request)[3:] if word != "--json"]
            out.line(shlex.join(["lazybench", *command]))
        return
    outcomes = list(known)
    if not dry_run:
        outcomes += run_cells(missing, request, quiet=quiet)
    rows = outcomes if not dry_run else [*known, *map(_missing, missing)]
    if json:
        out.as_json([_facts(row) for row in rows])
    else:
        out.line(_table(rows))
    counts = Counter(row.status for row in rows)
    out.note(", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "no cells")
    if not dry_run and counts["stopped"]:
        raise typer.Exit(128 + signal.SIGINT)
    if any(counts[status] for status in _BAD):
        raise typer.Exit(_BAD_SWEEP)


def _missing(cell: SuiteCell) -> CellOutcome:
    from lazybench.harness.sweep import CellOutcome

    return CellOutcome(cell, "missing")


def _facts(row: CellOutcome) -> dict[str, object]:
    cell = row.cell
    return {
        "agent": cell.agent,
        "env": cell.env,
        "seed": cell.seed,
        "budget": cell.budget,
        "settings": cell.settings,
        "protocol": cell.protocol,
        "status": row.status,
        "score": row.score,
        "wall_s": row.wall_s,
        "reason": row.reason,
    }


def _table(rows: Sequence[CellOutcome]) -> str:
    cells = [
        (
            row.status,
            row.cell.name,
            row.cell.budget,
            "" if row.score is None else f"{row.score:.4f}",
            "" if not row.wall_s else out.seconds(row.wall_s),
            row.reason,
        )
        for row in rows
    ]
    header = ("status", "cell", "budget", "score", "took", "why no score")
    return out.table(header, cells, columns=out.width())
