"""`lazybench run`: train an agent, judge it, record it, and show where it stands."""

from __future__ import annotations

import enum
import json as json_text
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options

if TYPE_CHECKING:
    from lazybench.records import Metric, Record
    from lazybench.runner.callbacks import Tracker
    from lazybench.runner.request import RunRequest
    from lazybench.runner.transfer import Judgement
    from lazybench.sweep.tune import Found


HELP = "Train an agent on an environment, judge it and record it."
EXAMPLES = (
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
    "lazybench run -a chance -e glyphs-5way-1shot --json --quiet > record.json",
    "torchrun --standalone --nproc-per-node 4 -m lazybench run -a maml -e omniglot-20way-5shot",
)
BAD_RUN = 3


def run_command(  # noqa: PLR0913 - one parameter for each option
    agent: Annotated[
        str,
        typer.Option(
            "--agent",
            "-a",
            help="Agent: an id, or FILE.py:CLASS.",
            autocompletion=options.complete_agent,
        ),
    ],
    env: options.Env,
    budget: options.Budget = "small",
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", min=0, help="Seed of training. [default: 0]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Several seeds: 0-2, or 0,3,5.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Replace a setting; repeatable."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="NAME=VALUE",
            help="Replace a setting of the environment, such as norm=linf; repeatable.",
        ),
    ] = None,
    query_budget: Annotated[
        int | None,
        typer.Option("--query-budget", min=1, help="Queries an attacker has for an image."),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            "--tuned", metavar="DIR", help="Take the settings that lazybench tune found there."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="FILE|RUN",
            help="Start from these weights: FILE.safetensors, a run's folder or key.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, tf32 (CUDA) or bf16.")
    ] = "fp32",
    isolated: options.Isolated = False,
    track: Annotated[
        str | None,
        typer.Option(
            "--track",
            metavar="WHAT",
            help="Show the run elsewhere: tensorboard[:DIR], or MODULE:FACTORY of a tracker.",
        ),
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    timeout_per_episode: options.TimeoutPerEpisode = None,
    limit: options.Limit = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Run again even where a record stands.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Only the record on stdout, one line of JSON a seed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no board.")] = False,
    no_boards: Annotated[
        bool,
        typer.Option(
            "--no-boards",
            help="Leave the board files as they are, as for one of many jobs; afterwards: "
            "lazybench leaderboard --write",
        ),
    ] = False,
) -> None:
    """Run each seed, print the board it stands on, and write the board files anew.

    Raises:
        LazybenchError: as the harness has it.
        typer.Exit: a run ended without a score, or was interrupted.
    """
    chosen = options.parse_seeds(seed, seeds)
    overrides = options.parse_settings(settings or ())
    asked: dict[str, Any] = dict(options.parse_settings(protocol or (), "--protocol"))
    if query_budget is not None:
        asked = {**asked, "query_budget": query_budget}
    need_folder(out_dir, "--out")
    need_folder(runs, "--runs")
    from lazybench.records import write_bytes
    from lazybench.runner.request import RunRequest
    from lazybench.runtime import distributed
    from lazybench.sweep.process import REPORT

    # Taken out, so that what an agent begins hands nothing over in this run's name.
    report = os.environ.pop(REPORT, None)

    tuning = None
    if tuned is not None:
        settled = _tuned(tuned, agent, env, budget, given=settings or ())
        overrides, tuning = settled.settings, settled.tuning
    # Of the processes that torchrun started, the first alone shows and writes.
    number, many = distributed.launched()
    requests = [
        RunRequest(
            agent=agent,
            env=env,
            budget=budget,
            seed=number,
            overrides=overrides,
            protocol=asked,
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
            tuning=tuning,
        )
        for number in chosen
    ]
    from lazybench.runner.callbacks import UNTRACKED, make_tracker

    tracker = UNTRACKED if track is None else make_tracker(track, runs)
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


def _tuned(folder: Path, agent: str, env: str, budget: str, given: Sequence[str]) -> Found:
    """What a search found, once it was one for this agent, environment and budget.

    Raises:
        UsageError: it wasn't, or settings are given beside it.
    """
    from lazybench.errors import UsageError
    from lazybench.runner.request import resolve_env
    from lazybench.sweep.tune import read_found

    if given:
        raise UsageError(
            "give either --tuned or --set: what was tuned is all settings together "
            "(lazybench tune takes --set, too)"
        )
    found = read_found(folder)
    asked = {"agent": agent, "env": resolve_env(env)[0].id, "budget": budget}
    for name, value in asked.items():
        if value != (told := getattr(found, name)):
            raise UsageError(
                f"{folder} holds a search for {name} '{told}', got '{value}'; settings are tuned "
                f"for what they run on: give --{name} {told}, or tune anew"
            )
    return found


def _run(request: RunRequest, tracker: Tracker, *, quiet: bool, first: bool) -> Record:
    """The record of one run."""
    from lazybench.cli.progress import watching
    from lazybench.runner.run import run

    with watching(quiet=quiet or not first) as watch:
        return run(request, watch=watch, tracker=tracker)


def publish(records: Sequence[Record], root: Path, *, show: bool, write: bool = True) -> None:
    """Show the boards that the records stand on, and bring the board files up to date.

    Args:
        records: of one environment.
        root: the store.
        show: whether to print the boards.
        write: whether to write board files, those that the store's changes touch.
    """
    from lazybench import boards
    from lazybench.boards.pictures import gamma_text
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
            if line := gamma_text(record.diagnostics):
                console.line(f"{which}{line}")
            console.line(f"{which}record: {store.path(record)}")
    if write:
        boards.write(store)


EVALUATE_HELP = "Judge a finished run on another environment, another split or at another step."
EVALUATE_EXAMPLES = (
    "lazybench evaluate 3f9c01d2 --env omniglot-5way-1shot",
    "lazybench evaluate runs/protonet-glyphs-5way-1shot-s0-3f9c01d2aa17 --env glyphs-20way-5shot",
    "lazybench evaluate 3f9c01d2 --step last --set test_steps=50",
    "lazybench evaluate 3f9c01d2 --split train",
)


class Split(enum.StrEnum):
    """Splits of an environment."""

    test = "test"
    val = "val"
    train = "train"


def evaluate_command(  # noqa: PLR0913 - one parameter for each option
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, or the first digits of its key.")
    ],
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            "-e",
            help="Environment id or alias. [default: the run's own]",
            autocompletion=options.complete_env,
        ),
    ] = None,
    step: Annotated[
        str, typer.Option("--step", help="best, last, or the number of a kept checkpoint.")
    ] = "best",
    split: Annotated[Split, typer.Option("--split", help="Only test gives a record.")] = Split.test,
    budget: Annotated[
        str | None,
        typer.Option("--budget", "-b", help="Whose number of trials. [default: the run's]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Replace a setting of judging."),
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    limit: options.Limit = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no board.")] = False,
) -> None:
    """Judge a run, print the score, and keep a record of it in the transfer block of its board.

    Raises:
        LazybenchError: as the harness has it.
    """
    overrides = options.parse_settings(settings or ())
    need_folder(out_dir, "--out")
    from lazybench.cli.progress import watching

    pass
    from lazybench.runner.transfer import TransferRequest, transfer

    request = TransferRequest(
        run=run,
        env=env,
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
        judged = transfer(request, watch=watch)
    if json and judged.record is not None:
        console.line(json_text.dumps(json_text.loads(judged.record.to_json())))
    elif json:
        facts = {"agent": judged.agent, "env": judged.env, "split": judged.split}
        metric = judged.metric.model_dump(mode="json")
        console.as_json(facts | {"trained_on": judged.trained_on, "metric": metric})
    else:
        console.line(_text(judged))
    if judged.record is not None:
        publish([judged.record], out_dir, show=not (json or quiet))


def _text(judged: Judgement) -> str:
    """One line: who was judged on what, and the score with its interval."""
    return (
        f"{judged.agent}, trained on {judged.trained_on}, on {judged.split} trials of "
        f"{judged.env}: {metric_text(judged.metric)}"
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
