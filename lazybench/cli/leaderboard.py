"""A board as a terminal shows it."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.arguments import need_folder
from lazybench.boards import Board, Row
from lazybench.boards.render import number_text
from lazybench.cli import console, options
from lazybench.errors import DataUnavailable, UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.boards import Board
    from lazybench.records import Record, Store


_HEADER = (
    "",
    "rank",
    "agent",
    "score",
    "95 % interval",
    "seed std",
    "to best",
    "seeds",
    "trials",
    "train s",
    "test s",
    "peak MB",
    "notes",
)


def board_text(board: Board, *, new: Collection[str] = (), columns: int | None = None) -> str:
    """Return a board as text: a heading, one aligned table, and what a reader must know.

    Args:
        board: the board.
        new: first 12 digits of the keys whose rows are marked with `>`.
        columns: width of the terminal; None where lines may be of any length.
    """
    unit = "" if board.unit == "%" else f" {board.unit}"
    heading = (
        f"{board.name}, budget {board.budget}, data {board.data} {board.fingerprint[:12]} "
        f"prep {board.prep}: "
        f"{board.metric}{f' in {board.unit}' if board.unit == '%' else unit and f' ({board.unit})'}"
        f", {board.better} is better"
    )
    lines = [console.one_line(heading)]
    several = board.rank_groups
    parts = [(f"ranked: {name or 'without a network'}", rows) for name, rows in several]
    rest = (*board.unranked, *board.transferred, *board.failed)
    if len(several) < 2:
        parts = [("", (*board.ranked, *rest))]
    elif rest:
        parts.append(("not ranked", rest))
    for name, rows in parts:
        lines += [console.one_line(name)] if name else []
        lines.append(
            console.table(_HEADER, [_cells(row, board, new) for row in rows], columns=columns)
        )
    if any(set(row.keys) & set(new) for row in board.rows):
        lines.append("> is this run")
    lines.extend(board.notes)
    return "\n".join(lines)


def reported_text(board: Board, *, columns: int | None = None) -> str:
    """Return what papers report for the board's environment, or an empty string."""
    from lazybench.paper.reported import place_text, value_text

    if not board.reported:
        return ""
    header = ("as printed", "metric", "reported", "unit", "batch norm", "where", "note")
    rows = [
        (
            r.row,
            r.metric.replace("_", " "),
            value_text(r),
            r.unit,
            r.batch_norm or "",
            place_text(r),
            r.note or "",
        )
        for r in board.reported
    ]
    head = f"Reported for {board.env}: not measured here, unranked"
    return f"{head}\n{console.table(header, rows, columns=columns)}"


def gamma_text(diagnostics: Mapping[str, Any]) -> str:
    """Return one line on the gammas that a lazy agent chose, or an empty string for any other."""
    from lazybench.boards.pictures import gamma_counts, is_drawable

    histogram = gamma_counts(diagnostics)
    if not histogram:
        return ""
    total = sum(histogram.values())
    shares = ", ".join(f"{gamma} {100 * n / total:.0f} %" for gamma, n in histogram.items())
    parts = [f"gammas chosen: {shares}"]
    if is_drawable(edge := diagnostics.get("gamma_edge_share")):
        parts.append(f"{100 * edge:.0f} % at the grid's edge")
    if is_drawable(leap := diagnostics.get("mean_leap")):
        parts.append(f"mean leap {leap:.3g}")
    return "; ".join(parts)


def _cells(row: Row, board: Board, new: Collection[str]) -> tuple[str, ...]:
    return (
        ">" if set(row.keys) & set(new) else "",
        "" if row.rank is None else str(row.rank),
        row.agent,
        number_text(row.score, board.unit),
        _interval(row.lo, row.hi, board.unit),
        number_text(row.seed_std, board.unit),
        "" if row.diff is None else number_text(row.diff.mean, board.unit),
        str(len(row.seeds)),
        str(row.trials or ""),
        "" if row.train_wall_s is None else f"{row.train_wall_s:.1f}",
        "" if row.eval_wall_s is None else f"{row.eval_wall_s:.1f}",
        "" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
        "; ".join(_notes(row)),
    )


def _notes(row: Row) -> Iterator[str]:
    if row.reason is not None:
        yield row.reason
    if row.batch_norm is not None:
        yield row.batch_norm
    if row.backbone is not None:
        yield row.backbone
    if row.weights not in (None, "fresh"):
        yield f"weights: {row.weights}"
    yield from row.marks
    if not row.tuned:
        yield "untuned"


def _interval(low: float | None, high: float | None, unit: str) -> str:
    if low is None or high is None:
        return ""
    return f"{number_text(low, unit)} to {number_text(high, unit)}"


HELP = "Print the boards of the records; write or check their files."
EXAMPLES = (
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
DIFFERS = 1


class Format(enum.StrEnum):
    """How boards are printed."""

    text = "text"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


class PlotFormat(enum.StrEnum):
    """How pictures are kept."""

    png = "png"
    svg = "svg"


def leaderboard_command(  # noqa: PLR0913 - one parameter for each option
    env: Annotated[
        str | None,
        typer.Option(
            "--env", "-e", help="Only this environment.", autocompletion=options.complete_env
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="Only this compute budget.")
    ] = None,
    isolated_only: Annotated[
        bool,
        typer.Option(
            "--isolated-only", help="Only records whose policy was isolated (run --isolated)."
        ),
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.text,
    out_dir: options.Out = Path("leaderboards"),
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one page of all boards; no network."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="DIR", help="Draw the pictures of each board there."),
    ] = None,
    plot_format: Annotated[
        PlotFormat, typer.Option("--plot-format", help="How pictures are kept.")
    ] = PlotFormat.png,
    into: Annotated[
        list[Path] | None,
        typer.Option(
            "--into",
            metavar="FILE",
            help="Fill the marked blocks of a Markdown file; with --check, look at them. Several "
            "times for several files.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the board files of all records anew.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="List board files that differ; exit 1 if any does.")
    ] = False,
) -> None:
    """Print boards; with `html`, `plots`, `into`, `write` or `check`, deal with files instead.

    Raises:
        UsageError: options that exclude each other, or an unknown environment or budget.
        typer.Exit: with `check`, a file differs.
    """
    from lazybench.records import Store

    if write and check:
        raise UsageError("give either --write or --check; --check after --write finds nothing")
    if (write or check) and (env is not None or budget is not None):
        raise UsageError("--write and --check take all records; leave out --env and --budget")
    if (write or check or into) and isolated_only:
        raise UsageError("--write, --check and --into take all records; leave out --isolated-only")
    if (write or check) and (html is not None or plots is not None):
        raise UsageError("--html and --plots go without --write and --check; run it twice")
    if into and (write or html is not None or plots is not None or env or budget):
        raise UsageError("--into goes with --check alone; its blocks say which boards they show")
    store = Store(need_folder(out_dir, "--out"))
    wanted = _Wanted(env, budget, isolated_only)
    if check:
        _check(store, into or [])
    elif into:
        _fill(store, into)
    elif write:
        _write(store)
    elif html is not None or plots is not None:
        records, found = _boards(store, wanted)
        if html is not None:
            _page(found, records, html, wanted.command("--html", html.name))
        if plots is not None:
            _draw(found, records, plots, plot_format)
    else:
        found = _boards(store, wanted)[1]
        if form is Format.text:
            _show(found, f"{store.root}{wanted}")
        else:
            _print(found, form, wanted.command("--format", form.value))


def _check(store: Store, into: Sequence[Path]) -> None:
    from lazybench import boards

    differences = boards.check(store)
    differences += [
        f"{path}: not what the records make; run 'lazybench leaderboard --into {path}'"
        for path, before, after in _blocks(store, into)
        if before != after
    ]
    for difference in differences:
        console.line(difference)
    if differences:
        raise typer.Exit(DIFFERS)
    console.line(f"{store.root}: every board file is what the records make")


def _fill(store: Store, paths: Sequence[Path]) -> None:
    """Fill the blocks of files; one that holds them already isn't touched."""
    from lazybench.records import write_bytes

    for path, before, after in _blocks(store, paths):
        if before == after:
            console.line(f"{path}: its blocks hold what the records make, or it has none")
        else:
            write_bytes(path, after.encode("utf-8"))
            console.line(str(path))


def _blocks(store: Store, paths: Sequence[Path]) -> list[tuple[Path, str, str]]:
    """Files, each with its text and with what it should be.

    Raises:
        DataUnavailable: one can't be read.
        UsageError: a block asks for what isn't there.
    """
    from lazybench.boards.readme_blocks import filled

    texts = [(path, _text_of(path)) for path in paths]
    found = _boards(store, _Wanted())[1] if texts else []
    return [(path, text, filled(text, found)) for path, text in texts]


def _text_of(path: Path) -> str:
    from lazybench.files import read_file

    try:
        return read_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnavailable(f"can't read --into {path}: {error}; check the path") from error


def _write(store: Store) -> None:
    from lazybench import boards

    for path in boards.write(store, anew=True):
        console.line(str(path))


@dataclass(frozen=True)
class _Wanted:
    """Which records are asked for; None and False take all."""

    env: str | None = None
    budget: str | None = None
    isolated: bool = False

    @property
    def words(self) -> list[str]:
        named = {"--env": self.env, "--budget": self.budget}
        chosen = [word for option, value in named.items() if value for word in (option, value)]
        return [*chosen, *["--isolated-only"] * self.isolated]

    def command(self, *asked: str) -> str:
        """The command that makes a text again; the store isn't named, which may lie anywhere."""
        return shlex.join(["lazybench", "leaderboard", *self.words, *asked])

    def __str__(self) -> str:
        return f" for {' '.join(self.words)}" if self.words else ""


def _page(found: Sequence[Board], records: Sequence[Record], path: Path, command: str) -> None:
    from lazybench import boards
    from lazybench.records import write_bytes

    text = boards.to_html(found, records, command=command)
    console.line(str(write_bytes(path, text.encode("utf-8", "backslashreplace"))))


def _draw(
    found: Sequence[Board], records: Sequence[Record], folder: Path, form: PlotFormat
) -> None:
    from lazybench.boards import plots

    for path in plots.draw(found, records, need_folder(folder, "--plots"), form.value):
        console.line(str(path))


def _boards(store: Store, wanted: _Wanted) -> tuple[list[Record], list[Board]]:
    """The records that are asked for, and their boards."""
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
        # Of a large store they would fill the memory, and no board needs them any more.
        kept += [_without_answers(record) for record in chosen]
    return kept, sorted(found, key=lambda board: (board.env, board.version))


def _without_answers(record: Record) -> Record:
    """A record for pictures, which show no prediction."""
    trials = record.trials.model_copy(update={"predictions": None, "lengths": None})
    return record.model_copy(update={"trials": trials})


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


def _show(found: Sequence[Board], where: str) -> None:
    pass

    if not found:
        console.line(f"no records in {where}; make one with: lazybench run --agent AGENT --env ENV")
    width = console.width()
    for i, board in enumerate(found):
        console.line(("\n" if i else "") + board_text(board, columns=width))
        last = i + 1 == len(found) or found[i + 1].env != board.env
        if last and (reported := reported_text(board, columns=width)):
            console.line(f"\n{reported}")
