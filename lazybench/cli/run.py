"""`lazybench run`, `evaluate` and `forget`: train an agent, score it, show its board; remove it."""

from __future__ import annotations

import enum
import json as json_text
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.arguments import KEY_DIGITS, is_key
from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import UnknownName, UsageError
from lazybench.files import need_folder
from lazybench.runtime import launched

if TYPE_CHECKING:
    from lazybench.records import Metric, Record, Store
    from lazybench.runner.callbacks import Callback
    from lazybench.runner.request import RunRequest
    from lazybench.runner.run_dir import RunOptions
    from lazybench.runner.transfer import TransferResult
    from lazybench.sweep.tune import TuningResult


BAD_RUN = 3
_CONFIG = "lazybench.run_options"
"""Where the command line keeps the content of `--config`."""


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a file as defaults of those that aren't given."""
    if path is None:
        return None
    from lazybench.errors import UsageError
    from lazybench.runner.run_dir import read_options

    try:
        given = read_options(path)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    values = given.model_dump(exclude_none=True, exclude={"settings", "protocol"})
    if "out" in values:
        values["out_dir"] = values.pop("out")
    context.default_map = values
    context.meta[_CONFIG] = given
    return path


def _is_of_file(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


@command(
    "run",
    "lazybench run --agent lazy_reptile --env tiered-20way",
    "lazybench run -a protonet -e glyphs-5way-1shot --budget smoke",
    "lazybench run -a lazy_maml -e glyphs-20way-5shot --seeds 0-2",
    "lazybench run -a reptile -e glyphs-5way-5shot --set inner_lr=0.01 --set inner_steps=5",
    "lazybench run -a protonet -e glyphs-5way-1shot --set batch_norm=inductive",
    "lazybench run -a maml -e glyphs-20way-5shot --tuned runs/tune-maml-glyphs-20way-5shot-s0-…",
    "lazybench run -a reptile -e glyphs-20way-5shot --init 3f9c01d2",
    "lazybench run -a lazy_meta_attack -e glyphs-net4-untargeted --query-budget 1000",
    "lazybench run -a my_agent.py:MyAgent -e glyphs-5way-1shot --limit 50",
    "lazybench run -a square -e glyphs-net4-untargeted --isolated",
    "lazybench run -a maml -e glyphs-5way-1shot --track tensorboard",
    "lazybench run --config run.toml --seeds 1-4",
    "lazybench run -a chance -e glyphs-5way-1shot --json --quiet > record.json",
    "torchrun --standalone --nproc-per-node 4 -m lazybench run -a maml -e omniglot-20way-5shot",
    distributed=True,
)
def run_command(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    agent: options.Agent,
    env: options.Env,
    budget: options.Budget = "small",
    seed: Annotated[int | None, options.seed("training. [default: 0]")] = None,
    seeds: Annotated[str | None, options.seeds("One run each.")] = None,
    settings: Annotated[list[str] | None, options.setting("Replaces the agent's preset.")] = None,
    protocol: Annotated[list[str] | None, options.protocol("Replaces its default.")] = None,
    query_budget: Annotated[int | None, options.query_budget(least=1)] = None,
    bad_query_budget: Annotated[int | None, options.bad_query_budget()] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="Options from a file, such as run.toml in a run's folder; options given here win.",
            callback=_use_config,
            is_eager=True,
        ),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            "--tuned", metavar="DIR", help="Use the best settings in this folder of lazybench tune."
        ),
    ] = None,
    init: Annotated[str | None, options.init()] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="Arithmetic: fp32, tf32 (CUDA) or bf16.")
    ] = "fp32",
    isolated: options.Isolated = False,
    allow_overlap: options.AllowOverlap = False,
    track: Annotated[
        str | None,
        typer.Option(
            "--track",
            metavar="WHAT",
            help="Experiment tracker: tensorboard[:DIR], wandb[:PROJECT], mlflow[:PROJECT], "
            "aim[:PROJECT], or MODULE:FACTORY.",
            autocompletion=options.complete_tracker,
        ),
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    timeout_per_episode: options.TimeoutPerEpisode = None,
    limit: options.Limit = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Run again even if it is recorded already.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_boards: Annotated[
        bool,
        typer.Option(
            "--no-boards",
            help="Don't update the board files, as in one of many jobs; after all of them, run: "
            "lazybench leaderboard --write",
        ),
    ] = False,
) -> None:
    """Train an agent on an environment, evaluate it and record its score.

    Prints the board with the new record, and updates the board files. A run that has a record
    isn't repeated; an interrupted one is resumed by the same command. With several seeds, --json
    prints one record a line.
    """
    file: RunOptions | None = context.meta.get(_CONFIG)
    of_file = [name for name in ("seed", "seeds") if _is_of_file(context, name)]
    if seed is not None and seeds is not None and len(of_file) == 1:
        seed, seeds = (None, seeds) if of_file == ["seed"] else (seed, None)
    chosen = options.parse_seeds(seed, seeds)
    overrides: dict[str, Any] = dict(file.settings) if file is not None else {}
    overrides |= options.parse_settings(settings or ())
    protocol_settings: dict[str, Any] = dict(file.protocol) if file is not None else {}
    protocol_settings |= options.parse_settings(protocol or (), "--protocol")
    for name, value in (("query_budget", query_budget), ("bad_query_budget", bad_query_budget)):
        if value is not None:
            protocol_settings[name] = value
    need_folder(out_dir, "--out")
    need_folder(runs, "--runs")
    # Of the processes that torchrun started, only the first one prints and writes.
    number, many = launched()
    # Before torch is loaded, which takes seconds.
    if not quiet and number == 0:
        which = f"seeds {', '.join(map(str, chosen))}" if len(chosen) > 1 else f"seed {chosen[0]}"
        text = f"run: {agent} on {env}, budget {budget}, {which}, device {device}"
        console.note(console.one_line(text + (f", {threads} threads" if threads else "")))
    from lazybench.records import write_bytes
    from lazybench.runner.request import RunRequest
    from lazybench.sweep.process import REPORT

    # Removed from the environment, so that an agent's child processes don't report as this run.
    report = os.environ.pop(REPORT, None)

    tuning = None
    if tuned is not None:
        search = _tuned(tuned, agent, env, budget, given=[*overrides])
        overrides, tuning = search.settings, search.tuning
    requests = [
        RunRequest(
            agent=agent,
            env=env,
            budget=budget,
            seed=number,
            overrides=overrides,
            protocol=protocol_settings,
            init=init,
            precision=precision,
            device=device,
            threads=threads,
            limit=limit,
            episode_timeout_s=timeout_per_episode,
            out=out_dir,
            runs=runs,
            force=force,
            isolated=isolated,
            allow_overlap=allow_overlap,
            tuning=tuning,
        )
        for number in chosen
    ]
    from lazybench.runner.callbacks import SILENT, make_tracker

    tracker = SILENT if track is None else make_tracker(track, runs)
    records = []
    for request in requests:
        if len(requests) > 1 and not quiet:
            console.note(f"seed {request.seed}")
        record = _run(request, tracker, quiet=quiet, first=number == 0)
        records.append(record)
        if report is not None and number == 0:
            write_bytes(Path(report), record.to_json().encode("ascii"))
        if json and number == 0:
            console.line(json_text.dumps(json_text.loads(record.to_json())))
    if number == 0:
        publish(records, out_dir, show=not (json or quiet), write=not no_boards)
    bad = [record for record in records if record.status != "ok"]
    who = f"rank {number}: " if many > 1 else ""
    for record in bad:
        why = record.reason or "no reason"
        console.note(console.one_line(f"{who}seed {record.seed}: {record.status}: {why}"))
    if bad:
        raise typer.Exit(BAD_RUN)


def _tuned(folder: Path, agent: str, env: str, budget: str, given: Sequence[str]) -> TuningResult:
    """The result of a search, which must be of this agent, environment and budget.

    Raises:
        UsageError: it is of others, or settings are given as well.
    """
    from lazybench.errors import UsageError
    from lazybench.runner.request import resolve_env
    from lazybench.sweep.tune import read_tuning

    if given:
        raise UsageError(
            "give either --tuned or --set: settings are tuned together (lazybench tune takes "
            "--set, too)"
        )
    tuning = read_tuning(folder)
    for name, value, tuned in (
        ("agent", agent, tuning.agent),
        ("env", resolve_env(env)[0].id, tuning.env),
        ("budget", budget, tuning.budget),
    ):
        if value != tuned:
            raise UsageError(
                f"{folder} holds a search for {name} '{tuned}', got '{value}'; settings hold only "
                f"for what they were tuned on: give --{name} {tuned}, or tune again"
            )
    return tuning


def _run(request: RunRequest, tracker: Callback, *, quiet: bool, first: bool) -> Record:
    """The record of one run."""
    from lazybench.cli.progress import watching
    from lazybench.runner.run import run

    with watching(quiet=quiet or not first) as watch:
        return run(request, watch=watch, tracker=tracker)


def publish(records: Sequence[Record], root: Path, *, show: bool, write: bool = True) -> None:
    """Print the boards of some records, and update the board files.

    Args:
        records: records of one environment.
        root: folder of the store.
        show: whether to print the boards.
        write: whether to write the board files that changed.
    """
    from lazybench import boards
    from lazybench.boards.plot_data import gamma_text
    from lazybench.boards.render import board_text
    from lazybench.records import Store

    store = Store(root)
    if show:
        new = {record.key12 for record in records}
        everything = store.records(env=records[0].env.id)
        for table in boards.tables(everything):
            if any(record.key12 in new for record in table):
                for board in boards.build(table):
                    console.line(board_text(board, new=new, columns=console.width()))
        for record in records:
            which = f"seed {record.seed}: " if len(records) > 1 else ""
            if score := _score_text(record):
                console.line(f"seed {record.seed}: {score}")
            if line := gamma_text(record.diagnostics):
                console.line(f"{which}{line}")
            console.line(f"{which}record: {store.path(record)}")
    if write:
        boards.write(store)


def _score_text(record: Record) -> str:
    """The run's own score with its interval; empty without one."""
    metric = record.metrics.get(record.env.metric)
    if metric is None or metric.value is None:
        return ""
    from lazybench.boards.group import factor

    scale = factor(record)
    unit = " %" if metric.unit == "fraction" else f" {metric.unit}".rstrip()
    text = f"{record.env.metric} {scale * metric.value:.4g}{unit}"
    low, high = metric.ci95 or (None, None)
    if low is None or high is None:
        return text
    low, high = scale * low, scale * high
    return f"{text}, 95 % interval over trials {low:.4g} to {high:.4g}"


class Split(enum.StrEnum):
    """Splits of an environment."""

    test = "test"
    val = "val"
    train = "train"


@command(
    "evaluate",
    "lazybench evaluate 3f9c01d2 --env omniglot-5way-1shot",
    "lazybench evaluate runs/protonet-glyphs-5way-1shot-s0-3f9c01d2aa17 --env glyphs-20way-5shot",
    "lazybench evaluate 3f9c01d2 --step last --set test_steps=50",
    "lazybench evaluate 3f9c01d2 --split train",
)
def evaluate_command(  # noqa: PLR0913 - one parameter for each option
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder or key. Keys may be abbreviated.",
            autocompletion=options.complete_run,
        ),
    ],
    env: Annotated[str | None, options.env("[default: the run's]")] = None,
    step: Annotated[
        str, typer.Option("--step", help="Checkpoint: best, last, or the number of its step.")
    ] = "best",
    split: Annotated[
        Split, typer.Option("--split", help="Split of the trials; only test gives a record.")
    ] = Split.test,
    budget: Annotated[
        str | None, options.budget("Sets the number of test trials. [default: the run's]")
    ] = None,
    settings: Annotated[list[str] | None, options.setting("Settings of evaluation only.")] = None,
    protocol: Annotated[
        list[str] | None, options.protocol("[default: the run's, on its own environment]")
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    limit: options.Limit = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a finished run on another environment, split or checkpoint.

    Prints the score. A score on test trials is recorded in the transfer block of its board.
    """
    overrides = options.parse_settings(settings or ())
    need_folder(out_dir, "--out")
    from lazybench.cli.progress import watching
    from lazybench.runner.transfer import TransferRequest, transfer

    request = TransferRequest(
        run=run,
        env=env,
        protocol=options.parse_settings(protocol or (), "--protocol"),
        step=step,
        split=split.value,
        overrides=overrides,
        budget=budget,
        limit=limit,
        device=device,
        threads=threads,
        out=out_dir,
        runs=runs,
    )
    with watching(quiet=quiet) as watch:
        result = transfer(request, watch=watch)
    if json and result.record is not None:
        console.line(json_text.dumps(json_text.loads(result.record.to_json())))
    elif json:
        facts = {"agent": result.agent, "env": result.env, "split": result.split}
        metric = result.metric.model_dump(mode="json")
        console.as_json(facts | {"trained_on": result.trained_on, "metric": metric})
    else:
        console.line(_text(result))
    if result.record is not None:
        publish([result.record], out_dir, show=not (json or quiet))


def _text(result: TransferResult) -> str:
    """One line: agent, environments, and the score with its interval."""
    return (
        f"{result.agent}, trained on {result.trained_on}, on {result.split} trials of "
        f"{result.env}: {metric_text(result.metric)}"
    )


def metric_text(metric: Metric) -> str:
    """Return a score with its interval and its number of trials."""
    scale, unit = (100.0, " %") if metric.unit == "fraction" else (1.0, f" {metric.unit}")
    most = 1.0 if metric.unit == "fraction" else math.inf

    def shown(number: float) -> str:
        return f"{scale * number:.2f}" if metric.unit == "fraction" else f"{number:.4g}"

    value = "no score" if metric.value is None else f"{shown(metric.value)}{unit}"
    low, high = metric.ci95 or (None, None)
    ends = (
        ""
        if low is None or high is None
        else f" ({shown(max(low, 0))} to {shown(min(high, most))})"
    )
    return f"{value}{ends}, {metric.n} trials"


@command(
    "forget",
    "lazybench forget runs/protonet-glyphs-5way-1shot-s0-3f9c01d2aa17 --yes",
    "lazybench forget 3f9c01d2 --yes",
)
def forget_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RECORD",
            help="A run's folder, a record's file, or the first digits of a key.",
            autocompletion=options.complete_key,
        ),
    ],
    yes: options.Yes = False,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
) -> None:
    """Remove a run's folder, or move a record to quarantine and update the boards.

    A key that both have names the record. Of a folder, only what lazybench wrote is removed.
    Without --yes, nothing is changed.
    """
    from lazybench.records import Store

    store = Store(need_folder(out_dir, "--out"))
    path = _find(target, store, runs)
    if path.is_dir():
        _forget_run(path, yes=yes)
    else:
        _forget_record(path, store, yes=yes)


def _find(target: str, store: Store, runs: Path) -> Path:
    """Return the folder of a run or the file of a record; of a key that both have, the record's.

    Raises:
        UnknownName: there is neither.
        UsageError: there are several runs.
    """
    from lazybench.runner.run_dir import list_runs

    path = Path(target)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{path} isn't a run's folder; see: lazybench list runs")
        return path
    if path.is_file():
        record = store.find(path.stem) if is_key(path.stem) else None
        if record is None or store.path(record).resolve() != path.resolve():
            raise UsageError(f"{path} isn't a record of {store.root}; give its folder with --out")
        return path
    if not is_key(target):
        raise UsageError(
            f"RUN|RECORD takes a folder, a file or at least {KEY_DIGITS} hex digits of a key, got "
            f"'{target}'"
        )
    paths = [run.path for run in list_runs(runs) if run.key12.startswith(target[:12])]
    record = store.find(target)
    if record is not None:
        for run in paths:
            console.note(f"the run's folder stays: {run}; remove it with: lazybench forget {run}")
        return store.path(record)
    if not paths:
        raise UnknownName(
            f"no run in {runs} and no record in {store.root} has a key that begins with "
            f"'{target}'; see: lazybench list runs"
        )
    if len(paths) > 1:
        raise UsageError(f"'{target}' names several; give one: {', '.join(map(str, paths))}")
    return paths[0]


def _forget_run(folder: Path, *, yes: bool) -> None:
    from lazybench.runner.run_dir import remove_run

    if not yes:
        raise UsageError(f"this removes the run {folder}; add --yes to do it")
    kept = remove_run(folder)
    console.line(f"removed {folder}" + (", but not what lazybench didn't write:" if kept else ""))
    for path in kept:
        console.line(f"  {path}")


def _forget_record(path: Path, store: Store, *, yes: bool) -> None:
    from lazybench.boards import write
    from lazybench.doctor import Quarantine, move

    if not yes:
        raise UsageError(
            f"this moves the record {path} to quarantine and updates the boards; add --yes to do it"
        )
    place = move(path, store.root, Quarantine())
    write(store)
    console.line(f"{path}: moved to {place}")
