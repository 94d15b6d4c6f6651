"""`lazybench verify`: is a record what it says?"""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.cli.run import metric_text

if TYPE_CHECKING:
    from lazybench.stats import Interval
    from lazybench.verify import Audit, Verification


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
        console.as_json(asdict(found) | told)
    else:
        console.line(_text(found))
    if code := ENDS[found.verdict]:
        raise typer.Exit(code)


def _text(found: Verification) -> str:
    """The record's name, a line for each check, what wasn't checked, and the verdict."""
    marks = {True: "ok", False: "WRONG", None: "-"}
    rows = [(marks[each.ok], each.check, each.detail) for each in found.findings]
    head = f"{found.agent} on {found.env}, {found.key[:12]}" if found.key else str(found.path)
    left = [f"unchecked: {'; '.join(found.unchecked)}"] if found.unchecked else []
    table = console.table(("", "check", "what was found"), rows)
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


AUDIT_HELP = (
    "Score a record's agent on fresh trials, and tell whether its own score agrees with them."
)
AUDIT_EXAMPLES = (
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
        console.as_json(asdict(found) | intervals)
    else:
        console.line(_audit_text(found))
    if not found.consistent:
        raise typer.Exit(INCONSISTENT)


def _audit_text(found: Audit) -> str:
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
            console.table(("", f"{found.metric} {unit}", "95 % interval"), rows),
            f"fresh less stored: {gap}, {verdict}",
        ]
    )


TRIALS_HELP = (
    "Write an environment's official trials to a file: indices, support labels, image hashes."
)
TRIALS_EXAMPLES = (
    "lazybench trials omniglot-5way-1shot",
    "lazybench trials glyphs-5way-1shot --arrays --to glyphs.npz",
    "lazybench trials cifarfs-5way-5shot --to trials.jsonl --limit 100",
)


def trials_command(  # noqa: PLR0913 - one parameter for each option
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV", help="Environment id or alias.", autocompletion=options.complete_env
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help=".npz or .jsonl. [default: trials-ENV-BUDGET.npz]"
        ),
    ] = None,
    arrays: Annotated[
        bool, typer.Option("--arrays", help="The images themselves, beside their hashes.")
    ] = False,
    budget: Annotated[
        str, typer.Option("--budget", "-b", help="Whose number of trials.")
    ] = "small",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first ones only.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the file and print what it holds.

    Raises:
        LazybenchError: as `lazybench.verify.export_trials` has it.
    """
    from lazybench.cli.progress import watching
    from lazybench.runner.request import resolve_env
    from lazybench.verify import export_trials

    path = to or Path(f"trials-{resolve_env(env)[0].id}-{budget}.npz")
    with watching(quiet=quiet) as watch:
        found = export_trials(env, path, budget=budget, limit=limit, arrays=arrays, watch=watch)
    if json:
        console.as_json({"path": str(found.path), "bytes": found.size, **found.about})
        return
    shape = ", ".join(map(str, found.about["predictions"]))
    console.line(f"{found.path}: {found.about['env']}, {found.size / 1e6:.1f} MB, no query labels")
    console.line(
        f"predictions [{shape}] are judged by: lazybench score predictions.npz --env "
        f"{found.about['env']} --budget {budget} --name NAME"
    )


SCORE_HELP = "Judge predictions for an environment's official trials; a record marked as submitted."
SCORE_EXAMPLES = (
    "lazybench score predictions.npz --env omniglot-5way-1shot --name their_maml",
    "lazybench score predictions.npz -e glyphs-5way-1shot --name mine --set lr=0.1 --store",
    "lazybench score labels.npy -e cifar100-lt-100 --name their_loss --seed 1 --json > record.json",
)


def score_command(  # noqa: PLR0913 - one parameter for each option
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help=".npz with predictions [trials, queries], or .npy."),
    ],
    env: options.Env,
    name: Annotated[str, typer.Option("--name", help="Who answered, for the board.")],
    budget: Annotated[
        str, typer.Option("--budget", "-b", help="Whose number of trials.")
    ] = "small",
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed that trained it.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting to tell; repeatable."),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the record, and show the board it stands on.")
    ] = False,
    out_dir: options.Out = Path("leaderboards"),
    json: Annotated[bool, typer.Option("--json", help="Only the record on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no board.")] = False,
) -> None:
    """Print the score, or the record; keep it where asked.

    Raises:
        LazybenchError: as `lazybench.verify.score` has it.
    """
    overrides = options.parse_settings(settings or ())
    if store:
        need_folder(out_dir, "--out")
    from lazybench.cli.progress import watching
    from lazybench.cli.run import publish
    from lazybench.runner.request import read_setting
    from lazybench.verify import score

    config: dict[str, Any] = {key: read_setting(value) for key, value in overrides.items()}
    with watching(quiet=quiet) as watch:
        record = score(
            file,
            env,
            name=name,
            config=config,
            seed=seed,
            budget=budget,
            out=out_dir if store else None,
            watch=watch,
        )
    if json:
        console.line(json_text.dumps(json_text.loads(record.to_json())))
    else:
        limited = "; the first trials only, never ranked" if record.limited else ""
        metric = record.metrics[record.env.metric]
        console.line(f"{name}, submitted, on {record.env.id}: {metric_text(metric)}{limited}")
    if store:
        publish([record], out_dir, show=not (json or quiet))
