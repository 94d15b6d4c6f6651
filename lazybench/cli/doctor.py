"""`lazybench doctor`: problems of an installation, and their repairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import console, options
from lazybench.cli.command import command

if TYPE_CHECKING:
    from lazybench.doctor import Examined, Finding

BAD = 3


@command(
    "doctor",
    "lazybench doctor",
    "lazybench doctor --quiet",
    "lazybench doctor --deep",
    "lazybench doctor --repair",
    "lazybench doctor --out leaderboards --runs runs --json",
)
def doctor_command(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hash all data and compute with torch; slow.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair; broken files are moved to quarantine/.")
    ] = False,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check the installation, data, cache, records, boards, runs and plug-ins.

    Exits with 3 if it finds a problem. Broken files are quarantined, never deleted; derived files
    are regenerated. Nothing is changed without --repair.
    """
    from lazybench.doctor import Quarantine, examine
    from lazybench.doctor import repair as repaired

    found, done, kept = examine(out_dir, runs, deep=deep), [], Quarantine()
    if repair:
        # Twice: boards can only be regenerated once a damaged record is in quarantine.
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
    """A table, what to do about each problem, and a summary."""
    shown = [each for each in found.findings if not (quiet and each.state == "ok")]
    rows = [(each.state, each.area, each.subject, each.detail) for each in shown]
    parts = [console.table(("", "area", "subject", "finding"), rows)] if rows else []
    for each in shown:
        steps = [each.advice] if each.advice else []
        steps += [each.repair.text] if each.repair is not None else []
        if each.state != "ok" and steps:
            parts.append(console.one_line(f"{each.subject}: {'; '.join(steps)}"))
    states = Counter(each.state for each in found.findings)
    warned = f", {states['warn']} warnings" if states["warn"] else ""
    parts.append(f"all is well{warned}" if found.well else f"{states['bad']} bad{warned}")
    return "\n".join(parts)
