"""Boards as Markdown, CSV, LaTeX, JSON and plain text; the same bytes for the same boards."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lazybench.boards.build import Board
from lazybench.boards.columns import (
    COLUMNS,
    OPTIONAL,
    REPORTED_COLUMNS,
    Column,
    columns_of,
    common_source,
    csv_columns,
    is_shown_first,
    measures_of,
    place_text,
    short_places,
)
from lazybench.boards.rows import Row
from lazybench.files import canonical_json
from lazybench.records.schema import Reported
from lazybench.tables import (
    LATEX_NEEDS,
    MADE_BY,
    csv_table,
    html_table,
    latex_cell,
    latex_comment,
    latex_float,
    latex_footnote,
    latex_heading,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    one_line,
    rounded,
    text_table,
)

COMMAND = "lazybench leaderboard --write"
BLOCKS = ("ranked", "unranked", "transferred", "failed")
_BOARD = ("env", "version", "data", "fingerprint", "prep", "budget", "protocol", "metric")
"""Columns of CSV that describe the board."""
_NUMERIC = re.compile(r"-?[\d,.]*\d(?:e[+-]?\d+)?(?: \(.*\)| ± .*)?")
_ALWAYS = frozenset({"rank", "agent", "score", "diff"})
"""Columns that LaTeX shows also where all rows agree."""


def made_by(boards: Sequence[Board], command: str = COMMAND) -> str:
    """The line that names the command that made a file of some boards."""
    return made_from(sum(board.n_records for board in boards), command)


def made_from(n: int, command: str = COMMAND) -> str:
    """The line that names the command that made a file of `n` records."""
    return f"Made by `{command}` from {n} record{'' if n == 1 else 's'}. Don't edit."


def comment(n: int, command: str = COMMAND) -> str:
    """`made_from` as a comment of Markdown, which nothing in `command` can end."""
    return f"<!-- {made_from(n, command).replace('>', ' ').replace(chr(10), ' ')} -->"


def page_mark(name: str) -> str:
    """The comment by which a page that `lazybench reproduce` wrote is known."""
    return f"<!-- Made by `lazybench reproduce {name}`. Don't edit. -->"


def several_of(boards: Board | Sequence[Board]) -> list[Board]:
    """Return the boards as a list, also a single one."""
    return [boards] if isinstance(boards, Board) else list(boards)


def _facts_line(board: Board) -> str:
    return (
        f"Data {board.data} {board.fingerprint[:12]}, prep {board.prep}. "
        f"{board.better.capitalize()} is better."
    )


def _protocol(board: Board) -> str:
    return "; ".join(f"{name} {value}" for name, value in board.protocol)


def _is_last_of_env(boards: Sequence[Board], i: int) -> bool:
    """Whether the numbers of papers come after a board: once, after its environment's boards."""
    return bool(boards[i].reported) and (i + 1 == len(boards) or boards[i + 1].env != boards[i].env)


def _reported_title(board: Board) -> str:
    return f"Reported for {board.env}: not measured here, unranked"


def to_markdown(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as a Markdown page; papers' numbers come once, after their env's boards.

    Args:
        boards: one board or several.
        command: the command that made the page, named in its first line.
    """
    several = several_of(boards)
    parts = [comment(sum(board.n_records for board in several), command)]
    for i, board in enumerate(several):
        parts += _section(board)
        if _is_last_of_env(several, i):
            parts.append(f"### {markdown_text(_reported_title(board))}")
            parts.append(_reported_table(board.reported))
    return "\n\n".join(parts) + "\n"


def _section(board: Board) -> Iterator[str]:
    yield f"## {markdown_text(board.name)}, budget {markdown_text(board.at)}"
    protocol = _protocol(board)
    yield markdown_text(_facts_line(board)) + (
        f" Protocol: {markdown_text(protocol)}." if protocol else ""
    )
    ranked = len(board.rank_groups)
    if not ranked:
        yield "No ranked rows."
        yield from (markdown_text(note) for note in board.notes)
    for place, (title, rows) in enumerate(board.blocks, start=1):
        if title:
            yield f"### {markdown_text(title)}"
        yield _rows_table(rows, board)
        if place == ranked:
            yield from (markdown_text(note) for note in board.notes)


def _rows_table(rows: Sequence[Row], board: Board) -> str:
    columns = columns_of(board, rows)
    cells = [map(markdown_text, column.cells(board, rows)) for column in columns]
    header = [markdown_text(column.heading(board)) for column in columns]
    return markdown_table(header, [list(row) for row in zip(*cells, strict=True)])


def _reported_table(rows: Sequence[Reported]) -> str:
    cells = [[markdown_text(column.text(row)) for row in rows] for column in REPORTED_COLUMNS]
    kept = [i for i, texts in enumerate(cells) if any(texts)]
    header = [REPORTED_COLUMNS[i].heading for i in kept]
    return markdown_table(header, list(zip(*(cells[i] for i in kept), strict=True)))


def to_fragment(board: Board, *, whole: bool = True) -> str:
    """The board as HTML tables under a heading, with notes, to be part of a page.

    Args:
        board: the board.
        whole: whether to show all columns, or those alone that the page shows first.
    """
    head = f"<h3>{html.escape(board.name)}, budget {html.escape(board.at)}</h3>"
    parts = [head, f"<p>{html.escape(_facts_line(board))}</p>"]
    for title, rows in board.blocks:
        columns = [c for c in columns_of(board, rows) if whole or is_shown_first(c, board)]
        cells = zip(*(column.cells(board, rows) for column in columns), strict=True)
        parts.append(html_table([c.heading(board) for c in columns], cells, title=title))
    return "\n".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in board.notes)])


def to_csv(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as one CSV table: a header, then a row each.

    Args:
        boards: one board or several.
        command: the command that made the file, which each row names.
    """
    return csv_table(*csv_lines(several_of(boards), command))


def csv_lines(boards: Sequence[Board], command: str) -> tuple[list[str], list[list[Any]]]:
    """Return the header and the lines of `to_csv`, as values that aren't text yet."""
    rows = [row for board in boards for row in board.rows]
    measures = list(dict.fromkeys(name for name, _ in measures_of(rows)))
    columns = csv_columns(rows)
    names = ("block", *(column.key for column in columns), "source", "note", MADE_BY)
    lines = []
    for board in boards:
        head = {name: vars(board)[name] for name in _BOARD} | {"protocol": _protocol(board)}
        for facts, further in _csv_rows(board, columns):
            # What papers report may be of another metric than the board's.
            metric = facts.get("metric", board.metric)
            facts |= {MADE_BY: command}
            lines.append(
                [
                    *(head | {"metric": metric}).values(),
                    *(facts.get(name) for name in names),
                    *(further.get(name) for name in measures),
                ]
            )
    return [*_BOARD, *names, *measures], lines


def _csv_rows(
    board: Board, columns: Sequence[Column]
) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """The values of each row by column, and its further metrics, which may have the same names."""
    for block in BLOCKS:
        for row in vars(board)[block]:
            facts = {c.key: c.csv(row, board.unit) for c in columns if c.csv is not None}
            yield facts | {"block": block}, {name: value for name, _, value in row.measures}
    for paper in board.reported:
        half, value = paper.ci95_half, paper.value
        ends = (None, None) if half is None or value is None else (value - half, value + half)
        facts = {
            "block": "reported",
            "metric": paper.metric,
            "agent": paper.row,
            "score": value,
            "lo": ends[0],
            "hi": ends[1],
            "unit": paper.unit,
            "batch_norm": paper.batch_norm,
            "source": place_text(paper),
            "note": paper.note,
        }
        yield facts, {}


def to_latex(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    r"""The boards as LaTeX, a floating booktabs table each; nothing in it is taken for a command.

    A column in which all rows agree is in the note under the table instead, and the note names the
    columns that only the other formats have.

    Args:
        boards: one board or several.
        command: the command that made the text, named in its first line.
    """
    several = several_of(boards)
    parts = [f"{latex_comment(made_by(several, command))}\n{LATEX_NEEDS}"]
    for i, board in enumerate(several):
        caption = latex_text(f"{board.name}, budget {board.at}")
        if board.rows:
            parts.append(latex_float(_latex_board(board), caption, narrow=True))
        if _is_last_of_env(several, i):
            caption = latex_text(_reported_title(board))
            parts.append(latex_float(_latex_reported(board.reported), caption, narrow=True))
    return "\n\n".join(parts) + "\n"


def _latex_board(board: Board) -> str:
    rows = board.rows
    columns = [(column, column.cells(board, rows)) for column in columns_of(board, rows)]
    varying = [
        (column, texts)
        for column, texts in columns
        if column.key in _ALWAYS or len(rows) == 1 or len(set(texts)) > 1
    ]
    kept = [(column, texts) for column, texts in varying if column.latex]
    header = [
        latex_heading(column.heading(board) if column.key == "score" else column.latex)
        for column, _ in kept
    ]
    lines = [[latex_cell(texts[i]) for _, texts in kept] for i in range(len(rows))]
    places = {id(row): i for i, row in enumerate(rows)}
    blocks = [
        (latex_text(title), [lines[places[id(row)]] for row in members])
        for title, members in board.blocks
    ]
    align = "".join(
        "r" if all(_NUMERIC.fullmatch(text) for text in texts if text) else "l" for _, texts in kept
    )
    shared = [(c, texts[0]) for c, texts in columns if (c, texts) not in varying and texts[0]]
    elsewhere = [column for column, texts in varying if not column.latex]
    return f"{latex_table(header, blocks, align)}\n{_latex_note(board, shared, elsewhere)}"


def _latex_note(
    board: Board, shared: Sequence[tuple[Column, str]], elsewhere: Sequence[Column]
) -> str:
    protocol = _protocol(board)
    common = "; ".join(f"{_name(column)} {text}" for column, text in shared)
    names = ", ".join(map(_name, elsewhere))
    parts = [
        _facts_line(board),
        f"Protocol: {protocol}." if protocol else "",
        f"All rows: {common}." if common else "",
        *board.notes,
        f"In the CSV: {names}." if names else "",
    ]
    return latex_footnote(" ".join(filter(None, parts)))


def _name(column: Column) -> str:
    return column.page.heading if column.page is not None else column.key


def _latex_reported(rows: Sequence[Reported]) -> str:
    source = common_source(rows)
    columns = [column for column in REPORTED_COLUMNS if column.latex]
    columns = short_places(columns) if source else columns
    cells = [[latex_cell(column.text(row)) for column in columns] for row in rows]
    align = "".join("r" if column.style == "number" else "l" for column in columns)
    table = latex_table([latex_text(column.heading) for column in columns], [("", cells)], align)
    return f"{table}\n{latex_footnote(f'Source: {source}.')}" if source else table


def to_json(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as canonical JSON; numbers have 6 significant digits.

    Args:
        boards: one board or several.
        command: the command that made the file, under the first key.
    """
    several = several_of(boards)
    facts = [_board_facts(board) for board in several]
    return canonical_json({"_made_by": made_by(several, command), "boards": facts})


def _board_facts(board: Board) -> dict[str, Any]:
    names = ("env", "version", "family", "data", "fingerprint", "prep", "budget", "metric", "unit")
    blocks = {name: vars(board)[name] for name in BLOCKS}
    return (
        {name: vars(board)[name] for name in names}
        | {"better": board.better, "notes": board.notes, "n_records": board.n_records}
        | {"protocol": dict(board.protocol)}
        | {name: [_row_facts(row) for row in rows] for name, rows in blocks.items()}
        | {"reported": [row.model_dump(mode="json") for row in board.reported]}
    )


def _row_facts(row: Row) -> dict[str, Any]:
    facts: dict[str, Any] = rounded(asdict(row))
    facts |= {"diff": None if row.diff is None else rounded(row.diff._asdict())}
    return {k: value for k, value in facts.items() if value is not None or k not in OPTIONAL}


def board_text(board: Board, *, new: Collection[str] = (), columns: int | None = None) -> str:
    """Return a board as text: a heading, one aligned table, and what a reader must know.

    Args:
        board: the board.
        new: first 12 digits of the keys whose rows are marked with `>`.
        columns: width of the terminal; None if lines may be of any length.
    """
    unit = f" in {board.unit}" if board.unit == "%" else f" ({board.unit})" if board.unit else ""
    lines = [
        one_line(
            f"{board.name}, budget {board.at}, data {board.data} {board.fingerprint[:12]} "
            f"prep {board.prep}: {board.metric}{unit}, {board.better} is better"
        )
    ]
    several = board.rank_groups
    parts = [(f"ranked: {name or 'without a network'}", rows) for name, rows in several]
    rest = (*board.unranked, *board.transferred, *board.failed)
    if len(several) < 2:
        parts = [("", (*board.ranked, *rest))]
    elif rest:
        parts.append(("not ranked", rest))
    shown = [column.terminal for column in COLUMNS if column.terminal is not None]
    header = ("", *(look.heading for look in shown))
    for name, rows in parts:
        lines += [one_line(name)] if name else []
        cells = [
            (
                ">" if set(row.keys) & set(new) else "",
                *(look.text(row, board.unit) for look in shown),
            )
            for row in rows
        ]
        lines.append(text_table(header, cells, columns=columns))
    if any(set(row.keys) & set(new) for row in board.rows):
        lines.append("> is this run")
    return "\n".join([*lines, *board.notes])


def reported_text(board: Board, *, columns: int | None = None) -> str:
    """Return what papers report for the board's environment, or an empty string.

    Args:
        board: the board.
        columns: width of the terminal; None if lines may be of any length.
    """
    if not board.reported:
        return ""
    shown = [column for column in REPORTED_COLUMNS if column.terminal]
    rows = [[column.text(row) for column in shown] for row in board.reported]
    table = text_table([column.heading for column in shown], rows, columns=columns)
    return f"{_reported_title(board)}\n{table}"
