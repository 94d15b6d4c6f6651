"""HopSkipJump: steps along a gradient estimated from decisions, then bisection."""

from __future__ import annotations

import statistics
from itertools import count
from typing import ClassVar

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
    descend_to,
    halvings,
    length,
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

    Config: ClassVar[type[HopSkipJumpConfig]] = HopSkipJumpConfig
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
        points[images] = yield from self._project(search, images, points[images], tolerance)
        outside = torch.full((len(x),), self._outside(size), device=x.device)
        radius = torch.full((len(x),), config.first_radius, device=x.device)
        reserve = self._reserve(tolerance)
        for step in count(1):
            wanted = min(int(config.probes * step**0.5), config.most_probes)
            probes = (search.left - reserve).clamp(max=wanted)
            going = going & (probes > 0)
            images = search.among(going)
            if not len(images):
                return
            ahead = yield from self._estimate(
                search, images, points[images], probes[images], radius[images], step, outside
            )
            stepped = yield from self._step(search, images, points[images], ahead, step)
            # Above 0 even where the clean image itself is adversarial: it is a divisor.
            radius[images] = (share * distance(stepped, x[images], norm)).clamp(min=1e-8)
            points[images] = yield from self._project(search, images, stepped, tolerance)

    def _project(
        self, search: Decisions, images: Tensor, points: Tensor, tolerance: float
    ) -> Asking[Tensor]:
        """Return the points next to the decision on the ways from the clean images."""
        return (yield from bisect(search, images, points, tolerance))

    def _reserve(self, tolerance: float) -> int:
        """Return how many queries an estimate leaves for the rest of its iteration."""
        return halvings(tolerance) + 2

    def _outside(self, size: int) -> float:
        """Return how far beyond its point the first probes' centre is, over their distance."""
        return 0.0

    def _move(self, outside: Tensor, row: Tensor, adversarial: Tensor) -> None:
        """Change how far outside the next probes are, `[m]` in place, after decisions on some.

        HopSkipJump probes around the point itself.
        """

    def _estimate(  # noqa: PLR0913 - the points, and how each is probed
        self,
        search: Decisions,
        images: Tensor,
        points: Tensor,
        probes: Tensor,
        radius: Tensor,
        step: int,
        outside: Tensor,
    ) -> Asking[Tensor]:
        """Return the direction into the adversarial region, `[m, *instance]`.

        Reference: eqs. (9) and (16): decisions as +-1, their mean taken off, weigh directions. The
        directions are those that were sent, after clipping to the box.

        Args:
            search: makes the queries.
            images: `[m]` positions.
            points: `[m, *instance]` next to the decision.
            probes: `[m]` rows of each.
            radius: `[m]` the probes' distance from their centre.
            step: of the iteration.
            outside: `[n]` how far the centre is beyond the point on the way from the clean image,
                over the radius; `_move` changes it.
        """
        start, linf = search.start, search.start.task.norm == "linf"
        plain, signed = torch.zeros_like(points), torch.zeros_like(points)
        votes = torch.zeros(len(images), device=points.device)
        away = points - start.x[images]
        away = away / length(away)
        far = outside[images]
        for first in range(0, int(probes.max()), PROBES_AT_ONCE):
            # Images that have succeeded in the meantime aren't queried any more.
            row, number = ragged((probes - first).clamp(0, PROBES_AT_ONCE) * search.live[images])
            draw, owner = (step * _DRAWS + first + number).cpu(), images[row]
            if linf:
                noise = uniform(start, "probe", owner, draw) * 2 - 1
            else:
                noise = start.normal("probe", owner, draw)
            wide = radius[row][:, None, None, None]
            centre = points[row] + (far * radius)[row][:, None, None, None] * away[row]
            rows = (centre + wide * _unit(noise)).clamp(0, 1)
            sent = (rows - centre) / wide
            adversarial = yield from search.ask(rows, owner)
            sign = adversarial.to(sent.dtype) * 2 - 1
            plain.index_add_(0, row, sent)
            signed.index_add_(0, row, sent * sign[:, None, None, None])
            votes.index_add_(0, row, sign)
            self._move(far, row, adversarial)
        outside[images] = far
        mean = votes / probes
        # If all decisions agree, subtracting their mean would leave nothing.
        baseline = torch.where(mean.abs() < 1, mean, torch.zeros_like(mean))
        way = signed - baseline[:, None, None, None] * plain
        return way.sign() if linf else _unit(way)

    def _step(
        self, search: Decisions, images: Tensor, points: Tensor, ahead: Tensor, step: int
    ) -> Asking[Tensor]:
        """Return the points one step on: the longest of distance / sqrt(t) / 2^i that stays."""
        start = search.start
        reach = distance(points, start.x[images], start.task.norm) / step**0.5
        steps = self.config.halvings
        return _longest(search, images, points, ahead, reach, steps=steps, factor=0.5)


class StealthyHopSkipJumpConfig(HopSkipJumpConfig):
    """Settings of the stealthy HopSkipJump.

    Attributes:
        gamma: as of HopSkipJump. `Choice:` 5 times the authors', since a finer projection takes
            many more queries.
        rounds: bad answers that a projection takes, `search.descend_to`.
        bad_share: share of an estimate's probes whose answer is to be bad, below 1/2.
        doublings: how often a step's first length can be doubled.
    """

    gamma: float = Field(5.0, gt=0)
    rounds: int = Field(2, ge=1)
    bad_share: float = Field(0.1, gt=0, lt=0.5)
    doublings: int = Field(4, ge=0)


class StealthyHopSkipJump(HopSkipJump):
    """HopSkipJump with few bad queries, by decisions, in L2 or linf.

    Each part of an iteration comes from the adversarial side: the projection goes down to the
    decision in steps of equal length (`rounds` bad answers instead of half of all); steps are
    doubled until one isn't adversarial (one bad answer).

    `Choice:` probes are around a centre beyond the point, as far away as makes `bad_share` of the
    answers bad; the distance is adapted after each call. A rare bad answer says more of the
    direction than a frequent one: of N bad answers at a share of .1, the mean of their directions
    is as good as of 4 N at a half. The authors measure the lengths of some directions by line
    searches instead, one bad answer each.

    Reference: Debenedetti, Carlini & Tramer, "Evading Black-box Classifiers Without Breaking
        Eggs", SaTML 2024, stealthy attacks.
    """

    Config = StealthyHopSkipJumpConfig
    config: StealthyHopSkipJumpConfig

    def _project(
        self, search: Decisions, images: Tensor, points: Tensor, tolerance: float
    ) -> Asking[Tensor]:
        """Return the points next to the decision on the ways from the clean images."""
        return (yield from descend_to(search, images, points, tolerance, self.config.rounds))

    def _reserve(self, tolerance: float) -> int:
        """Return how many queries an estimate leaves for the rest of its iteration."""
        # A round ends at half of its steps on average; an interrupted projection does no damage.
        rounds = self.config.rounds
        return int(rounds * tolerance ** (-1 / rounds) / 2) + self.config.doublings + 2

    def _outside(self, size: int) -> float:
        """Return how far beyond its point the first probes' centre is, over their distance.

        Along a normal a direction of length 1 is about normal with deviation `size ** -0.5`;
        the way to the clean image is at an angle to it, taken for 60 degrees.
        """
        share = self.config.bad_share
        return float(2 * statistics.NormalDist().inv_cdf(1 - share) / size**0.5)

    def _move(self, outside: Tensor, row: Tensor, adversarial: Tensor) -> None:
        """Move centres out by up to 1.4 where too many answers were bad, else back by as much."""
        asked = torch.bincount(row, minlength=len(outside))
        bad = torch.bincount(row[~adversarial], minlength=len(outside))
        excess = (bad / asked.clamp(min=1) / self.config.bad_share - 1).clamp(-1, 1)
        outside.mul_(torch.where(asked > 0, 2 ** (excess / 2), 1.0))

    def _step(
        self, search: Decisions, images: Tensor, points: Tensor, ahead: Tensor, step: int
    ) -> Asking[Tensor]:
        """Return the points one step on: the longest of those from distance / sqrt(t) / 2^i up."""
        start = search.start
        reach = distance(points, start.x[images], start.task.norm) / step**0.5
        steps = self.config.doublings + 1
        reach = reach / 2**self.config.doublings
        return _longest(search, images, points, ahead, reach, steps=steps, factor=2.0)


def _longest(  # noqa: PLR0913 - what a search of a step needs
    search: Decisions,
    images: Tensor,
    points: Tensor,
    ahead: Tensor,
    reach: Tensor,
    *,
    steps: int,
    factor: float,
) -> Asking[Tensor]:
    """Return points moved ahead by the longest adversarial of the reaches `reach * factor^i`.

    Shrinking reaches (factor < 1) end at the first adversarial one, growing ones at the first that
    isn't; without any, a point stays.
    """
    stepped = points.clone()
    going = torch.ones(len(images), dtype=torch.bool, device=points.device)
    for _ in range(steps):
        active = torch.nonzero(going & search.live[images])[:, 0]
        if not len(active):
            break
        moved = points[active] + reach[active][:, None, None, None] * ahead[active]
        rows = moved.clamp(0, 1)
        adversarial = yield from search.ask(rows, images[active])
        stepped[active[adversarial]] = rows[adversarial]
        going[active[adversarial if factor < 1 else ~adversarial]] = False
        reach[active] = reach[active] * factor
    return stepped


def _unit(images: Tensor) -> Tensor:
    """Return images over their Euclidean lengths; zeros stay zeros."""
    length: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return images / length.clamp(min=torch.finfo(images.dtype).tiny)
