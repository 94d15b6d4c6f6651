"""`lazybench verify`: is a record what it says?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out

if TYPE_CHECKING:
    from lazybench.verify import Verification

HELP = (
    "Verify a record: its key, numbers and answers, and a sample of its trials, evaluated again. "
    "Ends with 0 (reproduced, or consistent), 1 (refuted) or 3 (not reproducible here)."
)
EXAMPLES = (
    "lazybench verify 3f9c01d2",
    "lazybench verify leaderboards/records/glyphs-5way-1shot-v1/protonet/3f9c01d2aa17.json",
    "lazybench verify 3f9c01d2 --trials 0",
    "lazybench verify submitted.json --checkpoint their-run/ckpt/step-450",
    "lazybench verify 3f9c01d2 --retrain --json",
)
ENDS: Mapping[str, int] = {
    "reproduced": 0,
    "consistent": 0,
    "refuted": 1,
    "not reproducible here": 3,
}
"""Exit codes, by verdict."""

RecordName = Annotated[
    str,
    typer.Argument(metavar="RECORD", help="A record's file, or the first digits of its key."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        "-c",
        metavar="PATH",
        help="The trained state: a run's folder, or its ckpt/step-N. [default: the run in --runs]",
    ),
]
Retrain = Annotated[
    bool,
    typer.Option("--retrain", help="Train again first; takes as long as the run did."),
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="FILE|RUN", help="With --retrain: the weights it started from."),
]
SampleSeed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Draw the same trials again. [default: drawn by chance]"),
]
Device = Annotated[
    str | None, typer.Option("--device", "-d", help="cpu, cuda, mps or auto. [default: as it ran]")
]


def verify_command(  # noqa: PLR0913 - one parameter for each option
    record: RecordName,
    trials: Annotated[
        int,
        typer.Option("--trials", "-n", min=0, help="Evaluate so many again; 0: judge answers."),
    ] = 50,
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
    """Print each check and the verdict.

    Raises:
        LazybenchError: as `lazybench.verify.verify` has it.
        typer.Exit: the record is refuted, or couldn't be reproduced.
    """
    options.one_source(checkpoint, retrain, init)
    from lazybench.cli.progress import watching
    from lazybench.verify import StateSource, find_record, verify

    source = StateSource(checkpoint, retrain, init, out_dir, runs)
    path = find_record(record, out_dir)
    with watching(quiet=quiet) as watch:
        found = verify(
            path,
            trials=trials,
            source=source,
            seed=seed,
            device=device,
            threads=threads,
            watch=watch,
        )
    if json:
        told = {"verdict": found.verdict, "verified": found.verified}
        out.as_json(asdict(found) | told)
    else:
        out.line(_text(found))
    if code := ENDS[found.verdict]:
        raise typer.Exit(code)


def _text(found: Verification) -> str:
    """The record's name, a line for each check, what wasn't checked, and the verdict."""
    marks = {True: "ok", False: "WRONG", None: "-"}
    rows = [(marks[each.ok], each.check, each.detail) for each in found.findings]
    head = f"{found.agent} on {found.env}, {found.key[:12]}" if found.key else str(found.path)
    left = [f"unchecked: {'; '.join(found.unchecked)}"] if found.unchecked else []
    table = out.table(("", "check", "what was found"), rows)
    return "\n".join([head, table, *left, f"{found.verdict}: {_why(found)}"])


def _why(found: Verification) -> str:
    """What a verdict rests on, in a sentence."""
    if found.verdict == "refuted":
        return "; ".join(f.detail for f in found.findings if f.ok is False)
    if not found.trials:
        return "nothing speaks against it; no trial was evaluated again"
    again = "" if found.seed is None else f" (the same sample again: --seed {found.seed})"
    trials = f"{found.trials} trials evaluated again"
    if found.verdict == "not reproducible here":
        return f"nothing speaks against it; {trials} tell neither way{again}"
    if found.equal:
        what = f"{trials} are equal to the last bit"
    else:
        what = f"{trials} differ by no more than other arithmetic explains"
    if found.finds is None:
        return f"{what}, from which a forged trial can't be told{again}"
    if found.seed is None:
        return f"{what}{again}"
    kind = "" if found.equal else " beyond that"
    return (
        f"{what}; had {100 * found.finds:.2g} % of its trials been forged{kind}, the sample would "
        f"have found it with 95 %{again}"
    )
