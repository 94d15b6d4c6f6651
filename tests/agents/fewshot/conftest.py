"""Tiny tasks and agents for the few-shot tests: sine waves, and blobs in 16x16 images."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.fewshot.gradient import GradientAgent
from lazybench.agents.fewshot.settings import GradientConfig
from lazybench.envs.datasets.sinusoid import Sinusoid
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape

Batch = dict[str, Tensor]

SINE = TaskShape(1, 5, 5, (1,), "float32", "array", (1,))
BLOBS = TaskShape(3, 2, 2, (1, 16, 16), "uint8")
# Images with real-valued targets: answers are outputs, so that they can be compared to the bit.
MAPS = TaskShape(1, 4, 3, (1, 16, 16), "uint8", "array", (2,))


@pytest.fixture
def tasks() -> SimpleNamespace:
    return SimpleNamespace(sine=SINE, blobs=BLOBS, maps=MAPS)


@pytest.fixture
def draw() -> Callable[..., Batch]:
    """A function to a block of tasks of one shape, support class by class, queries shuffled."""

    def images(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    def make(task: TaskShape, rows: int, seed: int = 0) -> Batch:
        if task.instance == (1,):
            keys = np.arange(rows, dtype=np.uint64) + np.uint64(1000 * seed)
            x, y = (
                torch.from_numpy(part) for part in Sinusoid().draw(keys, task.shot + task.query)
            )
            k = task.shot
            return {
                "support_x": x[:, :k],
                "support_y": y[:, :k],
                "query_x": x[:, k:],
                "query_y": y[:, k:],
            }
        generator = torch.Generator().manual_seed(seed)
        batch: Batch = {}
        centres = images((rows, task.way, 1, *task.instance), generator)
        for part, each in (("support", task.shot), ("query", task.query)):
            noise = images((rows, task.way, each, *task.instance), generator)
            x = (centres // 2 + noise // 2).flatten(1, 2)
            y = torch.arange(task.way).repeat_interleave(each).repeat(rows, 1)
            if part == "query":
                order = torch.randperm(x.shape[1], generator=generator)
                x, y = x[:, order], y[:, order]
            if task.target == "array":
                y = torch.randn((rows, x.shape[1], *task.target_shape), generator=generator)
            batch |= {f"{part}_x": x, f"{part}_y": y}
        return batch

    return make


@pytest.fixture
def make_agent() -> Callable[..., GradientAgent]:
    """A function from algorithm, shape and settings to an agent on its smoke preset."""

    def make(algorithm: str, task: TaskShape, **settings: Any) -> GradientAgent:
        spec = EnvSpec(
            "tiny-1way-1shot",
            "fewshot",
            "a:b",
            None,
            "glyphs",
            {"way": task.way, "shot": task.shot},
        )
        small = {"meta_batch": 2, "train_shots": 0, "inner_steps": 3, "test_steps": 3}
        chosen = {**GradientAgent.preset(algorithm, spec, "smoke"), **small, **settings}
        return GradientAgent(GradientConfig(**chosen))

    return make


@pytest.fixture
def start() -> Callable[..., dict[str, Any]]:
    """A function to an agent's first state, in float64 on demand."""

    def init(agent: Any, task: TaskShape, *, double: bool = False, seed: int = 0) -> dict[str, Any]:
        state: dict[str, Any] = agent.init(SimpleNamespace(task=task), Rng(seed))
        if double:
            theta = {name: value.double() for name, value in state["theta"].items()}
            meta = {name: value.double() for name, value in state.get("meta", {}).items()}
            if "meta" in state:
                state = {**state, "meta": meta}
            state = {**state, "theta": theta, "outer": agent.outer.init({**theta, **meta})}
            if state.get("inner"):
                state["inner"] = agent.rule.init(theta)
        return state

    return init


@pytest.fixture
def graph() -> SimpleNamespace:
    """Functions that write a meta-gradient out as autograd of one whole graph."""
    return SimpleNamespace(
        doubled=doubled,
        on_leaves=on_leaves,
        explicit=explicit,
        moved_by=moved_by,
        mean_gradient=mean_gradient,
        close=close,
        sine_loss=sine_loss,
    )


def doubled(batch: Batch) -> Batch:
    """A block in float64, images in [0, 1]."""
    return {
        name: part.double() / 255
        if part.dtype == torch.uint8
        else part.to(torch.float64)
        if part.is_floating_point()
        else part
        for name, part in batch.items()
    }


def on_leaves(params: Params) -> Params:
    """Copies that ask for gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def explicit(
    phi: Params, steps: int, loss: Callable[[Params], Tensor], step: Callable[[Params, Params], Any]
) -> Params:
    """An inner loop on the graph: `step(phi, grads)` gives the next phi, of whatever moves."""
    for _ in range(steps):
        moving = list(step(phi, phi))
        grads = torch.autograd.grad(loss(phi), [phi[n] for n in moving], create_graph=True)
        phi = {**phi, **step(phi, dict(zip(moving, grads, strict=True)))}
    return phi


def moved_by(state: dict[str, Any], after: dict[str, Any]) -> Params:
    """The meta-gradient behind a plain outer step of 1."""
    return {n: v - after[part][n] for part in ("theta", "meta") for n, v in state[part].items()}


def mean_gradient(
    batch: dict[str, Tensor], anchor: Params, task_loss: Callable[..., Tensor]
) -> Params:
    """The gradient of the mean of `task_loss(x, y, query_x, query_y)` over a meta-batch."""
    rows = zip(*batch.values(), strict=True)
    total = torch.stack([task_loss(*row) for row in rows]).mean()
    found = torch.autograd.grad(
        total, list(anchor.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(anchor, found, strict=True))


def sine_loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error of the network for sine waves."""
    return F.mse_loss(backbone("mlp", SINE)(params, x), y)


def close(got: Params, expected: Params) -> None:
    """Equal to the rounding of float64."""
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-10)
