"""Which images make up a training batch: a pure function of the run's key and the batch's number.

`instance` passes over the images again and again, each time in another order; `class` draws a class
uniformly and then one of its images; `sqrt` draws classes by the square root of their size.

Reference: B. Kang et al., "Decoupling representation and classifier for long-tailed recognition",
    ICLR 2020 (instance-balanced, class-balanced and square-root sampling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.errors import UsageError, nearest

Kind = Literal["instance", "class", "sqrt"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Schedule = Kind | Sequence[tuple[Kind, float]]
"""One kind of sampling, or kinds with the shares of the steps that they last."""

_SUM_WITHIN = 1e-6


class Stage(NamedTuple):
    """Steps of one kind of sampling, from `first` to the next stage's."""

    kind: Kind
    first: int


def stages(schedule: Any, steps: int) -> tuple[Stage, ...]:
    """Return the stages of a schedule over `steps` batches.

    Raises:
        UsageError: an unknown kind, a share outside (0, 1], or shares that don't sum to 1.
    """
    pairs = [(schedule, 1.0)] if isinstance(schedule, str) else _pairs(schedule)
    for kind, share in pairs:
        if kind not in KINDS:
            raise UsageError(
                f"a sampler is one of {', '.join(KINDS)}, got {kind!r}.{nearest(str(kind), KINDS)}"
            )
        if not 0 < share <= 1:
            raise UsageError(f"a sampler's share of the steps must lie in (0, 1], got {share}")
    total = math.fsum(share for _, share in pairs)
    if abs(total - 1) > _SUM_WITHIN:
        raise UsageError(
            f"the shares of a sampler schedule must sum to 1, got {total:g} from "
            f"{', '.join(f'{kind} {share:g}' for kind, share in pairs)}"
        )
    starts = [round(steps * math.fsum(s for _, s in pairs[:place])) for place in range(len(pairs))]
    return tuple(Stage(kind, first) for (kind, _), first in zip(pairs, starts, strict=True))


def _pairs(schedule: Any) -> list[tuple[Any, float]]:
    try:
        pairs = [(kind, float(share)) for kind, share in schedule]
    except (TypeError, ValueError):
        pairs = []
    if not pairs:
        raise UsageError(
            f"sampler must be one of {', '.join(KINDS)}, or a list of (sampler, share of the "
            f"steps), got {schedule!r}"
        )
    return pairs


class Batches:
    """The training batches of one run.

    `Choice:` batches are always full: an epoch of `instance` ends in the middle of a batch, and the
    next one fills it up. Batches past the last step go on in the last stage.
    """

    def __init__(
        self,
        key: NDArray[np.uint64],
        counts: NDArray[np.int64],
        batch: int,
        plan: tuple[Stage, ...],
    ) -> None:
        """Fix what the batches are drawn from.

        Args:
            key: what they are a function of.
            counts: `[C]` images of each class; images are numbered class after class.
            batch: images of a batch.
            plan: stages, the first from batch 0 on.
        """
        self._key, self._counts, self._batch, self._plan = key, counts, batch, plan
        self._first = np.cumsum(counts) - counts
        self._images = int(counts.sum())
        roots = np.cumsum(np.sqrt(counts))
        self._roots = roots / roots[-1]
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def places(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of the images in batch `step`, int64 `[batch]`."""
        stage = [stage for stage in self._plan if stage.first <= step][-1]
        place = (step - stage.first) * self._batch + np.arange(self._batch)
        key = seeding.mix(self._key, stage.kind, stage.first)
        if stage.kind == "instance":
            return self._passes(key, stage.first, place)
        words = seeding.mix(key, place[:, None], np.arange(2))
        if stage.kind == "class":
            chosen = seeding.integers(words[:, 0], len(self._counts))
        else:
            chosen = np.searchsorted(self._roots, seeding.uniform(words[:, 0]), side="right")
        return self._first[chosen] + seeding.integers(words[:, 1], self._counts[chosen])

    def _passes(
        self, key: NDArray[np.uint64], first: int, place: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Images at these places of the stage's endless row of epochs."""
        epoch, inside = np.divmod(place, self._images)
        found = np.empty(len(place), np.int64)
        for number in np.unique(epoch):
            here = epoch == number
            found[here] = self._order(key, first, int(number))[inside[here]]
        return found

    def _order(self, key: NDArray[np.uint64], first: int, epoch: int) -> NDArray[np.int64]:
        """The order of one epoch; the newest is kept, since the next batch needs it again."""
        name = (first, epoch)
        if name not in self._orders:
            order = seeding.permutation(seeding.mix(key, epoch), self._images)
            self._orders = {name: order}
        return self._orders[name]


def dev_places(key: NDArray[np.uint64], classes: int, each: int, size: int) -> NDArray[np.int64]:
    """Return `size` distinct images of a dev set of `classes` times `each`, int64 `[size]`.

    Images are numbered class after class. The classes come round after round, each time in the
    same random order, so that any run of `classes` neighbours has one image of each.
    """
    rounds = -(-size // classes)
    order = seeding.permutation(seeding.mix(key, "classes"), classes)
    inside = seeding.permutation(seeding.mix(key, "images", np.arange(classes)), each)[order]
    return (order[:, None] * each + inside[:, :rounds]).T.reshape(-1)[:size]
