"""Short boards inside users' Markdown files, between marks that select them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from lazybench.arguments import check_one_of
from lazybench.boards.build import NO_NETWORK, Board, is_usual, settings_text
from lazybench.boards.columns import (
    COLUMNS,
    Block,
    measure_text,
    measures_of,
    metric_words,
    row_name,
    target_blocks,
    value_text,
)
from lazybench.boards.group import TRANSDUCTIVE
from lazybench.boards.rows import Row
from lazybench.errors import UnknownName, UsageError, nearest
from lazybench.records.schema import Reported
from lazybench.specs import BUDGETS
from lazybench.tables import markdown_table, markdown_text

END = "<!-- lazybench board: end -->"
NOTE_MARK = "<!-- lazybench note: "
_BEGIN = re.compile(r"<!-- lazybench (?P<kind>board|note|features): (?!end )(?P<words>[^\n]*?) -->")
_FORM = (
    "<!-- lazybench board: ENV BUDGET ROWS [NAME=VALUE ...] [COLUMN ...] -->, such as "
    "glyphs-20way-5shot small 5"
)
_FEATURES_FORM = (
    "<!-- lazybench features: BACKBONE BUDGET[,LONGER] ENV [ENV ...] -->, such as "
    "effnet-lite0 small,medium cifarfs-5way-1shot"
)
_MOST_ROWS = 1_000
_PAPER = "paper"
_BLOCKS = [column.block for column in COLUMNS if column.block is not None]
_ALWAYS = [block for block in _BLOCKS if not block.name]
_FURTHER = {block.name: block for block in _BLOCKS if block.name}
_RANKED_AMONG = Block("ranked among", lambda row, _: row.rank_group or NO_NETWORK, left=True)


class _Mark(NamedTuple):
    env: str
    budget: str
    rows: int
    columns: tuple[str, ...]
    protocol: Mapping[str, str] = MappingProxyType({})


def filled(text: str, boards: Sequence[Board], notes: Mapping[str, str] | None = None) -> str:
    """Return a Markdown text with the best rows of boards between its marks.

    A block begins with `<!-- lazybench board: ENV BUDGET ROWS [COLUMN ...] -->` and ends with
    `<!-- lazybench board: end -->`; the text between is replaced. Only ranked rows are shown.
    `NAME=VALUE` chooses among boards of one environment by a setting of its protocol; without any,
    a board with options such as a defence isn't meant. Where the rows are of several rank groups,
    the first column names them. Further columns are `track`, `F` (gradient-equivalents), `peak_mb`,
    the name of any further metric, `paper` or `paper:METRIC`, the paper's number for the row, and
    `to_TARGET`, the cost to a target of validation. A note from `<!-- lazybench note: verdicts -->`
    to `<!-- lazybench note: end -->` is filled, too.
    `<!-- lazybench features: BACKBONE BUDGET[,LONGER] ENV [ENV ...] -->` to
    `<!-- lazybench features: end -->` shows the best row of each environment, at the longer budget
    where that has a board, and the best ones on features of the same data at the first.

    Args:
        text: any Markdown; without marks it is returned unchanged.
        boards: of the store.
        notes: texts of notes by name.

    Raises:
        UnknownName: no board of that environment and budget, or no such note.
        UsageError: a mark isn't of that form, isn't closed, or names several boards.
    """
    parts, place = [], 0
    while (begin := _BEGIN.search(text, place)) is not None:
        closing = END.replace("board", begin["kind"])
        end = text.find(closing, begin.end())
        following = _BEGIN.search(text, begin.end())
        if end < 0 or (following is not None and following.start() < end):
            raise UsageError(f"'{begin[0]}' isn't closed; put {closing} below it")
        parts += [text[place : begin.end()], "\n", _content(begin, boards, notes or {}), "\n"]
        place = end
    return "".join([*parts, text[place:]])


def _content(begin: re.Match[str], boards: Sequence[Board], notes: Mapping[str, str]) -> str:
    if begin["kind"] == "board":
        mark = _parsed(begin)
        return _table(_board(mark, boards), mark)
    if begin["kind"] == "features":
        return _with_features(begin, boards)
    if begin["words"] not in notes:
        raise UnknownName(
            f"'{begin[0]}' names no note.{nearest(begin['words'], notes)} Notes: {', '.join(notes)}"
        )
    return f"\n{notes[begin['words']]}"


def _parsed(begin: re.Match[str]) -> _Mark:
    words = begin["words"].split()
    if len(words) < 3 or not words[2].isdecimal() or not 0 < int(words[2]) <= _MOST_ROWS:
        raise UsageError(f"'{begin[0]}' isn't of the form {_FORM}")
    columns = tuple(word for word in words[3:] if "=" not in word)
    protocol = dict(word.split("=", 1) for word in words[3:] if "=" in word)
    return _Mark(words[0], words[1], int(words[2]), columns, protocol)


def _fitting(mark: _Mark, boards: Sequence[Board]) -> list[Board]:
    return [
        board
        for board in boards
        if mark.env in (board.env, board.name)
        and board.budget == mark.budget
        and mark.protocol.items() <= settings_text(board.env, dict(board.protocol)).items()
    ]


def _board(mark: _Mark, boards: Sequence[Board]) -> Board:
    fitting = _fitting(mark, boards)
    usual = [board for board in fitting if is_usual(board.env, dict(board.protocol))]
    fitting = usual if len(usual) == 1 else fitting
    if not fitting:
        names = sorted({board.env for board in boards})
        raise UnknownName(
            f"no board of {' '.join([mark.env, *map('='.join, mark.protocol.items())])} at budget "
            f"{mark.budget}.{nearest(mark.env, names)} "
            "Boards: lazybench leaderboard"
        )
    if len(fitting) > 1:
        raise UsageError(
            f"{mark.env} has {len(fitting)} boards at budget {mark.budget} (of other data, "
            "protocols or revisions); choose one with NAME=VALUE, keep one of them in a store of "
            "its own, or name ENV-vN"
        )
    return fitting[0]


def _table(board: Board, mark: _Mark) -> str:
    columns = [*_ALWAYS, *(_further(name, board) for name in mark.columns)]
    rows = board.ranked[: mark.rows]
    if len({row.rank_group for row in rows}) > 1:
        columns.insert(0, _RANKED_AMONG)
    columns = [c for c in columns if c.name or any(c.text(row, board.unit) for row in rows)]
    table = markdown_table(
        [markdown_text(_heading(column, board)) for column in columns],
        [[markdown_text(column.text(row, board.unit)) for column in columns] for row in rows],
        ["left" if column.left else "right" for column in columns],
    )
    left = len(board.ranked) - len(rows)
    more = f" and {left} more" if left > 0 else ""
    summary = f"{board.name}, {board.at}: {len(rows)} rows{more}, {board.n_records} records."
    return f"\n{table}\n\n{markdown_text(summary)}\n"


def _with_features(begin: re.Match[str], boards: Sequence[Board]) -> str:
    """The best row of each environment, and the best ones on features of its data.

    Raises:
        UnknownName: no such board.
        UsageError: the mark isn't of its form, or names several boards or no budget.
    """
    words = begin["words"].split()
    if len(words) < 3:
        raise UsageError(f"'{begin[0]}' isn't of the form {_FEATURES_FORM}")
    backbone, budgets, *envs = words
    budget, *longer = budgets.split(",")
    for at in (budget, *longer):
        check_one_of(f"a budget in '{begin[0]}'", at, BUDGETS)
    of_features = {
        board.env.replace(f"@{backbone}-", "-"): board.env
        for board in boards
        if f"@{backbone}-" in board.env
    }
    lines = []
    for env in envs:
        name = of_features.get(env, f"features of {backbone} for {env}")
        marks = [_Mark(env, at, 1, ()) for at in (*reversed(longer), budget)]
        on_pixels = next((mark for mark in marks if _fitting(mark, boards)), marks[-1])
        pixels, features = (_board(m, boards) for m in (on_pixels, _Mark(name, budget, 1, ())))
        alone = [row for row in features.ranked if TRANSDUCTIVE not in row.marks]
        together = [row for row in features.ranked if TRANSDUCTIVE in row.marks]
        best = [_best(rows, pixels) for rows in (pixels.ranked, alone, together)]
        if pixels.budget != budget:
            best[0] += f" at {pixels.budget}"
        lines.append([env, *best])
    heads = ["accuracy, %", "pixels", f"{backbone} features", "the same, transductive"]
    table = markdown_table(heads, [[markdown_text(cell) for cell in line] for line in lines])
    at = f"{budget}, or as shown" if longer else budget
    return f"\n{table}\n\nThe best row of each board at {at}, with its 95 % interval.\n"


def _best(rows: Sequence[Row], board: Board) -> str:
    """The name of the best of some rows, with its score and interval; empty without one."""
    if not rows:
        return ""
    # Rows come by groups of equal backbones, which are ranked apart.
    sign = 1 if board.better == "higher" else -1
    best = max(rows, key=lambda row: sign * (row.score or 0.0))
    shown = {column.heading: column.text(best, board.unit) for column in _ALWAYS}
    return f"{best.agent}: {shown['score']} ({shown['95 % interval']})"


def _heading(column: Block, board: Board) -> str:
    return f"{board.metric}, {board.unit}" if column.heading == "score" else column.heading


def _further(name: str, board: Board) -> Block:
    """A further column of a block.

    Raises:
        UsageError: no such column.
    """
    if name in _FURTHER:
        return _FURTHER[name]
    papers = {_paper(row.metric, board): row.metric for row in board.reported}
    if name in papers:
        return _of_papers(papers[name], board)
    units = dict(measures_of(board.ranked))
    if name in units:
        return Block(_headed(name, units[name]), lambda row, _: measure_text(row, name))
    targets = target_blocks(board.ranked, board.unit)
    if name in targets:
        return targets[name]
    known = (*_FURTHER, *units, *papers, *targets)
    raise UsageError(
        f"{board.name} has no column '{name}' for a block.{nearest(name, known)} Columns: "
        f"{', '.join(known)}"
    )


def _paper(metric: str, board: Board) -> str:
    """The name of a block's column of numbers that papers report for a metric."""
    return _PAPER if metric == board.metric else f"{_PAPER}:{metric}"


def _of_papers(metric: str, board: Board) -> Block:
    numbers: dict[tuple[str | None, str | None], Reported] = {
        (row_name(row), row.batch_norm): row for row in board.reported if row.metric == metric
    }

    def cell(row: Row, _: str) -> str:
        # A number of unknown batch norm is compared with our default.
        reported = numbers.get((row.agent, row.batch_norm))
        if reported is None and row.batch_norm in (None, TRANSDUCTIVE):
            reported = numbers.get((row.agent, None))
        return "" if reported is None else value_text(reported)

    unit = next(row.unit for row in numbers.values())
    heading = f", {unit}" if metric == board.metric else f" {_headed(metric, unit)}"
    return Block(f"reported{heading}", cell)


def _headed(metric: str, unit: str) -> str:
    """A metric's name with its unit, where that isn't its last word already."""
    words = metric_words(metric)
    return words if words.lower().endswith(unit.lower()) else f"{words}, {unit}"
