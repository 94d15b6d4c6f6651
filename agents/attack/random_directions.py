"""Ascent along gradients estimated from random directions: NES, RGF, Frank-Wolfe, bandits."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from itertools import count
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.differences import directional_slopes
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


class DirectionsConfig(ScoreConfig):
    """Settings of attacks along random directions.

    Attributes:
        directions: q, how many make up a gradient estimate.
        momentum: weight of the former estimates in the direction that is followed.
    """

    directions: int = Field(10, ge=1)
    momentum: float = Field(0.0, ge=0, lt=1)


class SteppedConfig(DirectionsConfig):
    """Settings of attacks with steps of a fixed length.

    Attributes:
        step_l2: length of a step in L2.
        step_linf: how far every pixel moves in a step in linf.
    """

    step_l2: float = Field(0.2, gt=0)
    step_linf: float = Field(0.01, gt=0)

    def step(self, norm: Norm) -> float:
        """Return the step's size in a norm."""
        return self.step_l2 if norm == "l2" else self.step_linf


class RandomDirections(ScoreAgent):
    """Estimate a gradient along q random directions, move, check, and repeat."""

    both_sides: ClassVar[bool] = True

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        config: DirectionsConfig = self.config
        iterates = Iterates(start, self.radius(start.task))
        followed = torch.zeros_like(start.x)
        if not self.both_sides:
            yield from iterates.check()
        for step in count():
            if not len(iterates.live):
                return
            drawn = self.directions(start, iterates.live, step)
            width = self.width(start)
            slopes, kept = yield from directional_slopes(
                iterates, drawn, width, both_sides=self.both_sides
            )
            estimate = torch.einsum("mq,mq...->m...", slopes, drawn[kept]) / config.directions
            live = iterates.live
            followed[live] = config.momentum * followed[live] + (1 - config.momentum) * estimate
            iterates.move(self.moved(iterates, followed[live], step))
            yield from iterates.check()

    @abstractmethod
    def directions(self, start: Start, images: Tensor, step: int) -> Tensor:
        """Return q directions of each of some images, `[m, q, …]`."""

    @abstractmethod
    def width(self, start: Start) -> float:
        """Return how far along its direction a probe goes."""

    def moved(self, iterates: Iterates, gradient: Tensor, step: int) -> Tensor:
        """Return where the live images go, before projection into ball and box."""
        norm = iterates.start.task.norm
        return iterates.x[iterates.live] + float(self.config.step(norm)) * along(gradient, norm)


class NesConfig(SteppedConfig):
    """Settings of NES.

    Attributes:
        sigma: how far a probe goes along a standard normal direction.
        momentum: weight of the former estimates, as the authors have it.
    """

    momentum: float = Field(0.9, ge=0, lt=1)
    sigma: float = Field(1e-3, gt=0)


class Nes(RandomDirections):
    """Natural evolution strategies: antithetic standard normal directions.

    Queries per image: for each step, two for each of the q directions, and one that checks where
    the step has led. The paper moves by signs in linf; `Choice:` in L2 by the estimate at a fixed
    length. `Choice:` 10 directions (the paper has 25 to 50 of ImageNet's size). `Choice:` slopes
    are of the margin, where the authors take the cross-entropy.

    Reference: Ilyas et al., "Black-box adversarial attacks with limited queries and information",
    ICML 2018, Algorithm 1.
    """

    Config = NesConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return smaller steps where the ball is smaller."""
        return _steps(env)

    def directions(self, start: Start, images: Tensor, step: int) -> Tensor:
        """Return standard normal directions, `[m, q, …]`."""
        shape = (self.config.directions, *start.x.shape[1:])
        return normals(start, "nes", images, step, shape)

    def width(self, start: Start) -> float:
        """Return sigma."""
        return float(self.config.sigma)


class RgfConfig(SteppedConfig):
    """Settings of tiled RGF.

    Attributes:
        tile: cells along each side of a direction; the image's size where that is smaller.
        width: how far a probe goes, times the square root of the number of pixels and channels.
    """

    tile: int = Field(7, ge=1)
    width: float = Field(1e-4, gt=0)


class TiledRgf(RandomDirections):
    """Random gradient-free descent along tiled directions of length 1, by forward differences.

    Queries per image: one for the clean image; then for each step q, and one that checks where
    the step has led, which is the other end of the next differences. `Choice:` slopes are of the
    margin, where the authors take the cross-entropy.

    Reference: Nesterov & Spokoiny 2017, equation 26; Cheng et al., "Improving black-box adversarial
    attacks with a transfer-based prior", NeurIPS 2019 (its RGF baseline, and the width); Ilyas et
    al. 2019 (tiles).
    """

    Config = RgfConfig
    both_sides = False

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return smaller steps where the ball is smaller, and tiles of four pixels."""
        return {**_steps(env), **({"tile": 8} if env.data.startswith("cifar") else {})}

    def directions(self, start: Start, images: Tensor, step: int) -> Tensor:
        """Return tiled directions of length 1, `[m, q, …]`."""
        channels, height, width = start.x.shape[1:]
        cells = (min(self.config.tile, height), min(self.config.tile, width))
        drawn = normals(start, "rgf", images, step, (self.config.directions, channels, *cells))
        full = tiled(drawn, height, width)
        return full / length(full)

    def width(self, start: Start) -> float:
        """Return the probes' length."""
        return float(self.config.width * start.x[0].numel() ** 0.5)


class FrankWolfeConfig(DirectionsConfig):
    """Settings of black-box Frank-Wolfe; the defaults are the released ones.

    Attributes:
        directions: q, how many make up a gradient estimate.
        delta: how far a probe goes along a standard normal direction.
        rate: share of the way to the linear problem's solution that the first step goes; the t-th
            goes rate / sqrt(t).
        stretch: lambda: the linear problem's ball is that much larger than the attack's.
    """

    directions: int = Field(25, ge=1)
    delta: float = Field(0.01, gt=0)
    rate: float = Field(0.03, gt=0, le=1)
    stretch: float = Field(30.0, ge=1)


class FrankWolfe(RandomDirections):
    """Black-box Frank-Wolfe: towards the point of a ball that the estimated gradient shows.

    Queries per image: for each step, two for each of the q directions, and one that checks where
    the step has led. The authors don't count the check. `Choice:` no momentum, as released
    (`momentum` has the paper's); the loss is the margin, which the released code has as an
    option next to the cross-entropy.

    Reference: Chen, Zhou, Yi & Gu, "A Frank-Wolfe framework for efficient and effective adversarial
    attacks", AAAI 2020, Algorithm 2.
    """

    Config = FrankWolfeConfig
    ball_needed = True

    def directions(self, start: Start, images: Tensor, step: int) -> Tensor:
        """Return standard normal directions, `[m, q, …]`."""
        shape = (self.config.directions, *start.x.shape[1:])
        return normals(start, "frank-wolfe", images, step, shape)

    def width(self, start: Start) -> float:
        """Return delta."""
        return float(self.config.delta)

    def moved(self, iterates: Iterates, gradient: Tensor, step: int) -> Tensor:
        """Return the images after part of the way to the stretched ball's farthest point."""
        config: FrankWolfeConfig = self.config
        x = iterates.x[iterates.live]
        far = config.stretch * iterates.radius * along(gradient, iterates.start.task.norm)
        return x + config.rate / math.sqrt(step + 1) * (iterates.clean + far - x)


def _steps(env: EnvSpec) -> Mapping[str, Any]:
    """A fifteenth of the default L2 ball on images of 28 pixels, a tenth on CIFAR's."""
    return {"step_l2": 0.1, "step_linf": 0.005} if env.data.startswith("cifar") else {}


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
