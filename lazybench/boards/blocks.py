"""Short boards inside a Markdown file of a user's, between marks that say which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate

from lazybench.boards.build import Board
from lazybench.boards.render import markdown_text
from lazybench.boards.rows import Row
from lazybench.errors import UnknownName, UsageError, nearest

END = "<!-- lazybench board: end -->"
_BEGIN = re.compile(r"<!-- lazybench board: (?!end )(?P<asked>[^\n]*?) -->")
_FORM = "<!-- lazybench board: ENV BUDGET ROWS -->, such as glyphs-20way-5shot small 5"
_MOST_ROWS = 1_000


class _Asked(NamedTuple):
    env: str
    budget: str
    rows: int


def filled(text: str, boards: Sequence[Board]) -> str:
    """Return a Markdown text with the best rows of boards between its marks.

    A block begins with `<!-- lazybench board: ENV BUDGET ROWS -->` and ends with
    `<!-- lazybench board: end -->`; what stands between is replaced. Only ranked rows are shown.

    Args:
        text: any Markdown; without marks it comes back as it is.
        boards: of the store.

    Raises:
        UnknownName: no board of that environment and budget.
        UsageError: a mark isn't of that form, isn't closed, or names several boards.
    """
    parts, place = [], 0
    while (begin := _BEGIN.search(text, place)) is not None:
        end = text.find(END, begin.end())
        following = _BEGIN.search(text, begin.end())
        if end < 0 or (following is not None and following.start() < end):
            raise UsageError(f"'{begin[0]}' isn't closed; put {END} below it")
        asked = _asked(begin)
        parts += [text[place : begin.end()], "\n", _table(_board(asked, boards), asked.rows), "\n"]
        place = end
    return "".join([*parts, text[place:]])


def _asked(begin: re.Match[str]) -> _Asked:
    words = begin["asked"].split()
    if len(words) != 3 or not words[2].isdecimal() or not 0 < int(words[2]) <= _MOST_ROWS:
        raise UsageError(f"'{begin[0]}' isn't of the form {_FORM}")
    return _Asked(words[0], words[1], int(words[2]))


def _board(asked: _Asked, boards: Sequence[Board]) -> Board:
    found = [
        board
        for board in boards
        if asked.env in (board.env, board.name) and board.budget == asked.budget
    ]
    if not found:
        names = sorted({board.env for board in boards})
        raise UnknownName(
            f"no board of {asked.env} at budget {asked.budget}.{nearest(asked.env, names)} "
            "Boards: lazybench leaderboard"
        )
    if len(found) > 1:
        raise UsageError(
            f"{asked.env} has {len(found)} boards at budget {asked.budget} (of other data, "
            "protocols or revisions); keep one of them in a store of its own, or name ENV-vN"
        )
    return found[0]


def _table(board: Board, most: int) -> str:
    header = ("agent", f"{board.metric}, {board.unit}", "95 % interval", "seeds", "training, s")
    rows = [_cells(row) for row in board.ranked[:most]]
    table = tabulate(
        rows,
        [markdown_text(name) for name in header],
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", "right", "right", "right", "right"),
    )
    left = len(board.ranked) - len(rows)
    more = f" and {left} more" if left > 0 else ""
    told = f"{board.name}, {board.budget}: {len(rows)} rows{more}, {board.n_records} records."
    return f"\n{table}\n\n{markdown_text(told)}\n"


def _cells(row: Row) -> tuple[str, ...]:
    name = row.agent if row.batch_norm is None else f"{row.agent}, {row.batch_norm}"
    marks = f" ({', '.join(row.marks)})" if row.marks else ""
    return (
        markdown_text(f"{name}{marks}"),
        "" if row.score is None else f"{row.score:.1f}",
        "" if row.lo is None or row.hi is None else f"{row.lo:.1f} to {row.hi:.1f}",
        str(len(row.seeds)),
        "" if row.train_wall_s is None else f"{row.train_wall_s:,.0f}",
    )
