"""Scores of how sure an agent is: calibration of its probabilities and of its own estimate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.errors import ContractError
from lazybench.tasks import CALIBRATION, PADDING, Answers

BINS = 15
"""Bins of confidence, of equal width, as on the long-tailed boards."""

_SUM_WITHIN = 1e-3


def calibration(
    answers: Answers, truth: NDArray[np.int64], classes: int
) -> dict[str, NDArray[np.float64]]:
    """Return what `summary` needs of each trial, by the names in `lazybench.tasks.CALIBRATION`.

    Those are, for each bin of confidence, right answers less confidence `[R, BINS]`; the number of
    queries `[R]`; the sum of their squared errors `[R]`, and the error of the agent's estimate of
    its own accuracy `[R]`. Without probabilities only the last.

    Args:
        answers: of R trials.
        truth: `[R, Q]`, `PADDING` for rows that aren't scored.
        classes: number of classes.

    Raises:
        ContractError: numbers of another shape, or that are no probabilities.
    """
    labels = _numbers(answers.labels, truth.shape, "labels").astype(np.int64)
    real = truth != PADDING
    rows = real.sum(1)
    right = (labels == truth) & real
    accuracy = right.sum(1) / rows
    found: dict[str, NDArray[np.float64]] = {}
    estimate = None
    if answers.probabilities is not None:
        p = _numbers(answers.probabilities, (*truth.shape, classes), "probabilities")
        off = np.abs(p.sum(2) - 1)
        if (off[real] > _SUM_WITHIN).any() or (p[real] < 0).any():
            raise ContractError(
                f"probabilities must be at least 0 and sum to 1, got {p[real].min():.3g} to "
                f"{p[real].max():.3g} with sums up to {off[real].max():.3g} off"
            )
        own = np.take_along_axis(p, np.where(real, labels, 0)[..., None], 2)[..., 0]
        bins = np.minimum((own * BINS).astype(np.int64), BINS - 1)
        place = np.arange(len(truth))[:, None] * BINS + bins
        gaps = np.bincount(
            place.ravel(), ((right - own) * real).ravel(), minlength=len(truth) * BINS
        )
        squares = np.square(p - (truth[..., None] == np.arange(classes))).sum(2)
        names = iter(CALIBRATION)
        found[next(names)] = gaps.reshape(-1, BINS).astype(np.float64)
        found[next(names)] = rows.astype(np.float64)
        found[next(names)] = (squares * real).sum(1)
        estimate = (own * real).sum(1) / rows
    if answers.accuracy is not None:
        estimate = _numbers(answers.accuracy, truth.shape[:1], "accuracy")
        if ((estimate < 0) | (estimate > 1)).any():
            raise ContractError(
                f"accuracy must lie in [0, 1], got {estimate.min():.3g} to {estimate.max():.3g}"
            )
    return found if estimate is None else {**found, CALIBRATION[-1]: np.abs(estimate - accuracy)}


def summary(columns: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics over all trials; {} without any numbers for them.

    `ece` is the expected calibration error over all queries of all trials, `brier` the mean over
    them of the squared errors of all class probabilities, in [0, 2], and `self_estimate_error` the
    mean over trials of the distance between a trial's accuracy and what the agent expects of it.

    Reference: Guo et al. 2017, eq. (3); Brier 1950.
    """
    found: dict[str, float] = {}
    gaps, rows, squares, error = (columns.get(name) for name in CALIBRATION)
    if gaps is not None and rows is not None and squares is not None:
        total = float(rows.sum())
        found["ece"] = float(np.abs(gaps.sum(0)).sum() / total)
        found["brier"] = float(squares.sum() / total)
    if error is not None:
        found["self_estimate_error"] = float(error.mean())
    return found


def _numbers(given: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
    held = given.detach().cpu() if isinstance(given, torch.Tensor) else given
    try:
        array = np.asarray(held, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{name} must be numbers of shape {list(shape)} ({error})") from error
    if array.shape != shape or not np.isfinite(array).all():
        what = (
            "numbers that aren't finite" if array.shape == shape else f"shape {list(array.shape)}"
        )
        raise ContractError(f"{name} must be finite, of shape {list(shape)}, got {what}")
    return array
