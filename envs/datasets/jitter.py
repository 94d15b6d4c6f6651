"""Random affine and elastic deformations of small bitmaps, the same on every machine.

Everything is drawn from counter-based keys and computed in float64 numpy, then rounded to uint8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.errors import UsageError, nearest

Jitter = Literal["medium", "hard"]

JITTER_VERSION = "jitter1"
SIDE_PX = 28
FROZEN_BOX_PX = 20

_GRID = 5
_NODES = np.arange(2 * _GRID**2).reshape(2, _GRID, _GRID)


@dataclass(frozen=True)
class Strength:
    """How far one instance may stray from its frozen bitmap; every range is symmetric about 0.

    Attributes:
        name: id of the data set that uses it.
        rotation_deg: largest rotation.
        log_scale: largest logarithm of the scale, drawn for each axis.
        shear: largest shear.
        shift_px: largest shift, for each axis.
        elastic_px: standard deviation of the displacement at the nodes of a 5x5 grid.
        stroke: largest share of a 3x3 dilation (or erosion) that is blended in.
        box_px: longest side of the unjittered glyph; the frozen one has 20.
    """

    name: str
    rotation_deg: float
    log_scale: float
    shear: float
    shift_px: float
    elastic_px: float
    stroke: float
    box_px: int


STRENGTHS: Mapping[str, Strength] = {
    "medium": Strength("glyphs", 15, 0.15, 0.15, 2.5, 1.0, 0.0, 20),
    "hard": Strength("glyphshard", 20, 0.20, 0.25, 3.0, 1.75, 0.5, 18),
}


def strength_of(jitter: str) -> Strength:
    """Return the ranges of a jitter.

    Raises:
        UsageError: an unknown jitter.
    """
    if jitter not in STRENGTHS:
        raise UsageError(
            f"glyphs: got jitter '{jitter}'; allowed are {', '.join(STRENGTHS)}."
            f"{nearest(jitter, STRENGTHS)}"
        )
    return STRENGTHS[jitter]


def deform(
    bitmaps: NDArray[np.uint8], keys: NDArray[np.uint64], strength: Strength
) -> NDArray[np.uint8]:
    """Return each bitmap under the deformation that its key draws, `[N, 28, 28]` uint8.

    Only additions, multiplications and gathers touch the pixels, all in float64 and in a fixed
    order: no matrix product, whose order of summation is the library's own business.

    Args:
        bitmaps: `[N, 28, 28]` uint8.
        keys: `[N]` uint64.
        strength: ranges to draw from.
    """
    drawn = 2.0 * seeding.uniform(seeding.mix(keys[:, None], np.arange(7))) - 1.0
    angle = drawn[:, 0] * (strength.rotation_deg * np.pi / 180)
    zoom = FROZEN_BOX_PX / strength.box_px
    wide = zoom * np.exp(drawn[:, 1] * strength.log_scale)
    high = zoom * np.exp(drawn[:, 2] * strength.log_scale)
    shear = drawn[:, 3] * strength.shear
    shift_x, shift_y = drawn[:, 4] * strength.shift_px, drawn[:, 5] * strength.shift_px
    cosine, sine = np.cos(angle), np.sin(angle)
    nodes = seeding.mix(keys[:, None, None, None], "elastic", _NODES)
    waves = _upsample(seeding.normal(nodes) * strength.elastic_px)
    centre = (SIDE_PX - 1) / 2
    along = np.arange(SIDE_PX) - centre
    x, y = along[None, None, :], along[None, :, None]

    def plane(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(a[:, None, None] * x + (b[:, None, None] * y + c[:, None, None]))

    source_x = plane(cosine * wide, shear - sine * high, shift_x + centre)
    source_y = plane(sine * wide, cosine * high, shift_y + centre)
    source_x += waves[:, 0]
    source_y += waves[:, 1]
    images = _sample(bitmaps, source_x, source_y)
    if strength.stroke:
        images = _reweigh(images, drawn[:, 6] * strength.stroke)
    return np.rint(images).astype(np.uint8)


def _cubic() -> NDArray[np.float64]:
    """Return the weights `[5, 28]` of each grid node at each pixel: Keys' cubic, nodes at the ends.

    Beyond the ends the outermost node repeats, so that the weights of a pixel sum to 1.

    Reference: Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    place = np.arange(SIDE_PX) * ((_GRID - 1) / (SIDE_PX - 1))
    first = np.minimum(place.astype(np.int64), _GRID - 2)
    weights = np.zeros((_GRID, SIDE_PX))
    for offset in (-1, 0, 1, 2):
        away = np.abs(place - (first + offset))
        near = (1.5 * away - 2.5) * away * away + 1.0
        far = ((2.5 - 0.5 * away) * away - 4.0) * away + 2.0
        node = np.clip(first + offset, 0, _GRID - 1)
        weights[node, np.arange(SIDE_PX)] += np.where(away <= 1, near, far)
    return weights


_WEIGHTS = _cubic()


def _upsample(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the displacement of every pixel, `[N, 2, 28, 28]`, from its nodes `[N, 2, 5, 5]`."""
    across = np.zeros((*nodes.shape[:-1], SIDE_PX))
    for node in range(_GRID):
        across += nodes[..., node, None] * _WEIGHTS[node]
    field = np.zeros((*nodes.shape[:2], SIDE_PX, SIDE_PX))
    for node in range(_GRID):
        field += across[..., node, None, :] * _WEIGHTS[node][:, None]
    return field


def _sample(
    bitmaps: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `bitmaps` `[N, 28, 28]` read bilinearly at columns x and rows y; zero outside."""
    padded_px = SIDE_PX + 2
    padded = np.zeros((len(bitmaps), padded_px, padded_px))
    padded[:, 1:-1, 1:-1] = bitmaps
    table = padded.reshape(-1)
    x = np.clip(x + 1.0, 0.0, SIDE_PX + 1.0)
    y = np.clip(y + 1.0, 0.0, SIDE_PX + 1.0)
    column = np.minimum(x.astype(np.int64), SIDE_PX)
    row = np.minimum(y.astype(np.int64), SIDE_PX)
    x -= column
    y -= row
    corner = row * padded_px + column
    corner += (np.arange(len(bitmaps)) * padded_px**2)[:, None, None]

    def blend(offset: int) -> NDArray[np.float64]:
        left = table.take(corner + offset)
        right = table.take(corner + (offset + 1))
        right -= left
        right *= x
        right += left
        return right

    top, bottom = blend(0), blend(padded_px)
    bottom -= top
    bottom *= y
    bottom += top
    return bottom


def _reweigh(images: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return images with bolder strokes (share > 0, towards the 3x3 maximum) or finer ones."""
    # Padding by the edge's own value leaves the outside out of the maximum and of the minimum.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    sign = np.where(share < 0, -1.0, 1.0)[:, None, None]
    padded *= sign
    rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    grown = np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    grown *= sign
    grown -= images
    grown *= np.abs(share)[:, None, None]
    grown += images
    return grown
