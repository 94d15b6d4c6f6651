"""All boards as one HTML file: no network, no library, readable without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from lazybench.boards.build import Board
from lazybench.boards.columns import (
    REPORTED_COLUMNS,
    Column,
    columns_of,
    common_source,
    short_places,
    target_text,
    targets_of,
    to_target,
)
from lazybench.boards.plot_data import PlotData, plot_data
from lazybench.boards.render import made_by
from lazybench.boards.rows import Row
from lazybench.records.fields import Reported
from lazybench.records.schema import Record
from lazybench.tables import rounded

COMMAND = "lazybench leaderboard --html FILE"
_SCRIPTS = ("shape.js", "plots.js", "table.js")


@dataclass(frozen=True)
class Shown:
    """One cell: its text, what it is sorted by where that is a number, and its interval bar."""

    text: str
    value: float | None
    bar: tuple[float, float, float] | None = None


def to_html(boards: Sequence[Board], records: Iterable[Record], *, command: str = COMMAND) -> str:
    """The boards as one self-contained page; names in it are shown, never taken for markup.

    Args:
        boards: made of `records`, maybe of some only.
        records: where learning curves and trials are taken from.
        command: the command that made the page, named in it.
    """
    from jinja2 import Environment, StrictUndefined

    script = "\n".join(_asset(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    found = plot_data(boards, records)
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_asset("page.html"))
    return template.render(
        boards=[_section(each) for each in found],
        style=_markup(_asset("page.css")),
        script=_markup(script),
        digest=digest,
        data=_markup(json_for_script([_facts(each) for each in found])),
        made=made_by(boards, command),
        families=sorted({board.family for board in boards}),
        envs=sorted({board.env for board in boards}),
        budgets=sorted({board.budget for board in boards}),
        reported=_reported(boards),
    )


def json_for_script(value: Any) -> str:
    """JSON in ASCII in which no character can end or open an HTML element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (files("lazybench.boards") / "page" / name).read_text("utf-8").strip()


def _markup(text: str) -> Any:
    from markupsafe import Markup

    # Only our own files, and JSON without angle brackets.
    return Markup(text)


def _section(found: PlotData) -> dict[str, Any]:
    board = found.board
    columns = columns_of(board, board.rows)
    span, blocks = _span(board), board.blocks
    return {
        "id": found.id,
        "board": board,
        "fingerprint": board.fingerprint[:12],
        "protocol": "; ".join(f"{name} {_short(value)}" for name, value in board.protocol),
        "columns": [
            {
                "title": column.heading(board),
                "help": column.help,
                "first": column.first,
                "ascending": column.ascending,
                "key": column.key,
            }
            for column in columns
        ],
        "blocks": [
            (title, [[_shown(column, row, board, span) for column in columns] for row in rows])
            for title, rows in blocks
        ],
        "names": _names(found, blocks),
        "span": span,
        "to_target": _to_target(board),
    }


def _to_target(board: Board) -> dict[str, Any] | None:
    """The table of costs to the targets, the least first; None if no row has them."""
    targets = targets_of(board.rows)
    if not targets:
        return None

    def costs(row: Row) -> list[float]:
        found = (to_target(row, target) for target in targets)
        known = (each.train_cpu_s if each is not None else None for each in found)
        return [math.inf if cost is None else cost for cost in known]

    rows = sorted((row for row in board.rows if row.to_target is not None), key=costs)
    return {
        "headings": [f"{target:g} {board.unit}".rstrip() for target in targets],
        "rows": [
            (row.agent, [target_text(to_target(row, target)) for target in targets]) for row in rows
        ],
    }


def _short(value: Any) -> str:
    """A value of the protocol, hashes by their first digits."""
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _names(found: PlotData, blocks: Sequence[tuple[str, Sequence[Row]]]) -> list[list[int | None]]:
    """The place of each row's series, which pictures highlight; None for rows without a score."""
    scored = [id(row) for row in found.board.rows if row.score is not None]
    return [
        [scored.index(id(row)) if id(row) in scored else None for row in rows] for _, rows in blocks
    ]


def _shown(column: Column, row: Row, board: Board, span: tuple[float, float] | None) -> Shown:
    (text,) = column.cells(board, [row])
    value = None if column.sort is None else rounded(column.sort(row))
    if column.key != "score" or row.score is None or span is None:
        return Shown(text, value)
    low, high = span
    ends = (row.score if end is None else end for end in (row.lo, row.score, row.hi))
    # Halves, since the difference of the greatest numbers would overflow.
    left, middle, right = (
        round(100 * ((end / 2 - low / 2) / (high / 2 - low / 2)), 2) for end in ends
    )
    return Shown(text, value, (left, round(right - left, 2), middle))


def _span(board: Board) -> tuple[float, float] | None:
    """Least and greatest end of an interval on the board, None if all are one."""
    ends = [
        end
        for row in board.rows
        if row.score is not None
        for end in (row.score, row.lo, row.hi)
        if end is not None
    ]
    return (min(ends), max(ends)) if ends and max(ends) / 2 > min(ends) / 2 else None


def _facts(found: PlotData) -> dict[str, Any]:
    """What the scripts draw, with 6 significant digits."""
    board = found.board
    facts: dict[str, Any] = rounded(
        {
            "id": found.id,
            "name": board.name,
            "metric": board.metric,
            "unit": board.unit,
            "better": board.better,
            "costs": [(*cost, found.cost_note(cost[0])) for cost in found.costs],
            "learningX": found.learning_x,
            "learningY": found.learning_y,
            "learningNote": found.learning_note,
            "series": [
                {
                    "name": each.name,
                    "ranked": each.ranked,
                    "score": each.score,
                    "lo": each.lo,
                    "hi": each.hi,
                    "costs": each.costs,
                    "learning": each.learning,
                    "success": each.success,
                }
                for each in found.series
            ],
        }
    )
    return facts


def _reported(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """What papers print, once for each environment."""
    by_env: dict[str, tuple[Board, tuple[Reported, ...]]] = {
        board.env: (board, board.reported) for board in boards if board.reported
    }
    found = []
    for env, (board, rows) in by_env.items():
        source = common_source(rows)
        columns = short_places(REPORTED_COLUMNS) if source else REPORTED_COLUMNS
        cells = [[(column.text(row), column.style) for column in columns] for row in rows]
        headings = [column.heading for column in columns]
        facts = {"env": env, "family": board.family, "source": source}
        found.append(facts | {"headings": headings, "rows": cells})
    return found
