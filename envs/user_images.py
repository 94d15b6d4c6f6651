"""Images of one's own with their labels, from a folder or an npz file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.archive import FolderTree
from lazybench.data.image_folder import FORMATS, MOST_PIXELS, SUFFIXES
from lazybench.data.plain_arrays import read_arrays
from lazybench.data.rows import GREY_MODES, MODES, channels_first
from lazybench.errors import DataUnavailable, UsageError

_CHANNELS = (1, 3)


class UserImages(NamedTuple):
    """Images in order, with names to find them again.

    Attributes:
        x: `[N, channels, height, width]`, uint8 or float32 in [0, 1].
        y: `[N]` int64 labels.
        names: file names, or positions in the npz file.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    names: tuple[str, ...]


def read_user_images(
    images: Path, labels: Path | None = None, limit: int | None = None
) -> UserImages:
    """Return the first images of a folder or npz file.

    A folder's images are taken in the order of their names. Without a file of labels, the folder
    that an image lies in names its class: classes are numbered in the order of their names, or are
    the numbers that the folders are called. An npz file has images `x` (`[N, C, H, W]`,
    `[N, H, W, C]` or `[N, H, W]`) and labels `y`.

    Args:
        images: folder or npz file.
        labels: file of labels, integers: lines or JSON `{name: label}`, lines `name,label`, one
            label a line in the order of the images, a JSON list, or `.npy`.
        limit: how many to read; None for all.

    Raises:
        UsageError: images of several sizes, or labels that don't fit them.
        DataUnavailable: something that can't be read.
    """
    given = None if labels is None else _read_labels(labels)
    if images.is_dir():
        found = _folder(images, given, labels, limit)
    else:
        found = _npz(images, given, labels, limit)
    if not len(found.x):
        raise UsageError(f"{images} holds no images; give a folder or npz file with some")
    if int(found.y.min()) < 0:
        raise UsageError(f"labels must be 0 or more, got {int(found.y.min())}")
    return found


def _npz(path: Path, given: Any, labels: Path | None, limit: int | None) -> UserImages:
    try:
        held = read_arrays(path)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"{path} can't be read as an npz file of arrays x and y: {error}"
        ) from error
    if "x" not in held or ("y" not in held and given is None):
        raise UsageError(f"{path} needs arrays x (images) and y (labels), or give --labels FILE")
    x = held["x"]
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise UsageError(
            f"x in {path} must be images [N, C, H, W], [N, H, W, C] or [N, H, W], got "
            f"{list(x.shape)}"
        )
    if x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    if x.dtype != np.uint8:
        if x.dtype.kind != "f" or (x.size and not 0 <= float(x.min()) <= float(x.max()) <= 1):
            raise UsageError(f"x in {path} must be uint8, or floats in [0, 1], got {x.dtype}")
        x = x.astype(np.float32)
    names = tuple(map(str, range(len(x))))
    y = _labelled(names, held["y"] if given is None else given, labels or path)
    kept = slice(limit)
    return UserImages(np.ascontiguousarray(x[kept]), y[kept], names[kept])


def _folder(path: Path, given: Any, labels: Path | None, limit: int | None) -> UserImages:
    tree = FolderTree(path)
    names = tuple(name for name in tree.names() if name.lower().endswith(SUFFIXES))
    y = _by_folder(path, names) if given is None else _labelled(names, given, labels or path)
    names, y = names[:limit], y[:limit]
    pictures = [_decoded(tree.read(name), path / name) for name in names]
    grey = all(picture.mode in GREY_MODES for picture in pictures)
    pixels = [
        channels_first(np.asarray(picture.convert("L" if grey else "RGB"))) for picture in pictures
    ]
    sizes = {each.shape: name for each, name in zip(pixels, names, strict=True)}
    if len(sizes) > 1:
        odd = [f"{name} {shape[1]}x{shape[2]}" for shape, name in list(sizes.items())[:2]]
        raise UsageError(f"images in {path} must have one size, got {' and '.join(odd)}")
    return UserImages(np.stack(pixels) if pixels else np.zeros((0, 1, 1, 1), np.uint8), y, names)


def _decoded(data: bytes, path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode not in MODES or image.width * image.height > MOST_PIXELS:
                raise UsageError(
                    f"{path} is {image.width}x{image.height} in Pillow's mode {image.mode}; "
                    f"allowed are 8 bits a channel and {MOST_PIXELS} pixels"
                )
            image.load()
            return image.copy()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, UsageError):
            raise
        raise DataUnavailable(
            f"{path} isn't an image that can be read ({error}); replace or remove it"
        ) from error


def _by_folder(path: Path, names: tuple[str, ...]) -> NDArray[np.int64]:
    flat = [name for name in names if "/" not in name]
    if flat:
        raise UsageError(
            f"{path / flat[0]} lies in no folder that names its class; lay images out as "
            "class/image, or give --labels FILE"
        )
    folders = [name.rpartition("/")[0] for name in names]
    classes = sorted(set(folders))
    numbers = {name: place for place, name in enumerate(classes)}
    if all(name.isdecimal() for name in classes):
        numbers = {name: int(name) for name in classes}
    return np.array([numbers[folder] for folder in folders], np.int64)


def _read_labels(path: Path) -> Any:
    """A mapping from names, or labels in order."""
    try:
        if path.suffix == ".npy":
            (found,) = read_arrays(path, single=True).values()
            return found
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    except (OSError, ValueError, RecursionError, csv.Error, DataUnavailable) as error:
        raise DataUnavailable(f"{path} can't be read as labels: {error}") from error
    if rows and not rows[0][-1].lstrip("-").isdecimal():
        # A head such as name,label.
        del rows[0]
    if any(len(row) != len(rows[0]) or len(row) > 2 for row in rows):
        raise UsageError(f"{path}: each line must be a label, or name,label")
    if rows and len(rows[0]) == 2:
        return {row[0]: row[1] for row in rows}
    return [row[0] for row in rows]


def _labelled(names: tuple[str, ...], given: Any, source: Path) -> NDArray[np.int64]:
    """Labels in the order of the images."""
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise UsageError(
                f"{source} has no label for {len(missing)} of {len(names)} images, such as "
                f"{missing[0]}"
            )
        given = [given[name] for name in names]
    try:
        told = np.asarray(given)
        y = told.astype(np.int64)
        whole = bool((y == told.astype(np.float64)).all())
    except (TypeError, ValueError):
        raise UsageError(f"{source}: labels must be integers") from None
    if y.shape != (len(names),) or not whole:
        raise UsageError(
            f"{source}: {len(names)} images need as many integers, got {told.dtype} "
            f"{list(told.shape)}"
        )
    return y
