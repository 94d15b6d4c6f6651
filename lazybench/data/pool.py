"""What a data set hands to an environment: instances grouped by class, split by split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lazybench.data.splits import SPLITS, Split

__all__ = ["SPLITS", "DataSet", "Pool", "Split"]


@dataclass(frozen=True)
class Pool:
    """All instances of one split, class after class.

    Attributes:
        x: `[M, *shape]`, uint8 images `[M, channels, height, width]` or float32 vectors `[M, d]`;
            read-only, may be memory-mapped.
        start: `[C]` int64, row of each class's first instance.
        count: `[C]` int64, number of instances of each class.
        names: `C` class names, unique.
        groups: `C` super-category names (alphabet, script, ImageNet category), equal where shared.
    """

    x: NDArray[np.generic]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one instance."""
        return tuple(self.x.shape[1:])


@runtime_checkable
class DataSet(Protocol):
    """An opened data set; `pool` may be called for each split, cheaply the second time.

    Attributes:
        name: id of the data set, as in environment ids (`glyphs`, `omniglot`).
        fingerprint: 64 hex digits over content and split, independent of packaging.
        prep: version of the preparation (resizing, jitter) that turned sources into instances.
        source: one line on where the images come from; a subset or re-made split says so here.
    """

    name: str
    fingerprint: str
    prep: str
    source: str

    def pool(self, split: Split) -> Pool:
        """Return the instances of `split`."""
        ...
