"""Measures of attacks: the columns of each image and the summary of a test.

numpy is imported inside `summary`, since listings of environments read the names here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazybench.specs import Measure

CHECKPOINTS = (100, 300, 1000, 3000, 10000)
"""Numbers of queries at which the least L2 distance is reported."""

COLUMNS = (
    "queries",
    "success_query",
    "success_8bit",
    "best_l2",
    *(f"l2_at_{count}" for count in CHECKPOINTS),
)
"""Further values in the last info of an image."""

MEASURES = (
    Measure("mean_queries", "queries", "lower"),
    Measure("median_queries", "queries", "lower"),
    *(Measure(f"median_l2_at_{count}", "L2", "lower") for count in CHECKPOINTS),
    Measure("success_l2", "L2", "lower"),
    Measure("success_queries", "queries", "lower"),
    Measure("success_8bit"),
)
"""Measures that `summary` returns."""


def summary(success: Any, columns: Mapping[str, Any], query_budget: int) -> dict[str, float]:
    """Return the measures of a whole test by name, NaN where undefined.

    `mean_queries`, `median_queries`: position of the first success, failures charged the whole
    budget, so that giving up earns nothing. `median_l2_at_100` to `median_l2_at_10000`: least L2
    distance by then, where an image without any adversarial is farther than all others; NaN where
    these are half of them, or the budget ends before. `success_l2`, `success_queries`: the paper's
    means over successes alone. `success_8bit`: share still adversarial after 8-bit rounding.

    Args:
        success: `[n]` array of 0 and 1.
        columns: arrays `[n]` of the last infos' values, by the names of `COLUMNS`.
        query_budget: rows for each image.
    """
    import numpy as np

    won = np.asarray(success) > 0
    queries = np.where(won, columns["success_query"], query_budget)
    measures = {
        "mean_queries": float(queries.mean()),
        "median_queries": float(np.median(queries)),
        "success_8bit": float(np.mean(columns["success_8bit"])),
        "success_l2": float(np.mean(columns["best_l2"][won])) if won.any() else np.nan,
        "success_queries": float(np.mean(queries[won])) if won.any() else np.nan,
    }
    for count in CHECKPOINTS:
        least = np.where(columns[f"l2_at_{count}"] < 0, np.inf, columns[f"l2_at_{count}"])
        middle = float(np.median(least)) if count <= query_budget else np.nan
        measures[f"median_l2_at_{count}"] = middle if np.isfinite(middle) else np.nan
    return measures
