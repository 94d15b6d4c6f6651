"""The program: its commands in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from lazybench._version import __version__
from lazybench.cli import (
    attack,
    check,
    compare,
    console,
    data,
    leaderboard,
    listing,
    paper,
    run,
    show,
    sweep,
    verify,
)
from lazybench.cli.command import EXIT_CODES, PLAIN, Command, Group, examples

COMMANDS: tuple[Command | Group, ...] = (
    *(run.run_command, sweep.sweep_command, paper.reproduce_command, sweep.tune_command),
    *(run.evaluate_command, listing.list_command, show.show_command, run.forget_command),
    *(leaderboard.leaderboard_command, compare.compare_command, compare.table_command),
    *(compare.power_command, compare.matrix_command),
    *(verify.verify_command, verify.audit_command, verify.trials_command, verify.score_command),
    *(data.DATA, attack.TARGETS, attack.attack_command, show.cite_command),
    *(check.new_command, check.check_command, check.doctor_command, listing.version_command),
)
EXAMPLES = (
    "lazybench list agents",
    "lazybench run --agent lazy_reptile --env tiered-20way",
    "lazybench leaderboard --env tiered-20way",
)


def make_app() -> typer.Typer:
    """Return the application with all its commands."""
    app = typer.Typer(
        epilog=examples(EXAMPLES) + "\n\n\b\nExit codes:\n  " + "\n  ".join(EXIT_CODES),
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        **PLAIN,
    )
    app.callback()(_root)
    for each in COMMANDS:
        each.add_to(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        console.line(f"lazybench {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Benchmarks for meta-learning: few-shot, long-tailed and black-box attack tasks."""
