"""Cases of `peers.py`: what a meta-iteration is, on what data, by ours and by a peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from peer_ways import PEERS, Task, conv4, meta_gradient
from student_step import strokes
from torch import Tensor

import lazybench
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape

WAY, SHOTS, LR = 5, 5, 0.05
ALGORITHMS = (
    ("maml", 1),
    ("maml", 5),
    ("fomaml", 5),
    ("reptile", 5),
    ("anil", 5),
    ("lazy_maml", 5),
)
SHAPES = {"conv4-64": ((1, 28, 28), 5), "conv4-32": ((3, 84, 84), 15)}
"""Backbone: instance, query rows of a class."""

Run = tuple[Callable[[], Any], Callable[[Any], list[Tensor]]]
"""A meta-iteration, and how to read the mean meta-gradient off its result."""


@dataclass(frozen=True)
class Case:
    """One meta-iteration to measure."""

    algorithm: str
    steps: int
    backbone: str
    tasks: int

    @property
    def name(self) -> str:
        """`maml k=5 conv4-64 T=4`."""
        return f"{self.algorithm} k={self.steps} {self.backbone} T={self.tasks}"

    @property
    def task(self) -> TaskShape:
        """The shape of a task."""
        instance, queries = SHAPES[self.backbone]
        return TaskShape(WAY, SHOTS, queries, instance, "uint8")

    def some(self, tasks: int) -> Case:
        """The same with fewer tasks."""
        return replace(self, tasks=min(tasks, self.tasks))

    def flops(self) -> float:
        """Floating-point operations that the method can't do without.

        Forward 1, gradients of inputs and of weights 1 each; a gradient differentiated again takes
        six more. The first convolution has no gradient of inputs.
        """
        channels, edge_px, _ = self.task.instance
        filters = int(self.backbone.rpartition("-")[2])
        first = 18.0 * channels * filters * edge_px**2
        later = sum(18.0 * filters**2 * (edge_px >> layer) ** 2 for layer in (1, 2, 3))
        forward, once, twice = first + later, 2 * first + 3 * later, 4 * first + 9 * later
        support, query = self.task.support_rows, self.task.query_rows
        inner = self.steps * support * once
        total = {
            "maml": self.steps * support * twice + query * once,
            "fomaml": inner + query * once,
            "reptile": inner,
            "anil": (support + query) * once,
            "lazy_maml": inner + query * (once + 5 * forward),
        }
        return self.tasks * total[self.algorithm]


def cases(tasks: tuple[int, ...]) -> Iterator[Case]:
    """Every case, small images first."""
    for name in SHAPES:
        for number in tasks:
            for algorithm, steps in ALGORITHMS:
                yield Case(algorithm, steps, name, number)


def drawn(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """A meta-batch: strokes on an empty ground, or blobs of colour.

    In float64, where gradients are compared, pixels are scaled and a little noise parts those that
    are equal: of two equal entries of a pooling window either may win.
    """
    task, batch = case.task, {}
    channels, edge_px, _ = task.instance
    for part, each, seed in (("support", task.shot, 0), ("query", task.query, 1)):
        rows = case.tasks * task.way * each
        if channels == 1:
            x = strokes(rows, seed)
        else:
            # In float64, or the last digit, and so a pixel, would depend on the number of threads.
            coarse = torch.rand(rows, channels, 12, 12, generator=Rng(seed).torch()).double()
            x = F.interpolate(coarse, size=edge_px, mode="bilinear").mul(255).to(torch.uint8)
        if dtype == torch.float64:
            noise = torch.rand(x.shape, generator=Rng(seed).at("noise").torch(), dtype=dtype)
            x = (x + noise) / 255
        batch[f"{part}_x"] = x.view(case.tasks, -1, *task.instance)
        batch[f"{part}_y"] = torch.arange(task.way).repeat_interleave(each).repeat(case.tasks, 1)
    return batch


def weights(case: Case, dtype: torch.dtype) -> Params:
    """The initial weights, the same for all sides, off the usual start of batch norm."""
    generator = torch.Generator().manual_seed(0)
    theta = backbone(case.backbone, case.task).init(generator)
    for name, value in theta.items():
        if name.startswith("norm"):
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    return {name: value.to(dtype) for name, value in theta.items()}


def ours(case: Case, dtype: torch.dtype) -> Run:
    """The agent's own meta-iteration, with plain descent at rate 1 as its outer step."""
    settings: dict[str, Any] = {
        "backbone": case.backbone,
        "inner_rule": "sgd",
        "inner_lr": LR,
        "inner_steps": case.steps,
        "inner_batch": 0,
        "meta_batch": case.tasks,
        "outer_rule": "sgd",
        "outer_lr": 1.0,
        "anneal": "none",
        "iterations": 1,
        "train_shots": SHOTS,
    }
    agent = lazybench.make_agent(case.algorithm, "glyphs-5way-5shot", budget="smoke", **settings)
    theta, batch = weights(case, dtype), drawn(case, dtype)
    state = agent.init(SimpleNamespace(task=case.task), Rng(0))
    state["theta"] = theta

    def gradient(result: Any) -> list[Tensor]:
        moved = result[0]["theta"]
        return [value - moved[name] for name, value in theta.items()]

    return lambda: agent.update(state, batch, Rng(0)), gradient


def theirs(case: Case, peer: str, dtype: torch.dtype) -> Run:
    """A peer's meta-iteration, up to the mean meta-gradient."""
    channels, edge_px, _ = case.task.instance
    model = conv4(channels, int(case.backbone.rpartition("-")[2]), edge_px, WAY).to(dtype)
    with torch.no_grad():
        for own, value in zip(model.parameters(), weights(case, dtype).values(), strict=True):
            own.copy_(value)
    adapt, batch = PEERS[peer](), drawn(case, dtype)

    def task(index: int) -> Task:
        x, query = (batch[f"{part}_x"][index] for part in ("support", "query"))
        if x.dtype == torch.uint8:
            x, query = x.float() / 255, query.float() / 255
        return x, batch["support_y"][index], query, batch["query_y"][index]

    def run() -> list[Tensor]:
        total = [torch.zeros_like(value) for value in model.parameters()]
        for index in range(case.tasks):
            grads = meta_gradient(adapt, model, case.algorithm, task(index), case.steps, LR)
            torch._foreach_add_(total, grads, alpha=1 / case.tasks)
        return total

    return run, lambda result: result
