"""OPT attack: descent of a ray's length along finite differences of that length."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.rays import RayConfig, Rays, descend, local, unit
from lazybench.agents.attack.search import Asking, Decisions, LabelAgent


class OptAttackConfig(RayConfig):
    """Settings of the OPT attack; the defaults are the authors'.

    Attributes:
        start_tolerance: width at which the first rays' bisection ends.
        probes: q, random directions of a finite difference.
    """

    start_tolerance: float = Field(1e-5, gt=0)
    probes: int = Field(10, ge=1)


class OptAttack(LabelAgent):
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

    def attack(self, start: Start, state: State) -> Attack:
        """Find a ray and descend its length until the budget is spent."""
        config, norm = self.config, start.task.norm
        search = Decisions(start)

        def slope(here: Rays, beta: Tensor, step: int) -> Asking[tuple[Tensor, Rays]]:
            q, m = config.probes, len(here.images)
            each = Rays(*(part.repeat_interleave(q, 0) for part in here))
            number = torch.arange(q).repeat(m)
            u = unit(start.normal("probe", each.images, step * q + number), norm)
            width = beta.repeat_interleave(q)
            moved = unit(each.direction + _wide(width, u) * u, norm)
            rays = each._replace(direction=moved)
            length = yield from local(search, rays, width * config.tolerance, longer=True)
            change = torch.where(torch.isinf(length), 0.0, (length - each.length) / width)
            found = (_wide(change, u) * u).view(m, q, *u.shape[1:]).mean(1)
            best = length.view(m, q).argmin(1) + q * torch.arange(m, device=length.device)
            return found, rays._replace(length=length).of(best)

        return descend(search, config, slope, state.get("examples"))


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, None, None, None]
