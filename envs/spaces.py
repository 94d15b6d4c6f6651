"""Gymnasium spaces whose size doesn't depend on the images they describe."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete

from lazybench.tasks import PADDING


def broadcast_box(low: float, high: float, shape: tuple[int, ...], dtype: type[Any]) -> Box:
    """Return a Box of `shape` whose bounds are views of single numbers.

    Gymnasium's own Box holds four arrays of its shape (bounds and whether they are finite): for a
    50-way episode of 84x84 images that is four times the observation.
    """
    box = Box(low, high, shape=(1,), dtype=dtype)
    box._shape = shape
    for name in ("low", "high", "bounded_below", "bounded_above"):
        setattr(box, name, np.broadcast_to(getattr(box, name)[0], shape))
    return box


def labels(
    count: int, shape: tuple[int, ...], *, hidden: bool, padded: bool = False
) -> MultiDiscrete:
    """Return a space of labels in [0, count), or in [-1, count) where -1 means hidden.

    Args:
        count: number of labels.
        shape: of the space.
        hidden: whether labels may be hidden.
        padded: whether hidden ones may also be `lazybench.tasks.PADDING`.
    """
    extra = -PADDING if hidden and padded else int(hidden)
    space = MultiDiscrete(np.array([count + extra]), start=np.array([-extra]))
    space._shape = shape
    for name in ("nvec", "start"):
        setattr(space, name, np.broadcast_to(getattr(space, name)[0], shape))
    return space
