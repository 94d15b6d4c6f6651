"""One pass over images whose labels nobody sees: shown in a hidden order, judged at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench import counter
from lazybench.data.labelled import Part
from lazybench.envs.longtail_metrics import metrics
from lazybench.errors import ContractError

_SUM_WITHIN = 1e-3

Order = Callable[[], NDArray[np.int64]]
Judge = Callable[[NDArray[np.int64], NDArray[np.float32] | None], dict[str, Any]]


class Answer(NamedTuple):
    """Labels `[B]` int64, -1 for none, and with them class probabilities `[B, C]` or None."""

    labels: NDArray[np.int64]
    probs: NDArray[np.float32] | None


def oracle(part: Part, train_counts: NDArray[np.int64], key: int) -> tuple[Order, Judge]:
    """Return the order of a pass and the judge of its answers, as two closures.

    Neither order nor labels are kept anywhere: both are computed when they are asked for, from the
    number `key` and the part's class sizes. (Who reads this can compute them, too: Python hides no
    memory. What is prevented are accidents: nothing that an agent is handed leads to a label.)
    """

    def order() -> NDArray[np.int64]:
        return np.asarray(counter.permutation(counter.mix(key), int(part.count.sum())))

    def judge(predictions: NDArray[np.int64], probs: NDArray[np.float32] | None) -> dict[str, Any]:
        labels = part.labels
        told = metrics(labels, predictions, train_counts, probs)
        return {
            "accuracy": told["accuracy"],
            "correct": (predictions == labels).astype(np.uint8),
            "predictions": predictions,
            "metrics": told,
        }

    return order, judge


class HiddenPass:
    """The batches of one pass and the answers so far; nothing is judged before the last one."""

    def __init__(
        self, part: Part, train_counts: NDArray[np.int64], *, batch: int, key: int
    ) -> None:
        """Open the pass.

        Args:
            part: what is judged.
            train_counts: `[C]` training images of each class, for the bands.
            batch: images of a batch.
            key: what the order is a function of.
        """
        self._order, self._judge = oracle(part, train_counts, key)
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
        """Return what the pass came to: accuracy, correct, predictions and metrics.

        `correct` (uint8) and `predictions` (int64) stand in the part's own order, class after
        class. Calibration is told where every batch came with probabilities.
        """
        whole = self._with_probs == self._size
        return self._judge(self._given.copy(), self._probs if whole else None)


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
