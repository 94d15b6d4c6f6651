"""Long-tailed evaluation: metrics of a test pass, and a pass whose labels stay hidden.

Reference: bands as in Z. Liu et al., "Large-scale long-tailed recognition in an open world", CVPR
    2019 (an empty band is NaN here, not 0); calibration error as in C. Guo et al., "On calibration
    of modern neural networks", ICML 2017, 15 bins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.data.pool import Part
from lazybench.errors import ContractError

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


_SUM_WITHIN = 1e-3

Order = Callable[[], NDArray[np.int64]]
Scorer = Callable[[NDArray[np.int64], NDArray[np.float32] | None], dict[str, Any]]


class Answer(NamedTuple):
    """Labels `[B]` int64, -1 for none, and with them class probabilities `[B, C]` or None."""

    labels: NDArray[np.int64]
    probs: NDArray[np.float32] | None


def oracle(part: Part, train_counts: NDArray[np.int64], key: int) -> tuple[Order, Scorer]:
    """Return the order of a pass and the scorer of its answers, as two closures.

    Neither order nor labels are kept anywhere: both are computed when they are needed, from the
    number `key` and the part's class sizes. (Who reads this can compute them, too: Python hides no
    memory. What is prevented are accidents: nothing that an agent gets leads to a label.)
    """

    def order() -> NDArray[np.int64]:
        return np.asarray(seeding.permutation(seeding.mix(key), int(part.count.sum())))

    def score(predictions: NDArray[np.int64], probs: NDArray[np.float32] | None) -> dict[str, Any]:
        labels = part.labels
        scores = metrics(labels, predictions, train_counts, probs)
        return {
            "accuracy": scores["accuracy"],
            "correct": (predictions == labels).astype(np.uint8),
            "predictions": predictions,
            "metrics": scores,
        }

    return order, score


class HiddenPass:
    """The batches of one pass and the answers so far; nothing is scored before the last one."""

    def __init__(
        self, part: Part, train_counts: NDArray[np.int64], *, batch: int, key: int
    ) -> None:
        """Open the pass.

        Args:
            part: the evaluated images.
            train_counts: `[C]` training images of each class, for the bands.
            batch: images of a batch.
            key: what the order is a function of.
        """
        self._order, self._score = oracle(part, train_counts, key)
        self._batch = batch
        self._size = int(part.count.sum())
        self._classes = len(part.count)
        self._given = np.full(self._size, -1, np.int64)
        self._probs: NDArray[np.float32] | None = None
        self._with_probs = 0
        self.at = 0
        self.batches = -(-self._size // batch)

    @property
    def done(self) -> bool:
        """Whether the last batch was answered."""
        return self.at == self.batches

    def places(self) -> NDArray[np.int64]:
        """Return the images of the current batch by their place in the part; the last is shorter.

        After the end it is the last batch again.
        """
        at = min(self.at, self.batches - 1)
        return self._order()[at * self._batch : (at + 1) * self._batch]

    def answer(self, given: Answer) -> bool:
        """Take the answers to the current batch; True when it was the last one.

        Rows past the batch's images count for nothing.
        """
        places = self.places()
        self._given[places] = given.labels[: len(places)]
        if given.probs is not None:
            if self._probs is None:
                self._probs = np.zeros((self._size, self._classes), np.float32)
            self._probs[places] = given.probs[: len(places)]
            self._with_probs += len(places)
        self.at += 1
        return self.done

    def verdict(self) -> dict[str, Any]:
        """Return the result of the pass: accuracy, correct, predictions and metrics.

        `correct` (uint8) and `predictions` (int64) are in the part's own order, class after
        class. Calibration is included where every batch came with probabilities.
        """
        whole = self._with_probs == self._size
        return self._score(self._given.copy(), self._probs if whole else None)


def as_answer(action: Any, batch: int, classes: int) -> Answer:
    """Return an action of an environment as an answer, its form and range checked.

    Args:
        action: labels `[batch]`, or a dict of `labels` and `probs` `[batch, classes]`.
        batch: rows of a batch.
        classes: labels lie in [-1, classes), -1 for none.

    Raises:
        ContractError: another shape, type or range.
    """
    probs = None
    if isinstance(action, dict):
        if "labels" not in action or set(action) - {"labels", "probs"}:
            got = ", ".join(map(str, action))
            raise ContractError(f"an action is labels, or a dict of labels and probs, got {got}")
        probs, action = action.get("probs"), action["labels"]
    labels = _array(action)
    if labels.shape != (batch,) or labels.dtype.kind not in "iu":
        raise ContractError(
            f"labels must be integers of shape [{batch}], one for each row of the batch, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= classes:
        raise ContractError(
            f"labels must lie in [0, {classes}), or be -1 for none; got {low} to {high}"
        )
    checked = None if probs is None else _probabilities(_array(probs), batch, classes)
    return Answer(labels.astype(np.int64), checked)


def _probabilities(probs: NDArray[Any], batch: int, classes: int) -> NDArray[np.float32]:
    if probs.shape != (batch, classes) or probs.dtype.kind != "f":
        raise ContractError(
            f"probs must be floats of shape [{batch}, {classes}], got {probs.dtype} "
            f"{list(probs.shape)}"
        )
    sums = probs.sum(axis=1, dtype=np.float64)
    if not (np.isfinite(sums).all() and probs.min() >= 0 and np.abs(sums - 1).max() < _SUM_WITHIN):
        raise ContractError(
            f"each row of probs must be at least 0 and sum to 1, got a least of {probs.min():g} "
            f"and sums from {sums.min():g} to {sums.max():g}; pass them through a softmax"
        )
    return probs.astype(np.float32)


def _array(value: Any) -> NDArray[Any]:
    held = value.detach().cpu() if isinstance(value, torch.Tensor) else value
    try:
        return np.asarray(held)
    except (TypeError, ValueError):
        return np.asarray(held, dtype=object)
