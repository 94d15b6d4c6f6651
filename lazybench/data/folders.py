"""Where data sets and prepared arrays live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

DATA_VARIABLE = "LAZYBENCH_DATA"
CACHE_VARIABLE = "LAZYBENCH_CACHE"


def data_root() -> Path:
    """Absolute folder that holds the data sets' source files; it need not exist.

    `LAZYBENCH_DATA` where it is set and not empty, else the platform's data folder for lazybench.
    """
    return _chosen(DATA_VARIABLE) or user_data_path("lazybench", appauthor=False)


def cache_root() -> Path:
    """Absolute folder that holds prepared arrays; it need not exist, all in it can be rebuilt.

    `LAZYBENCH_CACHE` where it is set and not empty, else the platform's cache folder for lazybench.
    """
    return _chosen(CACHE_VARIABLE) or own_cache_root()


def own_cache_root() -> Path:
    """Absolute cache folder of the user on this platform, whatever `LAZYBENCH_CACHE` says."""
    return user_cache_path("lazybench", appauthor=False)


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    # Absolute, so that a later change of the working folder can't move the data.
    return Path(os.path.abspath(os.path.expanduser(value))) if value else None
