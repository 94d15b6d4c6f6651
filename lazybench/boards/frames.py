"""Records and boards as pandas data frames (extra `frames`)."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from lazybench.boards.group import batch_norm, score_of, settings_text
from lazybench.errors import LazybenchError
from lazybench.records import RecordList
from lazybench.records.schema import Record
from lazybench.tables import html_table

if TYPE_CHECKING:
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

        Scores are in the unit of the environment, so accuracies are fractions.

        Args:
            per_trial: whether a row is a trial.

        Raises:
            LazybenchError: pandas isn't installed.
        """
        pandas = import_pandas()
        if per_trial:
            parts = [pandas.DataFrame(_trials(record)) for record in self if record.trials.n]
            return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
        frame = pandas.DataFrame(list(map(_facts, self)))
        if len(frame):
            frame["date"] = pandas.to_datetime(frame["date"], utc=True, format="ISO8601")
        return frame

    def _repr_html_(self) -> str:
        """Return the records as an HTML table for notebooks, at most 60 of them."""
        head = ("key", "agent", "env", "budget", "seed", "score", "95 % interval", "date")
        rows = [_short(record) for record in self[:_MOST_SHOWN]]
        left = len(self) - len(rows)
        notes = [f"{left} more; to_frame() has all of them."] if left else []
        return html_table(head, rows, title=f"{len(self)} records", notes=notes)


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
