"""What label-only attackers share: asking for decisions, starting points, searches on lines."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench import counter
from lazybench.agents.attack.lockstep import AttackConfig, LockstepAgent, Start, State
from lazybench.attack_task import Queries, Replies, distance
from lazybench.errors import ContractError
from lazybench.nets.net import scaled
from lazybench.rng import Rng

Found = TypeVar("Found")
Asking = Generator[Queries, Replies, Found]
"""A part of an attack that asks and then returns what it has found."""

PROBES_AT_ONCE = 32
"""Rows that an image sends in one call where an estimate needs hundreds; it bounds the memory.

A constant, not a share of the block, so that sums are added in the same order for any block."""


class LabelConfig(AttackConfig):
    """Settings of every label-only attacker.

    Attributes:
        start_tries: images that are tried as a start, one query each; then the image is given up.
        uniform_tries: how many of them are uniform noise, in an untargeted attack. `Choice:` later
            ones blend the clean image with coarse noise, since many networks hold all fine noise
            for one class and would never be left from there.
    """

    start_tries: int = Field(500, ge=1)
    uniform_tries: int = Field(50, ge=0)


class LabelAgent(LockstepAgent):
    """An attacker that needs only the top class, and an adversarial image to begin with.

    `Choice:` in a targeted attack that is an image of the goal class of the training split, one a
    class, which the environment's `examples()` gives; uniform noise never is of a given class.
    """

    def init(self, env: Any, rng: Rng) -> State:
        """Return the protocol and the seed; in a targeted attack `examples [classes, …]`, too.

        Raises:
            ContractError: the attack is targeted and the environment gives no examples.
        """
        state = super().init(env, rng)
        if not env.task.targeted:
            return state
        give = getattr(env, "examples", None)
        if give is None:
            raise ContractError(
                "a targeted label-only attack starts from an image of each class: the environment "
                "has no examples(); give it one that returns [classes, channels, height, width]"
            )
        examples = scaled(torch.as_tensor(give()))
        wanted = (env.task.classes, *env.task.instance)
        if tuple(examples.shape) != wanted:
            raise ContractError(
                f"the environment's examples(): got shape {list(examples.shape)}; allowed is "
                f"[classes, channels, height, width], here {list(wanted)}"
            )
        return {**state, "examples": examples}


class Decisions:
    """Asks whether rows are adversarial, wherever they lie, and keeps who may go on asking.

    A decision is the class alone: whether an image is inside the ball of the protocol is for the
    environment to judge.

    Attributes:
        start: the attacked images.
        left: `[n]` int64 queries that each has left.
        live: `[n]` bool: images that aren't finished.
    """

    def __init__(self, start: Start) -> None:
        """Begin with the whole budget and every image live."""
        n, device = len(start.x), start.x.device
        self.start = start
        self.left = torch.full((n,), start.task.query_budget, device=device)
        self.live = torch.ones(n, dtype=torch.bool, device=device)

    def ask(self, rows: Tensor, owner: Tensor) -> Asking[Tensor]:
        """Return whether each row is adversarial, `[R]` bool; refused rows aren't."""
        if not len(owner):
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        replies = yield Queries(rows, owner)
        self.hear(replies)
        start = self.start
        if start.goal is None:
            wrong = replies.labels != start.label[owner]
        else:
            wrong = replies.labels == start.goal[owner]
        return wrong & replies.served

    def hear(self, replies: Replies) -> None:
        """Note who has how many queries left."""
        self.left = replies.left
        self.live = ~replies.done & (replies.left > 0)

    def among(self, wanted: Tensor) -> Tensor:
        """Return the positions of the live images of a mask `[n]`, int64."""
        return torch.nonzero(wanted & self.live)[:, 0]


def uniform(start: Start, name: str, images: Tensor, step: int | Tensor) -> Tensor:
    """Return an image of uniform noise in [0, 1) for each of some images, `[m, *instance]`."""
    shape = start.x.shape[1:]
    values = counter.uniform(start.keys(name, images, step, shape.numel())).astype(np.float32)
    # The largest of the 53-bit numbers round up to 1.
    return torch.from_numpy(values).view(len(images), *shape).to(start.x.device)


def ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return for `counts[i]` rows of each i: whose each row is, and its number there, `[R]` each.

    Example:
        `counts = [2, 0, 1]` gives `[0, 0, 2]` and `[0, 1, 0]`.
    """
    places = torch.arange(len(counts), device=counts.device)
    owner = torch.repeat_interleave(places, counts)
    first = torch.cumsum(counts, 0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


def starting_points(
    search: Decisions, config: LabelConfig, examples: Tensor | None, wanted: Tensor | None = None
) -> Asking[tuple[Tensor, Tensor]]:
    """Return an adversarial image for each, `[n, *instance]`, and for whom one was found, `[n]`.

    One query a try. Images without one stand at their clean image.

    Args:
        search: asks.
        config: how many tries.
        examples: `[classes, *instance]` images to start from in a targeted attack.
        wanted: `[n]` bool: who needs one; None for all.
    """
    points = search.start.x.clone()
    found = torch.zeros_like(search.live)
    for step in range(config.start_tries):
        images = search.among(~found if wanted is None else wanted & ~found)
        if not len(images):
            break
        rows = _try(search.start, images, step, config, examples)
        adversarial = yield from search.ask(rows, images)
        points[images[adversarial]] = rows[adversarial]
        found[images[adversarial]] = True
    return points, found


def _try(
    start: Start, images: Tensor, step: int, config: LabelConfig, examples: Tensor | None
) -> Tensor:
    """Return what is tried as a start."""
    if start.goal is None or examples is None:
        if step < config.uniform_tries:
            return uniform(start, "start", images, step)
        base = start.x[images]
    else:
        base = examples.to(start.x.device)[start.goal[images]]
        if step == 0:
            return base
    height, width = start.x.shape[-2:]
    channels = start.x.shape[1]
    # Noise in squares, on grids of 2, 4, 8 and 16 cells a side in turn, at a random weight.
    cells = 2 ** (1 + step % 4)
    keys = start.keys("blend", images, step, channels * cells * cells + 1)
    drawn = torch.from_numpy(counter.uniform(keys).astype(np.float32)).to(start.x.device)
    grid = drawn[:, 1:].view(-1, channels, cells, cells)
    noise = F.interpolate(grid, size=(height, width), mode="nearest")
    return torch.lerp(base, noise, drawn[:, :1, None, None])


def place(start: Start, images: Tensor, points: Tensor, at: Tensor) -> Tensor:
    """Return the rows `at [m]` of the way from clean images (0) to points, `[m, *instance]`.

    In L2 the way is a straight line and `at` a share of it. In linf it is a box around the clean
    image that the point is clipped to, and `at` its half side.
    """
    clean = start.x[images]
    part = at.to(clean.dtype)[:, None, None, None]
    if start.task.norm == "linf":
        return torch.minimum(torch.maximum(points, clean - part), clean + part).clamp(0, 1)
    # (1 - at) x + at p is p itself at 1, and inside the box wherever both are.
    return ((1 - part) * clean + part * points).clamp(0, 1)


def bisect(search: Decisions, images: Tensor, points: Tensor, tolerance: float) -> Asking[Tensor]:
    """Return adversarial points next to the decision, on the ways from clean images to `points`.

    Costs `ceil(log2(1 / tolerance))` queries each in L2.

    Args:
        search: asks.
        images: `[m]` positions.
        points: `[m, *instance]` adversarial points.
        tolerance: width of the last interval as a share of the way; in linf at most as a distance,
            too.

    Reference: Chen, Jordan & Wainwright 2020, Algorithm 1 (bin-search).
    """
    start = search.start
    if start.task.norm == "linf":
        high = distance(points, start.x[images], "linf").double()
        width = torch.minimum(high, torch.ones_like(high)) * tolerance
    else:
        high = torch.ones(len(images), dtype=torch.float64, device=points.device)
        width = high * tolerance
    low = torch.zeros_like(high)
    while True:
        active = torch.nonzero((high - low > width) & search.live[images])[:, 0]
        if not len(active):
            return place(start, images, points, high)
        middle = (low[active] + high[active]) / 2
        rows = place(start, images[active], points[active], middle)
        adversarial = yield from search.ask(rows, images[active])
        high[active] = torch.where(adversarial, middle, high[active])
        low[active] = torch.where(adversarial, low[active], middle)
