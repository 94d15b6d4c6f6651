"""Boards as one table of comma-separated values."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lazybench.boards.build import Board
from lazybench.boards.render import BLOCKS, COMMAND, measures_of, rounded, several_of
from lazybench.paper.reported import place_text

# Also after a semicolon, which parts cells where the comma is the decimal sign. The last four are
# the full-width signs, which East Asian locales take for the plain ones.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_STEERING = ("\t", "\r", "\n")
MADE_BY = "made_by"
"""The column that names the command; a comment above the header would be taken for the header."""

_CSV_BOARD = ("env", "version", "data", "fingerprint", "prep", "budget", "protocol", "metric")
_CSV_ROW = (
    *("block", "rank", "ranks", "agent", "score", "lo", "hi", "seed_std", "unit"),
    *("diff", "diff_lo", "diff_hi", "diff_p"),
    *("seeds", "trials", "batch_norm", "backbone", "parameters", "weights"),
    *("train_wall_s", "eval_wall_s", "train_cpu_s", "peak_memory_mb"),
    *("inner_steps", "outer_steps", "image_gradients", "gradient_equivalents", "queries", "track"),
    *("tuned", "tuning_trials", "versions", "marks"),
    *("reason", "source", "note", MADE_BY),
)


def csv_cell(value: Any) -> Any:
    """`value` such that no spreadsheet takes its text for a formula."""
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return "" if value is None else rounded(value)
    line = _FORMULA.sub(r"\1'", "".join(c if c.isprintable() else " " for c in value))
    return f"'{line}" if value.startswith(_STEERING) and not line.startswith("'") else line


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A CSV table with its header in the first line; each cell and name is guarded by `csv_cell`.

    A name that occurs again in the header gets a number, since readers keep one column of a name.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names: dict[str, None] = {}
    for name in map(csv_cell, header):
        again = (f"{name} {number}" for number in itertools.count(2))
        names[next(each for each in itertools.chain([name], again) if each not in names)] = None
    writer.writerow(names)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def is_made_by(data: bytes, command: str) -> bool:
    """Return whether `data` is a CSV table whose first row names `command` as what made it."""
    lines = csv.DictReader(io.StringIO(data.decode("utf-8", "replace")))
    try:
        return next(lines, {}).get(MADE_BY) == command
    except csv.Error:
        return False


def _csv_rows(board: Board) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """The columns of each row by name, and its further metrics, which may have the same names."""
    for block in BLOCKS:
        for row in getattr(board, block):
            diff = {} if row.diff is None else row.diff._asdict()
            renamed = {f"diff_{name}".removesuffix("_mean"): v for name, v in diff.items()}
            facts = asdict(row) | {"diff": None, "block": block, "unit": board.unit}
            yield facts | renamed, {name: value for name, _, value in row.measures}
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


def to_csv(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as one CSV table: a header, then a row each.

    Args:
        boards: one board or several.
        command: the command that made the file, which each row names.
    """
    several = several_of(boards)
    rows = [row for board in several for row in board.rows]
    measures = list(dict.fromkeys(name for name, _ in measures_of(rows)))
    lines = []
    for board in several:
        protocol = "; ".join(f"{name} {value}" for name, value in board.protocol)
        head = {name: getattr(board, name) for name in _CSV_BOARD} | {"protocol": protocol}
        for facts, told in _csv_rows(board):
            # What papers report may be of another metric than the board's.
            metric = facts["metric"] if facts["block"] == "reported" else board.metric
            facts |= {MADE_BY: command}
            lines.append(
                [
                    *(head | {"metric": metric}).values(),
                    *(facts.get(name) for name in _CSV_ROW),
                    *(told.get(name) for name in measures),
                ]
            )
    return csv_text((*_CSV_BOARD, *_CSV_ROW, *measures), lines)
