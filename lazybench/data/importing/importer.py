"""Imports images or features, from files or from memory, as a data set of few-shot tasks."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazybench import gymnasium_ids
from lazybench.data.importing.arrays import is_split_folder, read_memory, read_npz
from lazybench.data.importing.catalogue import (
    FEATURES_NAME,
    NAME,
    ORIGIN,
    Meta,
    imported_root,
    is_name,
    lock_path,
)
from lazybench.data.importing.dataset import MapStyle, read_dataset
from lazybench.data.importing.folder import read_image_folder
from lazybench.data.importing.split import (
    ChosenParts,
    Preparation,
    Rows,
    choose_parts,
    choose_split,
)
from lazybench.data.importing.write import write_imported, write_parts
from lazybench.errors import DuplicateName, OutputUnavailable, StoreError, UnknownName, UsageError
from lazybench.files import FULL, remove_unfinished, replaced_folder
from lazybench.registry import AGENTS, DATA_ALIASES, DATASETS
from lazybench.runtime.locks import alone, why_closed
from lazybench.user_code import load

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


@dataclass(frozen=True)
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
        raise DuplicateName(f"{what}; add --replace or choose another --name")


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
