"""ZOO and AutoZOOM: Adam on distance and margin together, from finite differences."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.differences import coordinate_slopes
from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import (
    Iterates,
    ScoreAgent,
    ScoreConfig,
    Space,
    length,
    normals,
    order,
    pixels,
    variables,
)
from lazybench.specs import EnvSpec

_UNBOUNDED = 1e9
"""Above this a constant's upper bound counts as not found yet."""


class DistortionConfig(ScoreConfig):
    """Settings of attacks that trade distance against margin.

    Attributes:
        constant: c in the loss c max(0, -margin) + squared L2 distance.
        rate: Adam's step size, in the unit of `space`.
        space: pixels, or tanh space as the authors on CIFAR-10.
    """

    constant: float = Field(0.5, gt=0)
    rate: float = Field(0.01, gt=0)
    space: Space = "pixel"


class Adam:
    """Adam with a count of steps for every number, since not all are moved every time.

    Attributes:
        mean: `[n, d]` running means of gradients; `square` of their squares.
        steps: `[n, d]` how often each number has been moved.
    """

    def __init__(self, numbers: Tensor) -> None:
        """Begin for numbers `[n, d]`."""
        self.mean = torch.zeros_like(numbers)
        self.square = torch.zeros_like(numbers)
        self.steps = torch.zeros_like(numbers)

    def change(self, images: Tensor, index: Tensor, gradient: Tensor) -> Tensor:
        """Return what Adam adds, for a rate of 1, to some numbers of some images, `[m, q]`.

        Args:
            images: `[m]`.
            index: `[m, q]` which of their numbers.
            gradient: `[m, q]` to go down.

        Reference: Kingma & Ba 2015, with beta .9 and .999; Chen et al. 2017, Algorithm 2.
        """
        at = (images[:, None], index)
        self.steps[at] += 1
        self.mean[at] += 0.1 * (gradient - self.mean[at])
        self.square[at] += 0.001 * (gradient.square() - self.square[at])
        steps = self.steps[at]
        mean = self.mean[at] / (1 - 0.9**steps)
        return -mean / ((self.square[at] / (1 - 0.999**steps)).sqrt() + 1e-8)

    def forget(self, images: Tensor) -> None:
        """Reset some images."""
        for held in (self.mean, self.square, self.steps):
            held[images] = 0


class ZooConfig(DistortionConfig):
    """Settings of ZOO; the defaults are the released ones on MNIST.

    Attributes:
        coordinates: how many are probed and moved at once (all, where an image has fewer).
        width: h of the central differences.
    """

    coordinates: int = Field(128, ge=1)
    width: float = Field(1e-4, gt=0)


class Zoo(ScoreAgent):
    """Zeroth-order optimisation: Adam on random coordinates.

    Queries per image: in each iteration one for the iterate and two for each coordinate, 257 in
    all as released (whose log says 128). After a success it goes on to shrink the distance, where
    the protocol minimises. The distance's gradient is known and costs nothing. `Choice:` one
    constant, no binary search: no query budget here reaches the end of its first stage.

    Reference: Chen et al., "ZOO", AISec 2017, equations 4 to 6 and Algorithm 2.
    """

    Config = ZooConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return tanh space for CIFAR, as released."""
        return {"space": "tanh"} if env.data.startswith("cifar") else {}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        config: ZooConfig = self.config
        iterates = Iterates(start, self.radius(start.task), config.space, shrink=True)
        adam = Adam(start.x.flatten(1))
        for step in count():
            yield from iterates.check()
            chosen = order(start, "zoo", iterates.live, step, start.x[0].numel())
            chosen = chosen[:, : config.coordinates]
            slopes, kept = yield from coordinate_slopes(
                iterates,
                chosen,
                config.width,
                both_sides=True,
                loss=lambda margin: margin.clamp(max=0),
            )
            live, chosen = iterates.live, chosen[kept]
            if not len(live):
                return
            x, clean = iterates.x[live], iterates.clean
            # dx/dw of (tanh(w) + 1) / 2.
            inner = 2 * x * (1 - x) if config.space == "tanh" else torch.ones_like(x)
            nearer = (2 * (x - clean) * inner).flatten(1).gather(1, chosen)
            change = adam.change(live, chosen, nearer - config.constant * slopes)
            values = iterates.values[live].flatten(1).scatter_add(1, chosen, config.rate * change)
            iterates.move(values.view_as(x))


class AutoZoomConfig(DistortionConfig):
    """Settings of AutoZOOM; the defaults are the released ones on MNIST.

    Attributes:
        constant: c at the beginning.
        latent: cells along each side of what is searched; the image's size where that is
            smaller.
        directions: q, random directions in an iteration.
        switch: iterations after which c is multiplied by 10, or bisected once it has sufficed.
    """

    constant: float = Field(10.0, gt=0)
    latent: int = Field(14, ge=1)
    directions: int = Field(1, ge=1)
    switch: int = Field(1000, ge=1)


class AutoZoom(ScoreAgent):
    """AutoZOOM-BiLIN: Adam on a small image that is enlarged, one random direction at a time.

    Queries per image: in each iteration one for the iterate and q for the directions. After a
    success it goes on to shrink the distance, where the protocol minimises. `Choice:` the variant
    without an autoencoder, since no unlabelled data is part of the protocol.

    Reference: Tu et al., "AutoZOOM", AAAI 2019, equations 3 to 5 and Algorithm 1.
    """

    Config = AutoZoomConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return tanh space and the smaller latent image for CIFAR, as released."""
        return {"space": "tanh", "latent": 8} if env.data.startswith("cifar") else {}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        config: AutoZoomConfig = self.config
        iterates = Iterates(start, self.radius(start.task), shrink=True)
        n, (channels, height, width) = len(start.x), start.x.shape[1:]
        cells = (channels, min(config.latent, height), min(config.latent, width))
        small = start.x.new_zeros(n, *cells)
        numbers = torch.arange(small[0].numel(), device=small.device)
        beta = 1 / len(numbers)
        adam = Adam(small.flatten(1))
        switching = DynamicConstant(start.x.new_full((n,), config.constant))

        def shown(small: Tensor) -> Tensor:
            """The images `[m, q, …]` of latent ones `[m, q, …]` of the live images."""
            full = F.interpolate(
                small.flatten(0, 1), (height, width), mode="bilinear", align_corners=True
            ).view(*small.shape[:2], *iterates.x.shape[1:])
            images = pixels(variables(iterates.clean, config.space)[:, None] + full, config.space)
            return torch.stack([iterates.inside(each) for each in images.unbind(1)], 1)

        for step in count():
            iterates.x[iterates.live] = shown(small[iterates.live][:, None])[:, 0]
            yield from iterates.check()
            live = iterates.live
            first, switched = switching.update(live, iterates.margin[live], step, config.switch)
            adam.forget(live[first | switched])
            drawn = normals(start, "autozoom", live, step, (config.directions, *cells))
            drawn = drawn / length(drawn)
            rows = shown(small[live][:, None] + beta * drawn)
            # Distances are known: only margins are queried.
            near = (rows - iterates.clean[:, None]).flatten(2).square().sum(2)
            here = (iterates.x[live] - iterates.clean).flatten(1).square().sum(1)
            margin, kept = yield from iterates.send(rows)
            live = iterates.live
            if not len(live):
                return
            weight = switching.constant[live][:, None]
            before = here[kept][:, None] - weight * iterates.margin[live][:, None].clamp(max=0)
            after = near[kept] - weight * margin.clamp(max=0)
            estimate = torch.einsum("mq,mq...->m...", (after - before) / beta, drawn[kept])
            every = numbers.expand(len(live), -1)
            change = adam.change(live, every, estimate.flatten(1))
            small[live] += config.rate * change.view(len(live), *cells)


class DynamicConstant:
    """The constant that weighs margin against distance: times 10 until it suffices, then bisected.

    Attributes:
        constant: `[n]` c.

    Reference: Tu et al. 2019, section 5 (dynamic switching); the authors' code.
    """

    def __init__(self, constant: Tensor) -> None:
        """Begin with constants `[n]`."""
        self.constant = constant
        self._lower = torch.zeros_like(constant)
        self._upper = torch.full_like(constant, 10 * _UNBOUNDED)
        self._ever = torch.zeros_like(constant, dtype=torch.bool)
        self._since = torch.zeros_like(constant, dtype=torch.bool)

    def update(
        self, images: Tensor, margin: Tensor, step: int, switch: int
    ) -> tuple[Tensor, Tensor]:
        """Take the iterates' margins `[m]` in; every `switch` steps change the constants.

        Returns:
            which images are adversarial for the first time, and whose constant was changed after
            they once were, `[m]` bool each: those for which Adam restarts.
        """
        adversarial = margin > 0
        first = adversarial & ~self._ever[images]
        self._ever[images] |= adversarial
        self._since[images] |= adversarial
        self._lower[images[first]] = 0
        if step == 0 or step % switch:
            return first, torch.zeros_like(first)
        enough, c = self._since[images], self.constant[images]
        self._upper[images] = torch.where(
            enough, self._upper[images].minimum(c), self._upper[images]
        )
        self._lower[images] = torch.where(
            enough, self._lower[images], self._lower[images].maximum(c)
        )
        lower, upper = self._lower[images], self._upper[images]
        grown = torch.where(c < _UNBOUNDED / 10, 10 * c, c)
        self.constant[images] = torch.where(upper < _UNBOUNDED, (lower + upper) / 2, grown)
        self._since[images] = False
        return first, self._ever[images]
