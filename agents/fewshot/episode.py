"""Blocks of tasks, row by row: policies, and a task's losses in the inner loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench import learning
from lazybench.agent import Observation
from lazybench.agents.fewshot.weights import HEAD, NORM
from lazybench.nets import Net
from lazybench.nets.net import head_outputs
from lazybench.nets.params import Params
from lazybench.runtime.threads import map_tasks
from lazybench.tasks import PADDING, TaskShape


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


Row = dict[str, Tensor]
"""One task of a block."""


def select_row(batch: Observation, index: int) -> Row:
    """Return row `index` of each tensor of a block."""
    return {name: part[index] for name, part in batch.items()}


def real_rows(row: Row) -> Row:
    """Return a task of an uneven environment without the rows that only fill it up."""
    real = {part: row[f"{part}_y"] != PADDING for part in ("support", "query")}
    return {name: value[real[name.partition("_")[0]]] for name, value in row.items()}


def own_shape(task: TaskShape, row: Row) -> TaskShape:
    """Return the shape of tasks with the ways of one: fewer where tasks are uneven."""
    return replace(task, way=int(row["support_y"].max()) + 1) if task.uneven else task


class PerTask:
    """A policy that answers each task of a block separately, tasks in parallel."""

    vectorized = True

    def __init__(self, answer: Callable[[Row], Tensor], *, uneven: bool = False) -> None:
        """Hold the function from a task to the answers to its queries.

        Args:
            answer: the function.
            uneven: leave out the rows that only fill a task up; they are answered by 0.
        """
        self._answer, self._uneven = answer, uneven

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        """Return the answers to a block of tasks, `[R, query rows, …]`."""
        rows = range(len(observation["support_x"]))
        return torch.stack(
            map_tasks(lambda row: self._of(select_row(observation, row)), rows)
        ), None

    def _of(self, row: Row) -> Tensor:
        if not self._uneven:
            return self._answer(row)
        given = self._answer(real_rows(row))
        return torch.nn.functional.pad(given, (0, len(row["query_y"]) - len(given)))


Adapts = Literal["all", "head"]


def adapting(names: Iterable[str], adapts: Adapts, adapt_norm: bool) -> list[str]:
    """Return the names of the weights that an inner loop moves, in the order given.

    Args:
        names: names of all weights.
        adapts: `all` of them or the `head`'s alone.
        adapt_norm: whether batch norm's scales and offsets are among all.
    """
    if adapts == "head":
        return [name for name in names if name.startswith(HEAD)]
    return [name for name in names if adapt_norm or not name.startswith(NORM)]


class Episode:
    """A task's losses and outputs as functions of the weights that adapt, on one set of weights.

    Rows enter as `inputs(x)`: prepared instances, or the features of the body where the head alone
    adapts; so a body passes over each set of rows once, however many steps follow.

    Attributes:
        moving: the weights that adapt, on whatever graph `weights` are.
    """

    def __init__(
        self,
        net: Net,
        task: TaskShape,
        weights: Params,
        *,
        adapts: Adapts = "all",
        adapt_norm: bool = True,
        prox: float = 0.0,
    ) -> None:
        """Split the weights into those that adapt and the rest; `prox` as in `GradientConfig`."""
        moving = adapting(weights, adapts, adapt_norm)
        self.moving: Params = {name: weights[name] for name in moving}
        self._rest = {name: value for name, value in weights.items() if name not in self.moving}
        self._net, self._task, self._weights = net, task, weights
        self._head_only, self._prox = adapts == "head", prox
        self._goal = objective(task)

    def inputs(self, x: Tensor) -> Tensor:
        """Return the part of prepared rows `[n, ...]` that doesn't change while the task adapts."""
        return self._net.features(self._weights, x) if self._head_only else x

    def outputs(self, moving: Params, inputs: Tensor) -> Tensor:
        """Return the network's outputs for rows that entered by `inputs`."""
        if not self._head_only:
            return self._net({**self._rest, **moving}, inputs)
        return head_outputs(moving, inputs, self._task.target_shape)

    def loss(self, moving: Params, inputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss on rows, without a proximal term."""
        return self._goal.loss(self.outputs(moving, inputs), y)

    def score(self, moving: Params, inputs: Tensor, y: Tensor) -> tuple[float, ...]:
        """Return what a teacher compares by, higher is better."""
        return self._goal.score(self.outputs(moving, inputs), y)

    def steps(self, inputs: Tensor, y: Tensor, picks: Sequence[Tensor]) -> list[learning.LossFn]:
        """Return the inner loop's losses, one for each set of row indices in `picks`.

        A mini-batch's rows are copied when its loss is computed, so memory doesn't grow with the
        number of steps; a whole set isn't copied.
        """

        def on(pick: Tensor) -> learning.LossFn:
            def loss(moving: Params) -> Tensor:
                if len(pick) == len(inputs):
                    return self.loss(moving, inputs, y)
                return self.loss(moving, inputs[pick], y[pick])

            return learning.proximal(loss, self.moving, self._prox)

        return [on(pick) for pick in picks]

    def whole(self, moving: Params) -> Params:
        """Return all weights, with the adapted ones in their places."""
        return {name: moving.get(name, value) for name, value in self._weights.items()}
