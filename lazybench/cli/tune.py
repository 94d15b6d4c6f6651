"""`lazybench tune`: search an agent's settings on validation tasks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out

if TYPE_CHECKING:
    from lazybench.harness.tune import Tried

HELP = "Search an agent's settings on validation tasks; the same command continues."
EXAMPLES = (
    "lazybench tune protonet --env glyphs-20way-5shot --trials 9",
    "lazybench tune maml --env glyphs-20way-5shot --trials 9 --search inner_lr=0.01..1 "
    "--search inner_steps=1,5,10",
)


def tune_command(  # noqa: PLR0913 - one parameter for each option
    agent: Annotated[
        str,
        typer.Argument(
            help="Agent: an id, or FILE.py:CLASS.", autocompletion=options.complete_agent
        ),
    ],
    env: options.Env,
    trials: Annotated[
        int, typer.Option("--trials", "-n", min=1, help="Configurations, the preset among them.")
    ] = 9,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="NAME=LO..HI|A,B,C",
            help="What is searched; repeatable. [default: step sizes, a tenth to ten times]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Fix a setting; repeatable."),
    ] = None,
    budget: options.Budget = "small",
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Of draws and trainings.")] = 0,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    runs: options.Runs = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Trials on stdout as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Try configurations and print them, best first, with the command that runs the best one.

    Raises:
        LazybenchError: as the harness has it.
    """
    overrides = options.parse_settings(settings or ())
    need_folder(runs, "--runs")
    from lazybench.cli.progress import watching
    from lazybench.harness.request import RunRequest
    from lazybench.harness.tune import best, read_axis, tune

    axes = dict(read_axis(text) for text in search) if search else None
    request = RunRequest(
        agent=agent,
        env=env,
        budget=budget,
        seed=seed,
        overrides=overrides,
        device=device,
        threads=threads,
        runs=runs,
    )
    with watching(quiet=quiet or json) as watch:
        folder, found = tune(request, trials, axes, watch)
    if len(found) < trials:
        out.note(
            f"{trials} trials were asked for, but what is searched has {len(found)} distinct "
            "settings, the preset among them: each was tried once"
        )
    ordered = best(found)
    if json:
        out.as_json([asdict(tried) for tried in ordered])
        return
    out.line(_table(ordered))
    if ordered[0].val is not None:
        words = ["lazybench", "run", "--agent", agent, "--env", env, "--budget", budget]
        words += ["--tuned", str(folder)]
        out.note(f"the best of {len(found)}: {shlex.join(words)}")
    out.note(f"kept in {folder}; higher validation scores are better")


def _table(found: Sequence[Tried]) -> str:
    rows = [
        (
            str(tried.number),
            ", ".join(f"{name}={value}" for name, value in tried.settings.items()) or "preset",
            tried.reason if tried.val is None else f"{tried.val:.4f}",
            str(tried.step),
            out.seconds(tried.cpu_s),
        )
        for tried in found
    ]
    return out.table(
        ("trial", "settings", "validation", "at step", "CPU"), rows, columns=out.width()
    )
