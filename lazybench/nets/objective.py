"""Loss and score of a task, by the kind of its targets; nothing else needs to know the kind."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.tasks import TaskShape


class _OfOutputs(Protocol):
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor: ...


class _Score(Protocol):
    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[float, ...]: ...


class Objective(NamedTuple):
    """The loss to descend, the score to compare by, and the answer.

    Attributes:
        loss: mean loss over rows, a scalar with a graph.
        score: numbers to compare entry by entry, higher is better. `Choice:` (accuracy, -loss) for
            labels, since accuracy alone ties constantly on one instance a class; (-loss,)
            otherwise.
        answer: the action for query outputs: labels int64, or the outputs themselves.
    """

    loss: _OfOutputs
    score: _Score
    answer: _OfAnswer


class _OfAnswer(Protocol):
    def __call__(self, outputs: Tensor) -> Tensor: ...


def objective(task: TaskShape) -> Objective:
    """Return cross-entropy and accuracy for labels, mean squared error for real-valued targets."""
    return _CLASSIFICATION if task.target == "class" else _REGRESSION


def _accuracy_then_loss(outputs: Tensor, targets: Tensor) -> tuple[float, ...]:
    hits = (outputs.argmax(1) == targets).float().mean()
    return float(hits), -float(F.cross_entropy(outputs, targets))


def _negative_loss(outputs: Tensor, targets: Tensor) -> tuple[float, ...]:
    return (-float(F.mse_loss(outputs, targets)),)


_CLASSIFICATION = Objective(
    lambda outputs, targets: F.cross_entropy(outputs, targets),
    _accuracy_then_loss,
    lambda outputs: outputs.argmax(1),
)
_REGRESSION = Objective(
    lambda outputs, targets: torch.nn.functional.mse_loss(outputs, targets),
    _negative_loss,
    lambda outputs: outputs,
)
