"""The long tail of a data set: how many images of each class, and which ones.

Reference: Y. Cui, M. Jia, T.-Y. Lin, Y. Song & S. Belongie, "Class-balanced loss based on effective
    number of samples", CVPR 2019 (the counts); M. A. Jamal et al., "Rethinking class-balanced
    methods for long-tailed visual recognition from a domain adaptation perspective", CVPR 2020 (a
    balanced dev set taken out first).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.data.pool import Labelled, Part, random_ranks
from lazybench.envs.longtail.samplers import Batches, Stage, dev_places
from lazybench.envs.spaces import broadcast_box, labels
from lazybench.errors import UsageError
from lazybench.tasks import LongTailTask


@dataclass(frozen=True)
class Tail:
    """The images of a run.

    Attributes:
        train: the long-tailed part.
        dev: the balanced part, held out.
    """

    train: Part
    dev: Part


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
            f"since the largest class has {head}; set less than {head}"
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


def images_at(part: Part, places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return copies of the images at these places of a part, `[B, C, H, W]` uint8."""
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
        "x": broadcast_box(0, 255, (batch, *task.instance), np.uint8),
        "y": labels(task.classes, (batch,), hidden=True),
        "index": broadcast_box(-1, task.images - 1, (batch,), np.int64),
        "mask": spaces.MultiBinary(batch),
        "phase": spaces.Discrete(2),
        "remaining": spaces.Box(0, most, (1,), np.int64),
    }
    if dev_batch:
        parts["dev_x"] = broadcast_box(0, 255, (dev_batch, *task.instance), np.uint8)
        parts["dev_y"] = labels(task.classes, (dev_batch,), hidden=True)
    return spaces.Dict(parts), labels(task.classes, (batch,), hidden=True)
