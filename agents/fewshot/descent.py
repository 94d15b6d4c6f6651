"""Outer steps on whole tasks, for agents without an inner loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lazybench import learning
from lazybench.agent import Agent, Observation
from lazybench.agents.fewshot.episode import Row, real_rows, select_row
from lazybench.agents.fewshot.settings import EpisodicConfig
from lazybench.agents.fewshot.weights import HEAD, moved, overlay
from lazybench.errors import Diverged, UsageError
from lazybench.learning import Outer
from lazybench.nets import Net
from lazybench.nets.params import Params, combine, finite, leaves
from lazybench.runtime import distributed
from lazybench.runtime.threads import map_tasks
from lazybench.seeding import Rng
from lazybench.tasks import PADDING, TaskShape

BatchNorm = Literal["transductive", "inductive"]


def descend(
    state: dict[str, Any],
    batch: Observation,
    loss: Callable[[Params, Row], Tensor],
    outer: Outer,
    factor: float,
    uneven: bool = False,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the state after one outer step on the mean of the tasks' losses, and the logs.

    Args:
        state: holds `theta`, `outer` and `step`; left untouched.
        batch: a block of tasks, which run in parallel.
        loss: of one task at theta, a scalar with a graph.
        outer: the outer rule.
        factor: factor of its step size.
        uneven: leave out the rows that only fill tasks up.

    Raises:
        Diverged: a parameter isn't finite afterwards.
    """
    theta: Params = state["theta"]
    tasks = len(batch["support_x"])

    def run(index: int) -> tuple[Params, float]:
        row, point = select_row(batch, index), leaves(theta)
        row = real_rows(row) if uneven else row
        value = loss(point, row)
        # A user's module may have parameters that it doesn't use.
        grads = torch.autograd.grad(
            value, list(point.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(point, grads, strict=True)), float(value.detach())

    results = map_tasks(run, distributed.mine(tasks))
    meta = combine([gradient for gradient, _ in results], [1 / tasks] * len(results))
    summed = torch.tensor(float(sum(value for _, value in results)), dtype=torch.float64)
    # The loss goes with the gradient's entries, none of which has an empty name.
    meta = distributed.summed({**meta, "": summed})
    total = float(meta.pop(""))
    with torch.no_grad():
        theta, moments = outer.update(theta, state["outer"], meta, factor)
    if not finite(theta):
        raise Diverged(f"a parameter isn't finite after meta-iteration {state['step'] + 1}")
    images = batch["support_y"].shape[:2].numel() + batch["query_y"].shape[:2].numel()
    if uneven:
        images = sum(int((batch[name] != PADDING).sum()) for name in ("support_y", "query_y"))
    logs = {
        "loss": total / tasks,
        "inner_steps": 0.0,
        "image_gradients": float(images),
    }
    return {**state, "theta": theta, "outer": moments, "step": state["step"] + 1}, logs


def embed(
    net: Net, theta: Params, support: Tensor, query: Tensor, batch_norm: BatchNorm = "transductive"
) -> tuple[Tensor, Tensor]:
    """Return the features of a task's prepared support and query instances, `[rows, d]` each.

    Args:
        net: the embedding.
        theta: its parameters.
        support: prepared support instances.
        query: prepared query instances.
        batch_norm: `transductive`, statistics of both together, as in training; or `inductive`, of
            the support set alone, so that no answer depends on the other queries.
    """
    if batch_norm == "inductive":
        stats = net.statistics(theta, support)
        return net.features(theta, support, stats), net.features(theta, query, stats)
    both = net.features(theta, torch.cat([support, query]))
    return both[: len(support)], both[len(support) :]


class Descending(Agent):
    """Base class of agents that take one step on the losses of whole tasks a meta-iteration.

    Attributes:
        config: their settings.
        outer: the rule of that step.
    """

    families = ("fewshot",)
    LATER = EpisodicConfig.LATER
    REPLACES = EpisodicConfig.REPLACES
    EVAL_ONLY: ClassVar[tuple[str, ...]] = ("batch_norm",)
    config: EpisodicConfig
    outer: Outer

    def load_weights(self, state: dict[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the first state with weights of another training in its body.

        Raises:
            UsageError: weights that don't fit the body.
        """
        return {**state, "theta": overlay(state["theta"], weights)}

    def transfer(self, state: dict[str, Any], task: TaskShape) -> dict[str, Any]:
        """Return a trained state for tasks of another shape; any number of ways will do.

        Raises:
            UsageError: other instances or targets than it was trained on.
        """
        return moved(state, task, ways_free=True)

    def images(self, task: TaskShape) -> int:
        """Return the image-gradients of one task: each image passes forward and backward once.

        Those of uneven tasks are the mean over tasks.
        """
        ways, shots = self.config.ways(task), self.config.shots(task)
        if task.uneven:
            return round((2 + ways) / 2 * ((1 + shots) / 2 + self.config.train_queries))
        return ways * (shots + self.config.train_queries)

    def start(self, theta: Params, task: TaskShape) -> dict[str, Any]:
        """Return the state before any update."""
        return {"theta": theta, "outer": self.outer.init(theta), "step": 0, "task": task.fields()}

    def descend(
        self, state: dict[str, Any], batch: Observation, loss: Callable[[Params, Row], Tensor]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Return the state after one annealed step on the mean of the tasks' losses, and the logs.

        Raises:
            Diverged: a parameter isn't finite afterwards.
        """
        task = TaskShape(**state["task"])
        total = self.config.updates(self.images(task))
        factor = learning.annealed(self.config.anneal, state["step"], total)
        return descend(state, batch, loss, self.outer, factor, task.uneven)


def bare(net: Net, rng: Rng) -> tuple[Params, int]:
    """Return fresh weights of a network without its head, and the width of its features."""
    fresh = net.init(rng.torch())
    body = {name: value for name, value in fresh.items() if not name.startswith(HEAD)}
    return body, fresh[f"{HEAD}weight"].shape[1]


def need_classes(task: TaskShape, who: str = "this agent") -> None:
    """Check that tasks have classes, which `who` needs.

    Raises:
        UsageError: they have real-valued targets.
    """
    if task.target != "class":
        raise UsageError(
            f"{who} classifies: it needs tasks with classes, got real-valued targets; choose an "
            "environment with ways (lazybench list envs)"
        )
