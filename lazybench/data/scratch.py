"""Room for arrays under construction that may be larger than memory."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import cache_root


def scratch(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return an array of zeros on disk, in a nameless file that goes away with it.

    It lies in the cache folder, where what is built in it is kept; in memory where that folder
    can't be written or the array is empty.
    """
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_root()) as file:
            # A map of a file with holes ends the process where the disk turns out to be full.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, "w+", shape=shape)
    except (OSError, ValueError):
        return np.zeros(shape, dtype)
