"""Arrays as numpy saves them, read from files of users: plain ones only, no pickle."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.data.archive import MOST_BYTES
from lazybench.errors import DataUnavailable
from lazybench.files import open_file

Arrays = dict[str, NDArray[Any]]

_TOLD = 200


def read_arrays(path: Path, *, single: bool = False, most_bytes: int = MOST_BYTES) -> Arrays:
    """Return the arrays of an `.npz` file by name; none of Python objects, which would run code.

    Args:
        path: the file.
        single: whether a `.npy` file is taken as well; its array is named by an empty string.
        most_bytes: how many bytes all arrays together may unpack to.

    Raises:
        DataUnavailable: it isn't there, is damaged, is too large, or is something else; the message
            is the reason alone, for callers to say what they wanted.
    """
    try:
        # Opened here: numpy leaves a file open that turns out to be no zip.
        with open_file(path, most_bytes) as handle:
            held = np.load(handle, allow_pickle=False)
            if not isinstance(held, np.ndarray):
                with held:
                    _check_size(held.zip, most_bytes)
                    _check_names(held.files)
                    return {name: _array(name, held[name]) for name in held.files}
    except DataUnavailable:
        raise
    # Whatever goes wrong inside numpy's reader comes of the file, which is parsed as Python in
    # part (headers): a list of errors was never complete.
    except Exception as error:
        known = isinstance(error, OSError) and error.strerror
        raise DataUnavailable(known or _short(error)) from error
    if not single:
        raise DataUnavailable("it holds a single array, as .npy files do")
    return {"": held}


def _array(name: str, value: Any) -> NDArray[Any]:
    # Numpy gives the bytes of what isn't one.
    if not isinstance(value, np.ndarray):
        raise DataUnavailable(f"'{name}' in it is no array")
    return value


def _check_size(file: zipfile.ZipFile, most_bytes: int) -> None:
    # What a member says is what zipfile stops at, so a bomb can't unpack to more.
    total = sum(member.file_size for member in file.infolist())
    if total > most_bytes:
        raise DataUnavailable(f"it unpacks to {total} bytes, at most {most_bytes} are allowed")


def _check_names(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataUnavailable(f"it holds '{twice[0][:_TOLD]}' more than once")


def _short(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _TOLD else f"{text[: _TOLD - 3]}..."
