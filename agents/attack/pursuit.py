"""The attack of a meta-attacker: images pursued side by side, by probes and foretold gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

import torch
from torch import Tensor

from lazybench.agents.attack.finetune import Attackers
from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.meta_attack_settings import MetaAttackConfig
from lazybench.attack_task import AttackTask, Queries, Replies, distance

Asking = Generator[Queries, Replies, bool]
"""Asks once, and says whether any image is left to go on with."""

_NO_SPREAD = 1e-23
"""Added to the standard deviation of slopes, which is 0 where no probe changed anything."""

_INSIDE = 1 - 1e-6
"""Share of eps to go back to, so that rounding leaves no image just outside."""


class Space(NamedTuple):
    """What steps are measured in: there from pixels in [0, 1], back, and the bounds of its box."""

    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    lowest: float
    highest: float


SPACES = {
    "pixel": Space(lambda x: x, lambda z: z, 0.0, 1.0),
    # The factor keeps black and white away from infinity.
    "tanh": Space(
        lambda x: torch.atanh((2.0 * x - 1.0) * 0.999999),
        lambda z: (torch.tanh(z) + 1.0) / 2.0,
        -math.inf,
        math.inf,
    ),
}


def probes(x: Tensor, chosen: Tensor, by: float) -> tuple[Tensor, Tensor]:
    """Return each image with one pixel moved, for each of its chosen pixels, and by how much.

    Pixels move up, or down where they would leave [0, 1].

    Args:
        x: `[n, …]` images in [0, 1].
        chosen: `[n, q]` int64 positions in the flattened images.
        by: how far.

    Returns:
        `[n * q, …]` images, those of one image next to each other, and `[n, q]` differences.
    """
    n, q = chosen.shape
    flat = x.flatten(1)
    at = flat.gather(1, chosen)
    to = torch.where(at + by > 1.0, at - by, at + by).clamp(0.0, 1.0)
    moved = flat[:, None].repeat(1, q, 1).scatter(2, chosen[:, :, None], to[:, :, None])
    return moved.view(n * q, *x.shape[1:]), to - at


def within(x: Tensor, clean: Tensor, task: AttackTask) -> Tensor:
    """Return images taken back to the ball around their clean ones; those inside it as they are."""
    eps = task.eps * _INSIDE
    if task.norm == "linf":
        return clean + (x - clean).clamp(-eps, eps)
    far = distance(x, clean, "l2").view(-1, *[1] * (x.dim() - 1))
    return torch.where(far > task.eps, clean + (x - clean) * (eps / far), x)


class Pursuit:
    """The images that aren't finished, each with its own attacker.

    Each step is `look` (one query an image), in every j-th step `probe` (q queries), and `move`.
    """

    def __init__(self, start: Start, attackers: Attackers, config: MetaAttackConfig) -> None:
        """Begin with the clean images."""
        self._start, self._attackers, self._config = start, attackers, config
        self._space = SPACES[config.space]
        self._alive = torch.arange(len(start.x), device=start.x.device)
        self._x, self._z = start.x, self._space.enter(start.x)
        self._losses = start.x.new_zeros(len(start.x))
        self._chosen: Tensor | None = None
        self._slopes: Tensor | None = None

    def look(self) -> Asking:
        """Ask for each iterate; finished images are left out from then on."""
        replies = yield Queries(self._x, self._alive)
        self._losses = self._loss(replies, self._alive)
        return self._go_on(replies, self._alive)

    def probe(self) -> Asking:
        """Ask for the slopes at the pixels that moved last, and tune each attacker to them."""
        chosen = self._choose(self._maps()) if self._chosen is None else self._chosen
        rows, by = probes(self._x, chosen, self._config.probe_px)
        owner = self._alive.repeat_interleave(chosen.shape[1])
        replies = yield Queries(rows, owner)
        rise = self._loss(replies, owner).view_as(by) - self._losses[:, None]
        # Refused rows tell nothing; probabilities of exactly 0 tell nothing finite.
        known = replies.served.view_as(by) & rise.isfinite()
        slopes = torch.where(known, rise / by, torch.zeros_like(by))
        spread = torch.zeros_like(self._x.flatten(1)).scatter(1, chosen, slopes)
        spread = spread / (spread.std(1, correction=0, keepdim=True) + _NO_SPREAD)
        self._chosen, self._slopes = chosen, spread
        if not self._go_on(replies, owner):
            return False
        at, values = self._chosen, self._slopes.gather(1, self._chosen)
        config = self._config
        self._attackers.tune(self._x, at, values, steps=config.tune_steps, lr=config.tune_lr)
        return True

    def move(self) -> None:
        """Move the q pixels of each image where its attacker's map is steepest, down the slope.

        After a round of probes, those that weren't probed stay.
        """
        maps = self._maps()
        self._chosen = self._choose(maps)
        slopes = maps if self._slopes is None else self._slopes
        down = -self._config.step_size * slopes.gather(1, self._chosen).sign()
        self._slopes = None
        space = self._space
        z = self._z.flatten(1).scatter_add(1, self._chosen, down).view_as(self._z)
        self._z = z.clamp(space.lowest, space.highest)
        self._x = space.leave(self._z)
        if self._config.project:
            inside = within(self._x, self._start.x[self._alive], self._start.task)
            self._z = torch.where(inside != self._x, space.enter(inside), self._z)
            self._x = inside

    def _maps(self) -> Tensor:
        return self._attackers.maps(self._x).flatten(1)

    def _choose(self, maps: Tensor) -> Tensor:
        return maps.abs().topk(min(self._config.coordinates, maps.shape[1])).indices

    def _loss(self, replies: Replies, owner: Tensor) -> Tensor:
        """Half the log-margin that is left, negative once an image is adversarial."""
        return -0.5 * self._start.margin(replies.scores, owner)

    def _go_on(self, replies: Replies, owner: Tensor) -> bool:
        """Leave out images that have succeeded or may ask no more; True when any is left.

        A success is the end whatever the environment's mode: there is no way back to the image in
        this attack, so further queries could only lead farther away.
        """
        finished = replies.done.clone()
        finished[owner[replies.hit & replies.served]] = True
        kept = ~finished[self._alive]
        if not bool(kept.all()):
            self._alive, self._x, self._z = self._alive[kept], self._x[kept], self._z[kept]
            self._losses = self._losses[kept]
            self._chosen = None if self._chosen is None else self._chosen[kept]
            self._slopes = None if self._slopes is None else self._slopes[kept]
            self._attackers.keep(kept)
        return len(self._alive) > 0
