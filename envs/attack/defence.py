"""Defences of a target against queries: noise on images, rounded scores, detection of attacks.

Each is a function of an image's trial and the numbers of its queries, so that results depend on
neither blocks nor threads, and a run that resumes is the same.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.seeding import mix, normal, uniform

_MOST_DECIMALS = 15
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Defence:
    """What a target does against attacks.

    `noise` adds Gaussian noise to each query before the network sees it (RND). A success counts
    only where the network without noise is wrong, too: `Choice:` a lucky draw is no adversarial
    image, and the network without noise is the one that the noise is meant to protect. So the
    attack goes on after lucky draws. `Choice:` noise isn't clipped to [0, 1], as in the paper.

    `round` rounds the probabilities that replies show; their logarithms are shown as ever, and the
    top class is that of the unrounded scores.

    `detect` flags queries that are much like earlier ones of the same image. A success counts only
    before the first flagged query. Nothing that an attacker sees depends on flags: `Choice:` a
    service that blocks an account at once would help attackers to avoid detection.

    Attributes:
        kind: which defence.
        amount: standard deviation of the noise, for pixels in [0, 1]; or decimals of probabilities.

    Reference: Qin, Fan, Yuan, Cheng & Zhu, "Random Noise Defense Against Query-Based Black-Box
        Attacks", NeurIPS 2021.
    """

    kind: Literal["none", "noise", "round", "detect"] = "none"
    amount: float = 0.0

    def __str__(self) -> str:
        """Return the setting that `read_defence` reads."""
        if self.kind == "detect":
            return "detect:blacklight"
        return "none" if self.kind == "none" else f"{self.kind}:{self.amount:g}"

    def seen(self, rows: Tensor, trial: NDArray[np.int64], position: NDArray[np.int64]) -> Tensor:
        """Return what the network gets for the rows, `[R, C, H, W]`.

        Args:
            rows: `[R, C, H, W]` float32.
            trial: `[R]` trials of their images.
            position: `[R]` which query of its image each row is, from 1.
        """
        if self.kind != "noise" or not len(rows):
            return rows
        pixels = np.arange(rows[0].numel())
        keys = mix("attack noise 1", trial[:, None], position[:, None], pixels)
        noise = torch.from_numpy((self.amount * normal(keys)).astype(np.float32))
        return rows + noise.view(rows.shape).to(rows.device)

    def shown(self, scores: Tensor) -> Tensor:
        """Return the log-probabilities that replies show, `[R, classes]`.

        A probability that is rounded to 0 has the lowest float32 as its logarithm.
        """
        if self.kind != "round":
            return scores
        rounded = scores.double().exp().round(decimals=int(self.amount))
        return rounded.log().to(scores.dtype).clamp_(min=_LOWEST)

    def detector(self, images: int, instance: tuple[int, ...]) -> Blacklight | None:
        """Return a detector for n images of a shape, if there is one."""
        return Blacklight(images, instance) if self.kind == "detect" else None


NO_DEFENCE = Defence()


def read_defence(given: Any, access: str = "scores") -> Defence:
    """Return the defence of a setting: `none`, `noise:0.02`, `round:2` or `detect:blacklight`.

    Args:
        given: the setting.
        access: `scores` or `label`.

    Raises:
        UsageError: anything else, or rounded scores where none are shown.
    """
    text = "none" if given is None else str(given).strip()
    kind, _, value = text.partition(":")
    if text == "none":
        return NO_DEFENCE
    if text == "detect:blacklight":
        return Defence("detect")
    if kind == "noise" and re.fullmatch(r"\d*\.?\d+([eE]-?\d+)?", value, re.ASCII):
        sigma = float(value)
        if 0 < sigma <= 1 and math.isfinite(sigma):
            return Defence("noise", sigma)
    if kind == "round" and re.fullmatch(r"\d{1,2}", value, re.ASCII):
        if access == "label":
            raise UsageError(
                f"defence {text} rounds scores, and this environment shows labels alone; take one "
                "without -label, or defence=noise:0.02"
            )
        if int(value) <= _MOST_DECIMALS:
            return Defence("round", int(value))
    raise UsageError(
        "defence must be none, noise:SIGMA (above 0, at most 1, such as noise:0.02), "
        f"round:DECIMALS (0 to {_MOST_DECIMALS}, such as round:2) or detect:blacklight; "
        f"got {given!r}"
    )


QUANTUM = 50
"""Brightnesses of 256 that one step of a quantised pixel has."""

FINGERPRINT = 50
"""Hashes of a query that are kept."""

THRESHOLD = 25
"""Hashes in common with one earlier query; a query that has more of them is flagged."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def window(instance: tuple[int, ...]) -> int:
    """Return the values of a window: 20 on small coloured images, as the authors use on CIFAR-10.

    50 on large ones, as others use on ImageNet (Feng et al., "Stateful Defenses for Machine
    Learning Models Are Not Yet Secure Against Black-box Attacks", CCS 2023, code). `Choice:` 50 on
    grey ones, too, whose backgrounds make short windows alike; less on tiny images.
    """
    usual = 20 if instance[0] > 1 and instance[1] <= 64 else 50
    return min(usual, math.prod(instance))


class Blacklight:
    """Finds queries that are much like earlier ones of the same image.

    A query's pixels are salted, quantised, and read as one sequence, row by row with the channels
    of a pixel next to each other. Each window of consecutive values has a hash, and the largest
    different hashes are the query's fingerprint. A query is flagged if its fingerprint has more
    than `THRESHOLD` hashes in common with that of one earlier query.

    `Choice:` a detector remembers the queries of one image, not those of all images, so that a
    trial stays a function of its index. `Choice:` hashes have 64 bits and aren't cryptographic:
    the attacker has no hash, and SHA-256 would cost more than the network. The salt is constant,
    as in the authors' code.

    Reference: Li, Shan, Wenger, Zhang, Zheng & Zhao, "Blacklight: Scalable Defense for Neural
        Networks against Query-Based Black-Box Attacks", USENIX Security 2022, with quantisation,
        step, fingerprint and threshold of the authors' code (Huiying-Li/blacklight).
    """

    def __init__(self, images: int, instance: tuple[int, ...]) -> None:
        """Remember nothing yet.

        Args:
            images: n.
            instance: (channels, height, width) of an image.
        """
        self._window = window(instance)
        size = math.prod(instance)
        self._salt = 255 * uniform(mix("attack blacklight 1", np.arange(size)))
        # By image: the number of queries, the last fingerprint, and the queries of each hash.
        self._count = np.zeros(images, np.int64)
        self._last: list[frozenset[int]] = [frozenset()] * images
        self._queries: list[dict[int, list[int]]] = [{} for _ in range(images)]

    def open(self, images: NDArray[np.bool_]) -> None:
        """Forget the queries of the images of a mask `[n]`."""
        for image in np.flatnonzero(images):
            self._count[image], self._last[image], self._queries[image] = 0, frozenset(), {}

    def flags(self, rows: Tensor, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which queries are flagged, `[R]`, and remember all of them.

        Args:
            rows: `[R, C, H, W]` in [0, 1].
            owner: `[R]` images that they belong to; those of one image in order.
        """
        hashes = self.hashes(rows)
        found = [self._flag(image, row) for image, row in zip(owner.tolist(), hashes, strict=True)]
        return np.array(found, np.bool_)

    def quantised(self, rows: Tensor) -> NDArray[np.uint64]:
        """Return salted pixels in steps of `QUANTUM`, `[R, values]`, channels last."""
        values = rows.permute(0, 2, 3, 1).flatten(1).cpu().numpy().astype(np.float64)
        return np.asarray(np.rint((values * 255 + self._salt) % 255 / QUANTUM).astype(np.uint64))

    def hashes(self, rows: Tensor) -> NDArray[np.uint64]:
        """Return the hash of each window of each row, `[R, values - window + 1]`."""
        values = self.quantised(rows)
        windows = values.shape[1] - self._window + 1
        found = np.zeros((len(values), windows), np.uint64)
        for place in range(self._window):
            # A polynomial in the values modulo 2^64.
            found *= _FACTOR
            found += values[:, place : place + windows] + np.uint64(1)
        return mix(found)

    def _flag(self, image: int, hashes: NDArray[np.uint64]) -> bool:
        largest = np.unique(hashes)[-FINGERPRINT:].tolist()
        fingerprint = frozenset(largest)
        number, queries = int(self._count[image]), self._queries[image]
        flagged = len(fingerprint & self._last[image]) > THRESHOLD
        if not flagged:
            common = Counter(earlier for each in largest for earlier in queries.get(each, ()))
            flagged = max(common.values(), default=0) > THRESHOLD
        for each in largest:
            queries.setdefault(each, []).append(number)
        self._count[image], self._last[image] = number + 1, fingerprint
        return flagged
