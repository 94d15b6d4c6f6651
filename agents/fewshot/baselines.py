"""Baselines that every learner must beat."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from lazybench.agent import Agent, Observation, TaskEnv
from lazybench.seeding import Rng
from lazybench.tasks import PADDING


class NoSettings(BaseModel):
    """Settings of an agent that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Chance(Agent):
    """Answers at random, or 0 if targets are real values."""

    families = ("fewshot",)
    Config = NoSettings

    def __init__(self, config: NoSettings) -> None:
        """Nothing to set."""
        self.config = config

    def init(self, env: TaskEnv, rng: Rng) -> dict[str, Any]:
        """Return the seed and the kind of targets."""
        task = env.task
        state = {"seed": rng.integer, "way": task.way, "target": task.target}
        return {**state, "uneven": True} if task.uneven else state

    def policy(self, state: dict[str, Any]) -> _Guess:
        """Return a policy that draws labels from the run's seed and the trial's pixels."""
        return _Guess(state)


class _Guess:
    vectorized = True

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        query = observation["query_y"]
        if self._state["target"] == "array":
            return torch.zeros_like(query), None
        # Seeded by the trial itself, so that an answer doesn't depend on the trials before it.
        uneven = self._state.get("uneven", False)
        ways = observation["support_y"].amax(1) + 1 if uneven else [self._state["way"]] * len(query)
        return torch.stack(
            [
                self._labels(row, query.shape[1], int(way))
                for row, way in zip(observation["query_x"], ways, strict=True)
            ]
        ), None

    def _labels(self, row: Tensor, count: int, way: int) -> Tensor:
        content = int(row.double().sum()) + int(row.flatten()[:997].double().sum()) * 1_000_003
        generator = Rng(self._state["seed"], ("guess", content)).torch()
        return torch.randint(way, (count,), generator=generator)


class NearestPixel(Agent):
    """Answers with the target of the nearest support instance in raw pixels (Euclidean)."""

    families = ("fewshot",)
    Config = NoSettings

    def __init__(self, config: NoSettings) -> None:
        """Nothing to set."""
        self.config = config

    def init(self, env: TaskEnv, rng: Rng) -> dict[str, Any]:
        """Return an empty state: nothing is learned."""
        return {}

    def policy(self, state: dict[str, Any]) -> _Nearest:
        """Return the nearest-neighbour policy."""
        return _Nearest()


class _Nearest:
    vectorized = True

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        # Squares of pixels add up beyond the whole numbers that float32 holds.
        support = observation["support_x"].flatten(2).double()
        query = observation["query_x"].flatten(2).double()
        apart = torch.cdist(query, support)
        targets: Tensor = observation["support_y"]
        if targets.ndim == 2:
            apart = apart.masked_fill((targets == PADDING)[:, None], float("inf"))
        nearest = apart.argmin(2)
        if targets.ndim == 2:
            return targets.gather(1, nearest), None
        rows = torch.arange(len(targets))[:, None]
        return targets[rows, nearest], None
