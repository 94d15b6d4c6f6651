"""`lazybench evaluate`: judge what a run has learned on other tasks, or at another step."""

from __future__ import annotations

import enum
import json as json_text
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out

if TYPE_CHECKING:
    from lazybench.harness.transfer import Judgement
    from lazybench.records import Metric

HELP = "Judge a finished run on another environment, another split or at another step."
EXAMPLES = (
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
    from lazybench.cli.run import publish
    from lazybench.harness.transfer import TransferRequest, transfer

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
        out.line(json_text.dumps(json_text.loads(judged.record.to_json())))
    elif json:
        facts = {"agent": judged.agent, "env": judged.env, "split": judged.split}
        metric = judged.metric.model_dump(mode="json")
        out.as_json(facts | {"trained_on": judged.trained_on, "metric": metric})
    else:
        out.line(_text(judged))
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
