"""Agents against environments: one score a cell, as papers print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lazybench.boards.build import build
from lazybench.boards.choose import one_table
from lazybench.boards.pivot_cells import (
    NOT_MEASURED,
    Cell,
    Wanted,
    chosen,
    measure_facts,
    measured,
    scored,
)
from lazybench.errors import UnknownName
from lazybench.records.schema import Record


@dataclass(frozen=True)
class Choice:
    """Which records a table is made of.

    Attributes:
        budget: compute budget.
        protocol: settings of the environment by name, as text, that boards must have.
        batch_norm: keeps rows judged so, and those without the switch; None keeps all.
        metric: a further metric instead of the headline one.
    """

    budget: str = "small"
    protocol: Mapping[str, str] = field(default_factory=dict)
    batch_norm: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Column:
    """One environment.

    Attributes:
        env: its id, with the version where one was asked for.
        metric: name of what is shown.
        unit: its unit.
        better: `higher` or `lower`.
        data: name and short fingerprint of the data; empty where nothing was measured.
        cells: a cell, or why there is none, for each row of the table.
    """

    env: str
    metric: str
    unit: str
    better: str
    data: str
    cells: tuple[Cell | str, ...]


@dataclass(frozen=True)
class Pivot:
    """Agents x environments.

    Attributes:
        labels: names of the rows.
        columns: environments in the order asked for.
        average: mean place of each row over all columns, among the rows that have them all; None
            for the others.
        choice: what it was made of.
    """

    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    average: tuple[float | None, ...]
    choice: Choice

    @property
    def shared(self) -> str:
        """Metric and unit where all measured columns have the same, else an empty string."""
        told = {f"{column.metric} ({column.unit})" for column in self.columns if column.unit}
        return told.pop() if len(told) == 1 else ""

    def cells(self, label: str) -> list[Cell | str]:
        """The cells of one row."""
        place = self.labels.index(label)
        return [column.cells[place] for column in self.columns]


def pivot(
    records: Sequence[Record], agents: Sequence[Wanted], envs: Sequence[str], choice: Choice
) -> Pivot:
    """Return the table of some agents on some environments.

    Ranks and ties are those of the rows shown, told from their trials; rows of other boards than
    the one of an environment, and rows that no board ranks, aren't taken.

    Args:
        records: of any environments.
        agents: the rows.
        envs: ids, or `<id>-v<version>`; without a version the newest one.
        choice: budget, protocol, batch norm and metric.

    Raises:
        UnknownName: not one cell could be filled.
        UsageError: an environment has several boards, or several rows are of one name.
    """
    columns = tuple(_column(records, agents, env, choice) for env in envs)
    if not any(isinstance(cell, Cell) for column in columns for cell in column.cells):
        raise UnknownName(
            f"no ranked row of {', '.join(wanted.label for wanted in agents)} on "
            f"{', '.join(envs)} at budget {choice.budget}; see what there is with: "
            "lazybench leaderboard"
        )
    whole = [
        all(isinstance(column.cells[i], Cell) for column in columns) for i in range(len(agents))
    ]
    complete = [wanted for wanted, holds in zip(agents, whole, strict=True) if holds]
    # Places among rows that miss other columns would be means over other rivals in each.
    among = columns
    if not all(whole):
        among = tuple(_column(records, complete, env, choice) for env in envs)
    averages = {
        wanted.label: _average([column.cells[i] for column in among])
        for i, wanted in enumerate(complete)
    }
    return Pivot(
        labels=tuple(wanted.label for wanted in agents),
        columns=columns,
        average=tuple(averages.get(wanted.label) for wanted in agents),
        choice=choice,
    )


def _average(cells: Sequence[Cell | str]) -> float | None:
    places = [cell.place for cell in cells if isinstance(cell, Cell)]
    whole = [place for place in places if place is not None]
    return sum(whole) / len(whole) if len(whole) == len(cells) else None


def _column(
    records: Sequence[Record], agents: Sequence[Wanted], env: str, choice: Choice
) -> Column:
    kept = [
        record
        for record in records
        if env in (record.env.id, f"{record.env.id}-v{record.env.version}")
        and record.budget == choice.budget
    ]
    table = one_table(kept, choice.protocol)
    if not table:
        return Column(env, choice.metric or "", "", "", "", (NOT_MEASURED,) * len(agents))
    (board,) = build(table)
    rows = [chosen(board, wanted, choice.batch_norm) for wanted in agents]
    better, unit = board.better, board.unit
    if choice.metric not in (None, board.metric):
        better, unit = measure_facts(kept, str(choice.metric), env)
        cells = measured(rows, str(choice.metric), better)
    else:
        cells = scored(rows, kept)
    return Column(
        env=env,
        metric=choice.metric or board.metric,
        unit=unit,
        better=better,
        data=f"{board.data} {board.fingerprint[:8]}",
        cells=tuple(cells),
    )
