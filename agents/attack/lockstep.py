"""The base of every attacker: many images attacked in parallel, independently of each other.

An attack is a generator: it yields `Queries` for any of its images and is sent `Replies`. It ends
when it has no more queries to make. Its randomness comes from `Start.keys`, counters of run, image
and step, so that what happens to one image depends on no other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from lazybench import seeding
from lazybench.agent import Agent, Observation, TaskEnv
from lazybench.seeding import Rng
from lazybench.tasks import AttackTask, Queries, Replies, margin

Attack = Generator[Queries, Replies, None]
State = dict[str, Any]


@dataclass(frozen=True)
class Start:
    """The images of one attack before any query.

    Attributes:
        task: protocol: access, norm, eps, budget, mode.
        seed: of the run.
        trial: `[n]` int64, the images' numbers among the official ones.
        x: `[n, channels, height, width]` float32 clean images in [0, 1].
        label: `[n]` int64 true classes.
        goal: `[n]` int64 classes to reach; None in an untargeted attack.
    """

    task: AttackTask
    seed: int
    trial: Tensor
    x: Tensor
    label: Tensor
    goal: Tensor | None

    def keys(self, name: str, images: Tensor, step: int | Tensor, size: int) -> NDArray[np.uint64]:
        """Return counters for `size` random numbers of each of some images, `[len(images), size]`.

        Args:
            name: purpose of the numbers.
            images: `[m]` int64 positions in 0..n-1.
            step: which draw; one number, or one for each of these images.
            size: how many numbers.
        """
        trial = self.trial[images].cpu().numpy()[:, None]
        draw = np.broadcast_to(np.asarray(step).reshape(-1, 1), trial.shape)
        return seeding.mix("attack", name, self.seed, trial, draw, np.arange(size)[None, :])

    def normal(self, name: str, images: Tensor, step: int | Tensor) -> Tensor:
        """Return a standard normal image for each of some images, `[m, *instance]`."""
        shape = self.x.shape[1:]
        values = seeding.normal(self.keys(name, images, step, shape.numel()))
        drawn = torch.from_numpy(values.astype(np.float32)).view(len(images), *shape)
        return drawn.to(self.x.device)

    def margin(self, scores: Tensor, owner: Tensor) -> Tensor:
        """Return the margin of each row, above 0 if adversarial, `[R]`."""
        goal = None if self.goal is None else self.goal[owner]
        return margin(scores, self.label[owner], goal)


class Lockstep:
    """The policy of an attack: passes its queries on and sends it the replies."""

    vectorized = True

    def __init__(self, begin: Callable[[Observation], Attack]) -> None:
        """Begin every block of trials with `begin(observation)`."""
        self._begin = begin

    def __call__(
        self, observation: Observation, memory: Attack | None = None
    ) -> tuple[Queries, Attack]:
        """Return the next queries and the attack that waits for their replies."""
        try:
            if memory is None:
                memory = self._begin(observation)
                return next(memory), memory
            return memory.send(Replies(*(observation[name] for name in Replies._fields))), memory
        except StopIteration:
            x = observation["x"]
            return Queries(x[:0], torch.zeros(0, dtype=torch.int64, device=x.device)), _ended()


def _ended() -> Attack:
    """An attack without queries."""
    yield from ()


class AttackConfig(BaseModel):
    """Base class of attackers' settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LockstepAgent(Agent, ABC):
    """Base class of attackers without training; a subclass implements `attack`."""

    families = ("attack",)
    Config: ClassVar[type[AttackConfig]] = AttackConfig

    def __init__(self, config: Any) -> None:
        """Keep the settings."""
        self.config = config

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return the state of an untrained attacker: the protocol and the run's seed."""
        return {"task": env.task.fields(), "seed": rng.seed}

    def policy(self, state: State) -> Lockstep:
        """Return the policy that attacks a block of images in lock-step."""
        return Lockstep(partial(self._begin, state))

    @abstractmethod
    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until there are no more to make."""

    def _begin(self, state: State, observation: Observation) -> Attack:
        task = AttackTask(**state["task"])
        start = Start(
            task,
            int(state["seed"]),
            observation["trial"],
            observation["x"],
            observation["label"],
            observation["goal"] if task.targeted else None,
        )
        return self.attack(start, state)
