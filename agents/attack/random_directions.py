"""Ascent along gradients estimated from random directions: NES, RGF and Frank-Wolfe."""

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
