"""Training images made anew: padded by reflection, cropped back, mirrored; and made smaller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.net import scaled
from lazybench.rng import Rng


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
    x = scaled(x)
    if height % side == 0 and width % side == 0:
        return F.avg_pool2d(x, (height // side, width // side))
    return F.adaptive_avg_pool2d(x, (side, side))


def _reflected(size: int, shift: Tensor) -> Tensor:
    """Where each pixel comes from, `[n, size]`: 0 to size - 1 moved, reflected at both ends."""
    at = torch.arange(size)[None] + shift
    last = size - 1
    return last - (last - at.abs()).abs()
