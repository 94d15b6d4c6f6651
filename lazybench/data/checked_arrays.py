"""Arrays in `.npy` files, mapped into memory once their content is known to be what was written.

A file below `REMEMBERED_FROM` bytes is hashed at each opening. A larger one is hashed as a whole
once per change: what was hashed is remembered in `verified/` below the cache folder (below the
user's own where that one can't be written), with the file's size, times, device and inode, and a
file of which any of these has changed is hashed again.
The change time (ctime) moves with every write, also where a program sets the modification time
back. What moves none of them, such as a disk that loses a bit, is found by `whole=True`, which
`lazybench data verify` and `lazybench doctor --deep` use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import cache_root, own_cache_root
from lazybench.errors import LazybenchError
from lazybench.files import open_file, read_file

REMEMBERED_FROM = 64 << 20
"""Bytes from which on a file is hashed once per change, and not at each opening."""

VERIFIED = "verified"
_SETTLED_NS = 2_000_000_000
"""The coarsest step of a file system's clock: a later write within it may show the same time."""

_State = tuple[int, int, int, int, int]

# Where no cache folder can be written, a process still hashes each file once per change.
_known: dict[tuple[str, str], _State] = {}


class Damaged(Exception):
    """A file isn't what was written; the text says what is wrong with it."""


def mapped(path: Path, size: int, sha256: str, *, whole: bool = False) -> NDArray[Any]:
    """The array in a `.npy` file, read-only and memory-mapped, its size and sha256 verified.

    Args:
        path: the file.
        size: its bytes.
        sha256: 64 hex digits over all of its content.
        whole: hash it even where it is remembered and hasn't changed since.

    Raises:
        Damaged: it is missing, or is another file than was written.
    """
    try:
        # One handle for hash and map: a file replaced in between can't slip through.
        with open_file(path, None) as file:
            _check(file, path, size, sha256, whole=whole)
            file.seek(0)
            major, _ = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0
            if major > 1:
                header = np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            if not shape or 0 in shape:
                # An empty file section can't be mapped, and a scalar isn't worth a map.
                file.seek(0)
                return frozen(np.load(file, allow_pickle=False))
            order: Literal["F", "C"] = "F" if fortran else "C"
            return np.memmap(file, dtype, "r", file.tell(), shape, order)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    except ValueError as error:
        raise Damaged(str(error)) from error


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A view of an array that can't be written through."""
    view = array.view()
    view.flags.writeable = False
    return view


def _check(file: BufferedReader, path: Path, size: int, sha256: str, *, whole: bool) -> None:
    """Check an open file's size and content.

    Raises:
        Damaged: it has others.
    """
    state = os.fstat(file.fileno())
    if state.st_size != size:
        raise Damaged(f"{state.st_size} bytes, not {size}")
    large = size >= REMEMBERED_FROM
    if large and not whole and _facts(state) in _remembered(path, sha256):
        return
    began_ns = time.time_ns()
    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
        raise Damaged("its content doesn't match its sha256")
    changed_ns = state.st_ctime_ns if os.name == "posix" else state.st_mtime_ns
    if large and began_ns - changed_ns > _SETTLED_NS:
        _remember(path, sha256, _facts(state))


def _facts(state: os.stat_result) -> _State:
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_dev, state.st_ino)


def _notes(path: Path) -> Iterator[Path]:
    """Files that may remember the hash of `path`."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    for root in (cache_root(), own_cache_root()):
        yield root / VERIFIED / f"{name}.json"


def _remembered(path: Path, sha256: str) -> list[_State]:
    """The states in which `path` is known to have this content."""
    known = _known.get((os.path.realpath(path), sha256))
    found = [] if known is None else [known]
    for note in _notes(path):
        # A note that can't be read costs a hash.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            content = json.loads(read_file(note))
            size, mtime_ns, ctime_ns, device, inode = map(int, content["state"])
            if content["sha256"] == sha256:
                found.append((size, mtime_ns, ctime_ns, device, inode))
    return found


def _remember(path: Path, sha256: str, state: _State) -> None:
    # Imported here: the schema of records costs more than all the rest of an opening.
    from lazybench.files import write_json

    _known[os.path.realpath(path), sha256] = state
    content = {"path": os.path.realpath(path), "sha256": sha256, "state": list(state)}
    for note in _notes(path):
        with contextlib.suppress(LazybenchError, OSError):
            write_json(note, content)
            return
