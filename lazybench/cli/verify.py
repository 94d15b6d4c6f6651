"""`lazybench verify`: is a record what it says?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out

if TYPE_CHECKING:
    from lazybench.verify import Verification

HELP = "Verify a record: its key, numbers and answers, and a sample of its trials, evaluated again."
EXAMPLES = (
    "lazybench verify 3f9c01d2",
    "lazybench verify leaderboards/records/glyphs-5way-1shot-v1/protonet/3f9c01d2aa17.json",
    "lazybench verify 3f9c01d2 --trials 0",
    "lazybench verify submitted.json --checkpoint their-run/ckpt/step-450",
    "lazybench verify 3f9c01d2 --retrain --json",
)
REFUTED = 1

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
        typer.Option("--trials", "-n", min=0, help="Evaluate so many again; 0: answers alone."),
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
        typer.Exit: the record is refuted.
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
        out.as_json(asdict(found) | {"verified": found.verified})
    else:
        out.line(_text(found))
    if not found.verified:
        raise typer.Exit(REFUTED)


def _text(found: Verification) -> str:
    """The record's name, a line for each check, and the verdict."""
    marks = {True: "ok", False: "WRONG", None: "-"}
    rows = [(marks[each.ok], each.check, each.detail) for each in found.findings]
    head = f"{found.agent} on {found.env}, {found.key[:12]}" if found.key else str(found.path)
    if not found.verified:
        verdict = "refuted: " + "; ".join(f.detail for f in found.findings if f.ok is False)
    elif found.trials:
        again = "" if found.seed is None else f" (the same sample again: --seed {found.seed})"
        verdict = f"verified, with {found.trials} trials evaluated again{again}"
    else:
        verdict = "nothing speaks against it; no trial was evaluated again"
    return "\n".join([head, out.table(("", "check", "what was found"), rows), verdict])
