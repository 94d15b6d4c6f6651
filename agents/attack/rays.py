"""Attacks along rays: OPT attack and Sign-OPT, which descend the distance to the decision.

A ray is a direction of length 1 (in the protocol's norm) from a clean image; its value g is the
least length at which the image is adversarial. Rows are clipped to the box, so that the distance
that the environment measures is at most g.
"""

from __future__ import annotations

import itertools
import math
from itertools import count
from typing import NamedTuple

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
    Rows,
    halve,
    ragged,
    starting_points,
)
from lazybench.tasks import Norm, distance

INFINITE = float("inf")


class RayConfig(LabelConfig):
    """Settings of attacks that descend the length of a ray; the defaults are the authors'.

    Attributes:
        directions: random directions that are tried as a start, in an untargeted attack.
        start_tolerance: width at which their bisection ends.
        alpha: first step.
        beta: first distance of the probes, over the direction's length.
        tolerance: width at which other bisections end, over beta.
        line_steps: most doublings, and most quarterings, of the step in one line search.
        least_alpha: below it, alpha is 1 again and beta a tenth.
        least_beta: below it, an image stops.
    """

    directions: int = Field(100, ge=0)
    start_tolerance: float = Field(1e-3, gt=0)
    alpha: float = Field(0.2, gt=0)
    beta: float = Field(1e-3, gt=0)
    tolerance: float = Field(0.002, gt=0)
    line_steps: int = Field(15, ge=1)
    least_alpha: float = Field(1e-4, gt=0)
    least_beta: float = Field(1e-8, gt=0)


class Rays(NamedTuple):
    """Some rays.

    Attributes:
        images: `[m]` int64: from which image each goes out.
        direction: `[m, *instance]` of length 1.
        length: `[m]` float64: g, or where to look for it; infinite where there is none.
    """

    images: Tensor
    direction: Tensor
    length: Tensor

    def of(self, chosen: Tensor) -> Rays:
        """Return some of them."""
        return Rays(*(part[chosen] for part in self))

    def put(self, chosen: Tensor, other: Rays) -> None:
        """Put other rays of the same images in the places of some."""
        self.direction[chosen] = other.direction
        self.length[chosen] = other.length


def unit(directions: Tensor, norm: Norm) -> Tensor:
    """Return directions over their lengths; zeros stay zeros."""
    length = distance(directions, torch.zeros_like(directions), norm)
    return directions / length.clamp(min=torch.finfo(directions.dtype).tiny)[:, None, None, None]


def ask_at(search: Decisions, rays: Rays, length: Tensor) -> Asking[Tensor]:
    """Return whether rays are adversarial at lengths `[m]`, `[m]` bool; one query each."""
    everything = torch.arange(len(length), device=length.device)
    rows = _on_rays(search, rays)(everything, length)
    return (yield from search.ask(rows, rays.images))


def narrow(
    search: Decisions, rays: Rays, low: Tensor, high: Tensor, tolerance: Tensor
) -> Asking[Tensor]:
    """Return the adversarial ends of the brackets `(low, high]` once no wider than `tolerance [m]`.

    The caller's `high` has been adversarial. Empty brackets (`low == high`) cost nothing.
    """
    return (yield from halve(search, rays.images, _on_rays(search, rays), low, high, tolerance))


def _on_rays(search: Decisions, rays: Rays) -> Rows:
    """The rows on rays, in the box."""

    def rows(active: Tensor, length: Tensor) -> Tensor:
        far = length.to(rays.direction.dtype)[:, None, None, None]
        return (search.start.x[rays.images[active]] + far * rays.direction[active]).clamp(0, 1)

    return rows


def local(search: Decisions, rays: Rays, tolerance: Tensor, *, longer: bool) -> Asking[Tensor]:
    """Return g of rays near the lengths they come with, `[m]`; infinite where it isn't found.

    One query at the given length; then the bracket is moved by 1 % of the length, a query each
    time, until the decision is in it; then it is bisected. `Choice:` both ends of the bracket move
    along, so that bisection has no more than 1 % to do.

    Args:
        search: makes the queries.
        rays: where to look.
        tolerance: `[m]` width at which bisection ends.
        longer: look beyond the given lengths, too, up to twice them; otherwise a ray that isn't
            adversarial there is infinite after that one query.

    Reference: Cheng et al. 2019, Algorithm 1 and section 3.1 (fine-grained search).
    """
    inside = yield from ask_at(search, rays, rays.length)
    low, high = rays.length.clone(), rays.length.clone()
    known = inside.clone()
    down = inside.clone()
    while True:
        active = torch.nonzero(down & search.live[rays.images])[:, 0]
        if not len(active):
            break
        low[active] = high[active] * 0.99
        adversarial = yield from ask_at(search, rays.of(active), low[active])
        high[active] = torch.where(adversarial, low[active], high[active])
        down[active] = adversarial & (high[active] > tolerance[active])
    up = ~inside if longer else torch.zeros_like(inside)
    while True:
        up = up & (high < 2 * rays.length)
        active = torch.nonzero(up & search.live[rays.images])[:, 0]
        if not len(active):
            break
        low[active], high[active] = high[active], high[active] * 1.01
        adversarial = yield from ask_at(search, rays.of(active), high[active])
        known[active] = adversarial
        up[active] = ~adversarial
    high = yield from narrow(search, rays, torch.where(known, low, high), high, tolerance)
    return torch.where(known, high, INFINITE)


def first_rays(
    search: Decisions, config: RayConfig, examples: Tensor | None
) -> Asking[tuple[Rays, Tensor]]:
    """Return a ray for every image, and for whom one was found, `[n]` bool.

    Untargeted: one query for each random direction at its drawn length; one at the best length so
    far where that is shorter; and a bisection where it wins. Where none is adversarial, and in a
    targeted attack, the way to a starting point, also bisected. `Choice:` of the goal class
    that is one image; the authors try many of the training set.
    """
    start, norm = search.start, search.start.task.norm
    everyone = torch.arange(len(start.x), device=start.x.device)
    nowhere = torch.full((len(everyone),), INFINITE, dtype=torch.float64, device=start.x.device)
    best = Rays(everyone, torch.zeros_like(start.x), nowhere)
    for step in range(config.directions if start.goal is None else 0):
        images = search.among(torch.ones_like(search.live))
        if not len(images):
            break
        drawn = start.normal("direction", images, step)
        reach = distance(drawn, torch.zeros_like(drawn), norm).double()
        rays = Rays(images, unit(drawn, norm), reach)
        yield from _improve(search, best, rays, config.start_tolerance)
    missing = torch.isinf(best.length)
    points, found = yield from starting_points(search, config, examples, missing)
    images = search.among(found)
    away = points[images] - start.x[images]
    reach = distance(points[images], start.x[images], norm).double()
    rays = Rays(images, unit(away, norm), reach)
    width = torch.full_like(reach, config.start_tolerance)
    length = yield from narrow(search, rays, torch.zeros_like(reach), reach, width)
    best.put(images, rays._replace(length=length))
    return best, torch.isfinite(best.length)


def _improve(search: Decisions, best: Rays, rays: Rays, tolerance: float) -> Asking[None]:
    """Replace the best rays by those that are adversarial at a shorter length."""
    adversarial = yield from ask_at(search, rays, rays.length)
    rays = rays.of(torch.nonzero(adversarial)[:, 0])
    # What is longer than the best so far must be adversarial at the best's length, too.
    held = best.length[rays.images]
    longer = rays.length >= held
    shorter = yield from ask_at(search, rays.of(longer), held[longer])
    wins = ~longer
    wins[longer] = shorter
    rays = Rays(rays.images, rays.direction, torch.minimum(rays.length, held)).of(wins)
    width = torch.full_like(rays.length, tolerance)
    length = yield from narrow(search, rays, torch.zeros_like(width), rays.length, width)
    best.put(rays.images, rays._replace(length=length))


def _line(
    search: Decisions, config: RayConfig, here: Rays, slope: Tensor, alpha: Tensor, width: Tensor
) -> Asking[tuple[Rays, Tensor]]:
    """Return the best rays on the line down the slope, and the next alpha, `[m]`.

    The step is doubled as long as that shortens the ray. If the first one doesn't, it is quartered
    until one does.
    """
    norm = search.start.task.norm
    best = Rays(here.images, here.direction.clone(), here.length.clone())
    alpha = alpha.clone()

    def shortened(active: Tensor) -> Asking[Tensor]:
        """Try steps of alpha, keep those that are shorter and return which, `[len(active)]`."""
        away = alpha[active].to(slope.dtype)[:, None, None, None] * slope[active]
        direction = unit(here.direction[active] - away, norm)
        rays = Rays(here.images[active], direction, best.length[active])
        length = yield from local(search, rays, width[active], longer=False)
        shorter = length < best.length[active]
        best.put(active[shorter], rays._replace(length=length).of(shorter))
        return shorter

    active = torch.arange(len(alpha), device=alpha.device)
    for _ in range(config.line_steps):
        shorter = yield from shortened(active)
        alpha[active] *= 2
        active = active[shorter & search.live[here.images[active]]]
        if not len(active):
            break
    active = torch.nonzero(best.length >= here.length)[:, 0]
    for _ in range(config.line_steps):
        active = active[search.live[here.images[active]]]
        if not len(active):
            break
        alpha[active] *= 0.25
        shorter = yield from shortened(active)
        active = active[~shorter]
    return best, alpha


class RayDescent(LabelAgent):
    """Base of the attacks that descend g, the length of a ray, by a slope that each estimates.

    Reference: Cheng et al. 2019, Algorithm 2; Cheng et al. 2020, Algorithm 1.
    """

    config: RayConfig

    def slope(
        self, search: Decisions, here: Rays, beta: Tensor, step: int
    ) -> Asking[tuple[Tensor, Rays]]:
        """Estimate the slope of g by queries; return it and the best rays that were probed.

        Abstract: each attack has its own estimate.

        Args:
            search: the attacked images.
            here: the present rays of m of them.
            beta: `[m]`, how far to probe.
            step: number of the iteration.

        Returns:
            The slope `[m, *instance]`, and a ray of each image.
        """
        raise NotImplementedError

    def attack(self, start: Start, state: State) -> Attack:
        """Descend g from the first rays until the budget is spent or beta is too small.

        An iteration makes the queries of `slope`, then those of a line search. `Choice:` a trial
        step that isn't adversarial at the length to beat is refused after that one query; the
        authors' code looks for its length all the same.
        """
        config, search = self.config, Decisions(start)
        rays, going = yield from first_rays(search, config, state.get("examples"))
        alpha = torch.full_like(rays.length, config.alpha)
        beta = torch.full_like(rays.length, config.beta)
        for step in count():
            images = search.among(going & (beta >= config.least_beta))
            if not len(images):
                return
            here = rays.of(images)
            slope, probed = yield from self.slope(search, here, beta[images], step)
            down = slope.sign() if start.task.norm == "linf" else slope
            width = beta[images] * config.tolerance
            best, alpha[images] = yield from _line(search, config, here, down, alpha[images], width)
            better = probed.length < best.length
            best.put(better, probed.of(better))
            rays.put(images, best)
            spent = images[alpha[images] < config.least_alpha]
            alpha[spent], beta[spent] = 1.0, beta[spent] * 0.1


class OptAttackConfig(RayConfig):
    """Settings of the OPT attack; the defaults are the authors'.

    Attributes:
        start_tolerance: width at which the first rays' bisection ends.
        probes: q, random directions of a finite difference.
    """

    start_tolerance: float = Field(1e-5, gt=0)
    probes: int = Field(10, ge=1)


class OptAttack(RayDescent):
    """Attack by decisions: a value of g costs a line of queries, a gradient `probes` of them.

    Queries per image: its first ray (`rays.first_rays`); in each iteration `probes` searches of
    g near the present one (`rays.local`) and a line search. All rows are counted.

    `Choice:` probes without any decision within twice the present length are left out of the mean;
    the authors' code takes their length for infinite.

    Reference: Cheng et al., "Query-Efficient Hard-label Black-box Attack: An Optimization-based
        Approach", ICLR 2019, eq. (5) and Algorithm 2.
    """

    Config = OptAttackConfig
    config: OptAttackConfig

    def slope(
        self, search: Decisions, here: Rays, beta: Tensor, step: int
    ) -> Asking[tuple[Tensor, Rays]]:
        """Return the mean finite difference along `probes` directions, and the shortest ray."""
        config, start, norm = self.config, search.start, search.start.task.norm
        q, m = config.probes, len(here.images)
        each = Rays(*(part.repeat_interleave(q, 0) for part in here))
        number = torch.arange(q).repeat(m)
        u = unit(start.normal("probe", each.images, step * q + number), norm)
        width = beta.repeat_interleave(q)
        moved = unit(each.direction + _wide(width, u) * u, norm)
        rays = each._replace(direction=moved)
        length = yield from local(search, rays, width * config.tolerance, longer=True)
        change = torch.where(torch.isinf(length), 0.0, (length - each.length) / width)
        slope = (_wide(change, u) * u).view(m, q, *u.shape[1:]).mean(1)
        best = length.view(m, q).argmin(1) + q * torch.arange(m, device=length.device)
        return slope, rays._replace(length=length).of(best)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, None, None, None]


class SignOptConfig(RayConfig):
    """Settings of Sign-OPT; the defaults are the authors'.

    Attributes:
        probes: random directions of an estimate, a query each.
        reserve: queries that an estimate leaves for the line search after it. `Choice:` so the
            last one takes fewer probes rather than spend the whole budget without a step.
    """

    probes: int = Field(200, ge=1)
    reserve: int = Field(20, ge=0)


class SignOpt(RayDescent):
    """Attack by decisions: whether a nearby ray is longer or shorter costs one query.

    Queries per image: its first ray (`rays.first_rays`); in each iteration `probes`, or what
    leaves `reserve` but at least 1, and a line search. All rows are counted.

    `Choice:` in linf, directions have a largest entry of 1 and a step follows the slope's signs.

    Reference: Cheng et al., "Sign-OPT: A Query-Efficient Hard-label Adversarial Attack", ICLR 2020,
        eq. (7) and Algorithm 1.
    """

    Config = SignOptConfig
    config: SignOptConfig

    def slope(
        self, search: Decisions, here: Rays, beta: Tensor, step: int
    ) -> Asking[tuple[Tensor, Rays]]:
        """Return the mean of directions, each with the sign of its change, and the present ray."""
        config, start, norm = self.config, search.start, search.start.task.norm
        probes = (search.left[here.images] - config.reserve).clamp(1, config.probes)
        slope = torch.zeros_like(here.direction)
        for first in range(0, int(probes.max()), PROBES_AT_ONCE):
            live = search.live[here.images]
            row, number = ragged((probes - first).clamp(0, PROBES_AT_ONCE) * live)
            each = here.of(row)
            draw = (step * config.probes + first + number).cpu()
            u = unit(start.normal("probe", each.images, draw), norm)
            width = beta[row].to(u.dtype)[:, None, None, None]
            rays = each._replace(direction=unit(each.direction + width * u, norm))
            shorter = yield from ask_at(search, rays, each.length)
            sign = 1 - 2 * shorter.to(u.dtype)
            slope.index_add_(0, row, sign[:, None, None, None] * u)
        return slope / probes[:, None, None, None], here


class RaySConfig(LabelConfig):
    """Settings of RayS; the default is the authors'.

    Attributes:
        tolerance: width at which bisection ends, of a ray's Euclidean length.
    """

    tolerance: float = Field(1e-3, gt=0)


class RayS(LabelAgent):
    """Attack by decisions along rays to corners of the box, i.e. of signs, flipped in blocks.

    Queries per image: one for each flip, at the length of the best ray, and a bisection where it
    is adversarial there. The first ray, and each until one is adversarial, goes to its corner.
    Blocks are of all pixels, then halves, quarters and so on.

    `Choice:` after single pixels the blocks begin again with all of them. `Choice:` a targeted
    attack begins with the signs of the way to an image of the goal class; the authors always begin
    with ones. In L2 rays are the same, and as long as the corners are far.

    Reference: Chen & Gu, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", KDD
        2020, Algorithms 2 and 3.
    """

    Config = RaySConfig
    config: RaySConfig

    def attack(self, start: Start, state: State) -> Attack:
        """Flip one block after the other until the budget is spent."""
        norm, size, search = start.task.norm, start.x[0].numel(), Decisions(start)
        signs = torch.ones_like(start.x)
        if start.goal is not None:
            away = state["examples"].to(start.x)[start.goal] - start.x
            signs = torch.where(away < 0, -signs, signs)
        everyone = torch.arange(len(start.x), device=start.x.device)
        corner = 1.0 if norm == "linf" else size**0.5
        length = torch.full((len(everyone),), corner, dtype=torch.float64, device=start.x.device)
        best = Rays(everyone, unit(signs, norm), length)
        # The corner itself isn't known to be adversarial.
        found = torch.zeros_like(search.live)
        tolerance = self.config.tolerance * corner / size**0.5
        for block in itertools.chain([slice(0)], itertools.cycle(blocks(size))):
            images = search.among(torch.ones_like(search.live))
            if not len(images):
                return
            rays = best.of(images)
            turned = rays.direction.flatten(1).clone()
            turned[:, block] *= -1
            rays = rays._replace(direction=turned.view_as(rays.direction))
            adversarial = yield from ask_at(search, rays, rays.length)
            rays = rays.of(torch.nonzero(adversarial)[:, 0])
            width = torch.full_like(rays.length, tolerance)
            shorter = yield from narrow(search, rays, torch.zeros_like(width), rays.length, width)
            better = (shorter < rays.length) | ~found[rays.images]
            found[rays.images] = True
            rays = rays._replace(length=shorter).of(better)
            best.put(rays.images, rays)


def blocks(size: int) -> list[slice]:
    """Return the blocks of RayS over `size` pixels, from all of them down to single ones.

    Reference: Chen & Gu 2020, hierarchical search.
    """
    found: list[slice] = []
    parts = 1
    while True:
        side = math.ceil(size / parts)
        found += [slice(first, first + side) for first in range(0, size, side)]
        if side == 1:
            return found
        parts *= 2
