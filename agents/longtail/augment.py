"""Augmentation of training images (reflection padding, crops, mirroring), and shrinking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.net import scaled
from lazybench.seeding import Rng


def augmented(x: Tensor, rng: Rng, *, pad: int = 4, flip: bool = True) -> Tensor:
    """Return images padded by reflection and cropped back at random, half of them mirrored.

    All rows at once, by one gather each of rows and columns. What is drawn depends on `rng` and the
    number of images alone, not on the device.

    Args:
        x: images `[n, channels, h, w]`, of any dtype.
        rng: gives each image's shift and side.
        pad: pixels on each side, less than the images have.
        flip: whether to mirror.
    """
    count, height, width = len(x), x.shape[2], x.shape[3]
    if not count or not (pad or flip):
        return x
    generator = rng.torch()
    shift = torch.randint(2 * pad + 1, (2, count, 1), generator=generator) - pad
    down, across = _reflected(height, shift[0]), _reflected(width, shift[1])
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        across = torch.where(mirrored, across.flip(1), across)
    rows = torch.arange(count)[:, None] * height + down
    pixels = (rows[:, :, None] * width + across[:, None, :]).flatten().to(x.device)
    # Channels last while they are picked: each pick then takes whole pixels.
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return flat.index_select(0, pixels).view(count, height, width, -1).permute(0, 3, 1, 2)


def shrunk(x: Tensor, side: int) -> Tensor:
    """Return images averaged down to `side` pixels, in [0, 1] if they were uint8.

    0, or images that are no larger, leaves them as they are.
    """
    height, width = x.shape[2:]
    if not side or (height <= side and width <= side):
        return x
    if height % side or width % side:
        return F.adaptive_avg_pool2d(scaled(x), (side, side))
    # Slices added up, channels last: four times as fast as pooling here.
    high, wide, channels = height // side, width // side, x.shape[1]
    cells = x.permute(0, 2, 3, 1).reshape(len(x), side, high, width * channels)
    cells = cells.to(torch.float32) if x.dtype == torch.uint8 else cells
    strips = _added(cells.unbind(2)).view(len(x), side, side, wide, channels)
    whole = high * wide * (255 if x.dtype == torch.uint8 else 1)
    return (_added(strips.unbind(3)) / whole).permute(0, 3, 1, 2)


def _added(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _reflected(size: int, shift: Tensor) -> Tensor:
    """Source position of each pixel, `[n, size]`: 0 to size - 1 moved, reflected at both ends."""
    at = torch.arange(size)[None] + shift
    last = size - 1
    return last - (last - at.abs()).abs()
