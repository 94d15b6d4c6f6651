"""Sign-OPT: descent of a ray's length along the signs of its differences, one query each."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.rays import RayConfig, Rays, ask_at, descend, unit
from lazybench.agents.attack.search import PROBES_AT_ONCE, Asking, Decisions, LabelAgent, ragged


class SignOptConfig(RayConfig):
    """Settings of Sign-OPT; the defaults are the authors'.

    Attributes:
        probes: random directions of an estimate, a query each.
        reserve: queries that an estimate leaves for the line search after it. `Choice:` so the
            last one takes fewer probes rather than spend the whole budget without a step.
    """

    probes: int = Field(200, ge=1)
    reserve: int = Field(20, ge=0)


class SignOpt(LabelAgent):
    """Attack by decisions: whether a nearby ray is longer or shorter costs one query.

    Queries per image: its first ray (`rays.first_rays`); in each iteration `probes`, or what
    leaves `reserve` but at least 1, and a line search. All rows are counted.

    `Choice:` in linf, directions have a largest entry of 1 and a step follows the slope's signs.

    Reference: Cheng et al., "Sign-OPT: A Query-Efficient Hard-label Adversarial Attack", ICLR 2020,
        eq. (7) and Algorithm 1.
    """

    Config = SignOptConfig
    config: SignOptConfig

    def attack(self, start: Start, state: State) -> Attack:
        """Find a ray and descend its length until the budget is spent."""
        config, norm = self.config, start.task.norm
        search = Decisions(start)

        def slope(here: Rays, beta: Tensor, step: int) -> Asking[tuple[Tensor, Rays]]:
            probes = (search.left[here.images] - config.reserve).clamp(1, config.probes)
            found = torch.zeros_like(here.direction)
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
                found.index_add_(0, row, sign[:, None, None, None] * u)
            return found / probes[:, None, None, None], here

        return descend(search, config, slope, state.get("examples"))
