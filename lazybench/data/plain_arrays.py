"""Arrays as numpy saves them, read from files of users: plain ones only, no pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.errors import DataUnavailable

Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path, *, single: bool = False) -> Arrays:
    """Return the arrays of an `.npz` file by name; none of Python objects, which would run code.

    Args:
        path: the file.
        single: whether a `.npy` file is taken as well; its array is named by an empty string.

    Raises:
        DataUnavailable: it isn't there, is damaged, or is something else; the message is the
            reason alone, for callers to say what they wanted.
    """
    try:
        # Opened here: numpy leaves a file open that turns out to be no zip.
        with path.open("rb") as handle:
            held = np.load(handle, allow_pickle=False)
            if not isinstance(held, np.ndarray):
                return {name: held[name] for name in held.files}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        MemoryError,
        NotImplementedError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        known = isinstance(error, OSError) and error.strerror
        raise DataUnavailable(known or f"{type(error).__name__}: {error}") from error
    if not single:
        raise DataUnavailable("it holds a single array, as .npy files do")
    return {"": held}
