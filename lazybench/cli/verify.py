"""`lazybench verify`, `audit`, `trials` and `score`: check records and submit predictions."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.cli.run import metric_text
from lazybench.files import need_folder

if TYPE_CHECKING:
    from lazybench.stats import Interval
    from lazybench.verify import Audit, StateSource, Verification


EXIT_CODES: Mapping[str, int] = {
    "reproduced": 0,
    "consistent": 0,
    "refuted": 1,
    "not reproducible here": 3,
}
"""Exit codes, by verdict."""

RecordName = Annotated[
    str,
    typer.Argument(
        metavar="RECORD",
        help="A record's file or key. Keys may be abbreviated.",
        autocompletion=options.complete_record,
    ),
]
Init = Annotated[str | None, options.init("Goes with --retrain.")]
Device = Annotated[str | None, options.device("[default: the record's]")]


@command(
    "verify",
    "lazybench verify 3f9c01d2",
    "lazybench verify leaderboards/records/glyphs-5way-1shot-v1/protonet/3f9c01d2aa17.json",
    "lazybench verify 3f9c01d2 --trials 0",
    "lazybench verify submitted.json --checkpoint their-run/ckpt/step-450",
    "lazybench verify 3f9c01d2 --retrain --json",
)
def verify_command(  # noqa: PLR0913 - one parameter for each option
    record: RecordName,
    trials: Annotated[
        int,
        options.trials("trials to evaluate again; 0 only re-scores stored predictions.", least=0),
    ] = 50,
    checkpoint: options.Checkpoint = None,
    retrain: options.Retrain = False,
    init: Init = None,
    seed: options.SampleSeed = None,
    device: Device = None,
    threads: options.Threads = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Verify a record: check its key and numbers, and re-run a sample of trials.

    Stored predictions are scored again; a sample of trials is evaluated again with the trained
    agent. Exit codes: 0 (reproduced, or consistent), 1 (refuted), 3 (not reproducible here).
    """
    path, source = _state_of(record, checkpoint, retrain, init, out_dir, runs)
    from lazybench.cli.progress import watching
    from lazybench.verify import verify

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
        findings = [{"check": each.name, **each.facts()} for each in found.findings]
        verdict = {"verdict": found.verdict, "verified": found.verified}
        console.as_json(asdict(found) | {"findings": findings} | verdict)
    else:
        console.line(_text(found))
    if code := EXIT_CODES[found.verdict]:
        raise typer.Exit(code)


def _state_of(
    record: str,
    checkpoint: Path | None,
    retrain: bool,
    init: str | None,
    out_dir: Path,
    runs: Path,
) -> tuple[Path, StateSource]:
    """Return a record's file, and where its trained state comes from.

    Raises:
        UsageError: options that exclude each other, or a key of several records.
        UnknownName: no such record.
    """
    options.one_source(checkpoint, retrain, init)
    from lazybench.verify import StateSource, find_record

    return find_record(record, out_dir), StateSource(checkpoint, retrain, init, out_dir, runs)


def _text(found: Verification) -> str:
    """The record's name, one line per check, what wasn't checked, and the verdict."""
    marks = {True: "ok", False: "WRONG", None: "-"}
    rows = [(marks[each.ok], each.name, each.detail) for each in found.findings]
    head = f"{found.agent} on {found.env}, {found.key[:12]}" if found.key else str(found.path)
    left = [f"unchecked: {'; '.join(found.unchecked)}"] if found.unchecked else []
    table = console.table(("", "check", "result"), rows)
    return "\n".join([head, table, *left, f"{found.verdict}: {_why(found)}"])


def _why(found: Verification) -> str:
    """The reason of a verdict, in one sentence."""
    if found.verdict == "refuted":
        return "; ".join(f.detail for f in found.findings if f.ok is False)
    if not found.trials:
        return "no contradiction found; no trial was evaluated again"
    again = "" if found.seed is None else f" (to repeat the sample: --seed {found.seed})"
    trials = f"{found.trials} trials evaluated again"
    if found.verdict == "not reproducible here":
        return f"no contradiction found; {trials} are inconclusive{again}"
    if found.equal:
        what = f"{trials} are equal to the last bit"
    else:
        what = f"{trials} differ by no more than rounding explains"
    if found.finds is None:
        return f"{what}, which can't rule out a forged trial{again}"
    if found.seed is None:
        return f"{what}{again}"
    kind = "" if found.equal else " beyond that"
    return (
        f"{what}; if {100 * found.finds:.2g} % of its trials were forged{kind}, this sample would "
        f"find one with 95 % probability{again}"
    )


INCONSISTENT = 1


@command(
    "audit",
    "lazybench audit 3f9c01d2",
    "lazybench audit 3f9c01d2 --trials 1000 --json",
    "lazybench audit record.json --checkpoint their-run",
)
def audit_command(  # noqa: PLR0913 - one parameter for each option
    record: RecordName,
    trials: Annotated[int, options.trials("fresh trials.", least=2)] = 200,
    checkpoint: options.Checkpoint = None,
    retrain: options.Retrain = False,
    init: Init = None,
    seed: options.SampleSeed = None,
    device: Device = None,
    threads: options.Threads = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a record's agent on fresh trials and compare with the stored score.

    Exits with 1 if the two scores are inconsistent.
    """
    path, source = _state_of(record, checkpoint, retrain, init, out_dir, runs)
    from lazybench.cli.progress import watching
    from lazybench.verify import audit

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
            "stored": found.stored._asdict(),
            "fresh": found.fresh._asdict(),
            "difference": found.difference._asdict(),
        }
        console.as_json(asdict(found) | intervals)
    else:
        console.line(_audit_text(found))
    if not found.consistent:
        raise typer.Exit(INCONSISTENT)


def _audit_text(found: Audit) -> str:
    """The record, both scores, and their difference."""
    percent = found.unit == "fraction"
    scale, unit = (100.0, "%") if percent else (1.0, found.unit)

    def shown(value: float, sign: str = "") -> str:
        return f"{scale * value:{sign}.2f}" if percent else f"{value:{sign}.4g}"

    def ends(interval: Interval, sign: str = "") -> str:
        return f"{shown(interval.lo, sign)} to {shown(interval.hi, sign)}"

    again = "" if found.seed is None else f"; to repeat: --seed {found.seed}"
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
            f"{found.trials} fresh trials, starting at {found.first}{again}",
            console.table(("", f"{found.metric} {unit}", "95 % interval"), rows),
            f"fresh - stored: {gap}, {verdict}",
        ]
    )


@command(
    "trials",
    "lazybench trials omniglot-5way-1shot",
    "lazybench trials glyphs-5way-1shot --arrays --to glyphs.npz",
    "lazybench trials cifarfs-5way-5shot --to trials.jsonl --limit 100",
)
def trials_command(  # noqa: PLR0913 - one parameter for each option
    env: Annotated[
        str,
        typer.Argument(metavar="ENV", help=options.ENV_HELP, autocompletion=options.complete_env),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="File to write, .npz or .jsonl. [default: trials-ENV-BUDGET.npz]",
        ),
    ] = None,
    arrays: Annotated[
        bool, typer.Option("--arrays", help="Export the images as well as their hashes.")
    ] = False,
    budget: options.TrialBudget = "small",
    limit: Annotated[int | None, options.limit()] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export an environment's official trials: indices, support labels, image hashes.

    Query labels aren't exported. Score predictions for the trials with `lazybench score`.
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
        f"score predictions of shape [{shape}] with: lazybench score predictions.npz --env "
        f"{found.about['env']} --budget {budget} --name NAME"
    )


@command(
    "score",
    "lazybench score predictions.npz --env omniglot-5way-1shot --name their_maml",
    "lazybench score predictions.npz -e glyphs-5way-1shot --name mine --set lr=0.1 --store",
    "lazybench score labels.npy -e cifar100-lt-100 --name their_loss --seed 1 --json > record.json",
)
def score_command(  # noqa: PLR0913 - one parameter for each option
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Predictions [trials, queries], .npz or .npy."),
    ],
    env: options.Env,
    name: Annotated[str, typer.Option("--name", help="Name of the method, as boards show it.")],
    budget: options.TrialBudget = "small",
    seed: Annotated[int, options.seed("the method's training.")] = 0,
    settings: Annotated[
        list[str] | None, options.setting("Settings of the method, for its record.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Save the record and print its board.")
    ] = False,
    out_dir: options.Out = Path("leaderboards"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score predictions for an environment's official trials, from any framework.

    The record is marked as submitted. With --store it is kept, and its board is printed.
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
        limited = "; only the first trials, unranked" if record.limited else ""
        metric = record.metrics[record.env.metric]
        console.line(f"{name}, submitted, on {record.env.id}: {metric_text(metric)}{limited}")
    if store:
        publish([record], out_dir, show=not (json or quiet))
