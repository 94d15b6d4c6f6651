"""The long tail of a data set: how many images of each class, and which ones.

Reference: Y. Cui, M. Jia, T.-Y. Lin, Y. Song & S. Belongie, "Class-balanced loss based on effective
    number of samples", CVPR 2019 (the counts); M. A. Jamal et al., "Rethinking class-balanced
    methods for long-tailed visual recognition from a domain adaptation perspective", CVPR 2020 (a
    balanced dev set taken out first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.data.pool import Labelled, Part, random_ranks
from lazybench.data.splits import most_imbalance
from lazybench.envs.observations import broadcast_box, instances, labels
from lazybench.errors import UsageError, nearest
from lazybench.tasks import LongTailTask

NATURAL: Literal["natural"] = "natural"
"""The imbalance of a data set whose classes keep their own counts."""

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


@dataclass(frozen=True)
class Tail:
    """The images of a run.

    Attributes:
        train: the long-tailed part.
        dev: the balanced part, held out.
    """

    train: Part
    dev: Part


def natural_counts(labelled: Labelled, dev_per_class: int) -> tuple[int, ...]:
    """Return the images that each class has outside the dev set, in label order.

    Choice: the test set stays balanced, as many images of each class as a fifth of the smallest
    one; a test set with the data's own counts would mostly show the head, and the balanced accuracy
    wouldn't be a mean over its images any more.

    Raises:
        UsageError: all classes have as many images, so that there is no tail.
    """
    counts = labelled.train.count
    if len(set(counts.tolist())) == 1:
        raise UsageError(
            f"{labelled.name} has no tail of its own: each of its {len(counts)} classes has "
            f"{counts[0]} training images; use an imbalance, as in {labelled.name}-lt-"
            f"{min(100, most_imbalance(int(counts[0]) - dev_per_class))}"
        )
    return tuple((counts - dev_per_class).tolist())


def class_counts(head: int, imbalance: float, classes: int) -> tuple[int, ...]:
    """Return n_c = int(head * imbalance^(-c / (classes - 1))) for the classes c in label order.

    The fraction is cut off, as in every published protocol, so that the true ratio of the largest
    to the smallest class can be larger than `imbalance`.

    Raises:
        UsageError: an imbalance below 1 or that isn't a number, less than 2 classes, or a class
            left with no image.
    """
    if not (isinstance(imbalance, int | float) and math.isfinite(imbalance) and imbalance >= 1):
        raise UsageError(
            f"the imbalance is the largest class's images over the smallest one's, so at least 1; "
            f"got {imbalance!r}"
        )
    if classes < 2:
        raise UsageError(f"a long tail needs at least 2 classes, got {classes}")
    # As the reference codes compute it, to the bit: mu is rounded before it is raised.
    mu = 1.0 / imbalance
    counts = tuple(int(head * mu ** (c / (classes - 1.0))) for c in range(classes))
    empty = counts.count(0)
    if empty:
        raise UsageError(
            f"an imbalance of {imbalance:g} leaves {empty} of {classes} classes without an image, "
            f"since the largest class has {head}; the largest one here is {most_imbalance(head)}"
        )
    return counts


def largest_head(labelled: Labelled, dev_per_class: int) -> int:
    """Return the number of images that every class has outside the dev set.

    Raises:
        UsageError: a class has too few images for the dev set.
    """
    least = int(labelled.train.count.min())
    if dev_per_class < 0 or least <= dev_per_class:
        name = labelled.classes[int(labelled.train.count.argmin())]
        raise UsageError(
            f"dev_per_class must lie in [0, {least - 1}] for {labelled.name}, whose class {name} "
            f"has {least} training images; got {dev_per_class}"
        )
    return least - dev_per_class


def tail(labelled: Labelled, counts: tuple[int, ...], dev_per_class: int, seed: int) -> Tail:
    """Return the dev set and the long tail that `seed` draws, without overlap.

    The dev set doesn't depend on the counts, and a longer tail holds a shorter one.
    """
    part = labelled.train
    rank = random_ranks(part, seeding.mix(labelled.name, "long tail 1", seed))
    wanted = np.array(counts, np.int64)
    dev = rank < dev_per_class
    train = ~dev & (rank < dev_per_class + wanted[part.labels])
    return Tail(
        train=Part(part.x, part.rows[train], wanted),
        dev=Part(part.x, part.rows[dev], np.full(len(wanted), dev_per_class, np.int64)),
    )


def images_at(part: Part, places: NDArray[np.int64]) -> NDArray[np.generic]:
    """Return copies of the images or vectors at these places of a part, `[B, *instance]`."""
    return np.asarray(np.take(part.x, part.rows[places], axis=0))


class Stream:
    """The dev set, tail and batches of a run, functions of its seed.

    Attributes:
        seed: the run's seed.
        dev: the balanced part, held out.
    """

    def __init__(
        self,
        labelled: Labelled,
        task: LongTailTask,
        plan: tuple[Stage, ...],
        *,
        seed: int,
        subset: int | None = None,
    ) -> None:
        """Draw the dev set and the tail.

        Args:
            labelled: the data.
            task: shape of the stream.
            plan: how batches are sampled.
            seed: the run's seed.
            subset: seed of the dev set and the tail alone; None for the run's.
        """
        self.seed = seed
        drawn = tail(
            labelled, task.class_counts, task.dev_per_class, seed if subset is None else subset
        )
        self.dev = drawn.dev
        self._task, self._train, self._labels = task, drawn.train, drawn.train.labels
        key = seeding.mix(labelled.name, "stream 1", seed)
        self._batches = Batches(key, drawn.train.count, task.batch, plan)
        self._dev_key = seeding.mix(key, "dev")

    def batch(self, step: int) -> dict[str, NDArray[Any]]:
        """Return `x`, `y` and `index` of training batch `step`."""
        places = self._batches.places(step)
        return {"x": images_at(self._train, places), "y": self._labels[places], "index": places}

    def dev_batch(self, step: int, size: int) -> dict[str, NDArray[Any]]:
        """Return `dev_x` and `dev_y`, the `size` dev images that come with batch `step`."""
        classes, each = self._task.classes, self._task.dev_per_class
        places = dev_places(seeding.mix(self._dev_key, step), classes, each, size)
        return {"dev_x": images_at(self.dev, places), "dev_y": places // each}

    def dev_set(self) -> dict[str, NDArray[Any]]:
        """Return `dev_x` and `dev_y`, the whole dev set class after class."""
        places = np.arange(len(self.dev.rows))
        return {"dev_x": images_at(self.dev, places), "dev_y": self.dev.labels}


def stream_spaces(
    task: LongTailTask, dev_batch: int, most: int
) -> tuple[spaces.Dict, spaces.Space[Any]]:
    """Return the observation and action space of a stream, the same on every split.

    Args:
        task: shape of the stream.
        dev_batch: dev images that come with a batch.
        most: batches of a phase at most.
    """
    batch = task.batch
    parts: dict[str, spaces.Space[Any]] = {
        "x": instances(task.dtype, (batch, *task.instance)),
        "y": labels(task.classes, (batch,), hidden=True),
        "index": broadcast_box(-1, task.images - 1, (batch,), np.int64),
        "mask": spaces.MultiBinary(batch),
        "phase": spaces.Discrete(2),
        "remaining": spaces.Box(0, most, (1,), np.int64),
    }
    if dev_batch:
        parts["dev_x"] = instances(task.dtype, (dev_batch, *task.instance))
        parts["dev_y"] = labels(task.classes, (dev_batch,), hidden=True)
    return spaces.Dict(parts), labels(task.classes, (batch,), hidden=True)
