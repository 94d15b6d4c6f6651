"""`lazybench audit`: does a record's agent do as well on trials that nobody has seen?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out
from lazybench.cli.verify import Checkpoint, Device, Init, RecordName, Retrain, SampleSeed

if TYPE_CHECKING:
    from lazybench.stats import Interval
    from lazybench.verify import Audit

HELP = "Score a record's agent on fresh trials, and tell whether its own score agrees with them."
EXAMPLES = (
    "lazybench audit 3f9c01d2",
    "lazybench audit 3f9c01d2 --trials 1000 --json",
    "lazybench audit record.json --checkpoint their-run",
)
INCONSISTENT = 1


def audit_command(  # noqa: PLR0913 - one parameter for each option
    record: RecordName,
    trials: Annotated[int, typer.Option("--trials", "-n", min=2, help="Fresh trials.")] = 200,
    checkpoint: Checkpoint = None,
    retrain: Retrain = False,
    init: Init = None,
    seed: SampleSeed = None,
    device: Device = None,
    threads: options.Threads = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print both scores, their difference and what it says.

    Raises:
        LazybenchError: as `lazybench.verify.audit` has it.
        typer.Exit: the scores don't agree.
    """
    options.one_source(checkpoint, retrain, init)
    from lazybench.cli.progress import watching
    from lazybench.verify import StateSource, audit, find_record

    source = StateSource(checkpoint, retrain, init, out_dir, runs)
    path = find_record(record, out_dir)
    with watching(quiet=quiet) as watch:
        found = audit(
            path,
            trials=trials,
            source=source,
            seed=seed,
            device=device,
            threads=threads,
            watch=watch,
        )
    if json:
        intervals = {
            name: getattr(found, name)._asdict() for name in ("stored", "fresh", "difference")
        }
        out.as_json(asdict(found) | intervals)
    else:
        out.line(_text(found))
    if not found.consistent:
        raise typer.Exit(INCONSISTENT)


def _text(found: Audit) -> str:
    """Who was audited on what, both scores, and the difference."""
    percent = found.unit == "fraction"
    scale, unit = (100.0, "%") if percent else (1.0, found.unit)

    def shown(value: float, sign: str = "") -> str:
        return f"{scale * value:{sign}.2f}" if percent else f"{value:{sign}.4g}"

    def ends(interval: Interval, sign: str = "") -> str:
        return f"{shown(interval.lo, sign)} to {shown(interval.hi, sign)}"

    again = "" if found.seed is None else f"; the same again: --seed {found.seed}"
    rows = [
        ("stored", shown(found.stored.mean), ends(found.stored)),
        ("fresh", shown(found.fresh.mean), ends(found.fresh)),
    ]
    gap = (
        f"{shown(found.difference.mean, '+')} {unit} (99 % interval {ends(found.difference, '+')})"
    )
    verdict = f"p {found.p:.2g}: {'consistent' if found.consistent else 'NOT consistent'}"
    return "\n".join(
        [
            f"{found.agent} on {found.env}, {found.key[:12]}",
            f"{found.trials} fresh trials from {found.first} on{again}",
            out.table(("", f"{found.metric} {unit}", "95 % interval"), rows),
            f"fresh less stored: {gap}, {verdict}",
        ]
    )
