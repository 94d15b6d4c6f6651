"""The commands put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from lazybench._version import __version__
from lazybench.cli import (
    attack,
    check,
    compare,
    console,
    data,
    doctor,
    leaderboard,
    listing,
    paper,
    run,
    show,
    sweep,
    verify,
)
from lazybench.cli import (
    attack as targets,
)
from lazybench.cli import (
    check as new,
)
from lazybench.cli import (
    compare as table,
)
from lazybench.cli import (
    data as data_get,
)
from lazybench.cli import (
    data as data_import,
)
from lazybench.cli import (
    listing as version,
)
from lazybench.cli import (
    run as evaluate,
)
from lazybench.cli import (
    show as cite,
)
from lazybench.cli import (
    sweep as tune,
)
from lazybench.cli import (
    verify as audit,
)
from lazybench.cli import (
    verify as score,
)
from lazybench.cli import (
    verify as trials,
)
from lazybench.cli.errors import guarded

ABOUT = "Few-shot, long-tailed and blackbox-attack benchmarks for meta-learners, lazy ones first."
EXAMPLES = (
    "lazybench list agents",
    "lazybench run --agent lazy_reptile --env tiered-20way",
    "lazybench leaderboard --env tiered-20way",
)
EXIT_CODES = (
    "0 fine, 1 a bug or a failed check, 2 usage, 3 a run diverged or failed,",
    "69 data missing or damaged, 73 output can't be written, 74 input/output,",
    "75 another process is at it, 130 and 143 interrupted",
)
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def examples(commands: Sequence[str]) -> str:
    """Return command lines as an epilog that keeps its line breaks."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def make_app() -> typer.Typer:
    """Return the application with all its commands."""
    # Plain help: it costs no import of rich, and fits pipes, narrow terminals and NO_COLOR.
    plain: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
    app = typer.Typer(
        help=ABOUT,
        epilog=examples(EXAMPLES) + "\n\n\b\nExit codes:\n  " + "\n  ".join(EXIT_CODES),
        no_args_is_help=True,
        context_settings=_SETTINGS,
        **plain,
    )
    app.callback()(_root)

    def add(
        to: typer.Typer, name: str, command: Callable[..., None], about: str, lines: Sequence[str]
    ) -> None:
        entry = guarded(command, shares=command is run.run_command)
        to.command(name, help=about, short_help=about, epilog=examples(lines))(entry)

    add(app, "run", run.run_command, run.HELP, run.EXAMPLES)
    add(app, "sweep", sweep.sweep_command, sweep.HELP, sweep.EXAMPLES)
    add(app, "reproduce", paper.reproduce_command, paper.HELP, paper.EXAMPLES)
    add(app, "tune", tune.tune_command, tune.TUNE_HELP, tune.TUNE_EXAMPLES)
    add(
        app,
        "evaluate",
        evaluate.evaluate_command,
        evaluate.EVALUATE_HELP,
        evaluate.EVALUATE_EXAMPLES,
    )
    add(app, "list", listing.list_command, listing.HELP, listing.EXAMPLES)
    add(app, "show", show.show_command, show.SHOW_HELP, show.SHOW_EXAMPLES)
    add(
        app,
        "leaderboard",
        leaderboard.leaderboard_command,
        leaderboard.HELP,
        leaderboard.EXAMPLES,
    )
    add(app, "compare", compare.compare_command, compare.HELP, compare.EXAMPLES)
    add(app, "table", table.table_command, table.TABLE_HELP, table.TABLE_EXAMPLES)
    add(app, "verify", verify.verify_command, verify.HELP, verify.EXAMPLES)
    add(app, "audit", audit.audit_command, audit.AUDIT_HELP, audit.AUDIT_EXAMPLES)
    add(app, "trials", trials.trials_command, trials.TRIALS_HELP, trials.TRIALS_EXAMPLES)
    add(app, "score", score.score_command, score.SCORE_HELP, score.SCORE_EXAMPLES)
    of_data = typer.Typer(
        help=data.HELP, epilog=examples(data.EXAMPLES), no_args_is_help=True, **plain
    )
    add(of_data, "list", data.list_command, data.LIST_HELP, data.LIST_EXAMPLES)
    add(of_data, "where", data.where_command, data.WHERE_HELP, data.WHERE_EXAMPLES)
    add(of_data, "get", data_get.get_command, data_get.DATA_GET_HELP, data_get.DATA_GET_EXAMPLES)
    add(of_data, "verify", data.verify_command, data.VERIFY_HELP, data.VERIFY_EXAMPLES)
    add(
        of_data,
        "import",
        data_import.import_command,
        data_import.DATA_IMPORT_HELP,
        data_import.DATA_IMPORT_EXAMPLES,
    )
    add(
        of_data,
        "forget",
        data_import.forget_command,
        data_import.FORGET_HELP,
        data_import.FORGET_EXAMPLES,
    )
    app.add_typer(of_data, name="data")
    of_targets = typer.Typer(
        help=targets.TARGETS_HELP,
        epilog=examples(targets.TARGETS_EXAMPLES),
        no_args_is_help=True,
        **plain,
    )
    add(of_targets, "list", targets.list_command, targets.LIST_HELP, targets.LIST_EXAMPLES)
    add(of_targets, "train", targets.train_command, targets.TRAIN_HELP, targets.TRAIN_EXAMPLES)
    app.add_typer(of_targets, name="targets")
    add(app, "attack", attack.attack_command, attack.HELP, attack.EXAMPLES)
    add(app, "cite", cite.cite_command, cite.HELP, cite.EXAMPLES)
    add(app, "new", new.new_command, new.NEW_HELP, new.NEW_EXAMPLES)
    add(app, "check", check.check_command, check.HELP, check.EXAMPLES)
    add(app, "doctor", doctor.doctor_command, doctor.HELP, doctor.EXAMPLES)
    add(app, "version", version.version_command, version.VERSION_HELP, version.VERSION_EXAMPLES)
    return app


def _print_version(asked: bool) -> None:
    if asked:
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
    """Take the options that stand before any command."""
