"""What a pass over a test set tells beside the accuracy.

Reference: bands as in Z. Liu et al., "Large-scale long-tailed recognition in an open world", CVPR
    2019 (an empty band is NaN here, not 0); calibration error as in C. Guo et al., "On calibration
    of modern neural networks", ICML 2017, 15 bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MANY, FEW = 100, 20
"""Classes of more than 100 training images are `many`, of less than 20 `few`."""
BINS = 15

_LEAST_PROBABILITY = 1e-12


def metrics(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    train_counts: NDArray[np.int64],
    probs: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Return the metrics of one pass by name.

    `accuracy` is balanced: the mean of the classes' recalls. `top1_error_pct` is in percent;
    `many_accuracy`, `medium_accuracy` and `few_accuracy` are means of recalls, NaN for an empty
    band; `geometric_mean` takes a recall of 0 for half an image of that class;
    `head_tail_gap` is many minus few; `ece` and `nll` (in nats) need `probs`.

    Args:
        labels: `[n]`, every class at least once.
        predictions: `[n]`; -1 is never right.
        train_counts: `[C]` training images of each class.
        probs: `[n, C]`, each row summing to 1.
    """
    classes = len(train_counts)
    each = np.bincount(labels, minlength=classes)
    right = predictions == labels
    recalls = np.bincount(labels[right], minlength=classes) / each
    many, few = train_counts > MANY, train_counts < FEW
    bands = {"many": many, "medium": ~many & ~few, "few": few}
    means = {
        name: float(recalls[band].mean()) if band.any() else np.nan for name, band in bands.items()
    }
    found: dict[str, Any] = {
        "accuracy": float(recalls.mean()),
        "top1_error_pct": 100 * (1 - float(recalls.mean())),
        **{f"{name}_accuracy": mean for name, mean in means.items()},
        "head_tail_gap": means["many"] - means["few"],
        "recalls": recalls,
        "geometric_mean": float(np.exp(np.log(np.maximum(recalls, 0.5 / each)).mean())),
        "zero_recall_count": int((recalls == 0).sum()),
    }
    if probs is not None:
        found["ece"] = calibration_error(right, _of(probs, np.maximum(predictions, 0)))
        truth = np.maximum(_of(probs, labels), _LEAST_PROBABILITY)
        found["nll"] = float(-np.log(truth).mean())
    return found


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Return the expected calibration error over 15 bins of equal width, in [0, 1]."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(bins, right, BINS) - np.bincount(bins, confidence, BINS)
    return float(np.abs(gap).sum() / len(right))


def _of(probs: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of each row's label, `[n]`."""
    return np.take_along_axis(probs, labels[:, None], axis=1)[:, 0].astype(np.float64)
