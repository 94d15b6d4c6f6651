"""`lazybench reproduce`: a table or figure of the paper, run and put beside what it prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.cli.sweep import exit_code, run_cells
from lazybench.errors import UsageError
from lazybench.paper import pages

if TYPE_CHECKING:
    from lazybench.paper.paper_vs_measured import Beside
    from lazybench.sweep.scheduler import CellOutcome

HELP = "Run what is missing of a table or figure of the paper, and print it beside its numbers."
EXAMPLES = (
    "lazybench reproduce table2 --dry-run",
    "lazybench reproduce table6",
    "lazybench reproduce fig2-right --seeds 0-2",
    "lazybench reproduce all --dry-run --json",
    "lazybench reproduce claims --page docs/claims.md",
    "lazybench reproduce validity --page validity.md",
)


def _complete(incomplete: str) -> list[str]:
    from lazybench.paper.reproduce import ALL, CLAIMS, PLACES, VALIDITY

    return [name for name in (*PLACES, ALL, CLAIMS, VALIDITY) if name.startswith(incomplete)]


def reproduce_command(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="table1, table2, table3, table5, table6, table7, fig2-left, fig2-right, fig3, "
            "fig4-left, fig4-right, 50shot, all; or claims, what the records say of each; or "
            "validity, whether boards agree in how they order agents.",
            autocompletion=_complete,
        ),
    ],
    budget: options.Budget = "small",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of each cell, such as 0-2.")] = "0",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells side by side.")] = 1,
    device: options.Device = "cpu",
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing; tell what stands and what is missing.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE",
            help="Write claims or validity as a page, too; never over a file of another making.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Lines on stdout as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the missing cells and print measured beside reported.

    Raises:
        UnknownName: no such table or figure.
        UsageError: a budget or seeds that aren't allowed, or a page of what has none.
        OutputUnavailable: the page's file is of another making, or can't be written.
        typer.Exit: some cells have no score, or it was interrupted.
    """
    need_folder(out_dir, "--out")
    need_folder(runs, "--runs")
    from lazybench.paper.paper_vs_measured import beside
    from lazybench.paper.reproduce import CLAIMS, VALIDITY, cells, rows_of
    from lazybench.records import Store
    from lazybench.runner.request import check_budget
    from lazybench.sweep.scheduler import SweepRequest, split

    check_budget(budget)
    store = Store(out_dir)
    if name in (CLAIMS, VALIDITY):
        records = store.records()
        if name == CLAIMS:
            text = pages.claims(records, store.reported(), json=json)
        else:
            text = pages.validity(records, json=json)
        if page is not None and not dry_run:
            pages.write(page, name, text)
        return
    if page is not None:
        raise UsageError(
            f"--page goes with {CLAIMS} and {VALIDITY}, got '{name}'; leave it out, or send the "
            "output to a file"
        )
    reported = rows_of(name, store.reported())
    request = SweepRequest(jobs, None, None, device, out_dir, runs)
    missing, outcomes = split(cells(reported, budget, options.parse_seeds(None, seeds)), request)
    if not dry_run:
        outcomes += run_cells(missing, request, quiet=quiet)
    whys = _whys(outcomes)
    lines = beside(reported, store.records(), budget, whys)
    if json:
        rows = [line.reported.model_dump(mode="json") for line in lines]
        console.as_json([{**asdict(x), "reported": r} for x, r in zip(lines, rows, strict=True)])
    else:
        _told(name, lines)
    counts = Counter(outcome.status for outcome in outcomes)
    if dry_run:
        counts["missing"] = len(missing)
    told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if n)
    console.note(f"cells: {told or 'none'}")
    # What can't be measured here was told in the table; a dry run asked for no more.
    if not dry_run and (code := exit_code(outcomes)):
        raise typer.Exit(code)


def _whys(outcomes: Sequence[CellOutcome]) -> Mapping[tuple[str, str], str]:
    """Why cells have no score, by agent and environment."""
    return {
        (each.cell.agent, each.cell.env): _why(each.status, " ".join(each.reason.split()))
        for each in outcomes
        if each.reason
    }


def _why(status: str, reason: str) -> str:
    return f"images absent: {reason}" if status == "absent" else reason


def _told(name: str, lines: Sequence[Beside]) -> None:
    """Print the lines; notes that several share stand below the table by number."""
    from lazybench.paper.reproduce import ALL, ELSEWHERE

    numbers = {
        note: number
        for number, note in enumerate(dict.fromkeys(x.note for x in lines if x.note), 1)
    }
    if lines:
        rows = [_cells(line, numbers) for line in lines]
        console.line(console.table(_HEADER, rows, columns=console.width()))
    for note, number in numbers.items():
        console.line(f"[{number}] {note}")
    for place, where in ELSEWHERE.items():
        if name in (place, ALL):
            console.line(where)


_HEADER = (
    *("as printed", "environment", "batch norm", "metric", "reported", "measured"),
    *("95 % interval", "seeds", "difference", "same protocol", "note"),
)


def _cells(line: Beside, numbers: Mapping[str, int]) -> tuple[str, ...]:
    from lazybench.boards.columns import value_text

    row, got = line.reported, line.measured
    return (
        row.row,
        row.env,
        row.batch_norm or "",
        row.metric,
        value_text(row),
        "--" if got is None else f"{got.value:.2f}",
        "" if got is None or got.lo is None else f"{got.lo:.2f} to {got.hi:.2f}",
        "" if got is None else str(len(got.seeds)),
        "" if line.difference is None else f"{line.difference:+.2f}",
        {True: "yes", False: "no", None: ""}[line.same_protocol],
        f"[{numbers[line.note]}]" if line.note else "",
    )
