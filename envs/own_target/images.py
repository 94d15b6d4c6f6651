"""A user's own images and labels, read from a folder or an npz file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lazybench.data.importing.arrays import read_arrays
from lazybench.data.importing.folder import ImageFolder, list_images
from lazybench.data.splits import SPLITS
from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import read_text, unique

MOST_LABEL = (1 << 31) - 1

_CHANNELS = (1, 3)
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


class UserImages(NamedTuple):
    """Images in order, with their names.

    Attributes:
        x: `[N, channels, height, width]`, uint8 or float32 in [0, 1].
        y: `[N]` int64 labels.
        names: file names, or positions in the npz file.
        notes: images that were left out and other warnings, a line each.
        classes: names of the folders that were numbered in their order; empty if labels are given.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def read_user_images(
    images: Path,
    labels: Path | None = None,
    limit: int | None = None,
    size: int | None = None,
) -> UserImages:
    """Return the images of a folder or npz file, in the order of their names.

    Without a file of labels, an image's folder names its class: classes are numbered
    in the order of their names, or are the numbers that the folders are called. An npz file has
    images `x` (`[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]`) and labels `y`.

    Args:
        images: folder or npz file.
        labels: file of labels, integers: lines or JSON `{name: label}`, lines `name,label`, one
            label a line in the order of the images, a JSON list, or `.npy`.
        limit: how many to read, drawn evenly over the classes; None for all.
        size: edge in pixels that all are resized to, as float32 in [0, 1]; None leaves them as they
            are, of one size. `Choice:` bilinear with antialiasing, the whole image: its shape
            changes where it isn't square.

    Raises:
        UsageError: images of several sizes and no `size`, labels that don't fit them, or a class
            folder without images.
        DataUnavailable: something that can't be read.
    """
    if not images.exists():
        raise DataUnavailable(
            f"no such file or folder: {images}; give a folder class/image or an npz file with "
            "images x and labels y"
        )
    given = None if labels is None else _read_labels(labels)
    if images.is_dir():
        found = _folder(images, given, labels, limit, size)
    else:
        found = _npz(images, given, labels, limit)
    if not len(found.x):
        raise UsageError(f"{images} holds no images; give a folder or npz file with some")
    if not found.x[0].size:
        raise UsageError(f"images in {images} have no pixels, got shape {list(found.x.shape)}")
    if size is not None and not images.is_dir():
        found = found._replace(x=_resized(found.x, size))
    return found


def _resized(x: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Images `[..., C, H, W]`, uint8 or in [0, 1], as `size` x `size` pixels in [0, 1]."""
    scale = np.float32(255 if x.dtype == np.uint8 else 1)
    flat = torch.from_numpy((x / scale).astype(np.float32)).reshape(-1, *x.shape[-3:])
    whole = F.interpolate(flat, (size, size), mode="bilinear", antialias=True, align_corners=False)
    found: NDArray[np.float32] = whole.clamp_(0, 1).numpy()
    return found.reshape(*x.shape[:-2], size, size)


def drawn(y: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return the places of at most `limit` images, ascending, drawn evenly over the classes.

    No class has two more than another one that has images left. The draw is always the same one.

    Args:
        y: `[N]` labels.
        limit: how many; None for all.
    """
    if limit is None or limit >= len(y):
        return np.arange(len(y))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    classes, index = np.unique(y[order], return_inverse=True)
    index = rng.permutation(len(classes))[index]
    # The how-manieth of its class an image is: first all first ones are taken, then all second.
    by_class = np.argsort(index, kind="stable")
    sizes = np.bincount(index)
    rank = np.empty(len(y), np.int64)
    rank[by_class] = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[np.lexsort((index, rank))[:limit]])


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
    if x.shape[1] not in _CHANNELS and x.shape[3] < min(x.shape[1:3]):
        raise UsageError(
            f"x in {path} has shape {list(x.shape)}, which is [N, H, W, C] with {x.shape[3]} "
            "channels, or [N, C, H, W] of an odd kind; give images [N, C, H, W], channels first"
        )
    if x.dtype != np.uint8:
        if x.dtype.kind != "f" or (x.size and not 0 <= float(x.min()) <= float(x.max()) <= 1):
            raise UsageError(f"x in {path} must be uint8, or floats in [0, 1], got {x.dtype}")
        x = x.astype(np.float32)
    notes: tuple[str, ...] = ()
    if x.size and x.dtype == np.uint8 and x.max() <= 1:
        notes = (f"x in {path} is uint8 and at most 1, of 255: all images are next to black",)
    names = tuple(map(str, range(len(x))))
    y, more = _labelled(names, held["y"] if given is None else given, labels or path)
    at = drawn(y, limit)
    return UserImages(
        np.ascontiguousarray(x[at]), y[at], tuple(names[place] for place in at), notes + more
    )


def _folder(
    path: Path, given: Any, labels: Path | None, limit: int | None, size: int | None
) -> UserImages:
    folder = list_images(path)
    classes: tuple[str, ...] = ()
    notes = folder.notes
    if given is None:
        y, classes = _by_folder(folder)
    else:
        y, more = _labelled(folder.names, given, labels or path)
        notes += more
    at = drawn(y, limit)
    names = tuple(folder.names[place] for place in at)
    resize = None if size is None else lambda pixels: _resized(pixels, size)
    x, more = folder.pixels(names, resize)
    return UserImages(x, y[at], names, notes + more, classes)


def _by_folder(folder: ImageFolder) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Label of each image by its folder, and the folders that were numbered by their order."""
    flat = [name for name in folder.names if "/" not in name]
    if flat:
        raise UsageError(
            f"{folder.path / flat[0]} isn't in a folder that names its class; arrange images as "
            "class/image, or give --labels FILE"
        )
    folder.check_classes()
    folders = folder.classes()
    tops = {name.partition("/")[0] for name in folders}
    if (tops <= set(SPLITS) or tops >= {"train", "test"}) and any("/" in each for each in folders):
        below = next(name for name in reversed(SPLITS) if name in tops)
        raise UsageError(
            f"{folder.path} holds images below {', '.join(sorted(tops))}, whose folders would each "
            f"be a class of its own; give one of them: --images {folder.path / below}"
        )
    classes = sorted(set(folders))
    numbered = [name for name in classes if name.isdecimal()]
    if not numbered:
        places = {name: place for place, name in enumerate(classes)}
        return np.array([places[name] for name in folders], np.int64), tuple(classes)
    if len(numbered) < len(classes):
        other = next(name for name in classes if not name.isdecimal())
        raise UsageError(
            f"{folder.path} has folders called by numbers, such as {numbered[0]}, and others, such "
            f"as {other}, so their classes are ambiguous; rename them, or give --labels FILE"
        )
    numbers = {name: _label(name, str(folder.path / name)) for name in classes}
    for one, number in numbers.items():
        if twice := [name for name in classes if name != one and numbers[name] == number]:
            raise UsageError(
                f"{folder.path / one} and {folder.path / twice[0]} both name class {number}; "
                "put their images into one folder"
            )
    return np.array([numbers[name] for name in folders], np.int64), ()


def _read_labels(path: Path) -> Any:
    """A mapping from names, or labels in order; of text, the cells of its lines.

    Raises:
        UsageError: a name is given twice.
        DataUnavailable: it can't be read.
    """
    try:
        if path.suffix.lower() == ".npy":
            (found,) = read_arrays(path, single=True).values()
            return found
        text = read_text(path)
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=unique)
        comma = next((sign for sign in ",;\t" if sign in text), ",")
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=comma)
        rows = [[cell.strip() for cell in row] for row in lines]
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (ValueError, RecursionError, csv.Error, DataUnavailable) as error:
        raise DataUnavailable(f"{path} can't be read as labels: {error}") from error
    return _Lines([row for row in rows if any(row)])


class _Lines(list[list[str]]):
    """The cells of the lines of a file of labels."""


def _of_lines(rows: _Lines, names: Sequence[str], source: Path) -> Any:
    """A mapping from names, or labels in order, without a first line that names the columns.

    The first line is a heading where its label is no number, it names none of the images, and all
    other lines have numbers; else it is data.

    Raises:
        UsageError: lines of another form, or a name that is given twice.
    """
    if any(len(row) != len(rows[0]) or len(row) > 2 for row in rows):
        raise UsageError(f"{source}: each line must be a label, or name,label")
    if rows and _is_heading(rows, names):
        rows = _Lines(rows[1:])
    if rows and len(rows[0]) == 2:
        try:
            return unique([(name, label) for name, label in rows])
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from error
    return [row[0] for row in rows]


def _is_heading(rows: _Lines, names: Sequence[str]) -> bool:
    first, *rest = rows
    if _WHOLE.fullmatch(first[-1]) or (len(first) == 2 and first[0] in names):
        return False
    if len(first) == 1 and len(rows) == len(names):
        return False
    return all(_WHOLE.fullmatch(row[-1]) for row in rest)


def _labelled(
    names: Sequence[str], given: Any, source: Path
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels in the order of the images, and notes."""
    if isinstance(given, _Lines):
        given = _of_lines(given, names, source)
    notes: tuple[str, ...] = ()
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise UsageError(
                f"{source} has no label for {len(missing)} of {len(names)} images, such as "
                f"{missing[0]}"
            )
        known = set(names)
        if spare := [name for name in given if name not in known]:
            notes = (f"{source} has {len(spare)} labels of no image here, such as {spare[0]}",)
        given = [given[name] for name in names]
    if isinstance(given, np.ndarray):
        if given.shape != (len(names),) or given.dtype.kind not in "iufU":
            raise UsageError(
                f"{source}: {len(names)} images need as many integers, got {given.dtype} "
                f"{list(given.shape)}"
            )
        given = given.tolist()
    if not isinstance(given, list):
        raise UsageError(f"{source}: labels must be integers, in a list or by the names of images")
    y = np.array([_label(label, str(source)) for label in given], np.int64)
    if len(y) != len(names):
        raise UsageError(f"{source}: {len(names)} images need as many integers, got {len(y)}")
    return y, notes


def _label(value: Any, source: str) -> int:
    """A label as it is written: 3, "3", 3.0 or "3.0".

    Raises:
        UsageError: it is no integer in [0, 2^31).
    """
    whole: int | None = None
    if isinstance(value, str):
        found = value.strip()
        if _WHOLE.fullmatch(found) or found.isdecimal():
            digits = found.lstrip("+-").partition(".")[0].lstrip("0") or "0"
            # Not all of them: Python refuses to read thousands.
            whole = int(digits[:16]) * (-1 if found.startswith("-") else 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        whole = value
    elif isinstance(value, float) and value.is_integer():
        whole = int(value)
    if whole is None:
        raise UsageError(
            f"{source}: labels must be integers, the places of the classes in the target's "
            f"answers, got {value!r:.40}; number the names, or arrange images as class/image"
        )
    if whole < 0:
        raise UsageError(f"{source}: labels must be 0 or more, got {whole}"[:300])
    if whole > MOST_LABEL:
        raise UsageError(f"{source}: labels must be at most {MOST_LABEL}, got {str(whole)[:20]}")
    return whole
