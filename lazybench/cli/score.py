"""`lazybench score`: another framework's answers, judged and made into a record."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out
from lazybench.cli.evaluate import metric_text

HELP = "Judge predictions for an environment's official trials; a record marked as submitted."
EXAMPLES = (
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
    from lazybench.harness.environment import read_setting
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
        out.line(json_text.dumps(json_text.loads(record.to_json())))
    else:
        limited = "; the first trials only, never ranked" if record.limited else ""
        metric = record.metrics[record.env.metric]
        out.line(f"{name}, submitted, on {record.env.id}: {metric_text(metric)}{limited}")
    if store:
        publish([record], out_dir, show=not (json or quiet))
