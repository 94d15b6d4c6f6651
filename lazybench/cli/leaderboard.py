"""`lazybench leaderboard`: boards from the records of a store."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out
from lazybench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.boards import Board
    from lazybench.records import Store

HELP = "Print the boards of the records; write or check their files."
EXAMPLES = (
    "lazybench leaderboard",
    "lazybench leaderboard --env tiered-20way --budget small",
    "lazybench leaderboard --env glyphs-5way-1shot --format csv > board.csv",
    "lazybench leaderboard --write",
    "lazybench leaderboard --check",
)
DIFFERS = 1


class Format(enum.StrEnum):
    """How boards are printed."""

    text = "text"
    md = "md"
    csv = "csv"
    json = "json"


def leaderboard_command(
    env: Annotated[
        str | None,
        typer.Option(
            "--env", "-e", help="Only this environment.", autocompletion=options.complete_env
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="Only this budget: smoke, small or paper.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.text,
    out_dir: options.Out = Path("leaderboards"),
    write: Annotated[
        bool, typer.Option("--write", help="Write the board files of all records anew.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="List board files that differ; exit 1 if any does.")
    ] = False,
) -> None:
    """Print boards; with `write` or `check`, deal with their files instead.

    Raises:
        UsageError: options that exclude each other, or an unknown environment or budget.
        typer.Exit: with `check`, a file differs.
    """
    from lazybench.records import Store

    if write and check:
        raise UsageError("give either --write or --check; --check after --write finds nothing")
    if (write or check) and (env is not None or budget is not None):
        raise UsageError("--write and --check take all records; leave out --env and --budget")
    store = Store(options.need_folder(out_dir, "--out"))
    if check:
        _check(store)
    elif write:
        _write(store)
    else:
        _print(_boards(store, env, budget), form, f"{store.root}{_wanted(env, budget)}")


def _check(store: Store) -> None:
    from lazybench import boards

    differences = boards.check(store)
    for difference in differences:
        out.line(difference)
    if differences:
        raise typer.Exit(DIFFERS)
    out.line(f"{store.root}: every board file is what the records make")


def _write(store: Store) -> None:
    from lazybench import boards

    for path in boards.write(store):
        out.line(str(path))


def _boards(store: Store, env: str | None, budget: str | None) -> list[Board]:
    from lazybench import boards

    records = store.records()
    for skipped in records.skipped:
        out.note(out.one_line(str(skipped)))
    name = None if env is None else env_id(env, {record.env.id for record in records})
    if budget is not None:
        from lazybench.harness.environment import check_budget

        check_budget(budget)
    kept = [
        record
        for record in records
        if name in (None, record.env.id, f"{record.env.id}-v{record.env.version}")
        and budget in (None, record.budget)
    ]
    return boards.build(kept, store.reported())


def env_id(env: str, recorded: set[str]) -> str:
    """Return the canonical id; records of an environment that isn't registered can be shown, too.

    Raises:
        UnknownName: no such environment, and no record of it.
    """
    from lazybench.registry import ENVS

    if env in recorded or env.rpartition("-v")[0] in recorded:
        return env
    try:
        found = ENVS.resolve(env)
    except UnknownName:
        bare, mark, version = env.rpartition("-v")
        if not (mark and version.isdigit()):
            raise
        ENVS.resolve(bare)
        return env
    if found.note:
        out.note(found.note)
    return str(found.spec.id)


def _wanted(env: str | None, budget: str | None) -> str:
    asked = [f"--env {env}" if env else "", f"--budget {budget}" if budget else ""]
    return f" for {' '.join(filter(None, asked))}" if any(asked) else ""


def _print(found: Sequence[Board], form: Format, where: str) -> None:
    from lazybench import boards
    from lazybench.cli import standing

    if form is not Format.text:
        render = {"md": boards.to_markdown, "csv": boards.to_csv, "json": boards.to_json}[form]
        out.text(render(found))
        return
    if not found:
        out.line(f"no records in {where}; make one with: lazybench run --agent AGENT --env ENV")
    width = out.width()
    for i, board in enumerate(found):
        out.line(("\n" if i else "") + standing.board_text(board, columns=width))
        last = i + 1 == len(found) or found[i + 1].env != board.env
        if last and (reported := standing.reported_text(board, columns=width)):
            out.line(f"\n{reported}")
