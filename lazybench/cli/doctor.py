"""`lazybench doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import console, options

if TYPE_CHECKING:
    from lazybench.doctor import Examined, Finding

HELP = (
    "Look for what is wrong: with versions, data, cache, records, boards, runs and plug-ins. Ends "
    "with 0 where all is well, with 3 where something is bad."
)
EXAMPLES = (
    "lazybench doctor",
    "lazybench doctor --quiet",
    "lazybench doctor --deep",
    "lazybench doctor --repair",
    "lazybench doctor --out leaderboards --runs runs --json",
)
BAD = 3

Deep = Annotated[
    bool, typer.Option("--deep", help="Hash all data and make torch compute; takes minutes.")
]
RepairThem = Annotated[
    bool,
    typer.Option(
        "--repair", help="Do the repairs that are named; what is put aside stays in quarantine/."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only what isn't well.")]


def doctor_command(
    deep: Deep = False,
    repair: RepairThem = False,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: Quiet = False,
) -> None:
    """Print what was found.

    Raises:
        OutputUnavailable: a repair couldn't be made.
        typer.Exit: something is bad.
    """
    from lazybench.doctor import Quarantine, examine
    from lazybench.doctor import repair as repaired

    found, done, kept = examine(out_dir, runs, deep=deep), [], Quarantine()
    if repair:
        # Once more, for boards that lacked a record that is out of the way now.
        for _ in range(2):
            done += repaired(found.repairable, kept)
            found = examine(out_dir, runs, deep=deep) if done else found
    if json:
        console.as_json(
            {
                "well": found.well,
                "findings": [_facts(each) for each in found.findings],
                "repaired": done,
            }
        )
    else:
        for line in done:
            console.line(console.one_line(f"repaired: {line}"))
        console.line(_text(found, quiet=quiet))
    if not found.well:
        raise typer.Exit(BAD)


def _facts(finding: Finding) -> dict[str, Any]:
    facts = asdict(finding)
    return facts | {"repair": None if finding.repair is None else finding.repair.text}


def _text(found: Examined, *, quiet: bool) -> str:
    """A table, what to do about each line that isn't well, and how things stand."""
    shown = [each for each in found.findings if not (quiet and each.state == "ok")]
    rows = [(each.state, each.area, each.subject, each.detail) for each in shown]
    parts = [console.table(("", "area", "what", "found"), rows)] if rows else []
    for each in shown:
        told = [each.advice] if each.advice else []
        told += [each.repair.text] if each.repair is not None else []
        if each.state != "ok" and told:
            parts.append(console.one_line(f"{each.subject}: {'; '.join(told)}"))
    states = Counter(each.state for each in found.findings)
    warned = f", {states['warn']} to look at" if states["warn"] else ""
    parts.append(f"all is well{warned}" if found.well else f"{states['bad']} bad{warned}")
    return "\n".join(parts)
