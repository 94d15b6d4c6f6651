"""Attacks by the geometry of a decision boundary that is nearly flat: GeoDA and SurFree.

Both draw their noise among the lowest frequencies, in which the boundary is nearer.
"""

from __future__ import annotations

from itertools import count

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.rays import Rays, ask_at, narrow, unit
from lazybench.agents.attack.search import (
    PROBES_AT_ONCE,
    Asking,
    Decisions,
    LabelAgent,
    LabelConfig,
    bisect,
    halve,
    halvings,
    length,
    low_waves,
    lowest,
    normals,
    ragged,
    starting_points,
    whole,
)
from lazybench.tasks import distance

_DRAWS = 1 << 20
"""More probes than any one estimate takes, so that every probe has a unique number."""


class GeodaConfig(LabelConfig):
    """Settings of GeoDA.

    Attributes:
        frequencies: share of the rows and columns of frequencies, from the lowest, that noise is
            of. `Choice:` a half; the authors' third is for ImageNet's size.
        estimates: of the normal, one an iteration. `Choice:` 8; the authors' follow from the
            budget and are few, too.
        ratio: of the queries of one estimate to the next: those of the t-th are as
            `ratio ** (-2 t / 3)`.
        radius: distance of the probes over the point's distance from its clean image.
        tolerance: width at which bisection ends, over the same distance.
        doublings: most doublings of a ray that isn't adversarial at the point's distance.
    """

    frequencies: float = Field(0.5, gt=0, le=1)
    estimates: int = Field(8, ge=1)
    ratio: float = Field(0.6, gt=0, le=1)
    radius: float = Field(0.05, gt=0)
    tolerance: float = Field(0.001, gt=0)
    doublings: int = Field(3, ge=0)


class Geoda(LabelAgent):
    """Attack by decisions: the normal of the boundary, and the ray along it from the clean image.

    Queries per image: its tries for a start; a bisection; then in each iteration its share of what
    is left as probes, and one query and a bisection on the ray along the normal (its signs in
    linf). `Choice:` a ray that is no shorter than the best is dropped, and the next estimate is
    made at the nearest point so far. `Choice:` the mean of the decisions is taken off, as
    HopSkipJump does. `Choice:` an estimate is of its own probes, where the authors' code adds those
    of all earlier ones.

    Reference: Rahmati, Moosavi-Dezfooli, Frossard & Dai, "GeoDA: A Geometric Framework for
        Black-box Adversarial Attacks", CVPR 2020, and the authors' code (thisisalirah/GeoDA).
    """

    Config = GeodaConfig
    config: GeodaConfig

    def attack(self, start: Start, state: State) -> Attack:
        """Estimate the normal at nearer and nearer points."""
        config, norm, x, search = self.config, start.task.norm, start.x, Decisions(start)
        points, going = yield from starting_points(search, config, state.get("examples"))
        images = search.among(going)
        points[images] = yield from bisect(search, images, points[images], config.tolerance)
        shares = queries_of_estimates(config.estimates, config.ratio).to(x.device)
        # One query at a length and a bisection, which a doubled ray makes one longer.
        search_queries = config.doublings + 2 + halvings(config.tolerance)
        spare = search.left - search_queries * config.estimates
        for step in range(config.estimates):
            images = search.among(going)
            if not len(images):
                return
            last = step == config.estimates - 1
            room = search.left[images] - search_queries if last else spare[images] * shares[step]
            probes = torch.minimum(room.long(), search.left[images]).clamp(min=1)
            normal = yield from self._normal(search, images, points[images], probes, step)
            reach = distance(points[images], x[images], norm).double()
            towards = normal.sign() if norm == "linf" else normal
            rays = Rays(images, unit(towards, norm), reach)
            found, rays = yield from self._reached(search, rays)
            rays = rays.of(found)
            width = config.tolerance * reach[found]
            shorter = yield from narrow(
                search, rays, torch.zeros_like(rays.length), rays.length, width
            )
            better = shorter < reach[found]
            rays = rays._replace(length=shorter).of(better)
            far = rays.length.to(x.dtype)[:, None, None, None]
            points[rays.images] = (x[rays.images] + far * rays.direction).clamp(0, 1)

    def _reached(self, search: Decisions, rays: Rays) -> Asking[tuple[Tensor, Rays]]:
        """Return positions of rays that become adversarial, and rays of their new length."""
        length = rays.length.clone()
        hit = torch.zeros(len(length), dtype=torch.bool, device=length.device)
        for turn in range(self.config.doublings + 1):
            active = torch.nonzero(~hit & search.live[rays.images])[:, 0]
            if not len(active):
                break
            length[active] = rays.length[active] * 2**turn
            hit[active] = yield from ask_at(search, rays.of(active), length[active])
        return torch.nonzero(hit)[:, 0], rays._replace(length=length)

    def _normal(
        self, search: Decisions, images: Tensor, points: Tensor, probes: Tensor, step: int
    ) -> Asking[Tensor]:
        """Return the estimated normal at points, into the adversarial side, `[m, *instance]`."""
        start, shape = search.start, search.start.x.shape
        kept = [lowest(side, self.config.frequencies) for side in shape[2:]]
        radius = self.config.radius * length(points - start.x[images])
        plain, signed = torch.zeros_like(points), torch.zeros_like(points)
        votes = torch.zeros(len(images), device=points.device)
        for first in range(0, int(probes.max()), PROBES_AT_ONCE):
            row, number = ragged((probes - first).clamp(0, PROBES_AT_ONCE) * search.live[images])
            draw = (step * _DRAWS + first + number).cpu()
            weights = normals(start, "probe", images[row], draw, (shape[1], *kept))
            noise = low_waves(weights, *shape[2:])
            noise = noise / length(noise)
            rows = (points[row] + radius[row] * noise).clamp(0, 1)
            adversarial = yield from search.ask(rows, images[row])
            sign = adversarial.to(noise.dtype) * 2 - 1
            plain.index_add_(0, row, noise)
            signed.index_add_(0, row, noise * sign[:, None, None, None])
            votes.index_add_(0, row, sign)
        mean = votes / probes
        # If all decisions agree, subtracting their mean would leave nothing.
        baseline = torch.where(mean.abs() < 1, mean, torch.zeros_like(mean))
        return signed - baseline[:, None, None, None] * plain


def queries_of_estimates(iterations: int, ratio: float) -> Tensor:
    """Return the shares of the queries that each estimate of the normal gets, `[iterations]`.

    Reference: Rahmati et al. 2020, optimal distribution of the queries; the authors' code has the
        same shares, with .6 as the ratio.
    """
    weights = ratio ** (-2 / 3 * torch.arange(1, iterations + 1, dtype=torch.float64))
    return weights / weights.sum()


class SurfreeConfig(LabelConfig):
    """Settings of SurFree; the defaults are the authors', but for `frequencies`.

    Attributes:
        frequencies: share of the rows and columns of frequencies, from the lowest, that directions
            are of.
        tries: T, sizes of an angle that are tried on either side of a direction.
        angle_deg: first largest angle, in degrees.
        growth: 1 - kappa, by which the largest angle is multiplied where none is adversarial, and
            divided where one is.
        memory: earlier directions that a direction is made orthogonal to.
        tolerance: width at which bisection of an angle ends, over the largest angle.
        start_tolerance: width of the bisection of the start, as a share of the way.
    """

    frequencies: float = Field(0.5, gt=0, le=1)
    tries: int = Field(3, ge=1)
    angle_deg: float = Field(30.0, gt=0, lt=90)
    growth: float = Field(0.98, gt=0, lt=1)
    memory: int = Field(100, ge=0)
    tolerance: float = Field(0.01, gt=0)
    start_tolerance: float = Field(0.001, gt=0, le=1)


class Surfree(LabelAgent):
    """Attack by decisions without any estimate of a gradient; it minimises L2 in either norm.

    A point moves on the circle through it and the clean image in the plane of a random direction:
    at an angle its distance is the cosine of the angle as long. Queries per image: its tries for
    a start; a bisection; then for each direction one query an angle, `tries` sizes on both sides
    from the largest down until one is adversarial, and a bisection from there to the next
    larger size. `Choice:` beyond the largest angle that is as much more as between two sizes.
    `Choice:` directions are of low frequencies with weights of -1, 0 and 1, as the authors', but
    not shaped by the image's own frequencies.

    Reference: Maho, Furon & Le Merrer, "SurFree: a fast surrogate-free black-box attack", CVPR
        2021; constants: the authors' code.
    """

    Config = SurfreeConfig
    config: SurfreeConfig

    def attack(self, start: Start, state: State) -> Attack:
        """Turn to one direction after the other until the budget is spent."""
        config, x, search = self.config, start.x, Decisions(start)
        points, going = yield from starting_points(search, config, state.get("examples"))
        images = search.among(going)
        points[images] = yield from bisect(search, images, points[images], config.start_tolerance)
        largest = torch.full((len(x),), config.angle_deg, dtype=torch.float64, device=x.device)
        largest = largest.deg2rad()
        earlier = x.new_zeros(len(x), config.memory, x[0].numel())
        sizes = torch.arange(config.tries, 0, -1, dtype=torch.float64) / config.tries
        for step in count():
            images = search.among(going)
            if not len(images):
                return
            here, clean = points[images], x[images]
            across = self._direction(start, images, here - clean, earlier[images], step)
            if config.memory:
                earlier[images, step % config.memory] = across.flatten(1)

            def rows(
                active: Tensor,
                angle: Tensor,
                clean: Tensor = clean,
                here: Tensor = here,
                across: Tensor = across,
            ) -> Tensor:
                return turned(clean[active], here[active], across[active], angle)

            most = largest[images]
            angle = torch.zeros_like(most)
            for part in torch.stack([sizes, -sizes], 1).flatten().tolist():
                active = torch.nonzero((angle == 0) & search.live[images])[:, 0]
                if not len(active):
                    break
                tried = part * most[active]
                hit = yield from search.ask(rows(active, tried), images[active])
                angle[active[hit]] = tried[hit]
            hit = angle != 0
            largest[images] = torch.where(hit, most / config.growth, most * config.growth).clamp(
                max=torch.pi / 2
            )
            beyond = torch.where(hit, angle + angle.sign() * most / config.tries, 0.0)
            best = yield from halve(search, images, rows, beyond, angle, config.tolerance * most)
            turn = torch.nonzero(hit)[:, 0]
            points[images[turn]] = rows(turn, best[turn])

    def _direction(
        self, start: Start, images: Tensor, away: Tensor, earlier: Tensor, step: int
    ) -> Tensor:
        """Return directions of length 1 at right angles to `away` and earlier ones, `[m, …]`."""
        shape = start.x.shape
        kept = [lowest(side, self.config.frequencies) for side in shape[2:]]
        size = shape[1] * kept[0] * kept[1]
        weights = whole(start, "direction", images, step, size, 3) - 1
        drawn = low_waves(weights.view(-1, shape[1], *kept).to(away.dtype), *shape[2:]).flatten(1)
        # Earlier directions aren't orthogonal to the present way: first them, then the way.
        along = (earlier * drawn[:, None]).sum(2, keepdim=True)
        drawn = drawn - (along * earlier).sum(1)
        way = (away / length(away)).flatten(1)
        drawn = (drawn - (drawn * way).sum(1, keepdim=True) * way).view_as(away)
        return drawn / length(drawn)


def turned(clean: Tensor, points: Tensor, across: Tensor, angle: Tensor) -> Tensor:
    """Return points turned by an angle on circles through them and the clean images, in the box.

    Args:
        clean: `[m, *instance]`.
        points: `[m, *instance]`.
        across: `[m, *instance]` of length 1, at right angles to the way between the two.
        angle: `[m]` in radians; 0 is the point, a right angle the clean image.

    Reference: Maho et al. 2021, with alpha = 1 - cos(theta).
    """
    home = points - clean
    cosine, sine = (part.to(home.dtype)[:, None, None, None] for part in (angle.cos(), angle.sin()))
    return (clean + cosine * (cosine * home + sine * length(home) * across)).clamp(0, 1)
