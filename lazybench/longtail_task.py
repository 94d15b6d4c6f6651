"""The shape of a long-tailed stream, known before any image is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, Protocol, runtime_checkable

Track = Literal["LT", "LT+dev"]
"""Whether training sees the images of the dev set with their labels (`LT+dev`), or doesn't."""


@runtime_checkable
class Tracked(Protocol):
    """An environment whose runs are kept apart by what data their training sees."""

    @property
    def track(self) -> Track:
        """The track of a training on it."""
        ...


@dataclass(frozen=True)
class LongTailTask:
    """What an agent may know of a stream beforehand; the same on every split.

    Attributes:
        classes: number of classes C; labels lie in [0, classes).
        instance: shape of one image, (channels, height, width).
        dtype: `uint8`.
        class_counts: training images of each class, in the order of the labels, after the dev set
            was taken out.
        steps: training batches of the episode.
        batch: images of a batch, B.
        dev_per_class: images of each class in the dev set.
    """

    classes: int
    instance: tuple[int, ...]
    dtype: Literal["uint8"]
    class_counts: tuple[int, ...]
    steps: int
    batch: int
    dev_per_class: int

    def __post_init__(self) -> None:
        """Make tuples of what a file may have made lists of."""
        for name in ("instance", "class_counts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def fields(self) -> dict[str, Any]:
        """Return it as a dict that an agent's state can hold; `LongTailTask(**it)` is equal."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def outputs(self) -> int:
        """Numbers that a network must give for one image."""
        return self.classes

    @property
    def images(self) -> int:
        """Training images, all classes together."""
        return sum(self.class_counts)

    def train_steps(self, epochs: float, batch: int) -> int:
        """Return the batches that `epochs` passes over the training images make, at least 1.

        Batches are always full: epochs follow each other without a gap, and the last batch is
        filled up from the epoch after.
        """
        return max(1, ceil(self.images * epochs / batch))
