"""`lazybench reproduce`: measured numbers next to those of the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.cli.sweep import exit_code, run_cells
from lazybench.errors import UsageError
from lazybench.files import need_folder

if TYPE_CHECKING:
    from lazybench.paper.reproduce import PaperVsMeasured
    from lazybench.paper.verdicts import Checked, ClaimVerdict
    from lazybench.records import Record, Store
    from lazybench.sweep.scheduler import CellOutcome


def _complete(incomplete: str) -> list[str]:
    from lazybench.paper.reproduce import ALL, CLAIMS, PLACES, VALIDITY

    return [name for name in (*PLACES, ALL, CLAIMS, VALIDITY) if name.startswith(incomplete)]


@command(
    "reproduce",
    "lazybench reproduce table2 --dry-run",
    "lazybench reproduce table6",
    "lazybench reproduce fig2-right --seeds 0-2",
    "lazybench reproduce all --dry-run --json",
    "lazybench reproduce claims --page docs/claims.md",
    "lazybench reproduce validity --page validity.md",
)
def reproduce_command(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A table or figure (see above), all, claims or validity.",
            autocompletion=_complete,
        ),
    ],
    budget: options.Budget = "small",
    seeds: Annotated[str, options.seeds()] = "0",
    jobs: options.Jobs = 1,
    device: options.Device = "cpu",
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    dry_run: options.DryRun = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE",
            help="Also write claims or validity as a page; never over another file.",
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Reproduce a table or figure of the paper, and compare with its numbers.

    NAME is one of table1, table2, table3, table5, table6, table7, fig2-left, fig2-right, fig3,
    fig4-left, fig4-right, 50shot or all. Runs that are recorded are skipped. `claims` reports what
    the records say about each claim of the paper; `validity` reports whether boards agree on the
    order of agents.
    """
    need_folder(out_dir, "--out")
    need_folder(runs, "--runs")
    from lazybench.paper.reproduce import CLAIMS, VALIDITY, cells, paper_vs_measured, rows_of
    from lazybench.records import Store
    from lazybench.runner.request import check_budget
    from lazybench.sweep.scheduler import SweepRequest, split

    check_budget(budget)
    store = Store(out_dir)
    if name in (CLAIMS, VALIDITY):
        if page is not None and not dry_run:
            _check_page(page, name)
        records = store.records()
        if name == CLAIMS:
            text = _claims(store, records, json=json)
        else:
            text = _validity(records, json=json)
        if page is not None and not dry_run:
            _write(page, name, text)
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
    lines = paper_vs_measured(reported, store.records(), budget, whys)
    if json:
        rows = [line.reported.model_dump(mode="json") for line in lines]
        console.as_json([{**asdict(x), "reported": r} for x, r in zip(lines, rows, strict=True)])
    else:
        _print(name, lines)
    counts = Counter(outcome.status for outcome in outcomes)
    if dry_run:
        counts["missing"] = len(missing)
    numbers = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if n)
    console.note(f"runs: {numbers or 'none'}")
    # The table says what can't be measured here; after a dry run that is no failure.
    if not dry_run and (code := exit_code(outcomes)):
        raise typer.Exit(code)


def _claims(store: Store, records: Sequence[Record], *, json: bool) -> str:
    """Print what the records say of the paper's claims, and return the page."""
    from lazybench.paper.claims_page import claims_page, mean_text, verdicts_note

    found = claim_verdicts(store, records)
    if json:
        console.as_json([_claim_facts(each) for each in found])
    else:
        rows = [
            (
                str(number),
                each.claim.text,
                each.budget,
                each.text,
                "; ".join(mean_text(mean) for mean in each.means),
            )
            for number, each in enumerate(found, 1)
        ]
        head = ("", "claim", "budget", "verdict", "mean over boards")
        console.line(console.table(head, rows, columns=console.width()))
        console.line(f"\n{verdicts_note(found)}")
    return claims_page(found)


def claim_verdicts(store: Store, records: Sequence[Record]) -> list[ClaimVerdict]:
    """Return what the rule for verdicts says of each claim of the paper.

    Args:
        store: has the reported numbers and the kept searches of settings.
        records: of the store.
    """
    from lazybench.paper.claims import CLAIMS, boards_of
    from lazybench.paper.searches import read_searches
    from lazybench.paper.verdicts import Evidence, verdicts

    searches = read_searches(store.root / "tuning")
    return verdicts(CLAIMS, Evidence(boards_of(records), store.reported(), searches))


def _claim_facts(found: ClaimVerdict) -> dict[str, Any]:
    return {
        "claim": found.claim.text,
        "where": found.claim.where,
        "elsewhere": found.claim.elsewhere,
        "budget": found.budget,
        "verdict": found.word or "not tested",
        "provisional": found.provisional,
        "point": None if found.failure is None else found.failure.point,
        "reason": None if found.failure is None else found.failure.reason,
        "means": [
            {**mean._asdict(), "difference": mean.difference._asdict()} for mean in found.means
        ],
        "findings": [_result_facts(each) for each in found.checked],
    }


def _result_facts(checked: Checked) -> dict[str, Any]:
    from lazybench.paper.claims_page import INTERVALS

    each, failure = checked.result, checked.failure
    contrast = each.contrast
    return {
        "left": contrast.left.name(contrast.reading),
        "right": contrast.right.name(contrast.reading),
        "place": each.place,
        "budget": each.budget,
        "difference": each.difference._asdict(),
        "p": each.p,
        "seeds": each.seeds,
        "interval": INTERVALS[each.verdict],
        "reported": each.reported,
        "excludes_reported": checked.excludes_reported,
        "processors": list(each.processors),
        "point": None if failure is None else failure.point,
        "reason": None if failure is None else failure.reason,
        "keys": list(each.keys),
    }


def _validity(records: Sequence[Record], *, json: bool) -> str:
    """Print how alike boards order their agents, and return the page."""
    from lazybench.paper.validity import agreements, validity_page

    found = agreements(records)
    if json:
        console.as_json([{**asdict(x), "rows": [row._asdict() for row in x.rows]} for x in found])
    else:
        rows = [(x.left, x.right, str(len(x.rows)), f"{x.tau:+.2f}", f"{x.p:.2g}") for x in found]
        console.line(
            console.table(("board", "board", "rows", "tau", "p"), rows, columns=console.width())
        )
    return validity_page(found)


_INSTEAD = "name another file with --page, or move that one away"


def _check_page(page: Path, name: str) -> None:
    """Check that a page may be written, before the records are read.

    Raises:
        OutputUnavailable: the file is something else, or it can't be written.
    """
    from lazybench.boards.render import page_mark
    from lazybench.files import check_replaceable

    check_replaceable(page, mark=page_mark(name).encode(), instead=_INSTEAD)


def _write(page: Path, name: str, text: str) -> None:
    """Write a page and print its path.

    Raises:
        OutputUnavailable: the file is something else, or it can't be written.
    """
    from lazybench.boards.render import page_mark
    from lazybench.files import replace_ours

    mark = page_mark(name).encode()
    replace_ours(page, text.encode("utf-8"), mark=mark, instead=_INSTEAD)
    console.note(f"written: {page}")


def _whys(outcomes: Sequence[CellOutcome]) -> Mapping[tuple[str, str], str]:
    """Why runs have no score, by agent and environment."""
    return {
        (each.cell.agent, each.cell.env): _why(each.status, " ".join(each.reason.split()))
        for each in outcomes
        if each.reason
    }


def _why(status: str, reason: str) -> str:
    return f"images missing: {reason}" if status == "absent" else reason


def _print(name: str, lines: Sequence[PaperVsMeasured]) -> None:
    """Print a table of the lines, with numbered notes below it."""
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


def _cells(line: PaperVsMeasured, numbers: Mapping[str, int]) -> tuple[str, ...]:
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
