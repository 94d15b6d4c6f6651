"""Whether boards agree: how alike two of them order the agents that are on both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from lazybench.boards.build import usual_tables
from lazybench.boards.group import Group, factor, groups, is_own, preferred, score_of, whole_runs
from lazybench.boards.render import page_mark
from lazybench.files import canonical_json
from lazybench.records.schema import Record
from lazybench.stats import standard_error
from lazybench.tables import markdown_table, markdown_text

FEWEST = 5
"""Agents in common below which no order is compared: with four, p can't fall below .05."""
_EMBEDDED = ("glyphs", "glyphshard")
_DRAWS = 2_000


class Common(NamedTuple):
    """A row that is on both boards, in their units.

    Attributes:
        name: the row's name on the left board.
        left: its score there.
        left_place: 1 for the best of the rows in common.
        right: its score on the other board.
        right_place: and its place there.
    """

    name: str
    left: float
    left_place: int
    right: float
    right_place: int


@dataclass(frozen=True)
class Agreement:
    """How alike two boards order the rows that both have.

    Attributes:
        left: environment and budget.
        right: the other's.
        rows: those on both boards, best on the left board first.
        tau: Kendall's tau-b; 1 if the orders are the same, -1 if one is the other reversed.
        lo: lower end of the range that 95 % of the taus lie in if each score is drawn again with
            its own standard error; NaN if a score has none.
        hi: upper end.
        p: two-sided, of independent orders; exact without ties.
    """

    left: str
    right: str
    rows: tuple[Common, ...]
    tau: float
    lo: float
    hi: float
    p: float


class _Board(NamedTuple):
    first: Record
    rows: Mapping[str, Group]

    @property
    def name(self) -> str:
        return f"{self.first.env.id}, {self.first.budget}"


def agreements(records: Sequence[Record]) -> list[Agreement]:
    """Return how boards of the embedded data agree with others, and budgets with each other.

    Compared are few-shot boards of one budget, of which one is of the glyphs and the other of real
    data; and boards of any family that differ in the budget alone. Rows are the same where agent
    and settings are, in the agent's newest version; smoke, limited and transferred runs don't
    count.

    Choice: pairs of boards with other ways and shots are compared as well, under their names: what
    a user wants to know is whether the board without a download predicts the others.
    """
    boards = [_board(table) for table in usual_tables(whole_runs(records))]
    boards.sort(key=lambda board: board.name)
    found = [
        _agreement(*_embedded_first(pair))
        for pair in combinations(boards, 2)
        if _is_compared(*pair)
    ]
    return [each for each in found if each is not None]


def _board(table: Sequence[Record]) -> _Board:
    alike: dict[str, list[Group]] = defaultdict(list)
    for group in groups(table):
        first = group.records[0]
        if group.scored and is_own(first):
            alike[canonical_json([first.agent.id, first.overrides])].append(group)
    chosen = {key: preferred(found) for key, found in alike.items()}
    return _Board(table[0], {key: group for key, group in chosen.items() if group is not None})


def _is_compared(one: _Board, other: _Board) -> bool:
    left, right = one.first, other.first
    if left.budget != right.budget:
        return (left.env.id, left.data) == (right.env.id, right.data)
    shown = [board.data.name in _EMBEDDED for board in (left, right)]
    return left.env.family == right.env.family == "fewshot" and shown.count(True) == 1


def _embedded_first(pair: tuple[_Board, _Board]) -> tuple[_Board, _Board]:
    one, other = pair
    return (one, other) if one.first.data.name in _EMBEDDED else (other, one)


def _agreement(left: _Board, right: _Board) -> Agreement | None:
    both = [key for key in left.rows if key in right.rows]
    if len(both) < FEWEST:
        return None
    scores, errors, signs = [], [], []
    for board in (left, right):
        values = [_score(board.rows[key]) for key in both]
        better = 1 if board.first.env.better == "higher" else -1
        scores.append(better * np.asarray([score for score, _ in values]))
        errors.append(np.asarray([error for _, error in values]))
        signs.append(better)
    tau, p = kendalltau(*scores)
    lo, hi = _range(scores, errors)
    one, other = scores
    rows = tuple(
        Common(
            left.rows[both[i]].name,
            signs[0] * float(one[i]),
            1 + int((one > one[i]).sum()),
            signs[1] * float(other[i]),
            1 + int((other > other[i]).sum()),
        )
        for i in np.argsort(-one, kind="stable")
    )
    return Agreement(left.name, right.name, rows, float(tau), lo, hi, float(p))


def _score(group: Group) -> tuple[float, float]:
    """A row's score on the board and its standard error; NaN without one."""
    scale = factor(group.records[0])
    trials = group.trial_scores()
    if trials is None:
        held = [score for record in group.scored if (score := score_of(record)) is not None]
        return scale * sum(held) / len(held), math.nan
    mean = float(np.mean([each.mean(dtype=np.float64) for each in trials]))
    return scale * mean, scale * standard_error(trials)


def _range(scores: Sequence[NDArray[Any]], errors: Sequence[NDArray[Any]]) -> tuple[float, float]:
    if any(np.isnan(error).any() for error in errors):
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    shape = (_DRAWS, len(scores[0]))
    drawn = [
        score + error * rng.standard_normal(shape)
        for score, error in zip(scores, errors, strict=True)
    ]
    # Drawn scores have no ties but where an error is 0, so this is tau-b but there.
    signs = [np.sign(side[:, :, None] - side[:, None, :]) for side in drawn]
    pairs = shape[1] * (shape[1] - 1)
    taus = (signs[0] * signs[1]).sum((1, 2)) / pairs
    lo, hi = np.quantile(taus, (0.025, 0.975))
    return float(lo), float(hi)


_HEAD = f"""\
# Do the boards agree?

{page_mark("validity")}

`lazybench reproduce validity --page FILE` writes this page from the records. The glyphs are
embedded, so their boards are what everybody can run; the question is whether they order agents as
real data does, and whether a small budget orders them as a larger one. Kendall's tau is 1 where two
boards have the same order, 0 where they have nothing to do with each other, -1 where one is the
other reversed; p is the chance of a tau as far from 0 if they had nothing to do with each other.
The range is where 95 % of the taus lie if each score is drawn again with its own standard error
(over seeds and trials): how much of the disagreement could be noise. It takes rows as independent,
though they share their trials, and it leaves out that other classes give other scores, which on
CIFAR-FS matters more: there the range is too narrow. Boards are compared by the rows that both have
with the same settings, where there are at least {FEWEST}.
"""


def validity_page(found: Sequence[Agreement]) -> str:
    """Return the page in Markdown."""
    return "\n".join([_HEAD, *_table(found), *(line for each in found for line in _section(each))])


def _table(found: Sequence[Agreement]) -> Iterator[str]:
    if not found:
        yield f"No two boards share {FEWEST} rows."
        yield ""
        return
    rows = [
        (
            markdown_text(each.left),
            markdown_text(each.right),
            str(len(each.rows)),
            f"{each.tau:+.2f}",
            "" if math.isnan(each.lo) else f"{each.lo:+.2f} to {each.hi:+.2f}",
            f"{each.p:.2g}",
        )
        for each in found
    ]
    header = ("boards", "", "rows", "tau", "range", "p")
    align = ["left", "left", "right", "right", "left", "right"]
    yield markdown_table(header, rows, align, padded=False)
    yield ""
    if len(found) > 1:
        yield _medians(found)
        yield ""


def _medians(found: Sequence[Agreement]) -> str:
    """The middle of the taus, over all pairs and with each board on the right."""
    by_board: dict[str, list[float]] = defaultdict(list)
    for each in found:
        by_board[each.right].append(each.tau)
    by_right = ", ".join(f"{median(taus):+.2f} with {board}" for board, taus in by_board.items())
    return f"Median tau: {median(each.tau for each in found):+.2f} over all pairs; {by_right}."


def _section(each: Agreement) -> Iterator[str]:
    yield f"## {each.left}, and {each.right}"
    yield ""
    rows = [
        (
            markdown_text(row.name),
            f"{row.left:.1f}",
            str(row.left_place),
            f"{row.right:.1f}",
            str(row.right_place),
        )
        for row in each.rows
    ]
    header = ("row", "score", "place", "score there", "place there")
    yield markdown_table(header, rows, ["left", *["right"] * 4], padded=False)
    yield ""
