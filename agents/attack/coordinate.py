"""Random coordinates: the control of meta-attack, without anything learned."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from pydantic import Field

from lazybench.agents.attack.differences import coordinate_slopes, placed
from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import Iterates, ScoreAgent, ScoreConfig, Space, order
from lazybench.specs import EnvSpec


class CoordinateConfig(ScoreConfig):
    """Settings; the defaults are meta-attack's on MNIST.

    Attributes:
        coordinates: q, how many are probed at once (all, where an image has fewer).
        every: j, steps that use one probing.
        step: lambda, how far every probed coordinate moves in a step, in the unit of `space`.
        width: h of the forward differences.
        space: pixels, or tanh space as meta-attack on CIFAR-10.
    """

    coordinates: int = Field(128, ge=1)
    every: int = Field(5, ge=1)
    step: float = Field(0.01, gt=0)
    width: float = Field(1e-4, gt=0)
    space: Space = "pixel"


class Coordinate(ScoreAgent):
    """Probe q random coordinates, follow the signs of their slopes for j steps, and repeat.

    Queries per image: one for the clean image; then rounds of q probes and j steps, each checked
    by a query. `Choice:` the first probes come at once, since there is nothing to follow before.

    Reference: Du et al., "Query-efficient meta attack to deep neural networks", ICLR 2020, with the
    attacker's choice of coordinates replaced by chance.
    """

    Config = CoordinateConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return meta-attack's constants for the data."""
        if env.data.startswith("cifar"):
            return {"coordinates": 125, "every": 3, "space": "tanh"}
        return {}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        config: CoordinateConfig = self.config
        iterates = Iterates(start, self.radius(start.task), config.space)
        signs = torch.zeros_like(start.x)
        yield from iterates.check()
        for step in count():
            if step % config.every == 0:
                live = iterates.live
                chosen = order(start, "coordinates", live, step, start.x[0].numel())
                chosen = chosen[:, : config.coordinates]
                slopes, kept = yield from coordinate_slopes(iterates, chosen, config.width)
                signs[iterates.live] = placed(slopes.sign(), chosen[kept], iterates.clean)
            if not len(iterates.live):
                return
            iterates.move(iterates.values[iterates.live] + config.step * signs[iterates.live])
            yield from iterates.check()
