"""HopSkipJump: steps along a gradient estimated from decisions, then bisection."""

from __future__ import annotations

from itertools import count

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import (
    PROBES_AT_ONCE,
    Asking,
    Decisions,
    LabelAgent,
    LabelConfig,
    bisect,
    ragged,
    starting_points,
    uniform,
)
from lazybench.tasks import distance

_DRAWS = 1 << 20
"""More probes than any one estimate takes, so that every probe has a unique number."""


class HopSkipJumpConfig(LabelConfig):
    """Settings of HopSkipJump; the defaults are the authors'.

    Attributes:
        probes: B_0, rows of the first gradient estimate; the t-th takes B_0 sqrt(t).
        most_probes: most rows of an estimate.
        gamma: scales the bisection's tolerance, gamma / d^1.5 in L2 and gamma / d^2 in linf, and
            with it the probes' distance.
        first_radius: distance of the first estimate's probes.
        halvings: most halvings of a step; then the image stays where it is.
    """

    probes: int = Field(100, ge=1)
    most_probes: int = Field(10_000, ge=1, lt=_DRAWS)
    gamma: float = Field(1.0, gt=0)
    first_radius: float = Field(0.1, gt=0)
    halvings: int = Field(30, ge=1)


class HopSkipJump(LabelAgent):
    """Attack by decisions, in L2 or linf.

    Queries per image: its tries for a start; a bisection; then in iteration t min(B_0 sqrt(t),
    what leaves room for the rest of the iteration) probes, a query for each length of the step
    that is tried, and a bisection. Images wait for one another between these parts, which costs no
    queries.

    `Choice:` the start is bisected once at the final tolerance, not twice. `Choice:` the last
    estimate takes fewer probes rather than leave the budget unused.

    Reference: Chen, Jordan & Wainwright, "HopSkipJumpAttack", S&P 2020, Algorithm 2.
    """

    Config = HopSkipJumpConfig
    config: HopSkipJumpConfig

    def attack(self, start: Start, state: State) -> Attack:
        """Start from any adversarial point and move closer until the budget is spent."""
        config, norm, x = self.config, start.task.norm, start.x
        size = x[0].numel()
        tolerance = config.gamma / size ** (2.0 if norm == "linf" else 1.5)
        # The probes' distance as a share of the point's distance before its bisection.
        share = tolerance * size ** (1.0 if norm == "linf" else 0.5)
        search = Decisions(start)
        points, going = yield from starting_points(search, config, state.get("examples"))
        images = search.among(going)
        points[images] = yield from bisect(search, images, points[images], tolerance)
        radius = torch.full((len(x),), config.first_radius, device=x.device)
        reserve = _bisections(tolerance) + 2
        for step in count(1):
            wanted = min(int(config.probes * step**0.5), config.most_probes)
            probes = (search.left - reserve).clamp(max=wanted)
            going = going & (probes > 0)
            images = search.among(going)
            if not len(images):
                return
            ahead = yield from self._estimate(
                search, images, points[images], probes[images], radius[images], step
            )
            stepped = yield from self._step(search, images, points[images], ahead, step)
            # Above 0 even where the clean image itself is adversarial: it is a divisor.
            radius[images] = (share * distance(stepped, x[images], norm)).clamp(min=1e-8)
            points[images] = yield from bisect(search, images, stepped, tolerance)

    def _estimate(
        self,
        search: Decisions,
        images: Tensor,
        points: Tensor,
        probes: Tensor,
        radius: Tensor,
        step: int,
    ) -> Asking[Tensor]:
        """Return which way leads into the adversarial region, `[m, *instance]`.

        Reference: eqs. (9) and (16): decisions as +-1, their mean taken off, weigh directions. The
        directions are those that were sent, after clipping to the box.
        """
        start, linf = search.start, search.start.task.norm == "linf"
        plain, signed = torch.zeros_like(points), torch.zeros_like(points)
        votes = torch.zeros(len(images), device=points.device)
        for first in range(0, int(probes.max()), PROBES_AT_ONCE):
            # Images that have succeeded in the meantime are queried no more.
            row, number = ragged((probes - first).clamp(0, PROBES_AT_ONCE) * search.live[images])
            draw, owner = (step * _DRAWS + first + number).cpu(), images[row]
            if linf:
                noise = uniform(start, "probe", owner, draw) * 2 - 1
            else:
                noise = start.normal("probe", owner, draw)
            away = radius[row][:, None, None, None]
            rows = (points[row] + away * _unit(noise)).clamp(0, 1)
            sent = (rows - points[row]) / away
            adversarial = yield from search.ask(rows, owner)
            sign = adversarial.to(sent.dtype) * 2 - 1
            plain.index_add_(0, row, sent)
            signed.index_add_(0, row, sent * sign[:, None, None, None])
            votes.index_add_(0, row, sign)
        mean = votes / probes
        # Where all agree, the baseline would leave nothing.
        baseline = torch.where(mean.abs() < 1, mean, torch.zeros_like(mean))
        way = signed - baseline[:, None, None, None] * plain
        return way.sign() if linf else _unit(way)

    def _step(
        self, search: Decisions, images: Tensor, points: Tensor, ahead: Tensor, step: int
    ) -> Asking[Tensor]:
        """Return the points one step on: the longest of distance / sqrt(t) / 2^i that stays."""
        start = search.start
        length = distance(points, start.x[images], start.task.norm) / step**0.5
        stepped = points.clone()
        waiting = torch.ones(len(images), dtype=torch.bool, device=points.device)
        for _ in range(self.config.halvings):
            active = torch.nonzero(waiting & search.live[images])[:, 0]
            if not len(active):
                break
            moved = points[active] + length[active][:, None, None, None] * ahead[active]
            rows = moved.clamp(0, 1)
            adversarial = yield from search.ask(rows, images[active])
            stepped[active[adversarial]] = rows[adversarial]
            waiting[active[adversarial]] = False
            length[active] = length[active] / 2
        return stepped


def _unit(images: Tensor) -> Tensor:
    """Return images over their Euclidean lengths; zeros stay zeros."""
    length: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return images / length.clamp(min=torch.finfo(images.dtype).tiny)


def _bisections(tolerance: float) -> int:
    """Return how many times an interval of 1 is halved until it is no wider than the tolerance."""
    return next(times for times in count() if 0.5**times <= tolerance)
