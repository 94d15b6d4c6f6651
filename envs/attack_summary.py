"""What many attacked images come to together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.envs.attack_ids import L2_AT


def summary(
    success: NDArray[Any], columns: Mapping[str, NDArray[Any]], query_budget: int
) -> dict[str, float | None]:
    """Return the numbers of a whole test by name, None where there is nothing to tell.

    `mean_queries` and `median_queries`: position of the first success, failures charged the whole
    budget, so that giving up earns nothing; `median_l2_at_100` to `median_l2_at_10000`: least L2
    distance by then, None where half of the images have none; `success_8bit`; and the paper's own
    means over successes alone, `l2_of_successes` and `queries_of_successes`, which failures don't
    worsen.

    Args:
        success: `[n]` 0 or 1.
        columns: what the last infos told, each `[n]`.
        query_budget: rows for each image.
    """
    won = np.asarray(success) > 0
    asked = np.where(won, columns["success_query"], query_budget)
    told = {"mean_queries": asked.mean(), "median_queries": np.median(asked)}
    for by in L2_AT:
        least = columns[f"l2_at_{by}"]
        told[f"median_l2_at_{by}"] = np.median(np.where(least < 0, np.inf, least))
    told["l2_of_successes"] = columns["best_l2"][won].mean() if won.any() else np.inf
    told["queries_of_successes"] = asked[won].mean() if won.any() else np.inf
    told["success_8bit"] = np.asarray(columns["success_8bit"]).mean()
    return {name: float(value) if np.isfinite(value) else None for name, value in told.items()}
