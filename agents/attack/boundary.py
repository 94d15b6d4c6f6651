"""The boundary attack: random steps along the decision boundary, and steps towards the image."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import (
    Decisions,
    LabelAgent,
    LabelConfig,
    bisect,
    starting_points,
)
from lazybench.tasks import distance


class BoundaryConfig(LabelConfig):
    """Settings of the boundary attack; the defaults are foolbox's.

    Attributes:
        sideways: first length of the step on the sphere around the clean image, as a share of the
            distance to it.
        inwards: first length of the step towards the clean image, as the same share.
        adaptation: factor by which these lengths are changed.
        check_every: steps between checks of the sphere's candidate, a query each.
        sideways_window: checks after which the step on the sphere is adapted.
        inwards_window: checks after which the step inwards is adapted.
        converged: an image stops once its step inwards is shorter.
        start_tolerance: width of the bisection of the start, as a share of the way; 1 skips it.
    """

    sideways: float = Field(0.01, gt=0)
    inwards: float = Field(0.01, gt=0)
    adaptation: float = Field(1.5, gt=1)
    check_every: int = Field(10, ge=1)
    sideways_window: int = Field(100, ge=1)
    inwards_window: int = Field(30, ge=1)
    converged: float = Field(1e-7, ge=0)
    start_tolerance: float = Field(0.02, gt=0, le=1)


class Boundary(LabelAgent):
    """Attack by decisions; it minimises L2, whatever the protocol's norm.

    Queries per image: its tries for a start; the bisection of the start; then 1 a step, and 1
    more in every `check_every`-th step, the first among them.

    `Choice:` the start is bisected towards the clean image (6 queries), where the paper sets off
    from the noise itself and foolbox looks through 50 blends. `Choice:` both rates of success are
    those among the checks, as foolbox has it; the authors' code counts a step inwards only where
    the step on the sphere was adversarial. `Choice:` they are measured over one window after the
    other, not a sliding one.

    Reference: Brendel, Rauber & Bethge, "Decision-Based Adversarial Attacks", ICLR 2018,
        Algorithm 1 and Fig. 2; constants: foolbox 3.3.
    """

    Config = BoundaryConfig
    config: BoundaryConfig

    def attack(self, start: Start, state: State) -> Attack:
        """Start from any adversarial point and move closer until the budget is spent."""
        config, n, device = self.config, len(start.x), start.x.device
        search = Decisions(start)
        points, going = yield from starting_points(search, config, state.get("examples"))
        images = search.among(going)
        points[images] = yield from bisect(search, images, points[images], config.start_tolerance)
        sideways = torch.full((n,), config.sideways, device=device)
        inwards = torch.full((n,), config.inwards, device=device)
        on_sphere, stepped = _Rate.of(n, device), _Rate.of(n, device)
        for step in count():
            images = search.among(going & (inwards >= config.converged))
            if not len(images):
                return
            here = points[images]
            noise = start.normal("step", images, step)
            sphere, near = candidates(
                start.x[images], here, noise, sideways[images], inwards[images]
            )
            checked = step % config.check_every == 0
            rows = torch.stack([near, sphere], 1).flatten(0, 1) if checked else near
            owner = images.repeat_interleave(2) if checked else images
            answer = yield from search.ask(rows, owner)
            adversarial = answer[::2] if checked else answer
            nearer = _far(near, start.x[images]) < _far(here, start.x[images])
            points[images] = torch.where(_wide(adversarial & nearer), near, here)
            if not checked:
                continue
            on_sphere.add(images, answer[1::2])
            stepped.add(images, adversarial)
            # Half of the steps on a sphere that is locally cut by a plane through it succeed.
            change = on_sphere.change(config.sideways_window, 0.2, 0.5, config.adaptation)
            sideways, inwards = sideways * change, inwards * change
            inwards = inwards * stepped.change(config.inwards_window, 0.1, 0.25, config.adaptation)


def candidates(
    clean: Tensor, points: Tensor, noise: Tensor, sideways: Tensor, inwards: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a point as far from the clean image as before, and one nearer, `[m, *instance]` each.

    Both are clipped to the box; the second makes up for what clipping the first has changed in its
    distance.

    Args:
        clean: `[m, *instance]`.
        points: `[m, *instance]`, none of them its clean image.
        noise: `[m, *instance]` standard normal.
        sideways: `[m]` length of the step on the sphere over the distance.
        inwards: `[m]` length of the step towards the clean image over the distance.
    """
    home = clean - points
    far = _wide(_far(points, clean)).clamp(min=torch.finfo(points.dtype).tiny)
    toward = home / far
    across = noise - (noise * toward).sum((1, 2, 3), keepdim=True) * toward
    across = across / torch.linalg.vector_norm(across, dim=(1, 2, 3), keepdim=True)
    # A step at right angles leads off the sphere; dividing by the hypotenuse leads back to it.
    turned = _wide(sideways) * far * across - home
    sphere = (clean + turned / (_wide(sideways).square() + 1).sqrt()).clamp(0, 1)
    still = _wide(_far(sphere, clean))
    step = (_wide(inwards) * far + still - far).clamp(min=0)
    share = step / still.clamp(min=torch.finfo(points.dtype).tiny)
    return sphere, (sphere + share * (clean - sphere)).clamp(0, 1)


class _Rate(NamedTuple):
    """How often a step succeeded for each of n images in the present window."""

    hits: Tensor
    tries: Tensor

    @classmethod
    def of(cls, n: int, device: torch.device) -> _Rate:
        """Nothing tried yet."""
        return cls(torch.zeros(n, device=device), torch.zeros(n, device=device))

    def add(self, images: Tensor, success: Tensor) -> None:
        """Count a try of some images."""
        self.hits[images] += success.to(self.hits.dtype)
        self.tries[images] += 1

    def change(self, window: int, low: float, high: float, factor: float) -> Tensor:
        """Return what steps are multiplied by, `[n]`: more above `high`, less below `low`, else 1.

        An image's steps change after `window` tries; its counts then restart at 0.
        """
        rate = self.hits / self.tries.clamp(min=1)
        full = self.tries >= window
        more, less = full & (rate > high), full & (rate < low)
        for counts in self:
            counts[full] = 0
        one = torch.ones_like(rate)
        return torch.where(more, one * factor, torch.where(less, one / factor, one))


def _far(images: Tensor, clean: Tensor) -> Tensor:
    return distance(images, clean, "l2")


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
