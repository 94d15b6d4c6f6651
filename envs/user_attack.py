"""Attacks on a target of one's own: its images, what it makes of them, and blocks of attacks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.attack_task import AttackTask
from lazybench.envs.attack_block import AttackBlock
from lazybench.envs.attack_opened import OpenTarget
from lazybench.envs.attack_oracle import Oracle, Predict
from lazybench.envs.attack_settings import Protocol, TargetRule, read_protocol
from lazybench.envs.blackbox import to_levels
from lazybench.envs.gradient_maps import maps_shape
from lazybench.envs.user_images import UserImages
from lazybench.errors import UsageError
from lazybench.task import TaskShape

LEVELS = 256
"""Brightnesses of a pixel in an 8-bit image."""

_MOST_IMAGES, _MOST_PIXELS = 100, 1 << 21
_ROUNDING = 1 / (LEVELS - 1) / math.sqrt(12)
"""Standard deviation of what rounding to 8 bits adds to a pixel."""


class EightBit(Protocol):
    """A protocol whose queries are rounded to 8 bits before they are sent and measured."""

    levels = LEVELS

    def task(
        self, classes: int, instance: tuple[int, ...], whiteboxes: tuple[str, ...], maps: TaskShape
    ) -> AttackTask:
        """Return what an agent may know; its ball is smaller by what rounding adds to a distance.

        Else about half of the queries at the ball's edge would be rounded out of it.

        Raises:
            UsageError: the ball holds no other image of 8 bits.
        """
        told = super().task(classes, instance, whiteboxes, maps)
        return dataclasses.replace(told, eps=inner_eps(self, math.prod(instance)))


def inner_eps(protocol: Protocol, pixels: int) -> float:
    """Return a radius from which rounding to 8 bits hardly ever leads out of the protocol's ball.

    In linf: the largest whole number of brightnesses. In L2: rounding adds pixels/12 squared
    brightnesses to the squared distance on average, and moves it by three standard deviations at
    most; half the radius at least.

    Args:
        protocol: norm and eps.
        pixels: values of an image.

    Raises:
        UsageError: less than one brightness in linf.
    """
    if math.isinf(protocol.eps):
        return protocol.eps
    if protocol.norm == "linf":
        steps = math.floor(protocol.eps * (LEVELS - 1) + 1e-3)
        if not steps:
            raise UsageError(
                f"eps {protocol.eps:g} is less than one brightness of an 8-bit image, 1/255; give "
                "a larger one"
            )
        return min(protocol.eps, steps / (LEVELS - 1))
    room = protocol.eps**2 - pixels * _ROUNDING**2
    return max(math.sqrt(max(room, 0.0)) - 3 * _ROUNDING, protocol.eps / 2)


class UserTarget(OpenTarget):
    """A target of one's own that is open for attacks on the images it gets right."""

    def __init__(self, oracle: Oracle, x: Tensor, label: Tensor) -> None:
        """Take over a target and the images that it gets right, in order."""
        self.name = "one's own"
        self.classes, self.instance = oracle.classes or 0, tuple(x.shape[1:])
        self.facts, self.data = {}, {}
        self._mine, self._x, self._label = oracle, x, label

    @property
    def oracle(self) -> Oracle:
        """What answers rows."""
        return self._mine

    def open(
        self, trials: NDArray[np.int64], rule: TargetRule | None, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the images of these trials, their labels, and the next class where `rule` is."""
        at = torch.from_numpy(trials)
        x, label = self._x[at].to(device), self._label[at].to(device)
        return x, label, None if rule is None else (label + 1) % self.classes

    def within(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return trials as they are."""
        return trials

    def close(self) -> None:
        """Do nothing: who opened the target closes it."""


class UserAttack:
    """A target of one's own, asked about its clean images once, then attacked in blocks.

    Attributes:
        task: what an attacker may know beforehand.
        top: `[N]` int64 top class of each clean image.
        right: places of the images that the target gets right, which are attacked.
        classes: of the target.
    """

    def __init__(
        self, predict: Predict, images: UserImages, settings: dict[str, Any], *, eight_bit: bool
    ) -> None:
        """Ask the target about the clean images.

        Args:
            predict: images `[R, C, H, W]` in [0, 1] to scores; see `target_form.in_form`.
            images: to attack.
            settings: of `read_protocol`, without its target rule and channels.
            eight_bit: whether images are rounded to 8 bits before they are sent.

        Raises:
            UsageError: a setting that isn't allowed, or labels that the target doesn't have.
            ContractError: the target failed.
        """
        scale = np.float32(255 if images.x.dtype == np.uint8 else 1)
        x = torch.from_numpy((images.x / scale).astype(np.float32))
        self.x = to_levels(x, LEVELS) if eight_bit else x
        instance = tuple(x.shape[1:])
        protocol = read_protocol(instance[0], target_rule="next", **settings)
        self.protocol = EightBit(**vars(protocol)) if eight_bit else protocol
        oracle = Oracle(predict, None)
        self.top = oracle(self.x).argmax(1).cpu().numpy()
        self.classes = oracle.classes or 0
        if int(images.y.max()) >= self.classes:
            raise UsageError(
                f"labels must lie in [0, {self.classes}), the target's classes, got "
                f"{int(images.y.max())}"
            )
        self.right = np.flatnonzero(self.top == images.y)
        if not len(self.right):
            raise UsageError(
                f"the target gets none of {len(images.y)} images right, so there is nothing to "
                "attack; check --layout, --bounds, --answers and the labels"
            )
        self.task = self.protocol.task(self.classes, instance, (), maps_shape(instance))
        at = torch.from_numpy(self.right)
        self._target = UserTarget(oracle, self.x[at], torch.from_numpy(images.y)[at])

    def blocks(self) -> list[NDArray[np.int64]]:
        """Return numbers among the right images, in blocks that are attacked side by side."""
        size = max(1, min(_MOST_IMAGES, _MOST_PIXELS // math.prod(self.x.shape[1:])))
        trials = np.arange(len(self.right))
        return [trials[first : first + size] for first in range(0, len(trials), size)]

    def open(self, trials: NDArray[np.int64]) -> tuple[AttackBlock, dict[str, Any]]:
        """Return a block of attacks and its first observation; each call begins them anew.

        Raises:
            ContractError: the target failed.
        """
        block = AttackBlock(
            self._target,
            self.protocol,
            len(trials),
            rows=1,
            backend="torch",
            device=torch.device("cpu"),
        )
        return block, block.reset(options={"trials": trials})[0]
