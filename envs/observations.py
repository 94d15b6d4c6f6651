"""Observations: spaces whose size doesn't depend on the images, and pictures of trials."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from numpy.typing import NDArray

from lazybench.tasks import PADDING, TaskShape


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


def instances(dtype: str, shape: tuple[int, ...]) -> Box:
    """Return the space of uint8 images, or of float32 vectors or targets."""
    if dtype == "uint8":
        return broadcast_box(0, 255, shape, np.uint8)
    return broadcast_box(-1e6, 1e6, shape, np.float32)


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


_GAP = 1
_FRAME = np.array((60, 60, 70), dtype=np.uint8)
_QUERY_COLUMNS = 15


def contact_sheet(
    support_x: NDArray[np.generic],
    support_y: NDArray[np.generic],
    query_x: NDArray[np.generic],
    query_y: NDArray[np.generic],
    *,
    task: TaskShape,
) -> NDArray[np.uint8]:
    """Return one trial as a picture, uint8 `[height, width, 3]`.

    Images: the support set, a row for each class, then the query set below a bar. Points of a
    regression: support points bright, query points (where shown) dim, on a dark square.
    """
    if task.target == "array" or len(task.instance) != 3:
        return _plot(support_x, support_y, query_x, query_y)
    support = grid(support_x, task.shot)
    query = grid(query_x, min(_QUERY_COLUMNS, task.query))
    width = max(support.shape[1], query.shape[1])
    bar = np.full((4, width, 3), 200, dtype=np.uint8)
    return np.concatenate([_widen(support, width), bar, _widen(query, width)])


def grid(images: NDArray[np.generic], columns: int) -> NDArray[np.uint8]:
    """Return `[n, C, H, W]` images (uint8, or floats in [0, 1]) as tiles, row after row.

    The picture is uint8 `[height, width, 3]`.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.empty((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), np.uint8)
    sheet[:] = _FRAME
    pixels = images if images.dtype == np.uint8 else np.clip(np.asarray(images) * 255, 0, 255)
    for index in range(count):
        y = _GAP + (index // columns) * (height + _GAP)
        x = _GAP + (index % columns) * (width + _GAP)
        tile = np.asarray(pixels[index]).astype(np.uint8).transpose(1, 2, 0)
        sheet[y : y + height, x : x + width] = tile if channels == 3 else tile[..., :1]
    return sheet


def vector_rows(vectors: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return vectors `[n, d]` as the rows of a grey picture, uint8 `[n, d, 3]`.

    Black is their smallest number, white their largest.
    """
    low, high = float(vectors.min()), float(vectors.max())
    grey = (np.asarray(vectors, np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _widen(sheet: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    wide = np.empty((sheet.shape[0], width, 3), dtype=np.uint8)
    wide[:] = _FRAME
    wide[:, : sheet.shape[1]] = sheet
    return wide


def _plot(*points: NDArray[np.generic], size: int = 128) -> NDArray[np.uint8]:
    """Scatter of (x, y) pairs, the first pair bright."""
    picture = np.full((size, size, 3), 20, dtype=np.uint8)
    pairs = [(points[2], points[3], (90, 110, 160)), (points[0], points[1], (255, 220, 90))]
    for x, y, colour in pairs:
        flat_x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)[:, 0]
        flat_y = np.asarray(y, dtype=np.float64).reshape(len(y), -1)[:, 0]
        column = np.clip((flat_x + 5) / 10 * (size - 1), 0, size - 1).astype(int)
        row = np.clip((5 - flat_y) / 10 * (size - 1), 0, size - 1).astype(int)
        picture[row, column] = colour
    return picture
