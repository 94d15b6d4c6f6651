"""Reads data sets in memory: `(image, label)` items as torchvision has them, or Hugging Face's.

Both are known by their shape, so that neither library is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.fingerprint import instance_hash
from lazybench.data.importing.arrays import read_memory
from lazybench.data.importing.split import (
    GREY_MODES,
    MODES,
    Preparation,
    Read,
    Rows,
    channels_first,
    stacked,
)
from lazybench.errors import UsageError
from lazybench.plugins import contained, describe

_IMAGE, _LABEL = "image", "label"
_ITEM = "give items (image, label), or a datasets.Dataset with the features image and label"
_PIXELS = "give Pillow images, or arrays [H,W], [H,W,C] or [C,H,W] of uint8 or of floats in [0, 1]"
_LEVELS = 255
_ROUNDING = 1e-3


@runtime_checkable
class MapStyle(Protocol):
    """A data set whose items are read by their number."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def __getitem__(self, number: int, /) -> Any:
        """Item `number`."""
        ...


@runtime_checkable
class _Named(Protocol):
    """A data set that names its classes, as torchvision's do."""

    classes: Sequence[str]


@runtime_checkable
class _Featured(Protocol):
    """A data set that describes its columns, as Hugging Face's do."""

    features: Mapping[str, Any]


@runtime_checkable
class _ClassLabel(Protocol):
    """A column of labels whose numbers have names."""

    names: Sequence[str]


def read_dataset(dataset: MapStyle, preparation: Preparation) -> Rows:
    """The instances of a data set, which is read item by item: first for labels and sizes.

    Images are grey if all sources are, else RGB. A class is named as the data set names it, else by
    its number. Items that are vectors are features.

    Args:
        dataset: items `(image, label)`, or mappings with `image` and `label`. An image is a Pillow
            image, or an array or tensor of uint8, or of floats in [0, 1] as `ToTensor` gives it.
        preparation: preparation of the images.

    Raises:
        UsageError: items of another form, images of several sizes and none to resize them to, or
            transforms that change an image's size or give other numbers.
    """
    size = len(dataset)
    if not size:
        raise UsageError(f"the data set has no items; {_ITEM}")
    names = _names(dataset)
    first, _ = _item(dataset, 0)
    if not isinstance(first, Image.Image) and np.ndim(first) == 1:
        pairs = [_item(dataset, number) for number in range(size)]
        x = np.stack([np.asarray(vector) for vector, _ in pairs])
        labels = [_label(label, names, number) for number, (_, label) in enumerate(pairs)]
        return read_memory({"x": x, "y": labels}, preparation)
    shapes: list[tuple[int, ...]] = []
    found: list[str] = []
    for number in range(size):
        image, label = _item(dataset, number)
        shapes.append(_pixels(image, number).shape)
        found.append(_label(label, names, number))
    edges = Counter(shape[1:] for shape in shapes)
    if len(edges) > 1 and preparation.size is None:
        sizes = " and ".join(f"{w}x{h}" for (h, w), _ in edges.most_common(2))
        raise UsageError(
            f"images of the data set have {len(edges)} sizes, such as {sizes}; resize them all "
            "with size=, for example size=84"
        )
    height, width = shapes[0][1:]
    shape = preparation.shape(max(shape[0] for shape in shapes), (height, width))

    def read(numbers: NDArray[np.int64]) -> Read:
        pictures = []
        for number in map(int, numbers):
            pixels = _pixels(_item(dataset, number)[0], number)
            if pixels.shape != shapes[number]:
                raise UsageError(
                    f"item {number} of the data set had shape {list(shapes[number])} and now has "
                    f"{list(pixels.shape)}; import it without random transforms"
                )
            pictures.append((preparation(pixels, shape[0]), instance_hash(pixels)))
        return stacked(pictures)

    return Rows(
        kind="images",
        labels=tuple(found),
        groups=None,
        splits=None,
        split_by="",
        shape=shape,
        prep=preparation.name,
        what=f"a data set in memory ({type(dataset).__name__})",
        read=read,
    )


def _names(dataset: MapStyle) -> Sequence[str]:
    """The names of the classes by their numbers; empty where the data set has none."""
    if isinstance(dataset, _Featured):
        missing = [name for name in (_IMAGE, _LABEL) if name not in dataset.features]
        if missing:
            raise UsageError(
                f"the data set has no feature '{missing[0]}', its features are "
                f"{', '.join(dataset.features)}; use rename_column, or select one split first"
            )
        column = dataset.features[_LABEL]
        return list(column.names) if isinstance(column, _ClassLabel) else []
    return list(dataset.classes) if isinstance(dataset, _Named) else []


def _item(dataset: MapStyle, number: int) -> tuple[Any, Any]:
    """Image and label of an item."""
    try:
        with contained():
            item = dataset[number]
    except Exception as error:
        raise UsageError(
            f"item {number} of the data set can't be read: {describe(error)}"
        ) from error
    if isinstance(item, Mapping) and {_IMAGE, _LABEL} <= set(item):
        return item[_IMAGE], item[_LABEL]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise UsageError(f"item {number} of the data set is {type(item).__name__}; {_ITEM}")


def _label(label: Any, names: Sequence[str], number: int) -> str:
    value = np.asarray(label)
    if value.ndim or value.dtype.kind not in "iuU":
        raise UsageError(
            f"the label of item {number} must be a whole number or text, got {label!r}"
        )
    if value.dtype.kind == "U":
        return str(value)
    return str(names[int(value)]) if 0 <= int(value) < len(names) else str(int(value))


def _pixels(image: Any, number: int) -> NDArray[np.uint8]:
    """An image as uint8 `[1 or 3, height, width]`."""
    if isinstance(image, Image.Image):
        if image.mode not in MODES:
            raise UsageError(
                f"item {number} of the data set has Pillow's mode {image.mode}; allowed are 8 bits "
                "a channel"
            )
        return channels_first(np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB")))
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        levels = pixels * _LEVELS
        # Comparisons with NaN are False.
        if not (np.abs(levels - np.clip(levels.round(), 0, _LEVELS)) <= _ROUNDING).all():
            raise UsageError(
                f"item {number} of the data set holds floats that aren't k / 255, k from 0 to 255; "
                "import it without transforms that change pixels, such as Normalize"
            )
        pixels = levels.round().astype(np.uint8)
    if pixels.dtype == np.uint8 and 0 not in pixels.shape:
        if pixels.ndim == 2:
            return pixels[None]
        # As in arrays, channels come last where both layouts are possible.
        if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
            return pixels.transpose(2, 0, 1)
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
            return pixels
    raise UsageError(
        f"the image of item {number} is {pixels.dtype} {list(pixels.shape)}; {_PIXELS}"
    )
