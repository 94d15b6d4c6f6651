"""`lazybench matrix`: train domain against test domain."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from lazybench.boards.matrix import MatrixCell
    from lazybench.records import Record


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
    made = make(agent, resolve_env(homes[0])[0], budget, overrides)
    wanted = Wanted(made.spec.id, budget, made.overrides, batch_norm)
    fresh: list[Record] = []

    with watching(quiet=quiet) as watch:

        def evaluate(run: Record, env: str) -> Record:
            # The run's folder may hold other settings of evaluation than its record.
            chosen = {name: v for name, v in run.overrides.items() if name in made.eval_only}
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
                "agent": made.spec.id,
                "budget": budget,
                "train": homes,
                "test": tests,
                "cells": [{**asdict(c), "diagonal": c.diagonal} for row in cells for c in row],
            }
        )
    elif csv:
        console.text(matrix_csv(cells))
    else:
        console.line(_text(cells, tests))


def _text(cells: list[list[MatrixCell]], tests: list[str]) -> str:
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
