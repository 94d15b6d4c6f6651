"""Cells of a table of agents against environments: which row, and how it stands in its column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lazybench.boards.build import Board, build
from lazybench.boards.rows import Row
from lazybench.errors import UnknownName, UsageError
from lazybench.records.schema import Record

NOT_MEASURED = "not measured"
_KEY_DIGITS = 6


@dataclass(frozen=True)
class Wanted:
    """One row that is asked for.

    Attributes:
        label: what stands in the table.
        names: row names, agent ids or first digits of keys; the first that a board has is taken.
    """

    label: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One agent on one environment.

    Attributes:
        score: in the column's unit.
        half: the wider half of its 95 % interval; None where it can't be told.
        place: rank among the shown rows, tied ones sharing the mean of their places; None where
            the cell isn't ranked among them.
        best: whether no other ranked cell of the column is better.
        tied: whether the column's best can't be told from it.
        outside: whether it is of another backbone, or of other weights, than what is ranked.
        row: the row of the board that it comes from.
    """

    score: float
    half: float | None
    place: float | None
    best: bool
    tied: bool
    outside: bool
    row: Row


def chosen(board: Board, wanted: Wanted, batch_norm: str | None) -> Row | str:
    """The one ranked row that is wanted, or why there is none.

    Raises:
        UsageError: several rows are.
    """
    rows = [
        row for row in board.ranked if batch_norm is None or row.batch_norm in (None, batch_norm)
    ]
    named = next(filter(None, (_named(rows, name) for name in wanted.names)), [])
    if len(named) > 1:
        listed = "; ".join(
            f"{row.agent} ({row.batch_norm or 'no batch norm'}, {row.keys[0]})" for row in named
        )
        raise UsageError(
            f"'{wanted.label}' names {len(named)} rows of {board.name}: {listed}; give a row's "
            f"name or key, such as --agents '{wanted.label}={named[0].keys[0]}', or --batch-norm"
        )
    if named:
        return named[0]
    failed = [r for r in board.failed if r.agent in wanted.names or r.agent_id in wanted.names]
    return failed[0].reason or "no score" if failed else NOT_MEASURED


def _named(rows: Sequence[Row], name: str) -> list[Row]:
    exact = [row for row in rows if row.agent == name]
    return exact or [
        row
        for row in rows
        if row.agent_id == name
        or (len(name) >= _KEY_DIGITS and any(key.startswith(name) for key in row.keys))
    ]


def scored(rows: Sequence[Row | str], records: Sequence[Record]) -> list[Cell | str]:
    """The cells, ranked among themselves by a board of their own records."""
    keys = {key for row in rows if isinstance(row, Row) for key in row.keys}
    boards = build(record for record in records if record.key12 in keys)
    ranked = [row for board in boards for row in board.ranked]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in ranked:
        groups[row.rank_group].append(row)
    home = max(groups.values(), key=len, default=[])
    shared: dict[int | None, list[int]] = defaultdict(list)
    for place, row in enumerate(home, start=1):
        shared[row.rank].append(place)
    found = {row.keys: row for row in ranked}
    cells: list[Cell | str] = []
    for each in rows:
        if isinstance(each, str) or each.score is None:
            cells.append(each if isinstance(each, str) else "no score")
            continue
        own = found[each.keys]
        at_home = own in home
        places = shared[own.rank]
        best = at_home and own.score == home[0].score
        cell = Cell(
            score=each.score,
            half=_half(each),
            place=sum(places) / len(places) if at_home else None,
            best=best,
            tied=at_home and own.rank == 1 and not best,
            outside=not at_home,
            row=each,
        )
        cells.append(cell)
    return cells


def _half(row: Row) -> float | None:
    if row.score is None or row.lo is None or row.hi is None:
        return None
    return max(row.hi - row.score, row.score - row.lo)


def measure_facts(records: Sequence[Record], metric: str, env: str) -> tuple[str, str]:
    """Which way a further metric is better, and its unit.

    Raises:
        UnknownName: no record has it.
    """
    told = [record.metrics[metric] for record in records if metric in record.metrics]
    if not told:
        names = dict.fromkeys(name for record in records for name in record.metrics)
        raise UnknownName(
            f"no record of {env} has the metric '{metric}'; there are: {', '.join(names)}"
        )
    return told[0].better, "%" if told[0].unit == "fraction" else told[0].unit


def measured(rows: Sequence[Row | str], metric: str, better: str) -> list[Cell | str]:
    """The cells of a further metric, which has no trials to tell intervals and ties from."""
    cells: list[Cell | str] = []
    for row in rows:
        values = (
            [] if isinstance(row, str) else [v for name, _, v in row.measures if name == metric]
        )
        if isinstance(row, str) or not values:
            cells.append(row if isinstance(row, str) else f"no {metric}")
        else:
            cells.append(Cell(values[0], None, None, False, False, False, row))
    scores = [cell.score for cell in cells if isinstance(cell, Cell)]
    best = (max if better == "higher" else min)(scores, default=None)
    return [replace(c, best=c.score == best) if isinstance(c, Cell) else c for c in cells]
