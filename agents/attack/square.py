"""Square attack: random squares at the edge of the ball, kept where they help."""

from __future__ import annotations

from itertools import count

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agents.attack.lockstep import Attack, Start, State
from lazybench.agents.attack.search import (
    Iterates,
    ScoreAgent,
    ScoreConfig,
    chance,
    length,
    signs,
    whole,
)

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Iterations, of 10,000, after which the squares' area is halved."""

_SAME = 1e-7
"""Pixels that differ by less are the same: a square that changes none is drawn again."""


class SquareConfig(ScoreConfig):
    """Settings of the Square attack; the defaults are the paper's for standard networks.

    Attributes:
        area_l2: p, share of the image that the first squares cover, in L2.
        area_linf: the same in linf.
    """

    area_l2: float = Field(0.1, gt=0, le=1)
    area_linf: float = Field(0.05, gt=0, le=1)


class Square(ScoreAgent):
    """Random search by squares whose size shrinks on a schedule.

    Queries per image: one for the first candidate (stripes in linf, a grid of bumps in L2), then
    one for each candidate. The clean image isn't queried. The schedule is stretched to the query
    budget. All candidates lie on the ball's edge, up to what the box cuts off.

    `Choice:` squares may touch every edge of the image; released, they miss the last row and
    column. `Choice:` the bumps of the first candidate aren't transposed; released, each is with
    probability one half.

    Reference: Andriushchenko et al., "Square attack", ECCV 2020, Algorithms 1 to 3 and section 4.
    """

    Config = SquareConfig
    ball_needed = True

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        linf = start.task.norm == "linf"
        iterates = Iterates(start, self.radius(start.task))
        first, proposal = (stripes, self._linf) if linf else (bumps, self._l2)
        candidate = iterates.inside(first(iterates))
        for step in count():
            margin, kept = yield from iterates.ask(candidate)
            live = iterates.live
            if not len(live):
                return
            better = margin > iterates.margin[live]
            iterates.x[live[better]] = candidate[kept][better]
            iterates.margin[live[better]] = margin[better]
            candidate = iterates.inside(proposal(iterates, step))

    def _linf(self, iterates: Iterates, step: int) -> Tensor:
        """A square in which every channel is moved to one end of its range, `[m, …]`."""
        start, live, x = iterates.start, iterates.live, iterates.x[iterates.live]
        channels, height, width = x.shape[1:]
        task = start.task
        share = scheduled(self.config.area_linf, step, task.query_budget)
        size = min(max(round((share * height * width) ** 0.5), 1), height, width)
        window = _window(start, "square", live, step, size)
        candidate, todo, turn = x.clone(), torch.arange(len(live), device=x.device), 0
        # Half of the draws change nothing if one channel is at its end already.
        while len(todo) and turn < 2 ** (channels + 4):
            drawn = signs(start, f"square sign {turn}", live[todo], step, channels)
            at = (todo[:, None, None, None], *(part[todo] for part in window))
            moved = iterates.clean[at] + iterates.radius * drawn[:, :, None, None]
            candidate[at] = moved.clamp(0, 1)
            same = (candidate[at] - x[at]).abs().flatten(1).amax(1) < _SAME
            todo, turn = todo[same], turn + 1
        return candidate

    def _l2(self, iterates: Iterates, step: int) -> Tensor:
        """A bump put in one window, with the norm that another window gives up, `[m, …]`."""
        start, live = iterates.start, iterates.live
        offset = iterates.x[live] - iterates.clean
        height, width = offset.shape[2:]
        share = scheduled(self.config.area_l2, step, start.task.query_budget)
        size = max(round((share * height * width) ** 0.5), 3)
        size = min(size + 1 - size % 2, height, width)
        here = torch.arange(len(live), device=offset.device)[:, None, None, None]
        target = (here, *_window(start, "square", live, step, size))
        source = (here, *_window(start, "square from", live, step, size))
        both = torch.zeros_like(offset, dtype=torch.bool)
        both[target] = True
        both[source] = True
        old = offset[target]
        drawn = bump(size).to(offset)
        flipped = chance(start, "square turn", live, step, 1)[:, :, None, None] < 0.5
        sign = signs(start, "square sign", live, step, offset.shape[1])[:, :, None, None]
        new = sign * torch.where(flipped, drawn.mT, drawn) + old / (_norm(old) + 1e-10)
        unused = (iterates.radius**2 - length(offset).square()).clamp_min(0) / offset.shape[1]
        new = new / _norm(new).clamp_min(1e-12)
        new = new * (unused + _norm(offset * both).square()).sqrt()
        moved = offset.clone()
        moved[source] = 0
        moved[target] = new
        return iterates.clean + iterates.radius * moved / length(moved)


def scheduled(area: float, step: int, budget: int) -> float:
    """Return the share of the image that squares cover at a step (from 0) of a query budget."""
    at = int(step / budget * 10_000)
    halved = sum(at > bound for bound in _HALVINGS)
    return area / float(2**halved)


def stripes(iterates: Iterates) -> Tensor:
    """Return the live images with vertical stripes at the ends of the ball, `[m, …]`."""
    channels, _, width = iterates.clean.shape[1:]
    drawn = signs(iterates.start, "square stripes", iterates.live, 0, channels * width)
    return iterates.clean + iterates.radius * drawn.view(-1, channels, 1, width)


def bumps(iterates: Iterates) -> Tensor:
    """Return the live images with a grid of bumps of random signs, at the radius, `[m, …]`."""
    clean = iterates.clean
    channels, height, width = clean.shape[1:]
    size = max(min(height, width) // 5, 1)
    down, right = height // size, width // size
    drawn = signs(iterates.start, "square bumps", iterates.live, 0, channels * down * right)
    grid = drawn.view(-1, channels, down, 1, right, 1) * bump(size).to(clean)[:, None]
    top, left = (height - down * size) // 2, (width - right * size) // 2
    offset = torch.zeros_like(clean)
    offset[..., top : top + down * size, left : left + right * size] = grid.reshape(
        -1, channels, down * size, right * size
    )
    return clean + iterates.radius * offset / length(offset)


def bump(size: int) -> Tensor:
    """Return two heaps, one up, one down, in a square of norm 1, `[size, size]` float64.

    Reference: Andriushchenko et al. 2020, equation 4 and figure 2.
    """
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    half = size // 2
    both = torch.cat([_heap(half, size), -_heap(size - half, size)])
    return both / length(both[None])[0]


def _heap(height: int, width: int) -> Tensor:
    """Rectangles over one another, each one pixel wider on all sides and lower, of norm 1."""
    levels = max(height // 2, width // 2) + 1
    down = (torch.arange(height) - height // 2).abs()
    right = (torch.arange(width) - width // 2).abs()
    # A pixel is in every rectangle that reaches at least its distance from the middle.
    distance = torch.maximum(down[:, None], right[None])
    weight = 1 / torch.arange(1, levels + 1, dtype=torch.float64).square()
    above = weight.flip(0).cumsum(0).flip(0)
    heap = above[distance]
    return heap / length(heap[None])[0]


def _window(
    start: Start, name: str, images: Tensor, step: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of a random square of each image, all channels; they broadcast to `[m, c, s, s]`."""
    channels, height, width = start.x.shape[1:]
    side = torch.arange(size, device=images.device)
    top = whole(start, f"{name} top", images, step, 1, height - size + 1) + side
    left = whole(start, f"{name} left", images, step, 1, width - size + 1) + side
    every = torch.arange(channels, device=images.device).expand(len(images), -1)
    return every[:, :, None, None], top[:, None, :, None], left[:, None, None, :]


def _norm(images: Tensor) -> Tensor:
    """Norm of each channel, `[m, c, 1, 1]`."""
    sizes: Tensor = torch.linalg.vector_norm(images, dim=(2, 3), keepdim=True)
    return sizes
