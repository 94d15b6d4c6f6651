"""Folders that are whole or absent: filled beside their place and renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".tmp-"
"""What the names of folders have behind their place's name while they are filled or moved aside."""

_ASIDE = "old"


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` where the block ends without an error.

    A reader sees the old folder or the new one, whole. Only one process may be at work on `folder`:
    hold its lock. The parent folder must exist.

    Raises:
        OSError: the folder can't be made or moved; the old one stays where it is.
    """
    remove_leftovers(folder)
    place = Path(tempfile.mkdtemp(prefix=f"{folder.name}{TEMPORARY}", dir=folder.parent))
    try:
        yield place
        # mkdtemp gives 0700; a folder may be shared as far as the user's umask says.
        place.chmod(folder.parent.stat().st_mode & 0o777)
        _sync_folder(place)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{folder.name}{TEMPORARY}", dir=folder.parent))
            os.replace(folder, old / _ASIDE)
            try:
                os.replace(place, folder)
            except OSError:
                os.replace(old / _ASIDE, folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(place, folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def put_back(folder: Path) -> None:
    """Put `folder` back where a process was killed after it had moved it aside; hold its lock.

    Raises:
        OSError: it can't be moved.
    """
    if not folder.exists():
        for aside in sorted(folder.parent.glob(f"{folder.name}{TEMPORARY}*/{_ASIDE}")):
            os.replace(aside, folder)
            return


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of `folder`; hold its lock, which says that none works."""
    for stale in folder.parent.glob(f"{folder.name}{TEMPORARY}*"):
        shutil.rmtree(stale, ignore_errors=True)


def sync(file: IO[Any]) -> None:
    """Flush an open file down to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows can't open a folder to sync it.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
