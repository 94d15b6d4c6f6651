"""Measures of attacks: the columns of each image and the summary of a test.

numpy is imported inside `summary`, since listings of environments read the names here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lazybench.specs import Measure

if TYPE_CHECKING:
    from lazybench.tasks import AttackTask

CHECKPOINTS = (100, 300, 1000, 3000, 10000)
"""Numbers of queries at which the least L2 distance is reported."""

BAD_CHECKPOINTS = (100, 200, 500, 1000)
"""Numbers of bad queries at which distance and success are reported, those of the authors' board.

Reference: Debenedetti, Carlini & Tramer, "Evading Black-box Classifiers Without Breaking Eggs",
    SaTML 2024.
"""

BAD_COLUMNS = (
    "bad_queries",
    "success_bad_queries",
    *(f"l2_at_bad_{count}" for count in BAD_CHECKPOINTS),
)
"""Those of `COLUMNS` that records made before bad queries were counted lack."""

DETECTION_COLUMNS = ("detected", "flagged")
"""Further columns of an attack on a target with a defence."""

COLUMNS = (
    "queries",
    "success_query",
    "success_8bit",
    "best_l2",
    *(f"l2_at_{count}" for count in CHECKPOINTS),
    *BAD_COLUMNS,
)
"""Further values in the last info of an image."""

MEASURES = (
    Measure("mean_queries", "queries", "lower"),
    Measure("median_queries", "queries", "lower"),
    *(Measure(f"median_l2_at_{count}", "L2", "lower") for count in CHECKPOINTS),
    Measure("success_l2", "L2", "lower"),
    Measure("success_queries", "queries", "lower"),
    Measure("success_8bit"),
    Measure("mean_bad_queries", "bad queries", "lower"),
    Measure("median_bad_queries", "bad queries", "lower"),
    *(Measure(f"median_l2_at_bad_{count}", "L2", "lower") for count in BAD_CHECKPOINTS),
    *(Measure(f"success_at_bad_{count}") for count in BAD_CHECKPOINTS),
    Measure("detection_rate"),
    Measure("flagged_queries"),
)
"""Measures that `summary` returns."""


def summary(success: Any, columns: Mapping[str, Any], task: AttackTask) -> dict[str, float]:
    """Return the measures of a whole test by name, NaN if undefined.

    `mean_queries`, `median_queries`: position of the first success, failures charged the whole
    budget, so that giving up earns nothing. `median_l2_at_100` to `median_l2_at_10000`: least L2
    distance by then, where an image without any adversarial is farther than all others; NaN if
    these are half of them, or the budget ends before. `success_l2`, `success_queries`: the paper's
    means over successes alone. `success_8bit`: share still adversarial after 8-bit rounding.

    `mean_bad_queries`, `median_bad_queries`: bad answers before the first success, failures charged
    the whole budget, of bad queries where there is one. Until so many bad answers, and what comes
    after them doesn't count: `success_at_bad_100` to `success_at_bad_1000`, the share of successes,
    where an attack ends at one; else `median_l2_at_bad_100` to `median_l2_at_bad_1000`, as above.
    NaN if the budget of bad queries ends before; all of them where `columns` lack bad queries,
    as those of records made before these were counted.

    `detection_rate`: share of images of which a query was flagged; `flagged_queries`: share of all
    queries that were. NaN without a detector.

    Args:
        success: `[n]` array of 0 and 1.
        columns: arrays `[n]` of the last infos' values, by the names of `COLUMNS`.
        task: its budgets and mode.
    """
    import numpy as np

    won = np.asarray(success) > 0
    queries = np.where(won, columns["success_query"], task.query_budget)
    measures = {
        "mean_queries": float(queries.mean()),
        "median_queries": float(np.median(queries)),
        "success_8bit": float(np.mean(columns["success_8bit"])),
        "success_l2": float(np.mean(columns["best_l2"][won])) if won.any() else np.nan,
        "success_queries": float(np.mean(queries[won])) if won.any() else np.nan,
    }

    def median_l2(column: str, *, within: bool) -> float:
        least = np.where(columns[column] < 0, np.inf, columns[column])
        middle = float(np.median(least)) if within else np.nan
        return middle if np.isfinite(middle) else np.nan

    for count in CHECKPOINTS:
        within = count <= task.query_budget
        measures[f"median_l2_at_{count}"] = median_l2(f"l2_at_{count}", within=within)
    measures |= {measure.name: np.nan for measure in MEASURES if "_bad_" in measure.name}
    detects = task.defence.startswith("detect:")
    measures["detection_rate"] = float(np.mean(columns["detected"] > 0)) if detects else np.nan
    share = columns["flagged"].sum() / max(columns["queries"].sum(), 1) if detects else np.nan
    measures["flagged_queries"] = float(share)
    if "bad_queries" not in columns:
        return measures
    most = task.bad_query_budget or task.query_budget
    bad = np.where(won, columns["success_bad_queries"], most)
    measures |= {"mean_bad_queries": float(bad.mean()), "median_bad_queries": float(np.median(bad))}
    for count in BAD_CHECKPOINTS:
        within = count <= most
        if task.mode == "minimise":
            name = f"l2_at_bad_{count}"
            measures[f"median_{name}"] = median_l2(name, within=within)
        elif within:
            measures[f"success_at_bad_{count}"] = float(np.mean(won & (bad < count)))
    return measures
