"""Labelled instances of a source that somebody brings, known before they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.imported import Kind
from lazybench.data.splits import Split
from lazybench.errors import UsageError

MOST_SIZE = 1024
"""Longest edge, in pixels, that images may be resized to."""

GREY_MODES = ("1", "L", "LA")
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names of what has at most 8 bits a channel."""


class Read(NamedTuple):
    """Some instances.

    Attributes:
        x: `[n, *shape]`, prepared.
        hashes: 32 bytes over the source content of each.
    """

    x: NDArray[Any]
    hashes: list[bytes]


@dataclass(frozen=True)
class Rows:
    """A source of M labelled instances.

    Attributes:
        kind: `images` or `features`.
        labels: class of each instance.
        groups: super-category of each instance, or None.
        splits: split of each instance, or None where the source names none.
        split_by: what names the splits, for messages.
        shape: shape of one prepared instance.
        prep: what preparing does.
        what: a few words for the data set's `source`.
        read: gives instances by their numbers, int64 `[n]`.
        notes: what the user may want to know, a line each.
    """

    kind: Kind
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    splits: tuple[Split, ...] | None
    split_by: str
    shape: tuple[int, ...]
    prep: str
    what: str
    read: Callable[[NDArray[np.int64]], Read] = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """What is done to images.

    Attributes:
        size: edge that they are resized to, in pixels, or None to leave them.
        grey: whether colours are made grey.

    Choice: images are made grey first and then resized to a square by LANCZOS, whatever their
        aspect, as miniImageNet's are. Transparency is dropped and an EXIF orientation isn't
        applied, as in torchvision's `ImageFolder`.
    """

    size: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            UsageError: a size that no image can have.
        """
        if self.size is not None and not 1 <= self.size <= MOST_SIZE:
            raise UsageError(
                f"--size takes pixels in [1, {MOST_SIZE}], such as 28 or 84; got {self.size}"
            )

    @property
    def name(self) -> str:
        """Version of the preparation."""
        grey = "grey-" if self.grey else ""
        return f"{grey}as-is-1" if self.size is None else f"{grey}{self.size}-lanczos-1"

    def shape(self, channels: int, edges: tuple[int, int]) -> tuple[int, int, int]:
        """Shape `[channels, height, width]` of prepared images of such sources."""
        height, width = edges if self.size is None else (self.size, self.size)
        return (1 if self.grey else channels, height, width)

    def __call__(self, pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
        """Return a prepared image.

        Args:
            pixels: source image `[1 or 3, height, width]`.
            channels: channels of the result; grey ones are repeated where it has more.
        """
        kept = pixels.shape[1:] if self.size is None else (self.size, self.size)
        if kept != pixels.shape[1:] or (channels == 1) != (len(pixels) == 1):
            image = Image.fromarray(
                pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
            )
            image = image.convert("L" if channels == 1 else "RGB")
            if self.size is not None:
                image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
            pixels = channels_first(np.asarray(image))
        return pixels


def channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image `[H, W]` or `[H, W, C]` as `[C, H, W]`."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def stacked(pictures: list[tuple[NDArray[np.uint8], bytes]]) -> Read:
    """What was read of images, each with its hash."""
    return Read(np.stack([pixels for pixels, _ in pictures]), [digest for _, digest in pictures])
