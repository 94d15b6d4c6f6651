"""Imports images or features, from files or from memory, as a data set of few-shot tasks.

Data sets in memory have `(image, label)` items as torchvision has them, or Hugging Face's. Both are
known by their shape, so that neither library is imported.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench import gymnasium_ids
from lazybench.data.fingerprint import instance_hash
from lazybench.data.importing.arrays import as_array, is_split_folder, read_memory, read_npz
from lazybench.data.importing.catalogue import (
    FEATURES_NAME,
    NAME,
    ORIGIN,
    Meta,
    imported_root,
    is_name,
    lock_path,
)
from lazybench.data.importing.folder import read_image_folder
from lazybench.data.importing.split import (
    GREY_MODES,
    MODES,
    ChosenParts,
    Preparation,
    Read,
    Rows,
    channels_first,
    choose_parts,
    choose_split,
    stacked,
)
from lazybench.data.importing.storage import write_imported, write_parts
from lazybench.errors import DuplicateName, OutputUnavailable, StoreError, UnknownName, UsageError
from lazybench.files import FULL, remove_unfinished, replaced_folder
from lazybench.plugins import contained, describe
from lazybench.registry import AGENTS, DATA_ALIASES, DATASETS
from lazybench.runtime.locks import alone, why_closed
from lazybench.user_code import load

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
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if twice:
        raise UsageError(
            f"the data set has several classes of the name '{twice[0]}'; give each its own name"
        )
    first, _ = _item(dataset, 0)
    if not isinstance(first, Image.Image) and as_array(first, "item 0").ndim == 1:
        pairs = [_item(dataset, number) for number in range(size)]
        vectors = [as_array(vector, f"item {n}") for n, (vector, _) in enumerate(pairs)]
        if len({vector.shape for vector in vectors}) > 1:
            several = " and ".join(sorted({str(list(vector.shape)) for vector in vectors})[:2])
            raise UsageError(f"features of the data set must have one shape, got {several}")
        x = np.stack(vectors)
        labels = [_label(label, names, number) for number, (_, label) in enumerate(pairs)]
        return read_memory({"x": x, "y": labels}, preparation)
    shapes: list[tuple[int, ...]] = []
    classes: list[str] = []
    for number in range(size):
        image, label = _item(dataset, number)
        shapes.append(_pixels(image, number).shape)
        classes.append(_label(label, names, number))
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
        labels=tuple(classes),
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
    value = as_array(label, f"the label of item {number}")
    if value.ndim or value.dtype.kind not in "iuU":
        raise UsageError(
            f"the label of item {number} must be a whole number or text, got {label!r}"
        )
    if value.dtype.kind == "U":
        return str(value)
    if names and not 0 <= int(value) < len(names):
        raise UsageError(
            f"the label of item {number} must lie in [0, {len(names) - 1}], as the data set names "
            f"{len(names)} classes, got {int(value)}; leave items without a label out"
        )
    return str(names[int(value)]) if names else str(int(value))


def _pixels(image: Any, number: int) -> NDArray[np.uint8]:
    """An image as uint8 `[1 or 3, height, width]`."""
    if isinstance(image, Image.Image):
        if image.mode not in MODES:
            raise UsageError(
                f"item {number} of the data set has Pillow's mode {image.mode}; allowed are 8 bits "
                "a channel"
            )
        return channels_first(np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB")))
    pixels = as_array(image, f"item {number} of the data set")
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


LONGEST_NAME = 40
LONGEST_FEATURES_NAME = 80
_RESERVED = re.compile(
    r".*-(\d+way|\d+shot|noniid|fewshot|lt(-\d+|-natural)?)|.*-(un)?targeted(-label)?"
)


@dataclass(frozen=True)
class ImportRequest:
    """A request to import data.

    Attributes:
        source: an image folder, an `.npz` file, a folder of train.npz, val.npz and test.npz, a data
            set of items (image, label), or arrays by name: x, y, group and split as in an `.npz`.
        name: id of the data set, as in environment ids.
        split_file: JSON file that lists the classes of each split.
        split_seed: seed of a random split, which replaces the source's own; if neither a seed nor
            a file is given and the source has no split, 0.
        fractions: fractions of the classes in a random split; None for 64/16/20.
        size: side of the resized images in pixels; None keeps their size.
        grey: whether to convert images to greyscale.
        standardise: whether to scale each feature to mean 0 and deviation 1 over train.
        skip_small: whether to leave out classes with too few instances, instead of refusing them.
        licence: licence of the data.
        replace: whether to replace data imported earlier under this name.
    """

    source: Path | MapStyle | Mapping[str, Any]
    name: str
    split_file: Path | None = None
    split_seed: int | None = None
    fractions: tuple[float, ...] | None = None
    size: int | None = None
    grey: bool = False
    standardise: bool = False
    skip_small: bool = False
    licence: str = ""
    replace: bool = False


@dataclass(frozen=True, repr=False)
class Imported:
    """A data set that was imported.

    Attributes:
        meta: its description.
        folder: its folder.
        notes: lines for the user.
    """

    meta: Meta
    folder: Path
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """The name, content and folder, and the notes, a line each."""
        what = self.meta.about.removeprefix("imported: ")
        first = f"{self.meta.name}: {what}; {self.meta.source}"
        return "\n".join([first, str(self.folder), *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__


def import_data(request: ImportRequest) -> Imported:
    """Import `request.source` as a data set, stored below the data folder and registered.

    Images whose train and test have the same classes become the parts of long-tailed streams; all
    else is split by class for few-shot tasks. Instances are sorted by content inside their class,
    and classes by name, so the trials don't depend on packaging.

    Raises:
        UsageError: a name, option, layout or value that isn't allowed.
        DuplicateName: the name is taken.
        DataUnavailable: a source can't be read.
        OutputUnavailable: the data folder can't be written.
        StoreError: its disk is full.
    """
    check_name(request.name)
    folder = imported_root() / request.name
    check_free(folder, request.replace)
    rows = _open(request)
    given = (request.split_file, request.split_seed, request.fractions) == (None, None, None)
    parts = choose_parts(rows, skip_small=request.skip_small) if given else None
    chosen = parts or choose_split(
        rows,
        request.name,
        listed=request.split_file,
        seed=request.split_seed,
        fractions=request.fractions,
        skip_small=request.skip_small,
    )
    with writing(folder), alone_on(folder):
        check_free(folder, request.replace)
        with replaced_folder(folder) as place:
            if isinstance(chosen, ChosenParts):
                meta, notes = write_parts(
                    place, request.name, rows, chosen, licence=request.licence
                )
            else:
                meta, notes = write_imported(
                    place,
                    request.name,
                    rows,
                    chosen,
                    licence=request.licence,
                    standardise=request.standardise,
                )
    if "gymnasium" in sys.modules:
        gymnasium_ids.register_all()
    return Imported(meta, folder, (*rows.notes, *chosen.notes, *notes))


def imported_folder(name: str) -> Path:
    """Folder of the data imported as `name`, damaged or not.

    Raises:
        UnknownName: no data was imported under this name.
    """
    folder = imported_root() / name
    if not is_name(name) or not folder.is_dir():
        raise UnknownName(f"nothing is imported as '{name}'; see: lazybench data list")
    return folder


def forget(name: str) -> None:
    """Remove an imported data set.

    Raises:
        UnknownName: no data was imported under this name.
        OutputUnavailable: its folder can't be removed.
    """
    folder = imported_folder(name)
    try:
        with alone_on(folder):
            # A data set behind a link belongs to the user: remove only the link.
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
            remove_unfinished(folder)
            shutil.rmtree(unfinished_path(folder), ignore_errors=True)
    except OSError as error:
        raise OutputUnavailable(
            f"{folder} can't be removed ({error.strerror or error}); make it writable"
        ) from error


def check_name(name: str, of: str = "") -> None:
    """Check that a data set may be imported, or features of `of` be embedded, under `name`.

    Raises:
        UsageError: a name that can't be part of environment ids.
        DuplicateName: it names other data, an alias or an agent.
    """
    if of:
        longest, form = LONGEST_FEATURES_NAME, f"{of}@, then a-z, 0-9 and single dashes"
        fits = bool(FEATURES_NAME.fullmatch(name)) and name.partition("@")[0] == of
    else:
        longest, form = LONGEST_NAME, "a-z, 0-9 and single dashes, first a letter"
        fits = bool(NAME.fullmatch(name))
    if not fits or len(name) > longest or _RESERVED.fullmatch(name):
        raise UsageError(
            f"--name takes at most {longest} of {form}, and no end that environment ids read, such "
            f"as -5way or -noniid; got {name!r}"
        )
    taken = {spec.id: "an agent" for spec in AGENTS.specs()}
    taken |= {alias: "an alias of other data" for alias in load(DATA_ALIASES)}
    taken |= {
        spec.id: f"a data set of {spec.origin}"
        for spec in DATASETS.specs()
        if spec.origin != ORIGIN
    }
    if name in taken:
        raise DuplicateName(f"'{name}' is {taken[name]} already; choose another --name")


def check_free(folder: Path, replace: bool, what: str = "") -> None:
    """Check whether a data set may be written to a folder.

    Raises:
        DuplicateName: it is there already, and isn't to be replaced.
    """
    if folder.exists() and not replace:
        what = what or f"'{folder.name}' is imported already, in {folder}"
        raise DuplicateName(
            f"{what}; add --replace (replace=True in Python), or choose another name"
        )


def unfinished_path(folder: Path) -> Path:
    """Return the folder of an embedding that isn't finished, which no listing shows."""
    return folder.with_name(f".{folder.name}.unfinished")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in a block why a data set can't be written.

    Raises:
        OutputUnavailable: its folder can't be written.
        StoreError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        kind = StoreError if error.errno in FULL else OutputUnavailable
        raise kind(
            f"{folder} can't be written ({error.strerror or error}); free some space, or set "
            "LAZYBENCH_DATA to another folder"
        ) from error


@contextmanager
def alone_on(folder: Path) -> Iterator[None]:
    """Hold the lock of an imported data set; two importers of one name take turns."""

    def closed(error: Exception) -> str:
        return (
            f"{folder.parent} can't be written or locked ({why_closed(error)}); set LAZYBENCH_DATA "
            "to another folder"
        )

    with alone(lock_path(folder), "", closed, -1):
        yield


def _open(request: ImportRequest) -> Rows:
    preparation = Preparation(request.size, request.grey)
    if isinstance(request.source, Path):
        rows = _open_path(request.source, preparation, skip_empty=request.skip_small)
    elif isinstance(request.source, Mapping):
        rows = read_memory(request.source, preparation)
    else:
        rows = read_dataset(request.source, preparation)
    if request.standardise and rows.kind == "images":
        raise UsageError(f"--standardise goes with features; this is {rows.what}, leave it out")
    return rows


def _open_path(path: Path, preparation: Preparation, *, skip_empty: bool) -> Rows:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} can't be opened ({error}); check the path") from error
    if not exists:
        raise UsageError(f"no such file or folder: {path}; give an image folder or an .npz file")
    if not is_folder and path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is neither a folder nor an .npz file; give one of these")
    if is_folder and not is_split_folder(path):
        return read_image_folder(path, preparation, skip_empty=skip_empty)
    return read_npz(path, preparation)
