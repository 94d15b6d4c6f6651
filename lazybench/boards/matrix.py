"""Tables of train domain against test domain: one agent's finished runs, evaluated elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazybench.boards.build import usual_tables
from lazybench.boards.columns import number_text
from lazybench.boards.group import Group, groups, newest, whole_runs
from lazybench.boards.rows import row_of
from lazybench.errors import LazybenchError
from lazybench.records.schema import Record
from lazybench.tables import csv_table

NO_RUN = "no finished run"
ONLY_PARTS = f"{NO_RUN} of all trials at a budget above smoke; run it again without --limit"


@dataclass(frozen=True)
class MatrixCell:
    """An agent trained on one environment and tested on another one.

    Attributes:
        train: environment of the training.
        test: environment of the test trials.
        score: mean over trials and seeds in `unit`; None if there is none.
        lo: lower end of its 95 % interval; None if it is unknown.
        hi: upper end of the interval.
        unit: unit of the score, `%` for fractions.
        seeds: the seeds.
        trials: test trials of each seed.
        keys: first digits of the records' keys, by seed.
        reason: why there is no score; empty if there is one.
    """

    train: str
    test: str
    score: float | None = None
    lo: float | None = None
    hi: float | None = None
    unit: str = ""
    seeds: tuple[int, ...] = ()
    trials: int = 0
    keys: tuple[str, ...] = ()
    reason: str = ""

    @property
    def diagonal(self) -> bool:
        """Whether the agent is tested where it was trained."""
        return self.train == self.test

    @property
    def text(self) -> str:
        """The score with its interval; those of the diagonal have a star."""
        if self.score is None:
            return "-"
        ends = (
            ""
            if self.lo is None or self.hi is None
            else f" ({number_text(self.lo, self.unit)} to {number_text(self.hi, self.unit)})"
        )
        return f"{number_text(self.score, self.unit)}{ends}{' *' if self.diagonal else ''}"


@dataclass(frozen=True)
class Wanted:
    """The runs of a table.

    Attributes:
        agent: id.
        budget: of training and test.
        settings: all overrides but the batch norm.
        batch_norm: mode of batch norm, for agents that have one.
    """

    agent: str
    budget: str
    settings: Mapping[str, Any]
    batch_norm: str


Evaluate = Callable[[Record, str], Record]
"""From the record of a run and an environment to the record of the run's evaluation there."""


def matrix(
    records: Sequence[Record],
    wanted: Wanted,
    train: Iterable[str],
    test: Sequence[str],
    evaluate: Evaluate,
) -> list[list[MatrixCell]]:
    """Return a row of cells for each environment of training.

    Cells on the diagonal are runs' own records. The others are evaluations that the records hold,
    or fresh ones; a cell whose evaluation is refused has the reason.

    Args:
        records: of a store.
        wanted: the runs.
        train: environments that runs were trained on.
        test: environments to test them on.
        evaluate: evaluates a run.
    """
    return [_row(records, wanted, home, test, evaluate) for home in train]


def _row(
    records: Sequence[Record],
    wanted: Wanted,
    home: str,
    test: Sequence[str],
    evaluate: Evaluate,
) -> list[MatrixCell]:
    here = [r for r in records if (r.env.id, r.budget) == (home, wanted.budget)]
    own = whole_runs(here)
    usual = [record for table in usual_tables(own) for record in table]
    runs = newest(groups(usual), wanted.agent, wanted.settings, wanted.batch_norm)
    if runs is None or not runs.scored:
        parts = any(r.agent.id == wanted.agent and r.trained_on is None for r in here)
        reason = ONLY_PARTS if parts and not own else NO_RUN
        return [MatrixCell(home, each, reason=reason) for each in test]
    return [_cell(records, runs, home, each, evaluate) for each in test]


def _cell(
    records: Sequence[Record], runs: Group, home: str, test: str, evaluate: Evaluate
) -> MatrixCell:
    if test == home:
        return _scored(runs.scored, home, test)
    try:
        here = [_stored(records, run, test) or evaluate(run, test) for run in runs.scored]
    except LazybenchError as error:
        return MatrixCell(home, test, reason=str(error))
    return _scored(here, home, test)


def fit_key(run: Record) -> str:
    """Return the first digits of the key of the training behind a record."""
    return (run.fit or run.key)[:12]


def _stored(records: Iterable[Record], run: Record, test: str) -> Record | None:
    """The whole evaluation of a run's best state on `test` with the run's settings, if any."""
    origin = f"{run.env.id} {fit_key(run)} best "
    fitting = [
        r
        for r in records
        if (r.env.id, r.budget, r.limited) == (test, run.budget, False)
        and (r.trained_on or "").startswith(origin)
        and r.config == run.config
    ]
    return max(fitting, key=lambda r: (r.env.version, r.key), default=None)


def _scored(records: Sequence[Record], home: str, test: str) -> MatrixCell:
    group = Group(tuple(records), test)
    row = row_of(group, [group], mixed_devices=False)
    unit = "%" if records[0].env.unit == "fraction" else records[0].env.unit
    return MatrixCell(home, test, row.score, row.lo, row.hi, unit, row.seeds, row.trials, row.keys)


def matrix_csv(cells: Iterable[Iterable[MatrixCell]]) -> str:
    """Return a CSV table with a line for each cell."""
    head = ("train", "test", "diagonal", "score", "lo", "hi", "unit", "seeds", "trials", "keys")
    rows = [
        (
            *(each.train, each.test, each.diagonal, each.score, each.lo, each.hi, each.unit),
            *(" ".join(map(str, each.seeds)), each.trials, " ".join(each.keys), each.reason),
        )
        for row in cells
        for each in row
    ]
    return csv_table((*head, "reason"), rows)
