"""A user's own target under attack: clean pass, probes of its answers, blocks of attacks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.envs.attack.batch import AttackBlock
from lazybench.envs.attack.blackbox import to_levels
from lazybench.envs.attack.gradient_maps import maps_shape
from lazybench.envs.attack.oracle import Oracle, Predict
from lazybench.envs.attack.protocol import AttackProtocol, TargetRule, read_protocol
from lazybench.envs.attack.target import OpenTarget
from lazybench.envs.own_target.images import UserImages
from lazybench.errors import UsageError
from lazybench.tasks import AttackTask, TaskShape

LEVELS = 256
"""Brightnesses of a pixel in an 8-bit image."""

Probe = Callable[[int, Tensor], Tensor]
"""Number of the probe and images `[R, C, H, W]` in [0, 1], to scores `[R, classes]`."""

_PROBED = 4
_SLACK = 1e-3
_ALIKE = 1e-3
"""Absolute tolerance of equal log-probabilities (the relative one is 1e-4), since batches change
the order of float32 sums."""

_MOST_IMAGES, _MOST_PIXELS = 100, 1 << 21
_ROUNDING = 1 / (LEVELS - 1) / math.sqrt(12)
"""Standard deviation of a pixel's rounding error at 8 bits."""


class EightBit(AttackProtocol):
    """A protocol whose queries are rounded to 8 bits before they are sent and measured."""

    levels = LEVELS

    def task(
        self, classes: int, instance: tuple[int, ...], whiteboxes: tuple[str, ...], maps: TaskShape
    ) -> AttackTask:
        """Return the task that an agent sees, its ball reduced by what rounding adds to a distance.

        Otherwise rounding would move about half of the queries at the ball's edge out of it.

        Raises:
            UsageError: the ball holds no other image of 8 bits.
        """
        task = super().task(classes, instance, whiteboxes, maps)
        return dataclasses.replace(task, eps=inner_eps(self, math.prod(instance)))


def inner_eps(protocol: AttackProtocol, pixels: int) -> float:
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
    """A user's own target, open for attacks on the images that it classifies right."""

    def __init__(self, oracle: Oracle, x: Tensor, label: Tensor) -> None:
        """Hold a target and the images that it classifies right, in order."""
        self.name = "one's own"
        self.classes, self.instance = oracle.classes or 0, tuple(x.shape[1:])
        self.facts, self.data = {}, {}
        self._mine, self._x, self._label = oracle, x, label

    @property
    def oracle(self) -> Oracle:
        """The oracle that scores rows."""
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
        """Do nothing: the caller that opened the target closes it."""


class Probes(NamedTuple):
    """Results of querying some images again.

    Attributes:
        images: how many images were queried again, each alone and twice.
        queries: rows sent; they aren't charged to any image.
        random: how many of them got two different answers.
        batch: how many of the others got another answer alone than in a batch.
        probable: how many got numbers in [0, 1] whose sum is 1.
    """

    images: int
    queries: int
    random: int
    batch: int
    probable: int

    def notes(self, *, scores: bool, over_http: bool) -> tuple[str, ...]:
        """Return the warnings for a report, a line each.

        Args:
            scores: whether the target was declared to answer with logits or log-probabilities.
            over_http: whether it is behind an address.
        """
        found = []
        if scores and self.probable == self.images:
            found.append(
                "the target's answers look like probabilities (numbers in [0, 1] whose sum is 1), "
                "which mislead score-based attackers when taken for logits; declare --answers "
                "probs, unless they are logits"
            )
        if self.random:
            more = "; use --repeats, else its first answer is taken each time"
            found.append(
                f"the target's answers are random: {self.random} of {self.images} images were "
                f"answered differently when queried again{more if over_http else ''}"
            )
        if self.batch:
            found.append(
                f"the target's answers depend on the batch: {self.batch} of {self.images} images "
                "were answered differently alone and in a batch, so an attack is scored by answers "
                "that its image alone wouldn't get; put a network into evaluation mode"
            )
        return tuple(found)


def own_protocol(
    images: UserImages, settings: dict[str, Any], *, eight_bit: bool
) -> tuple[Tensor, AttackProtocol]:
    """Return the images as they are sent, `[N, C, H, W]` float32, and the protocol on them.

    Args:
        images: to attack.
        settings: of `read_protocol`, without its target rule and channels.
        eight_bit: whether images are rounded to 8 bits before they are sent.

    Raises:
        UsageError: a setting that isn't allowed.
    """
    scale = np.float32(255 if images.x.dtype == np.uint8 else 1)
    x = torch.from_numpy((images.x / scale).astype(np.float32))
    protocol = read_protocol(x.shape[1], target_rule="next", **settings)
    if eight_bit:
        return to_levels(x, LEVELS), EightBit(**vars(protocol))
    return x, protocol


class UserAttack:
    """A user's own target, queried once on its clean images, then attacked in blocks.

    Attributes:
        task: the task that an attacker sees.
        top: `[N]` int64 top class of each clean image.
        right: places of the images that the target classifies right, which are attacked.
        classes: of the target.
        probes: results of repeated queries; None if the target is known to be random.
        notes: warnings for a reader of the results, a line each.
    """

    def __init__(
        self,
        predict: Predict,
        images: UserImages,
        settings: dict[str, Any],
        *,
        eight_bit: bool,
        probe: Probe | None,
        classes: int | None = None,
    ) -> None:
        """Query the target on the clean images, and on some of them again.

        Args:
            predict: images `[R, C, H, W]` in [0, 1] to scores; see `target_form.in_form`.
            images: to attack.
            settings: of `read_protocol`, without its target rule and channels.
            eight_bit: whether images are rounded to 8 bits before they are sent.
            probe: function that queries images again; None for no probes.
            classes: number of the target's classes, where it was declared.

        Raises:
            UsageError: a setting that isn't allowed, or labels that the target doesn't have.
            ContractError: the target failed.
        """
        self.x, self.protocol = own_protocol(images, settings, eight_bit=eight_bit)
        protocol, instance = self.protocol, tuple(self.x.shape[1:])
        most = int(images.y.max())
        if classes is not None:
            # Before the first query, which may cost money.
            _need_classes(most, classes)
            protocol.check_classes(classes)
        oracle = Oracle(predict, None)
        scores = oracle(self.x)
        self.top = scores.argmax(1).cpu().numpy()
        self.classes = oracle.classes or 0
        _need_classes(most, self.classes)
        protocol.check_classes(self.classes)
        self.notes = images.notes
        if len(images.classes) not in (0, self.classes):
            self.notes += (
                f"the target has {self.classes} classes and there are {len(images.classes)} class "
                "folders, numbered in the order of their names; call folders by numbers, or give "
                "--labels FILE, where that isn't the target's order",
            )
        self.right = np.flatnonzero(self.top == images.y)
        if not len(self.right):
            raise UsageError(
                f"the target gets none of {len(images.y)} images right, so there is nothing to "
                "attack; check --layout, --bounds, --answers and the labels"
            )
        self.task = self.protocol.task(self.classes, instance, (), maps_shape(instance))
        self.probes = None if probe is None else _probed(probe, oracle, self.x, scores)
        self.examples_at = self._examples_at() if self.task.targeted else None
        at = torch.from_numpy(self.right)
        self._target = UserTarget(oracle, self.x[at], torch.from_numpy(images.y)[at])

    def examples(self) -> Tensor:
        """Return an image of each class to start from, `[classes, C, H, W]`.

        The first image that the target assigns to the class, preferably a correct one. `Choice:` a
        class without any has the mean of all images; attackers blend it with noise until the
        target assigns it to the class, a query each.
        """
        assert self.examples_at is not None
        mean = self.x.mean(0)
        return torch.stack([mean if at is None else self.x[at] for at in self.examples_at])

    def _examples_at(self) -> list[int | None]:
        found: dict[int, int] = {}
        right = np.zeros(len(self.top), np.bool_)
        right[self.right] = True
        for place in np.argsort(~right, kind="stable"):
            found.setdefault(int(self.top[place]), int(place))
        wanted = set(((self.top[self.right] + 1) % self.classes).tolist())
        if missing := sorted(wanted - set(found)):
            self.notes += (
                f"no image is assigned to class {missing[0]} ({len(missing)} of {len(wanted)} "
                "goal classes have none): attackers that start from one search for it with "
                "queries of blends with noise, and often fail; add such images to --images",
            )
        return [found.get(label) for label in range(self.classes)]

    def blocks(self) -> list[NDArray[np.int64]]:
        """Return numbers among the right images, in blocks that are attacked together."""
        size = max(1, min(_MOST_IMAGES, _MOST_PIXELS // math.prod(self.x.shape[1:])))
        trials = np.arange(len(self.right))
        return [trials[first : first + size] for first in range(0, len(trials), size)]

    def open(self, trials: NDArray[np.int64]) -> tuple[AttackBlock, dict[str, Any]]:
        """Return a block of attacks and its first observation; each call starts over.

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


def _probed(probe: Probe, oracle: Oracle, x: Tensor, scores: Tensor) -> Probes:
    """Query the images nearest to a decision boundary again, each alone and twice.

    Args:
        probe: function that queries images again.
        oracle: the target.
        x: `[N, C, H, W]` images.
        scores: `[N, classes]` the target's answers to all of them in batches.
    """
    two = scores.topk(2, 1).values
    places = (two[:, 0] - two[:, 1]).argsort(stable=True)[:_PROBED]
    found: list[Tensor] = []
    probable = torch.zeros(len(places), dtype=torch.bool)
    for number in (1, 2):
        replies = []
        for at, place in enumerate(places.tolist()):
            held: list[Tensor] = []

            def query(rows: Tensor, number: int = number, held: list[Tensor] = held) -> Tensor:
                held.append(probe(number, rows))
                return held[0]

            replies.append(Oracle(query, oracle.classes)(x[place : place + 1]))
            raw = held[0].double()
            inside = bool(((raw >= -_SLACK) & (raw <= 1 + _SLACK)).all())
            probable[at] = inside and abs(float(raw.sum()) - 1) < _SLACK
        found.append(torch.cat(replies))
    changed = ~_alike(*found)
    moved = ~_alike(found[0], scores[places]) & ~changed
    counts = (int(each.sum()) for each in (changed, moved, probable))
    return Probes(len(places), 2 * len(places), *counts)


def _need_classes(most: int, classes: int) -> None:
    """Check that the largest label is one of the target's classes.

    Raises:
        UsageError: it isn't.
    """
    if most >= classes:
        raise UsageError(f"labels must lie in [0, {classes}), the target's classes, got {most}")


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """Whether rows of log-probabilities `[R, classes]` are the same but for rounding, `[R]`."""
    # Below -50 a class doesn't matter, and its logarithm is noisy.
    one, other = one.clamp_min(-50), other.clamp_min(-50)
    return torch.isclose(one, other, rtol=1e-4, atol=_ALIKE).all(1)
