"""Bandits: a gradient prior that is updated at each step, two queries at a time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import (
    Iterates,
    ScoreAgent,
    ScoreConfig,
    along,
    length,
    normals,
    tiled,
)
from lazybench.specs import EnvSpec
from lazybench.tasks import Norm


class BanditsConfig(ScoreConfig):
    """Settings of bandits; None takes the released ones of the norm, which are for ImageNet.

    Attributes:
        tile: cells along each side of the prior; the image's size where that is smaller.
        probe: eta, length of a probe in L2 (released: .01; in linf .1).
        exploration: delta, how far around the prior it looks (released: .01; in linf 1).
        prior_rate: how fast the prior learns (released: .1; in linf 100).
        step: length of a step in L2, or of every pixel in linf. `Choice:` .2 and .01: the released
            .5 is for a ball of radius 5.
    """

    tile: int = Field(7, ge=1)
    probe: float | None = Field(None, gt=0)
    exploration: float | None = Field(None, gt=0)
    prior_rate: float | None = Field(None, gt=0)
    step: float | None = Field(None, gt=0)


_RELEASED: Mapping[Norm, Mapping[str, float]] = {
    "l2": {"probe": 0.01, "exploration": 0.01, "prior_rate": 0.1, "step": 0.2},
    "linf": {"probe": 0.1, "exploration": 1.0, "prior_rate": 100.0, "step": 0.01},
}


class Bandits(ScoreAgent):
    """Bandits with a time and a tiling prior.

    Queries per image: for each step, two for the prior, and one that checks where the step has
    led. The authors don't count the check. `Choice:` slopes are of the margin, where the authors
    take the cross-entropy.

    Reference: Ilyas, Engstrom & Madry, "Prior convictions", ICLR 2019, Algorithms 1 to 3.
    """

    Config = BanditsConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return tiles of four pixels on CIFAR, too, and a smaller step for its smaller ball."""
        if not env.data.startswith("cifar"):
            return {}
        return {"tile": 8, "step": 0.005 if env.kwargs.get("norm") == "linf" else 0.1}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        norm = start.task.norm
        given = {name: getattr(self.config, name) for name in _RELEASED[norm]}
        chosen = {
            name: value if given[name] is None else given[name]
            for name, value in _RELEASED[norm].items()
        }
        explored, probe = chosen["exploration"], chosen["probe"]
        iterates = Iterates(start, self.radius(start.task))
        channels, height, width = start.x.shape[1:]
        cells = (channels, min(self.config.tile, height), min(self.config.tile, width))
        prior = start.x.new_zeros(len(start.x), *cells)
        for step in count():
            live = iterates.live
            if not len(live):
                return
            noise = normals(start, "bandits", live, step, cells) / prior[0].numel() ** 0.5
            around = explored * torch.stack([noise, -noise], 1) + prior[live][:, None]
            ahead = tiled(around, height, width)
            rows = iterates.x[live][:, None] + probe * ahead / length(ahead)
            margin, kept = yield from iterates.send(rows)
            live = iterates.live
            slope = (margin[:, 0] - margin[:, 1]) / (probe * explored)
            gradient = slope[:, None, None, None] * explored * noise[kept]
            prior[live] = learned(prior[live], chosen["prior_rate"] * gradient, norm)
            direction = along(tiled(prior[live], height, width), norm)
            iterates.move(iterates.x[live] + chosen["step"] * direction)
            yield from iterates.check()


def learned(prior: Tensor, change: Tensor, norm: Norm) -> Tensor:
    """Return the prior after a step: added to in L2, exponentiated gradients in linf.

    Args:
        prior: `[m, channels, t, t]`; in linf in [-1, 1].
        change: rate times gradient.
        norm: of the attack.

    Reference: Ilyas et al. 2019, section 3.2 (exponentiated gradients on (1 + v) / 2).
    """
    if norm == "l2":
        return prior + change
    # up e^c / (up e^c + down e^-c) for up = (1 + v) / 2, written so that e^c can't overflow.
    at = (1 + prior).clamp_min(1e-30).log() - (1 - prior).clamp_min(1e-30).log()
    return torch.tanh(at / 2 + change)
