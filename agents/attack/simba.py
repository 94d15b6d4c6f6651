"""SimBA: one orthonormal direction after another, kept where it helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import (
    Iterates,
    ScoreAgent,
    ScoreConfig,
    cosines,
    lowest,
    order,
)
from lazybench.specs import EnvSpec


class SimbaConfig(ScoreConfig):
    """Settings of SimBA.

    Attributes:
        basis: `pixel` or `dct` (two-dimensional cosine waves of one channel).
        step: epsilon, length of a step.
        frequencies: share of the rows and columns of frequencies, from the lowest, whose waves are
            tried before any other. `Choice:` a half; the paper's eighth is for ImageNet's size.
    """

    basis: Literal["pixel", "dct"] = "pixel"
    step: float = Field(0.2, gt=0)
    frequencies: float = Field(0.5, gt=0, le=1)


class Simba(ScoreAgent):
    """Try each direction of a basis forwards, then backwards; keep what raises the margin.

    Queries per image: one for the clean image; then one for a direction that helps forwards, two
    for any other. Directions come in a random order without replacement; once all were tried they
    come again in another. `Choice:` the margin, where the paper has the true class's probability:
    it saturates in float32. Steps along other directions than those tried are taken only where a
    candidate is brought back into ball or box.

    Reference: Guo et al., "Simple black-box adversarial attacks", ICML 2019, Algorithm 1.
    """

    Config = SimbaConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the basis that the algorithm is named after."""
        return {"basis": "dct" if algorithm == "simba_dct" else "pixel"}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        config: SimbaConfig = self.config
        iterates = Iterates(start, self.radius(start.task))
        n, size = len(start.x), start.x[0].numel()
        tried, back = torch.zeros_like(iterates.live), torch.zeros(n, dtype=torch.bool)
        back = back.to(start.x.device)
        orders = self._order(start, iterates.live, 0)
        yield from iterates.check()
        while len(iterates.live):
            live = iterates.live
            chosen = orders[live].gather(1, (tried[live] % size)[:, None])[:, 0]
            side = torch.where(back[live], -config.step, config.step)[:, None, None, None]
            candidate = iterates.inside(iterates.x[live] + side * self._directions(start, chosen))
            margin, kept = yield from iterates.ask(candidate)
            live = iterates.live
            better = margin > iterates.margin[live]
            iterates.x[live[better]] = candidate[kept][better]
            iterates.margin[live[better]] = margin[better]
            over = better | back[live]
            back[live] = ~over
            tried[live] += over
            again = live[over & (tried[live] % size == 0)]
            if len(again):
                orders[again] = self._order(start, again, (tried[again] // size).cpu())

    def _order(self, start: Start, images: Tensor, turn: int | Tensor) -> Tensor:
        """A random order of the basis for each image, the low frequencies first, `[m, d]`."""
        drawn = order(start, "simba", images, turn, start.x[0].numel())
        if self.config.basis == "pixel":
            return drawn
        height, width = start.x.shape[2:]
        share = float(self.config.frequencies)
        row, column = drawn % (height * width) // width, drawn % width
        high = (row >= lowest(height, share)) | (column >= lowest(width, share))
        return drawn.gather(1, high.to(torch.int8).argsort(dim=1, stable=True))

    def _directions(self, start: Start, chosen: Tensor) -> Tensor:
        """The chosen directions of the basis, of length 1, `[m, …]`."""
        shape = start.x.shape[1:]
        if self.config.basis == "dct":
            return waves(chosen, shape).to(start.x)
        flat = start.x.new_zeros(len(chosen), shape.numel())
        return flat.scatter_(1, chosen[:, None], 1.0).view(-1, *shape)


def waves(chosen: Tensor, shape: torch.Size) -> Tensor:
    """Return images of single waves of the orthonormal cosine transform (DCT-II), `[m, …]`.

    Args:
        chosen: `[m]` int64, (channel * height + row frequency) * width + column frequency.
        shape: (channels, height, width).
    """
    channels, height, width = shape
    down = cosines(height).to(chosen.device)[chosen // width % height]
    right = cosines(width).to(chosen.device)[chosen % width]
    full = torch.zeros(len(chosen), channels, height, width, device=chosen.device)
    here = torch.arange(len(chosen), device=chosen.device)
    full[here, chosen // (height * width)] = (down[:, :, None] * right[:, None, :]).float()
    return full
