"""Records, a board and a comparison as objects that print, draw, export and show in notebooks.

Data frames need pandas (extra `frames`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lazybench.arguments import KEY_DIGITS, is_key
from lazybench.boards.build import Board, one_table
from lazybench.boards.compare import (
    Comparison,
    comparison_columns,
    comparison_text,
    difference_text,
)
from lazybench.boards.group import batch_norm, score_of, settings_text
from lazybench.boards.plots import board_figure, compare_figure
from lazybench.boards.render import (
    board_text,
    csv_lines,
    made_from,
    reported_text,
    to_csv,
    to_fragment,
    to_latex,
    to_markdown,
)
from lazybench.errors import LazybenchError, UnknownName, UsageError
from lazybench.records import Record, RecordList, Store
from lazybench.records.schema import Cost
from lazybench.runner.request import resolve_env
from lazybench.specs import BUDGETS
from lazybench.tables import (
    MADE_BY,
    csv_table,
    html_table,
    latex_comment,
    latex_footnote,
    latex_heading,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


_MOST_SHOWN = 60
"""Rows that a notebook shows of a list of records."""


def import_pandas() -> ModuleType:
    """Return the module pandas.

    Raises:
        LazybenchError: it isn't installed; the message names the extra.
    """
    try:
        import pandas
    except ImportError as error:
        raise LazybenchError(
            f"data frames need pandas ({error}); install it with: pip install 'lazybench[frames]'"
        ) from error
    module: ModuleType = pandas
    return module


class Records(RecordList):
    """A list of records that is shown as a table in notebooks and converts to a data frame."""

    def to_frame(self, *, per_trial: bool = False) -> DataFrame:
        """Return a data frame with one row per record, or one row per trial.

        Columns of records: `key`, `agent`, `settings` (as boards write them), `env`,
        `env_version`, `budget`, `seed`, `batch_norm`, `metric`, `score`, `lo` and `hi` (95 %
        interval), `unit`, `better`, `trials`, `status`, `reason`, costs by their names in records
        (`train_wall_s`, `train_cpu_s`, `image_gradients`, …), `backbone`, `parameters`,
        `weights`, `data`, `device`, `precision`, `processor`, `version`, `date` and flags. Then
        come a column `metric_<name>` for each further metric and `set_<name>` for each setting
        that a run replaced.

        Columns of trials: `key`, `agent`, `settings`, `env`, `budget`, `seed`, `batch_norm`,
        `trial`, `score`, `unit`, and `trial_<name>` for further numbers of a trial (queries,
        distance, …). A record without scores has no rows.

        Scores are in the unit of the environment, so accuracies are fractions. Without records, the
        frame has these columns and no rows.

        Args:
            per_trial: whether a row is a trial.

        Raises:
            LazybenchError: pandas isn't installed.
        """
        pandas = import_pandas()
        if per_trial:
            parts = [pandas.DataFrame(_trials(record)) for record in self if record.trials.n]
            if not parts:
                return pandas.DataFrame(columns=_TRIAL_COLUMNS)
            return pandas.concat(parts, ignore_index=True)
        frame = pandas.DataFrame(list(map(_facts, self)), columns=None if self else _COLUMNS)
        frame["date"] = pandas.to_datetime(frame["date"], utc=True, format="ISO8601")
        return frame

    def _repr_html_(self) -> str:
        """Return the records as an HTML table for notebooks, at most 60 of them."""
        head = ("key", "agent", "env", "budget", "seed", "score", "95 % interval", "date")
        rows = [_short(record) for record in self[:_MOST_SHOWN]]
        left = len(self) - len(rows)
        notes = [f"{left} more; to_frame() has all of them."] if left else []
        return html_table(head, rows, title=f"{len(self)} records", notes=notes)


_IDENTITY = ("key", "agent", "settings", "env", "env_version", "budget", "seed", "batch_norm")
_COLUMNS = [
    *_IDENTITY,
    *("metric", "score", "lo", "hi", "unit", "better", "trials", "status", "reason"),
    *(name for name in Cost.model_fields if name not in Cost.LATER),
    *("backbone", "parameters", "weights", "data", "family", "track", "trained_on"),
    *("device", "precision", "processor", "version", "date"),
    *("limited", "untuned", "isolated", "dirty"),
]
"""Columns of every frame of records, which a frame of none has, too."""
_TRIAL_COLUMNS = [
    *(name for name in _IDENTITY if name != "env_version"),
    *("trial", "score", "unit"),
]
"""Columns of every frame of trials."""


def _identity(record: Record) -> dict[str, Any]:
    """The columns that say which run a row is of."""
    return {
        "key": record.key12,
        "agent": record.agent.id,
        "settings": settings_text(record),
        "env": record.env.id,
        "env_version": record.env.version,
        "budget": record.budget,
        "seed": record.seed,
        "batch_norm": batch_norm(record),
    }


def _facts(record: Record) -> dict[str, Any]:
    """The row of one record, by column."""
    env, network = record.env, record.network
    main = record.metrics.get(env.metric)
    lo, hi = (main and main.ci95) or (None, None)
    return {
        **_identity(record),
        "metric": env.metric,
        "score": score_of(record),
        "lo": lo,
        "hi": hi,
        "unit": env.unit,
        "better": env.better,
        "trials": record.trials.n or (main.n if main else 0),
        "status": record.status,
        "reason": record.reason,
        **record.cost.model_dump(),
        "backbone": network and network.name,
        "parameters": network and network.parameters,
        "weights": network and network.weights,
        "data": record.data.name,
        "family": env.family,
        "track": record.track,
        "trained_on": record.trained_on,
        "device": record.device,
        "precision": record.precision,
        "processor": record.machine.processor,
        "version": record.code.version,
        "date": record.started,
        "limited": record.limited,
        "untuned": record.untuned,
        "isolated": record.isolated,
        "dirty": record.code.dirty,
        **{
            f"metric_{name}": metric.value
            for name, metric in record.metrics.items()
            if name != env.metric
        },
        **{f"set_{name}": value for name, value in record.overrides.items()},
    }


def _trials(record: Record) -> dict[str, Any]:
    """The rows of one record's trials, by column."""
    facts = _identity(record)
    del facts["env_version"]
    return {
        **facts,
        "trial": range(record.trials.n),
        "score": record.trials.scores_array(),
        "unit": record.env.unit,
        **{f"trial_{name}": column.unpack() for name, column in record.trials.columns.items()},
    }


def _short(record: Record) -> list[str]:
    """The cells of one record in a notebook."""
    settings = settings_text(record)
    agent = f"{record.agent.id} ({settings})" if settings else record.agent.id
    main = record.metrics.get(record.env.metric)
    lo, hi = (main and main.ci95) or (None, None)
    score = score_of(record)
    return [
        record.key12,
        agent,
        f"{record.env.id}-v{record.env.version}",
        record.budget,
        str(record.seed),
        record.status if score is None else f"{score:.4g}",
        "" if lo is None or hi is None else f"{lo:.4g} to {hi:.4g}",
        record.started[:10],
    ]


def stored_env(store: Store, env: str) -> tuple[str, str]:
    """Return an environment's id and the note on how its name was resolved ('' if it wasn't).

    The environment may have records only, such as those of data that isn't installed any more.

    Raises:
        UnknownName: there is neither an environment nor a record of that name.
    """
    try:
        spec, note = resolve_env(env)
    except UnknownName:
        if store.records(env=env):
            return env, ""
        raise
    return spec.id, note


def select_table(
    store: Store,
    env: str,
    budget: str,
    protocol: Mapping[str, str],
    *,
    data: str | None = None,
    rows: Sequence[str] = (),
) -> list[Record]:
    """Return the records of the one board of an environment, budget, protocol and data.

    Args:
        store: where the records are.
        env: id of the environment.
        budget: compute budget.
        protocol: settings of the environment by name that the board must have, as text.
        data: first digits of the fingerprint of the board's data; None for the data installed
            here where several boards fit.
        rows: names of rows that are looked for; keys among them choose the board.

    Raises:
        UnknownName: no board has them; the message names the budgets that have records.
        UsageError: several boards have them, or `data` isn't a fingerprint's first digits.
    """
    if data is not None:
        check_digits(data)
    found = store.records(env=env)
    keys = [row for row in rows if is_key(row)]
    at_budget = [record for record in found if record.budget == budget]
    table = one_table(at_budget, protocol, data=data or "", keys=keys)
    if not table:
        settings = "".join(f", {name}={value}" for name, value in protocol.items())
        settings += f", data {data}" if data else ""
        budgets = [name for name in BUDGETS if any(record.budget == name for record in found)]
        others = f" (there are some at budget {' and '.join(budgets)})"
        where = f"{env} at budget {budget}{'' if budget in budgets or not budgets else others}"
        raise UnknownName(f"no records of {where}{settings}; see: lazybench leaderboard")
    return table


def check_digits(data: str) -> str:
    """Return the first digits of a fingerprint as they are.

    Raises:
        UsageError: they aren't that.
    """
    if not is_key(data):
        raise UsageError(
            f"data takes the first {KEY_DIGITS} to 64 hex digits of a fingerprint, as the board "
            f"shows it, got '{data}'"
        )
    return data


@dataclass(frozen=True, repr=False)
class BoardView:
    """A board that prints, draws and exports itself, as `lazybench.board` returns it.

    Attributes:
        board: the board: its rows, notes and facts.
        records: the records that it is made from.
    """

    board: Board
    records: Records = field(compare=False)

    def _command(self, form: str) -> str:
        options = ["--env", self.board.env, "--budget", self.board.budget, "--format", form]
        return shlex.join(["lazybench", "leaderboard", *options])

    def __str__(self) -> str:
        """The board as a terminal shows it, and what papers report."""
        reported = reported_text(self.board)
        return board_text(self.board) + (f"\n\n{reported}" if reported else "")

    __repr__ = __str__

    def to_markdown(self) -> str:
        """Return the board as Markdown."""
        return to_markdown(self.board, command=self._command("md"))

    def to_csv(self) -> str:
        """Return the board as CSV; spreadsheets can't run its text as formulas."""
        return to_csv(self.board, command=self._command("csv"))

    def to_latex(self) -> str:
        """Return the board as a LaTeX table (`booktabs`)."""
        return to_latex(self.board, command=self._command("latex"))

    def to_html(self) -> str:
        """Return the board as an HTML table with all columns, for a page of yours.

        `lazybench leaderboard --html` writes a whole page, with pictures.
        """
        return to_fragment(self.board)

    def _repr_html_(self) -> str:
        """Return the main columns as an HTML table for notebooks."""
        return to_fragment(self.board, whole=False)

    def to_frame(self) -> DataFrame:
        """Return a data frame with the rows and columns of `to_csv`.

        `seeds`, `versions` and `marks` are tuples.

        Raises:
            LazybenchError: pandas isn't installed.
        """
        header, lines = csv_lines([self.board], self._command("csv"))
        return import_pandas().DataFrame(lines, columns=header).drop(columns=MADE_BY)

    def plot(self, kind: str = "scores") -> Figure:
        """Return a matplotlib figure of the board, which notebooks show.

        Args:
            kind: `scores` (with intervals), `learning` (curves), `success` (attacks: images won
                against queries) or `pareto` (score against cost).

        Raises:
            LazybenchError: matplotlib isn't installed.
            UsageError: no such kind, or the board has no data for it.
        """
        return board_figure(self.board, self.records, kind)


@dataclass(frozen=True, repr=False)
class ComparisonView:
    """A comparison that prints, draws and exports itself, as `lazybench.compare` returns it.

    Attributes:
        result: the two sides, and the difference left less right with interval and p.
    """

    result: Comparison

    @property
    def _notes(self) -> list[str]:
        return [difference_text(self.result), *filter(None, self.result.note.split("\n"))]

    @property
    def _made(self) -> str:
        result = self.result
        sides = [result.left.name, result.right.name]
        words = ["lazybench", "compare", *sides, "--env", result.env]
        n = len(result.left.keys) + len(result.right.keys)
        return made_from(n, shlex.join(words))

    def __str__(self) -> str:
        """Both sides, and their difference with interval and p."""
        return comparison_text(self.result)

    __repr__ = __str__

    def to_markdown(self) -> str:
        """Return the comparison as a Markdown table with notes."""
        head, rows = comparison_columns(self.result)
        table = markdown_table(
            [markdown_text(name) for name in head],
            [[markdown_text(cell) for cell in row] for row in rows],
        )
        return "\n\n".join([table, *map(markdown_text, self._notes)]) + "\n"

    def to_latex(self) -> str:
        """Return the comparison as a LaTeX table (`booktabs`) with notes."""
        head, rows = comparison_columns(self.result)
        cells = [[latex_text(cell) for cell in row] for row in rows]
        table = latex_table([latex_heading(name) for name in head], [("", cells)], "l" * len(head))
        return "\n".join([latex_comment(self._made), table, *map(latex_footnote, self._notes), ""])

    def to_html(self) -> str:
        """Return the comparison as an HTML table with notes."""
        head, rows = comparison_columns(self.result)
        return html_table(head, rows, title=self.result.env, notes=self._notes)

    _repr_html_ = to_html

    def to_csv(self) -> str:
        """Return three rows as CSV: left, right and their difference."""
        lines = self._lines()
        return csv_table(lines[0], [line.values() for line in lines])

    def to_frame(self) -> DataFrame:
        """Return a data frame with three rows: left, right and their difference.

        Scores are in the board's unit, where fractions are percentages. `lo` and `hi` are the ends
        of the 95 % interval over trials and seeds, `classes_lo` and `classes_hi` over classes, too.

        Raises:
            LazybenchError: pandas isn't installed.
        """
        return import_pandas().DataFrame(self._lines())

    def _lines(self) -> list[dict[str, Any]]:
        result = self.result
        known = result.left.over_classes is not None
        facts: dict[str, Any] = {"env": result.env, "metric": result.metric, "unit": result.unit}
        lines = [
            facts
            | {
                "side": side,
                "row": each.name,
                "score": each.summary.mean,
                "lo": each.summary.lo,
                "hi": each.summary.hi,
                "classes_lo": each.over_classes and each.over_classes[0],
                "classes_hi": each.over_classes and each.over_classes[1],
                "p": None,
                "seeds": each.summary.n_seeds,
                "trials": each.summary.n_trials,
                "flags": ", ".join(each.flags),
                "keys": " ".join(each.keys),
            }
            for side, each in (("left", result.left), ("right", result.right))
        ]
        over = result.difference
        difference = {
            "side": "difference",
            "row": f"{result.left.name} - {result.right.name}",
            "score": over.mean,
            "lo": result.over_trials.lo,
            "hi": result.over_trials.hi,
            "classes_lo": over.lo if known else None,
            "classes_hi": over.hi if known else None,
            "p": over.p,
        }
        return [*lines, dict.fromkeys(lines[0]) | facts | difference]

    def plot(self) -> Figure:
        """Return a matplotlib figure of both sides, which notebooks show.

        The scores of each trial against each other, or of a long tail those of each class.

        Raises:
            LazybenchError: matplotlib isn't installed.
        """
        return compare_figure(self.result)
