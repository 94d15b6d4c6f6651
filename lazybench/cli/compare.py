"""`lazybench compare`, `power`, `table` and `matrix`: two agents paired, and many as a table."""

from __future__ import annotations

import enum
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import UnknownName, UsageError
from lazybench.files import need_folder

if TYPE_CHECKING:
    from lazybench.boards.compare import Comparison, Plan, Size
    from lazybench.boards.matrix import MatrixCell
    from lazybench.boards.pivot import Pivot, Wanted
    from lazybench.records import Record


@command(
    "compare",
    "lazybench compare lazy_reptile reptile_matched --env glyphs-20way-5shot",
    "lazybench compare maml reptile --env omniglot-5way-1shot --batch-norm inductive",
    "lazybench compare two_component drw --env cifar100-lt-100 --json",
    "lazybench compare square bandits --env mnist-net4-untargeted --protocol query_budget=3000",
    "lazybench compare 3f9c01d2 a7715e90 --env glyphs-5way-1shot --plot scatter.png",
)
def compare_command(  # noqa: PLR0913 - one parameter for each option
    left: options.Row,
    right: options.Row,
    env: options.Env,
    budget: options.Budget = "small",
    protocol: options.Protocol = None,
    data: options.BoardData = None,
    batch_norm: options.RowNorm = None,
    out_dir: options.Out = Path("leaderboards"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write a scatter plot of the trials' scores (PNG or SVG)."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare two agents on the trials they share: paired difference, interval, p.

    The difference is LEFT - RIGHT.
    """
    from lazybench.boards.compare import compare, comparison_text

    if plot is not None:
        _check_plot(plot)
    rows = (left, right)
    records = _records_of(env, budget, protocol, out_dir, data=data, rows=rows, quiet=json)
    comparison = compare(records, left, right, norm=batch_norm)
    if plot is not None:
        _draw(comparison, plot)
    if json:
        console.as_json(_facts(comparison))
        return
    console.line(comparison_text(comparison, columns=console.width()))


def _records_of(  # noqa: PLR0913 - one parameter for each option
    env: str,
    budget: str,
    protocol: Sequence[str] | None,
    out: Path,
    *,
    data: str | None,
    rows: Sequence[str],
    quiet: bool,
) -> list[Record]:
    """Return the records of the one board of an environment, budget, protocol and data.

    Raises:
        UnknownName: no board has them.
        UsageError: several boards have them.
    """
    from lazybench.boards.views import select_table, stored_env
    from lazybench.records import Store
    from lazybench.runner.request import check_budget

    store = Store(need_folder(out, "--out"))
    env_id, note = stored_env(store, env)
    if note and not quiet:
        console.note(note)
    settings = options.parse_settings(protocol or [], "--protocol")
    return select_table(store, env_id, check_budget(budget), settings, data=data, rows=rows)


def _facts(comparison: Comparison) -> dict[str, object]:
    sides = {
        name: {
            "name": side.name,
            "keys": list(side.keys),
            "flags": list(side.flags),
            **side.summary._asdict(),
            "over_classes": side.over_classes,
        }
        for name, side in (("left", comparison.left), ("right", comparison.right))
    }
    plain = {
        name: value
        for name, value in asdict(comparison).items()
        if name not in ("left", "right", "difference", "over_trials")
    }
    over = {"difference": comparison.difference, "difference_over_trials": comparison.over_trials}
    return {**plain, **sides, **{name: each._asdict() for name, each in over.items()}}


@command(
    "power",
    "lazybench power lazy_reptile reptile --env omniglot-5way-1shot",
    "lazybench power lazy_maml maml --env cifarfs-5way-5shot --difference 2 --power 0.9 --json",
)
def power_command(  # noqa: PLR0913 - one parameter for each option
    left: options.Row,
    right: options.Row,
    env: options.Env,
    difference: Annotated[
        float,
        typer.Option("--difference", help="True difference to detect, in the board's unit."),
    ] = 1.0,
    power: Annotated[
        float, typer.Option("--power", help="Chance of detecting it, between .05 and 1.")
    ] = 0.8,
    budget: options.Budget = "small",
    protocol: options.Protocol = None,
    data: options.BoardData = None,
    batch_norm: options.RowNorm = None,
    out_dir: options.Out = Path("leaderboards"),
    json: options.Json = False,
) -> None:
    """Show how many trials, classes and seeds are needed to detect a difference.

    The variances are those of the stored records' paired difference.
    """
    from lazybench.boards.compare import check_aim, plan

    check_aim(difference, power)
    rows = (left, right)
    board = _records_of(env, budget, protocol, out_dir, data=data, rows=rows, quiet=json)
    sizes = plan(board, left, right, difference=difference, power=power, norm=batch_norm)
    if json:
        console.as_json(asdict(sizes) | {name: _named(vars(sizes)[name]) for name in _SIZES})
        return
    console.line(_plan_text(sizes))


_SIZES = ("now", "together")


def _named(size: Size | None) -> dict[str, int | None] | None:
    return None if size is None else size._asdict()


def _plan_text(plan: Plan) -> str:
    unit = f" {plan.unit}"
    of = plan.variances
    together = (None, None, None) if plan.together is None else plan.together
    alone = (plan.trials, plan.classes, plan.seeds)
    needed = zip(("trials", "classes", "seeds"), plan.now, alone, together, strict=True)
    sizes = [
        (name, f"{now:,}", _needed(only), _needed(all_three))
        for name, now, only, all_three in needed
        if now is not None
    ]
    spreads = (
        ("seeds", of.seeds, "of a pair of models"),
        ("classes", of.classes, "of a class's effect"),
        ("trials", of.trials, "of a trial, for all seeds"),
        ("chance", of.chance, "of a trial, for one seed"),
    )
    rows = [(name, f"{math.sqrt(variance):.2f}", what) for name, variance, what in spreads]
    if plan.now.classes is None:
        rows = [row for row in rows if row[0] != "classes"]
    width = console.width()
    return "\n".join(
        [
            f"{plan.left} - {plan.right} on {plan.env}: {plan.observed:+.2f}{unit} in "
            f"{plan.metric}",
            f"A true difference of {plan.difference:g}{unit} would be detected with a chance of "
            f"{100 * plan.power:.0f} % now; wanted: {100 * plan.wanted:.0f} %.",
            "",
            console.table(("", "now", "more of it alone", "all together"), sizes, columns=width),
            "",
            console.table(("varies with", f"sd,{unit}", ""), rows, columns=width),
        ]
    )


def _needed(number: int | None) -> str:
    return "no number" if number is None else f"{number:,}"


def _check_plot(path: Path) -> None:
    """Check that a plot may be written, before the records are read.

    Raises:
        UsageError: the file is neither .png nor .svg.
        OutputUnavailable: a file that lazybench didn't draw has the path, or it can't be written.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot takes a .png or .svg file, got '{path}'")
    from lazybench.boards.plots import check_picture

    check_picture(path)


def _draw(comparison: Comparison, path: Path) -> None:
    """Write a scatter plot of the trials' scores.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    from lazybench.boards.plots import compare_picture, write_picture

    write_picture(path, compare_picture(comparison, path.suffix.lower()[1:]))


# A comma in parentheses belongs to the name of a row, such as `reptile (inner_steps=5, lr=0.1)`.
_COMMA = re.compile(r",(?![^(]*\))")


class Format(enum.StrEnum):
    """Output formats of tables."""

    md = "md"
    latex = "latex"
    csv = "csv"


@command(
    "table",
    "lazybench table --batch-norm transductive --agents maml,reptile,lazy_reptile "
    "--envs omniglot-5way-1shot,"
    "omniglot-20way-1shot",
    "lazybench table --agents 'Ours=lazy_reptile,Reptile=reptile' --envs cifarfs-5way-5shot "
    "--format latex > table.tex",
    "lazybench table --agents square,hopskipjump --envs glyphs-net4-untargeted,"
    "mnist-net4-untargeted --protocol query_budget=1000 --metric median_queries",
)
def table_command(  # noqa: PLR0913 - one parameter for each option
    agents: Annotated[
        str,
        typer.Option(
            "--agents",
            "-a",
            autocompletion=options.complete_agents,
            help="Rows, separated by commas: agents, rows of boards or keys; LABEL=NAME renames "
            "a row, NAME|NAME takes the first name that a board has.",
        ),
    ],
    envs: Annotated[
        str,
        typer.Option(
            "--envs",
            "-e",
            help="Columns: environments, separated by commas.",
            autocompletion=options.complete_envs,
        ),
    ],
    budget: options.Budget = "small",
    form: Annotated[Format, options.Format] = Format.md,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Another metric instead of the score.")
    ] = None,
    protocol: options.Protocol = None,
    data: Annotated[
        list[str] | None, options.board_data("Repeatable, for several environments.")
    ] = None,
    batch_norm: Annotated[
        str | None, options.batch_norm("Required if a name has several rows.")
    ] = None,
    out_dir: options.Out = Path("leaderboards"),
) -> None:
    """Print a table for a paper: agents as rows, environments as columns.

    The best number of a column is bold, statistical ties are underlined, and a column has the
    average rank.
    """
    from lazybench.boards import pivot
    from lazybench.boards.views import check_digits
    from lazybench.cli.leaderboard import env_id
    from lazybench.records import Store
    from lazybench.runner.request import check_budget

    check_budget(budget)
    if budget == "smoke":
        raise UsageError(
            "a table shows ranked rows, and smoke runs are never ranked: got --budget smoke; use "
            "small, medium or paper"
        )
    records = Store(need_folder(out_dir, "--out")).records()
    for skipped in records.skipped:
        console.note(console.one_line(str(skipped)))
    known = {record.env.id for record in records}
    choice = pivot.Choice(
        budget=budget,
        protocol=options.parse_settings(protocol or [], "--protocol"),
        data=tuple(check_digits(each) for each in data or ()),
        batch_norm=batch_norm,
        metric=metric,
    )
    columns = [env_id(name, known) for name in split_names(envs, "--envs")]
    wanted = parse_agents(agents)
    table = pivot.pivot(records, wanted, columns, choice)
    _check_unfilled(table, wanted)
    words = ["--agents", agents, "--envs", envs, "--budget", budget, "--format", form.value]
    words += ["--metric", metric] if metric else []
    words += ["--batch-norm", batch_norm] if batch_norm else []
    words += [part for pair in protocol or [] for part in ("--protocol", pair)]
    words += [part for each in data or [] for part in ("--data", each)]
    render = {
        Format.md: pivot.pivot_markdown,
        Format.latex: pivot.pivot_latex,
        Format.csv: pivot.pivot_csv,
    }[form]
    console.text(render(table, command=shlex.join(["lazybench", "table", *words])))


def split_names(text: str, option: str) -> list[str]:
    """Return the names of a list with commas; commas in parentheses don't separate names.

    Raises:
        UsageError: the list is empty, or a name is given twice.
    """
    names = [name.strip() for name in _COMMA.split(text) if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"{option} takes names separated by commas, each once, such as maml,reptile; "
            f"got '{text}'"
        )
    return names


def parse_agents(text: str) -> list[Wanted]:
    """Return the rows of a text of `[LABEL=]NAME[|NAME]`, separated by commas.

    Raises:
        UsageError: the text has no row, or two rows have the same label.
    """
    from lazybench.boards.pivot import Wanted

    wanted = []
    for part in split_names(text, "--agents"):
        label, equals, names = part.partition("=")
        # After a parenthesis, `=` belongs to a setting in the name of a row.
        if not equals or "(" in label:
            label, names = part.partition("|")[0], part
        parts = tuple(name.strip() for name in names.split("|") if name.strip())
        if not parts:
            raise UsageError(f"--agents takes LABEL=NAME or NAME; got '{part}'; name a row")
        wanted.append(Wanted(label.strip(), parts))
    if len({row.label for row in wanted}) < len(wanted):
        raise UsageError(f"--agents gives the same label to two rows: '{text}'; use LABEL=NAME")
    return wanted


def _check_unfilled(table: Pivot, wanted: list[Wanted]) -> None:
    """Check that rows without any number are named after a registered agent.

    Raises:
        UnknownName: a name is neither an agent's nor a row's.
    """
    from lazybench.boards.pivot import unfilled
    from lazybench.registry import AGENTS

    empty = set(unfilled(table))
    for row in wanted:
        known = {spec.id for spec in AGENTS.specs()}
        if row.label in empty and not known & set(row.names):
            try:
                AGENTS.resolve(row.names[0])
            except UnknownName as error:
                raise UnknownName(
                    f"no row '{row.names[0]}' on {', '.join(c.env for c in table.columns)}: {error}"
                ) from error


@command(
    "matrix",
    "lazybench matrix --agent protonet --train glyphs-5way-1shot,omniglot-5way-1shot "
    "--test glyphs-5way-1shot,omniglot-5way-1shot",
    "lazybench matrix --agent reptile --train glyphs-5way-1shot --test glyphs-5way-1shot,"
    "glyphs-5way-5shot --csv > matrix.csv",
)
def matrix_command(  # noqa: PLR0913 - one parameter for each option
    agent: options.Agent,
    train: Annotated[
        str,
        typer.Option(
            "--train",
            help="Environments of training, separated by commas.",
            autocompletion=options.complete_envs,
        ),
    ],
    test: Annotated[
        str,
        typer.Option(
            "--test",
            help="Environments to test on, separated by commas.",
            autocompletion=options.complete_envs,
        ),
    ],
    budget: options.Budget = "small",
    settings: Annotated[
        list[str] | None, options.setting("All settings of the runs that differ from the preset.")
    ] = None,
    batch_norm: Annotated[str, options.batch_norm("[default: transductive]")] = "transductive",
    threads: options.Threads = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a line for each cell.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print a table of train domain against test domain for an agent's finished runs.

    Evaluates each run on the environments that it wasn't tested on yet, as `evaluate` does, and
    records the scores. Cells on the diagonal (trained and tested on one environment) have a star.
    """
    from lazybench.boards.matrix import Wanted, fit_key, matrix, matrix_csv
    from lazybench.cli.compare import split_names
    from lazybench.cli.progress import watching
    from lazybench.cli.run import publish
    from lazybench.records import Store
    from lazybench.runner.request import check_budget, make, resolve_env
    from lazybench.runner.transfer import TransferRequest, transfer

    if csv and json:
        raise UsageError("--csv and --json are two formats: give one of them")
    check_budget(budget)
    homes = [resolve_env(name)[0].id for name in split_names(train, "--train")]
    tests = [resolve_env(name)[0].id for name in split_names(test, "--test")]
    overrides = options.parse_settings(settings or ())
    resolved = make(agent, resolve_env(homes[0])[0], budget, overrides)
    wanted = Wanted(resolved.spec.id, budget, resolved.overrides, batch_norm)
    fresh: list[Record] = []

    with watching(quiet=quiet) as watch:

        def evaluate(run: Record, env: str) -> Record:
            # The run's folder may hold other settings of evaluation than its record.
            chosen = {name: v for name, v in run.overrides.items() if name in resolved.eval_only}
            request = TransferRequest(
                fit_key(run),
                env,
                overrides=chosen,
                budget=budget,
                threads=threads,
                out=out_dir,
                runs=runs,
            )
            record = transfer(request, watch=watch).record
            if record is None:
                raise UsageError(f"{env} gave no record of {run.key12}")
            fresh.append(record)
            return record

        store = Store(need_folder(out_dir, "--out")).records()
        cells = matrix(list(store), wanted, homes, tests, evaluate)
    if fresh:
        publish(fresh, out_dir, show=False)
    if json:
        console.as_json(
            {
                "agent": resolved.spec.id,
                "budget": budget,
                "train": homes,
                "test": tests,
                "cells": [{**asdict(c), "diagonal": c.diagonal} for row in cells for c in row],
            }
        )
    elif csv:
        console.text(matrix_csv(cells))
    else:
        console.line(_matrix_text(cells, tests))


def _matrix_text(cells: list[list[MatrixCell]], tests: list[str]) -> str:
    """The table, then why cells are empty."""
    units = [next((row[i].unit for row in cells if row[i].unit), "") for i in range(len(tests))]
    head = [f"{name}, {unit}" if unit else name for name, unit in zip(tests, units, strict=True)]
    rows = [(row[0].train, *(cell.text for cell in row)) for row in cells]
    table = console.table(("trained on", *head), rows, columns=console.width())
    reasons = dict.fromkeys(
        f"{each.train} on {each.test}: {each.reason}"
        for row in cells
        for each in row
        if each.reason
    )
    return "\n".join([table, "* trained and tested on the same environment", *reasons])
