"""Files that others may have made: opened so that they can't block, flood memory or lead elsewhere.

A path may be a named pipe, a device, a folder, a file of terabytes or a link. What is read must be
a regular file within a size; what is written in a folder of our own goes through no link.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

from lazybench.errors import OutputUnavailable

MOST_BYTES = 1 << 30
"""Bytes of a file that is read as a whole, unless its reader says otherwise."""

_CHUNK_BYTES = 1 << 20
# Opening a named pipe would wait for a writer; on a regular file these flags do nothing.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_READ |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_file(
    path: str | os.PathLike[str],
    most_bytes: int | None = MOST_BYTES,
    *,
    buffer_bytes: int = 1 << 17,
) -> BufferedReader:
    """Return a regular file, opened to read bytes.

    The check is of what was opened, so that nothing can take its place in between.

    Args:
        path: the file; a link to one is followed.
        most_bytes: its size, at most; None for any.
        buffer_bytes: how much is read ahead.

    Raises:
        OSError: it can't be opened, is no regular file, or is too large.
    """
    raw = FileIO(os.fspath(path), "rb", opener=lambda name, _: os.open(name, _READ))
    file: BufferedReader = BufferedReader(raw, buffer_bytes)
    try:
        state = os.fstat(file.fileno())
        need_regular(state, path)
        if most_bytes is not None and state.st_size > most_bytes:
            size = f"it has {state.st_size} bytes, at most {most_bytes} are read"
            raise OSError(errno.EINVAL, size, str(path))
    except BaseException:
        file.close()
        raise
    return file


def read_file(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it can't be read, is no regular file, or is too large.
    """
    with open_file(path, most_bytes) as file:
        parts = [file.read(os.fstat(file.fileno()).st_size + 1)]
        total = len(parts[0])
        # Files of the system have no size, and others may grow.
        while total <= most_bytes and parts[-1]:
            parts.append(file.read(_CHUNK_BYTES))
            total += len(parts[-1])
    if total > most_bytes:
        raise OSError(errno.EINVAL, f"it has more than {most_bytes} bytes", str(path))
    return parts[0] if len(parts) <= 2 else b"".join(parts)


def need_regular(state: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Look whether what was opened is a regular file.

    Raises:
        OSError: it isn't; what it is instead is named.
    """
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for test, name in _KINDS if test(state.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def refuse_links(folder: Path, path: Path | None = None) -> None:
    """Look whether a folder that is written to leads elsewhere.

    Args:
        folder: one that lazybench makes; with a `path`, one that the user chose, which may be a
            link itself.
        path: what is to be written below `folder`: each step to it must be no link. None looks at
            `folder` and all that it holds.

    Raises:
        OutputUnavailable: something there is a symbolic link.
    """
    if path is not None:
        places = [folder / part for part in _steps(path.relative_to(folder))]
    else:
        below = os.walk(folder, followlinks=False)
        places = [folder, *(Path(at, name) for at, some, more in below for name in (*some, *more))]
    for place in places:
        if place.is_symlink():
            raise OutputUnavailable(
                f"{place} is a symbolic link, and nothing is written through links in a folder of "
                "lazybench's own; remove it, or choose another folder"
            )


def _steps(relative: Path) -> list[Path]:
    return [*reversed([each for each in relative.parents if each.parts]), relative]
