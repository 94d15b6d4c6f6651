"""Boards as Markdown and JSON: pure functions to text, the same bytes for the same boards."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from lazybench.boards.build import Board
from lazybench.boards.group import bounded
from lazybench.boards.rows import Row
from lazybench.files import canonical_json
from lazybench.paper.reported import place_text, value_text
from lazybench.records.fields import Reported

COMMAND = "lazybench leaderboard --write"
_DIGITS = 6
_LONG = 1e15
"""From here on numbers are shown by their power of ten."""
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._,:=+/()%-]*[A-Za-z0-9)%])?")
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~!^$])")
_NUMBER = re.compile(r"([0-9]+)")
BLOCKS = ("ranked", "unranked", "transferred", "failed")

Cell = Callable[[Row, str], str]


def made_by(boards: Sequence[Board], command: str = COMMAND) -> str:
    """The line that says where a file comes from."""
    return made_from(sum(board.n_records for board in boards), command)


def made_from(n: int, command: str = COMMAND) -> str:
    """The line that says where a file of so many records comes from."""
    return f"Made by `{command}` from {n} record{'' if n == 1 else 's'}. Don't edit."


def comment(n: int, command: str = COMMAND) -> str:
    """`made_from` as a comment of Markdown, which nothing in `command` can end."""
    return f"<!-- {made_from(n, command).replace('>', ' ').replace(chr(10), ' ')} -->"


def page_mark(name: str) -> str:
    """The comment by which a page that `lazybench reproduce` wrote is known."""
    return f"<!-- Made by `lazybench reproduce {name}`. Don't edit. -->"


def markdown_text(text: str) -> str:
    """`text` as one line that Markdown and HTML show as it stands, also inside a table."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if _PLAIN.fullmatch(line):
        return line
    return _MARKUP.sub(r"\\\1", html.escape(line, quote=False))


def number_text(value: float | None, unit: str) -> str:
    """A score as boards show it: two decimals of a percentage, else four digits."""
    if value is None:
        return ""
    return f"{value:.2f}" if unit == "%" and abs(value) < _LONG else f"{value:.4g}"


def _score(row: Row, unit: str) -> str:
    if row.score is None:
        return ""
    ends = (
        "" if row.lo is None else f" ({number_text(row.lo, unit)} to {number_text(row.hi, unit)})"
    )
    return f"{number_text(row.score, unit)}{ends}"


def _difference(row: Row, unit: str) -> str:
    if row.diff is None:
        return ""
    mean, lo, hi, _ = row.diff
    return f"{number_text(mean, unit)} ({number_text(lo, unit)} to {number_text(hi, unit)})"


def count_text(value: float | None) -> str:
    """A count as boards show it, thousands apart; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) < _LONG else f"{bounded(value):.4g}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value < _LONG else f"{value:.4g}"


def _tuning(row: Row) -> str:
    """How many configurations were searched, or whose choice the settings are."""
    if row.tuning_trials is not None:
        return count_text(row.tuning_trials)
    return "preset" if row.tuned else "none"


_MEASURES = "measures"
"""Stands where a board's further metrics come, a column each."""

_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("rank", lambda row, unit: "" if row.rank is None else str(row.rank)),
    ("ranks", lambda row, unit: "" if row.ranks is None else "{} to {}".format(*row.ranks)),
    ("agent", lambda row, unit: row.agent),
    ("score", _score),
    ("std over seeds", lambda row, unit: number_text(row.seed_std, unit)),
    ("to best", _difference),
    (_MEASURES, lambda row, unit: ""),
    ("track", lambda row, unit: row.track or ""),
    ("why no score", lambda row, unit: row.reason or ""),
    (
        "seeds",
        lambda row, unit: str(len(row.seeds)) if row.reason is None else f"seed {row.seeds[0]}",
    ),
    ("trials", lambda row, unit: str(row.trials) if row.trials else ""),
    ("batch norm", lambda row, unit: row.batch_norm or ""),
    ("backbone", lambda row, unit: row.backbone or ""),
    ("parameters", lambda row, unit: count_text(row.parameters)),
    ("weights", lambda row, unit: row.weights or ""),
    ("train wall s", lambda row, unit: _seconds(row.train_wall_s)),
    ("eval wall s", lambda row, unit: _seconds(row.eval_wall_s)),
    ("train CPU s", lambda row, unit: _seconds(row.train_cpu_s)),
    ("peak MB", lambda row, unit: count_text(row.peak_memory_mb)),
    ("inner steps", lambda row, unit: count_text(row.inner_steps)),
    ("outer steps", lambda row, unit: count_text(row.outer_steps)),
    ("image-gradients", lambda row, unit: count_text(row.image_gradients)),
    ("gradient-equivalents (F)", lambda row, unit: count_text(row.gradient_equivalents)),
    ("queries", lambda row, unit: count_text(row.queries)),
    ("tuning trials", lambda row, unit: _tuning(row)),
    ("version", lambda row, unit: ", ".join(row.versions)),
    ("marks", lambda row, unit: ", ".join(row.marks)),
)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of the columns in which some row has something."""
    from tabulate import tabulate

    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    cells = [[markdown_text(row[i]) for i in kept] for row in rows]
    head = [header[i] for i in kept]
    return str(tabulate(cells, headers=head, tablefmt="github", disable_numparse=True))


def _rows_table(rows: Sequence[Row], board: Board) -> str:
    columns = list(columns_of(rows))
    header = [
        f"{board.metric} ({board.unit}), 95 % CI" if name == "score" else name
        for name, _ in columns
    ]
    header = [markdown_text(name) for name in header]
    return _table(header, [[cell(row, board.unit) for _, cell in columns] for row in rows])


def columns_of(rows: Sequence[Row]) -> Iterator[tuple[str, Cell]]:
    """The columns of some rows, with one for each of their further metrics."""
    for name, cell in _COLUMNS:
        if name != _MEASURES:
            yield name, cell
            continue
        for measure, unit in measures_of(rows):
            yield f"{metric_words(measure)} ({unit})", partial(_measure, measure)


def measures_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return names and units of the further metrics of some rows, each once, by name.

    Numbers in names go by their value: `median_l2_at_300` comes before `median_l2_at_1000`.
    """
    found = {(name, unit) for row in rows for name, unit, _ in row.measures}
    return sorted(found, key=lambda measure: (_natural(measure[0]), measure))


def _natural(name: str) -> list[tuple[int, str]]:
    """What sorts names by their text, and by the value of the numbers in it."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBER.split(name)]


def metric_words(name: str) -> str:
    """What a further metric is called, without its unit."""
    return name.removesuffix("_pct").replace("_", " ")


def measure_text(row: Row, wanted: str) -> str:
    """A further metric of a row in its own unit; empty where the row has none."""
    for name, own_unit, value in row.measures:
        if name == wanted:
            return number_text(value, own_unit)
    return ""


def _measure(wanted: str, row: Row, unit: str) -> str:
    return measure_text(row, wanted)


def _reported_table(rows: Sequence[Reported]) -> str:
    header = ("as printed", "agent", "metric", "reported", "unit", "batch norm", "where", "note")
    cells = [
        (
            row.row,
            row.agent or "",
            row.metric.replace("_", " "),
            value_text(row),
            row.unit,
            row.batch_norm or "",
            place_text(row),
            row.note or "",
        )
        for row in rows
    ]
    return _table(header, cells)


def _section(board: Board) -> Iterator[str]:
    yield f"## {markdown_text(board.name)}, budget {markdown_text(board.budget)}"
    facts = f"Data {board.data} {board.fingerprint[:12]}, prep {board.prep}"
    protocol = "; ".join(f"{name} {value}" for name, value in board.protocol)
    yield markdown_text(f"{facts}. {board.better.capitalize()} is better.") + (
        f" Protocol: {markdown_text(protocol)}." if protocol else ""
    )
    several = board.rank_groups
    for name, rows in several:
        if len(several) > 1:
            yield f"### {markdown_text(name or 'Without a network, or none told')}"
        yield _rows_table(rows, board)
    if not several:
        yield "No ranked rows."
    yield from (markdown_text(note) for note in board.notes)
    if board.unranked:
        yield "### Not ranked: limited, smoke or superseded runs"
        yield _rows_table(board.unranked, board)
    if board.transferred:
        yield "### Transfer: judged by `lazybench evaluate`, not ranked"
        yield _rows_table(board.transferred, board)
    if board.failed:
        yield "### Without a score"
        yield _rows_table(board.failed, board)


def to_markdown(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as a Markdown page; what papers report stands once, after its env's boards.

    Args:
        boards: one board or several.
        command: the command that made the page, named in its first line.
    """
    several = several_of(boards)
    parts = [comment(sum(board.n_records for board in several), command)]
    for i, board in enumerate(several):
        parts += _section(board)
        last = i + 1 == len(several) or several[i + 1].env != board.env
        if last and board.reported:
            parts.append(
                f"### Reported for {markdown_text(board.env)}: not measured here, unranked"
            )
            parts.append(_reported_table(board.reported))
    return "\n\n".join(parts) + "\n"


def several_of(boards: Board | Sequence[Board]) -> list[Board]:
    """Return the boards as a list, also a single one."""
    return [boards] if isinstance(boards, Board) else list(boards)


def rounded(value: Any) -> Any:
    """`value` with floats of 6 significant digits, which every machine computes alike."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _row_facts(row: Row) -> dict[str, Any]:
    facts: dict[str, Any] = rounded(asdict(row))
    return facts | {"diff": None if row.diff is None else rounded(row.diff._asdict())}


def _board_facts(board: Board) -> dict[str, Any]:
    names = ("env", "version", "family", "data", "fingerprint", "prep", "budget", "metric", "unit")
    blocks = {name: getattr(board, name) for name in BLOCKS}
    return (
        {name: getattr(board, name) for name in names}
        | {"better": board.better, "notes": board.notes, "n_records": board.n_records}
        | {"protocol": dict(board.protocol)}
        | {name: [_row_facts(row) for row in rows] for name, rows in blocks.items()}
        | {"reported": [row.model_dump(mode="json") for row in board.reported]}
    )


def to_json(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as canonical JSON; numbers have 6 significant digits.

    Args:
        boards: one board or several.
        command: the command that made the file, under the first key.
    """
    several = several_of(boards)
    facts = [_board_facts(board) for board in several]
    return canonical_json({"_made_by": made_by(several, command), "boards": facts})
