"""A tiny long-tailed stream with the observations of the real one, and agents on it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.agents.longtail.classifier import ClassifierAgent
from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.tasks import LongTailTask

COUNTS = (40, 20, 10, 4)


class Stream:
    """Blurred blobs of four classes, 40, 20, 10 and 4 images, dev set of 3 a class."""

    def __init__(self) -> None:
        self.task = LongTailTask(4, (3, 16, 16), "uint8", COUNTS, 10, 8, 3)
        generator = torch.Generator().manual_seed(3)
        self.centres = torch.randint(60, 200, (4, 3, 16, 16), generator=generator)

    def images(self, y: Tensor, generator: torch.Generator, noise: int = 55) -> Tensor:
        spread = torch.randint(-noise, noise + 1, (len(y), 3, 16, 16), generator=generator)
        return (self.centres[y] + spread).to(torch.uint8)

    def batch(self, seed: int, rows: int = 8, dev: int = 0, filled: int = 0) -> dict[str, Tensor]:
        """A mini-batch; the last `filled` rows only fill it up."""
        generator = torch.Generator().manual_seed(seed)
        shares = torch.tensor(COUNTS, dtype=torch.float64)
        y = torch.multinomial(shares, rows, replacement=True, generator=generator)
        batch = {"x": self.images(y, generator), "y": y, "mask": torch.arange(rows) < rows - filled}
        if filled:
            batch["y"] = torch.where(batch["mask"], y, -1)
        if dev:
            dev_y = torch.arange(dev) % 4
            batch |= {"dev_x": self.images(dev_y, generator), "dev_y": dev_y}
        return batch


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def make_agent() -> Callable[..., ClassifierAgent]:
    """A function from settings to an agent with a narrow network and 10 updates an epoch."""

    def make(**settings: Any) -> ClassifierAgent:
        small = {"backbone": "resnet8-4", "batch": 8, "epochs": 1}
        return ClassifierAgent(LongTailConfig(**{**small, **settings}))

    return make


@pytest.fixture
def start() -> Callable[..., dict[str, Any]]:
    """A function to an agent's first state, in float64 on demand."""

    def init(agent: Any, task: LongTailTask, *, double: bool = False) -> dict[str, Any]:
        state: dict[str, Any] = agent.init(SimpleNamespace(task=task), Rng(0))
        return in_double(state) if double else state

    return init


@pytest.fixture
def train() -> Callable[..., tuple[dict[str, Any], list[dict[str, float]]]]:
    """A function to the state after some updates, with all logs."""

    def run(
        agent: Any, state: dict[str, Any], stream: Stream, steps: int
    ) -> tuple[dict[str, Any], list[dict[str, float]]]:
        logs = []
        dev = agent.config.dev_rows(stream.task)
        for step in range(state["step"], state["step"] + steps):
            batch = stream.batch(step, agent.config.batch, dev)
            state, found = agent.update(state, batch, Rng(0).at("update", step))
            logs.append(found)
        return state, logs

    return run


def in_double(state: dict[str, Any]) -> dict[str, Any]:
    def wide(params: Params) -> Params:
        return {name: value.double() for name, value in params.items()}

    running = tuple((mean.double(), variance.double()) for mean, variance in state["running"])
    parts = {"theta": wide(state["theta"]), "momentum": wide(state["momentum"])}
    return {**state, **parts, "running": running}
