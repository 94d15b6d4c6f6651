"""The training side of a long-tailed run: its dev set, its tail and its batches, by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lazybench import counter
from lazybench.data.labelled import Labelled
from lazybench.envs.longtail_samplers import Batches, Stage, dev_places
from lazybench.envs.longtail_split import images_at, tail
from lazybench.longtail_task import LongTailTask
from lazybench.spaces import broadcast_box, labels


class Stream:
    """What follows from the seed of a run.

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
        key = counter.mix(labelled.name, "stream 1", seed)
        self._batches = Batches(key, drawn.train.count, task.batch, plan)
        self._dev_key = counter.mix(key, "dev")

    def batch(self, step: int) -> dict[str, NDArray[Any]]:
        """Return `x`, `y` and `index` of training batch `step`."""
        places = self._batches.places(step)
        return {"x": images_at(self._train, places), "y": self._labels[places], "index": places}

    def dev_batch(self, step: int, size: int) -> dict[str, NDArray[Any]]:
        """Return `dev_x` and `dev_y`, the `size` dev images that come with batch `step`."""
        classes, each = self._task.classes, self._task.dev_per_class
        places = dev_places(counter.mix(self._dev_key, step), classes, each, size)
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
