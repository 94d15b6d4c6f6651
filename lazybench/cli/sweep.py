"""`lazybench sweep`: run the cells of a suite, each in a process of its own."""

from __future__ import annotations

import fnmatch
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out
from lazybench.cli.cells import BAD, exit_code, run_cells
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from lazybench.harness.suite import SuiteCell
    from lazybench.harness.sweep import CellOutcome

HELP = "Run the cells of a suite, skipping those that stand; the same command continues."
EXAMPLES = (
    "lazybench sweep table2 --dry-run",
    "lazybench sweep table2",
    "lazybench sweep mine.toml --jobs 2 --timeout 3600 --memory-gib 8",
    "lazybench sweep table2 --only '*cifar100-lt-100*'",
    "lazybench sweep table2 --devices cuda:0-7 --cells-per-device 2",
    "lazybench sweep table2 --workers 4",
    "lazybench sweep table2 --scheduler tcp://10.0.0.1:8786",
    "lazybench sweep mine.toml --emit-commands > cells.txt",
)
_SHOWN = 3


def sweep_command(  # noqa: PLR0913 - one parameter for each option
    suite: Annotated[str, typer.Argument(help="SUITE.toml, or the name of a shipped suite.")],
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells side by side.")] = 1,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Seconds a cell may take, before 30 s more to end in."),
    ] = None,
    timeout_per_episode: options.TimeoutPerEpisode = None,
    isolated: options.Isolated = False,
    memory_gib: Annotated[
        float | None, typer.Option("--memory-gib", help="Memory that a cell may hold.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="cuda:0-7", help="Pin each cell to one of these devices."
        ),
    ] = None,
    cells_per_device: Annotated[
        int,
        typer.Option("--cells-per-device", min=1, help="Cells side by side on each of --devices."),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Run on so many Dask workers on this machine."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, as tcp://host:8786."
        ),
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
        UsageError: a suite that can't be read, limits that aren't positive, options that don't go
            together, or a pattern that no cell matches.
        typer.Exit: some cells have no score, or it was interrupted.
    """
    need_folder(out_dir, "--out")
    need_folder(runs, "--runs")
    _one_engine(jobs, devices, workers, scheduler)
    if emit_commands:
        given = {
            "--jobs": jobs != 1,
            "--timeout": timeout is not None,
            "--memory-gib": memory_gib is not None,
            "--devices": devices is not None,
            "--workers": workers is not None,
            "--scheduler": scheduler is not None,
            "--json": json,
        }
        _for_a_queue([option for option, is_given in given.items() if is_given])
    from lazybench.harness.cell_process import limits_memory
    from lazybench.harness.devices import slots
    from lazybench.harness.suite import expand, read_suite
    from lazybench.harness.sweep import SweepRequest, arguments, split

    if cells_per_device != 1 and devices is None:
        raise UsageError("--cells-per-device goes with --devices, such as --devices cuda:0-7")
    if devices is not None and device != "cpu":
        raise UsageError("give either --device or --devices, not both")
    pinned = () if devices is None else slots(devices, cells_per_device)
    if memory_gib is not None and not limits_memory():
        out.note("this system can't limit memory: --memory-gib has no effect")
    cells = _matching(expand(read_suite(suite)), only)
    memory = None if memory_gib is None else memory_gib * 2**30
    request = SweepRequest(
        jobs,
        timeout,
        memory,
        pinned[0].device if pinned else device,
        out_dir,
        runs,
        pinned,
        elsewhere=emit_commands or scheduler is not None,
        episode_timeout_s=timeout_per_episode,
        isolated=isolated,
    )
    missing, known = split(cells, request)
    if emit_commands:
        for cell in missing:
            out.line(shlex.join(["lazybench", *arguments(cell, request), "--quiet"]))
        for row in known:
            if row.status in BAD:
                out.note(out.one_line(f"{row.status}: {row.cell.name}: {row.reason}"))
        return
    outcomes = list(known)
    if not dry_run and missing and (workers or scheduler):
        from lazybench.harness.cluster import on_cluster

        with on_cluster(request, scheduler=scheduler, workers=workers or 0) as engine:
            outcomes += run_cells(missing, request, quiet=quiet, engine=engine)
    elif not dry_run:
        outcomes += run_cells(missing, request, quiet=quiet)
    rows = outcomes if not dry_run else [*known, *map(_missing, missing)]
    if json:
        out.as_json([_facts(row) for row in rows])
    else:
        out.line(_table(rows))
    counts = Counter(row.status for row in rows)
    out.note(", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    if code := exit_code(rows):
        raise typer.Exit(code)


def _one_engine(jobs: int, devices: str | None, workers: int | None, scheduler: str | None) -> None:
    """Look whether the options that say where cells run go together.

    Raises:
        UsageError: they don't.
    """
    asked = {
        "--jobs": jobs != 1,
        "--devices": devices is not None,
        "--workers": workers is not None,
        "--scheduler": scheduler is not None,
    }
    given = [option for option, is_given in asked.items() if is_given]
    if len(given) > 1:
        raise UsageError(
            f"give one of {', '.join(asked)}, got {' and '.join(given)}: each says how many cells "
            "run side by side (--devices: one for each device and --cells-per-device)"
        )


def _matching(cells: Sequence[SuiteCell], pattern: str) -> list[SuiteCell]:
    """The cells whose line matches.

    Raises:
        UsageError: there is none.
    """
    found = [cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)]
    if not found:
        some = "; ".join(f"'{cell.name}'" for cell in cells[:_SHOWN])
        raise UsageError(
            f"--only '{pattern}' matches none of the suite's {len(cells)} cells, such as {some}; a "
            "part of a line needs stars around it: --only '*PART*'"
        )
    return found


def _for_a_queue(given: Sequence[str]) -> None:
    """Look whether options would be lost in commands for another scheduler.

    Raises:
        UsageError: one would.
    """
    if given:
        raise UsageError(
            f"--emit-commands doesn't go with {' and '.join(given)}: it writes commands, a line "
            "each, and the queue that runs them sets how many there are side by side, on what "
            "devices, and their limits (sbatch --time, --mem, --gpus); --device and "
            "--timeout-per-episode are kept in each command"
        )


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
