"""CIFAR's pickled batches, from the folder or the archive that their authors give out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench.data.archives import read_members
from lazybench.data.pickles import as_text, load_pickle, text_keys
from lazybench.errors import DataUnavailable
from lazybench.files import open_file

SIDE = 32


class Batch(NamedTuple):
    """Images of one pickled file.

    Attributes:
        x: `[M, 3, 32, 32]` uint8.
        y: `[M]` int64, the class of each.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def find_cifar(
    root: Path, folder: str, beside: Sequence[str], files: Sequence[str], *, archive: str = ""
) -> list[Path]:
    """Return the files of an unpacked CIFAR, else its archive alone, else nothing.

    Args:
        root: data folder.
        folder: name of the folder that is unpacked from the archive.
        beside: folders below `root` that either may lie in; "" for `root`.
        files: what the folder must hold.
        archive: name of the archive, where it isn't the folder's with `.tar.gz`.
    """
    for place in beside:
        found = [root / place / folder / file for file in files]
        if all(path.is_file() for path in found):
            return found
        packed = root / place / (archive or f"{folder}.tar.gz")
        if packed.is_file():
            return [packed]
    return []


def read_cifar(found: Sequence[Path], folder: str, files: Sequence[str]) -> list[Any]:
    """Return what the pickled `files` hold, from what `find_cifar` found.

    Raises:
        DataUnavailable: the archive or a pickle is damaged or holds anything else than data.
    """
    if len(found) == 1 and len(files) > 1:
        names = [f"{folder}/{file}" for file in files]
        members = read_members(found[0], names)
        return [load_pickle(members[name], f"{name} in {found[0]}") for name in names]
    return [load_pickle(path) for path in found]


def batch(value: Any, where: str, labels: str) -> Batch:
    """Return the images of a batch as CIFAR's files hold them.

    Args:
        value: what the pickle held.
        where: what messages call it.
        labels: key of the classes (`fine_labels`).

    Raises:
        DataUnavailable: it has another form.
    """
    entries = text_keys(value, where, ("data", labels))
    x, told = entries["data"], entries[labels]
    # A list in a list may hold itself many times over: numpy would walk it for years.
    whole = isinstance(told, list) and all(isinstance(label, int) for label in told)
    if not isinstance(x, np.ndarray) or not (whole or isinstance(told, np.ndarray)):
        raise DataUnavailable(
            f"{where} holds data of {type(x).__name__} and {labels} of {type(told).__name__}, not "
            "an array and integers; fetch it again"
        )
    try:
        y = np.asarray(told, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataUnavailable(f"{where}: bad {labels} ({error}); fetch it again") from error
    if x.dtype != np.uint8 or x.shape != (len(y), 3 * SIDE * SIDE):
        raise DataUnavailable(
            f"{where} holds {x.dtype} {list(x.shape)} for {len(y)} labels, not uint8 "
            f"[{len(y)}, {3 * SIDE * SIDE}]; fetch it again"
        )
    return Batch(x.reshape(-1, 3, SIDE, SIDE), y)


def label_names(value: Any, where: str, key: str) -> list[str]:
    """Return the classes' names from the `meta` file, in the order of the labels.

    Raises:
        DataUnavailable: it has another form.
    """
    names = text_keys(value, where, (key,))[key]
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataUnavailable(f"{where} holds no list of names as {key}; fetch it again")
    return [as_text(name) for name in names]


def md5(path: Path) -> str:
    """Return the md5 sum of a file, which is what CIFAR's authors publish.

    Raises:
        DataUnavailable: it can't be read.
    """
    try:
        with open_file(path, None) as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise DataUnavailable(f"{path} can't be read ({error}); make it readable") from error
