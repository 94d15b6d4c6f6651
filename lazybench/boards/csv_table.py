"""Boards as one table of comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lazybench.boards.build import Board
from lazybench.boards.render import BLOCKS, COMMAND, made_by, measures_of, rounded, several_of
from lazybench.boards.reported import place_text

_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_CSV_BOARD = ("env", "version", "data", "fingerprint", "prep", "budget", "protocol", "metric")
_CSV_ROW = (
    *("rank", "ranks", "agent", "score", "lo", "hi", "seed_std", "unit"),
    *("diff", "diff_lo", "diff_hi", "diff_p"),
    *("seeds", "trials", "batch_norm", "backbone", "parameters", "weights"),
    *("train_wall_s", "eval_wall_s", "train_cpu_s", "peak_memory_mb"),
    *("inner_steps", "outer_steps", "image_gradients", "gradient_equivalents", "queries", "track"),
    *("tuned", "tuning_trials", "versions", "marks"),
    *("reason", "source", "note"),
)


def csv_cell(value: Any) -> Any:
    """`value` such that no spreadsheet takes its text for a formula."""
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return "" if value is None else rounded(value)
    line = "".join(c if c.isprintable() else " " for c in value)
    return f"'{line}" if value.startswith(_FORMULA) or line.startswith(_FORMULA) else line


def _csv_rows(board: Board) -> Iterator[dict[str, Any]]:
    for block in BLOCKS:
        for row in getattr(board, block):
            diff = {} if row.diff is None else row.diff._asdict()
            renamed = {f"diff_{name}".removesuffix("_mean"): v for name, v in diff.items()}
            told = {name: value for name, _, value in row.measures}
            facts = asdict(row) | {"diff": None, "block": block, "unit": board.unit}
            yield told | facts | renamed
    for paper in board.reported:
        half, value = paper.ci95_half, paper.value
        ends = (None, None) if half is None or value is None else (value - half, value + half)
        yield {
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


def to_csv(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    """The boards as one CSV table, a row each, after a first line that says what made it.

    Args:
        boards: one board or several.
        command: the command that made the file.
    """
    several = several_of(boards)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    text.write(f"# {made_by(several, command)}\n")
    measures = [name for name, _ in measures_of([row for board in several for row in board.rows])]
    names = ("block", *_CSV_ROW, *dict.fromkeys(measures))
    writer.writerow((*_CSV_BOARD, *names))
    for board in several:
        protocol = "; ".join(f"{name} {value}" for name, value in board.protocol)
        head = {name: getattr(board, name) for name in _CSV_BOARD} | {"protocol": protocol}
        for row in _csv_rows(board):
            # What papers report may be of another metric than the board's.
            metric = row["metric"] if row["block"] == "reported" else board.metric
            told = [*(head | {"metric": metric}).values(), *(row.get(name) for name in names)]
            writer.writerow([csv_cell(cell) for cell in told])
    return text.getvalue()
