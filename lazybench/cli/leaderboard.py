"""`lazybench leaderboard`: boards on a terminal, and the files made from records."""

from __future__ import annotations

import enum
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.boards.render import board_text, reported_text
from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import DataUnavailable, UnknownName, UsageError
from lazybench.files import need_folder

if TYPE_CHECKING:
    from lazybench.boards import Board
    from lazybench.records import Record, Store


DIFFERS = 1


class Format(enum.StrEnum):
    """Output formats of boards."""

    text = "text"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


class PlotFormat(enum.StrEnum):
    """Image formats of plots."""

    png = "png"
    svg = "svg"


@command(
    "leaderboard",
    "lazybench leaderboard",
    "lazybench leaderboard --env tiered-20way --budget small",
    "lazybench leaderboard --env glyphs-5way-1shot --format csv > board.csv",
    "lazybench leaderboard --env omniglot-5way-1shot --format latex > board.tex",
    "lazybench leaderboard --env glyphs-net4-untargeted --isolated-only",
    "lazybench leaderboard --html boards.html",
    "lazybench leaderboard --env cifarfs-5way-5shot --plots pictures --plot-format svg",
    "lazybench leaderboard --into README.md",
    "lazybench leaderboard --write",
    "lazybench leaderboard --check",
)
def leaderboard_command(  # noqa: PLR0913 - one parameter for each option
    env: Annotated[str | None, options.env("[default: all]")] = None,
    budget: Annotated[str | None, options.budget("[default: all]")] = None,
    isolated_only: Annotated[
        bool,
        typer.Option("--isolated-only", help="Only records of isolated policies (run --isolated)."),
    ] = False,
    form: Annotated[Format, options.Format] = Format.text,
    out_dir: options.Out = Path("leaderboards"),
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write all boards as one self-contained HTML page."
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="DIR", help="Write plots of each board to this folder."),
    ] = None,
    plot_format: Annotated[
        PlotFormat, typer.Option("--plot-format", help="Image format of the plots.")
    ] = PlotFormat.png,
    into: Annotated[
        list[Path] | None,
        typer.Option(
            "--into",
            metavar="FILE",
            help="Fill the marked blocks of a Markdown file, or check them with --check; "
            "repeatable.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the board files of all records.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="List board files that differ; exit with 1 if any does.")
    ] = False,
) -> None:
    """Print the boards of all records, or write and check their files.

    With --html, --plots, --into, --write or --check, files are written or checked and no board is
    printed.
    """
    from lazybench.records import Store

    if write and check:
        raise UsageError("give either --write or --check, not both")
    if (write or check) and (env is not None or budget is not None):
        raise UsageError("--write and --check use all records; leave out --env and --budget")
    if (write or check or into) and isolated_only:
        raise UsageError("--write, --check and --into use all records; leave out --isolated-only")
    if (write or check) and (html is not None or plots is not None):
        raise UsageError("--html and --plots don't go with --write and --check; run two commands")
    if into and (write or html is not None or plots is not None or env or budget):
        raise UsageError("--into goes only with --check; its blocks say which boards they show")
    store = Store(need_folder(out_dir, "--out"))
    wanted = _Selection(env, budget, isolated_only)
    if check:
        _check(store, into or [])
    elif into:
        _fill(store, into)
    elif write:
        _write(store)
    elif html is not None or plots is not None:
        if html is not None:
            _check_page(html)
        records, found = _boards(store, wanted)
        if not found:
            raise UsageError(_no_records(store, wanted))
        if html is not None:
            _page(found, records, html, store.root, wanted.command("--html", html.name))
        if plots is not None:
            _draw(found, records, plots, plot_format)
    else:
        found = _boards(store, wanted)[1]
        if form is Format.text:
            _show(found)
            if not found:
                console.line(_no_records(store, wanted))
        else:
            _print(found, form, wanted.command("--format", form.value))


def _check(store: Store, into: Sequence[Path]) -> None:
    from lazybench import boards

    differences = boards.check(store)
    differences += [
        f"{path}: differs from what the records give; run 'lazybench leaderboard --into {path}'"
        for path, before, after in _blocks(store, into)
        if before != after
    ]
    for difference in differences:
        console.line(difference)
    if differences:
        raise typer.Exit(DIFFERS)
    console.line(f"{store.root}: every board file agrees with the records")


def _fill(store: Store, paths: Sequence[Path]) -> None:
    """Fill the blocks of files; a file that is up to date isn't written."""
    from lazybench.records import write_bytes

    for path, before, after in _blocks(store, paths):
        if before == after:
            console.line(f"{path}: up to date, or without blocks")
        else:
            write_bytes(path, after.encode("utf-8"))
            console.line(str(path))


def _blocks(store: Store, paths: Sequence[Path]) -> list[tuple[Path, str, str]]:
    """Files, each with its current text and its up-to-date text.

    Raises:
        DataUnavailable: a file can't be read.
        UsageError: a block selects a board that doesn't exist.
    """
    from lazybench.boards.readme_blocks import NOTE_MARK, filled
    from lazybench.cli.paper import claim_verdicts
    from lazybench.paper.claims_page import verdicts_note

    texts = [(path, _text_of(path)) for path in paths]
    found = _boards(store, _Selection())[1] if texts else []
    notes = {}
    if any(NOTE_MARK in text for _, text in texts):
        notes["verdicts"] = verdicts_note(claim_verdicts(store, store.records()))
    return [(path, text, filled(text, found, notes)) for path, text in texts]


def _text_of(path: Path) -> str:
    from lazybench.files import read_file

    try:
        return read_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnavailable(f"can't read --into {path}: {error}; check the path") from error


def _write(store: Store) -> None:
    from lazybench import boards

    for path in boards.write(store, rebuild=True):
        console.line(str(path))


@dataclass(frozen=True)
class _Selection:
    """Which records are shown; None and False select all."""

    env: str | None = None
    budget: str | None = None
    isolated: bool = False

    @property
    def words(self) -> list[str]:
        named = {"--env": self.env, "--budget": self.budget}
        chosen = [word for option, value in named.items() if value for word in (option, value)]
        return [*chosen, *["--isolated-only"] * self.isolated]

    def command(self, *more: str) -> str:
        """The command that writes a text again, without the path of the store."""
        return shlex.join(["lazybench", "leaderboard", *self.words, *more])

    def __str__(self) -> str:
        return f" for {' '.join(self.words)}" if self.words else ""


_INSTEAD = "name another file with --html, or move that one away"


def _page(
    found: Sequence[Board], records: Sequence[Record], path: Path, store: Path, command: str
) -> None:
    from lazybench import boards
    from lazybench.boards.page import PAGE_MARK
    from lazybench.files import replace_ours

    place = _store_from(path.parent, store)
    text = boards.to_html(found, records, command=command, store=place)
    content = text.encode("utf-8", "backslashreplace")
    console.line(str(replace_ours(path, content, mark=PAGE_MARK, instead=_INSTEAD)))


def _check_page(path: Path) -> None:
    """Check that the page may be written, before the seconds that it takes to make.

    Raises:
        OutputUnavailable: a file that isn't such a page has the path, or it can't be written.
    """
    from lazybench.boards.page import PAGE_MARK
    from lazybench.files import check_replaceable

    check_replaceable(path, mark=PAGE_MARK, instead=_INSTEAD)


def _store_from(folder: Path, store: Path) -> str | None:
    """The path from a page's folder to the store; None where it would name folders around both.

    A page that is kept with its records may be moved with them; elsewhere a link would only work
    here, and show readers how this machine's folders are called.
    """
    around = store.resolve().parent
    here = folder.resolve()
    if not (here.is_relative_to(around) or around.is_relative_to(here)):
        return None
    return Path(os.path.relpath(store.resolve(), here)).as_posix()


def _draw(
    found: Sequence[Board], records: Sequence[Record], folder: Path, form: PlotFormat
) -> None:
    from lazybench.boards import plots

    for path in plots.draw(found, records, need_folder(folder, "--plots"), form.value):
        console.line(str(path))


def _boards(store: Store, wanted: _Selection) -> tuple[list[Record], list[Board]]:
    """The selected records and their boards."""
    from lazybench import boards

    env, budget = wanted.env, wanted.budget
    if budget is not None:
        from lazybench.runner.request import check_budget

        check_budget(budget)
    name = env if env is None or store.folders(env) else env_id(env, set())
    papers = store.reported()
    kept: list[Record] = []
    found: list[Board] = []
    for folder in store.folders(name):
        records = store.records_in(folder, name)
        for skipped in records.skipped:
            console.note(console.one_line(str(skipped)))
        chosen = [
            record
            for record in records
            if budget in (None, record.budget) and (record.isolated or not wanted.isolated)
        ]
        found += boards.build(chosen, papers)
        # Predictions of a large store would fill the memory, and nothing needs them any more.
        kept += [_without_predictions(record) for record in chosen]
    return kept, sorted(found, key=lambda board: (board.env, board.version))


def _without_predictions(record: Record) -> Record:
    """A record without its predictions, for plots."""
    trials = record.trials.model_copy(update={"predictions": None, "lengths": None})
    return record.model_copy(update={"trials": trials})


def env_id(env: str, recorded: set[str]) -> str:
    """Return the canonical id of an environment that is registered or has records.

    Raises:
        UnknownName: it has neither.
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
        console.note(found.note)
    return str(found.spec.id)


def _print(found: Sequence[Board], form: Format, command: str) -> None:
    from lazybench import boards

    render = {
        "md": boards.to_markdown,
        "csv": boards.to_csv,
        "json": boards.to_json,
        "latex": boards.to_latex,
    }[form]
    console.text(render(found, command=command))


def _no_records(store: Store, wanted: _Selection) -> str:
    return (
        f"no records in {store.root}{wanted}; create one with: lazybench run --agent AGENT "
        "--env ENV"
    )


def _show(found: Sequence[Board]) -> None:
    width = console.width()
    for i, board in enumerate(found):
        console.line(("\n" if i else "") + board_text(board, columns=width))
        last = i + 1 == len(found) or found[i + 1].env != board.env
        if last and (reported := reported_text(board, columns=width)):
            console.line(f"\n{reported}")
