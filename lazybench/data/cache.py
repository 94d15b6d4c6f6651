"""Prepared arrays on disk: built once, verified by sha256 and memory-mapped at each opening.

A file below `REMEMBERED_FROM` bytes is hashed at each opening. A larger one is hashed once per
change: its hash is stored in `verified/` below the cache folder (or below the user's own cache
folder, if the former can't be written), with the file's size, times, device and inode, and the file
is hashed again when any of these changes. The change time (ctime) changes with every write, even if
a program resets the modification time. A change that affects none of them, such as a bit lost by
the disk, is found by `whole=True`, which `lazybench data verify` and `lazybench doctor --deep` use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import CACHE_VARIABLE, cache_root, own_cache_root
from lazybench.errors import LazybenchError, UsageError
from lazybench.files import (
    canonical_json,
    file_digest,
    open_file,
    read_file,
    replaced_folder,
    sync,
    write_json,
)
from lazybench.runtime.locks import held

Arrays = dict[str, NDArray[Any]]

MANIFEST = "manifest.json"
SCHEMA = 1
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

# Arrays of an unwritable cache, so that a second opening needn't decode everything again.
_held: dict[tuple[Path, str], Arrays] = {}


REMEMBERED_FROM = 64 << 20
"""Size in bytes from which a file is hashed once per change, and not at each opening."""

VERIFIED = "verified"
_SETTLED_NS = 2_000_000_000
"""The coarsest step of a file system's clock: a later write within it may show the same time."""

_State = tuple[int, int, int, int, int]

# Where no cache folder can be written, a process still hashes each file once per change.
_known: dict[tuple[str, str], _State] = {}


class Damaged(Exception):
    """A file differs from what was written; the message says how."""


def mapped(path: Path, size: int, sha256: str, *, whole: bool = False) -> NDArray[Any]:
    """The array in a `.npy` file, read-only and memory-mapped, its size and sha256 verified.

    Args:
        path: the file.
        size: its bytes.
        sha256: 64 hex digits over all of its content.
        whole: hash it even if it hasn't changed since its last check.

    Raises:
        Damaged: it is missing, or differs from what was written.
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
                # An empty file section can't be mapped, and a scalar needn't be.
                file.seek(0)
                return frozen(np.load(file, allow_pickle=False))
            order: Literal["F", "C"] = "F" if fortran else "C"
            return np.memmap(file, dtype, "r", file.tell(), shape, order)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    except ValueError as error:
        raise Damaged(str(error)) from error


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view of an array."""
    view = array.view()
    view.flags.writeable = False
    return view


def _check(file: BufferedReader, path: Path, size: int, sha256: str, *, whole: bool) -> None:
    """Check an open file's size and content.

    Raises:
        Damaged: they differ.
    """
    state = os.fstat(file.fileno())
    if state.st_size != size:
        raise Damaged(f"{state.st_size} bytes, not {size}")
    large = size >= REMEMBERED_FROM
    if large and not whole and _identity(state) in _remembered(path, sha256):
        return
    began_ns = time.time_ns()
    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
        raise Damaged("its content doesn't match its sha256")
    changed_ns = state.st_ctime_ns if os.name == "posix" else state.st_mtime_ns
    if large and began_ns - changed_ns > _SETTLED_NS:
        _remember(path, sha256, _identity(state))


def _identity(state: os.stat_result) -> _State:
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
    _known[os.path.realpath(path), sha256] = state
    content = {"path": os.path.realpath(path), "sha256": sha256, "state": list(state)}
    for note in _notes(path):
        with contextlib.suppress(LazybenchError, OSError):
            write_json(note, content)
            return


def scratch(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return an array of zeros on disk, in an unnamed file that is deleted with it.

    The file is in the cache folder. The array is in memory if that folder can't be written or the
    array is empty.
    """
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_root()) as file:
            # Writing to the map of a sparse file ends the process if the disk is full.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, "w+", shape=shape)
    except (OSError, ValueError):
        return np.zeros(shape, dtype)


class _File(NamedTuple):
    """A file's entry in the manifest."""

    bytes: int
    sha256: str


class _Missing(Exception):
    """There is no entry, or one of another key."""


def prepared(
    name: str,
    version: str,
    build: Callable[[], Mapping[str, NDArray[Any]]],
    *,
    key: str = "",
    whole: bool = False,
) -> Arrays:
    """Return the arrays of `build`, new or cached: read-only, and memory-mapped if possible.

    Every file's size and sha256 are verified (for a file of 64 MiB or more once per change, so that
    opening takes milliseconds). A damaged entry is rebuilt with one logged warning. Processes that
    need the same entry wait for the one that builds it. If the folder can't be written, the arrays
    stay in memory, with one logged warning per process.

    Args:
        name: data set, as in `omniglot`; letters, digits, `.`, `_`, `+`, `-`.
        version: version of the preparation, in the same letters.
        build: makes the arrays, by name; called at most once, and only if they aren't cached.
            Strings are allowed (`<U` arrays), objects aren't.
        key: cheap key of the sources (sizes, times); an entry with another key is replaced.
        whole: hash every file completely, even if it hasn't changed.

    Returns:
        The arrays by the names that `build` gave them.

    Raises:
        UsageError: a name can't be a file's name, or an array holds objects.
        Exception: any error of `build`; nothing is stored then.
    """
    entry = f"{_safe(name)}-{_safe(version)}"
    folder = cache_root() / entry
    # First without the lock: a valid entry is complete, and a shared cache may be read-only.
    try:
        return _open(folder, key, whole=whole)
    except (_Missing, Damaged):
        pass
    if (folder, key) in _held:
        return dict(_held[folder, key])
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder.with_name(f"{entry}.lock"), -1))
        except OSError as error:
            return _in_memory(folder, key, _checked(build()), error)
        try:
            return _open(folder, key, whole=whole)
        except _Missing:
            pass
        except Damaged as damage:
            _log.warning("prepared data in %s is damaged (%s): building it again", folder, damage)
        arrays = _checked(build())
        try:
            _write(folder, key, arrays)
            return _open(folder, key)
        except (OSError, _Missing, Damaged) as error:
            return _in_memory(folder, key, arrays, error)


def damage(folder: Path, *, whole: bool = False) -> str:
    """Return what is wrong with the entry in `folder`; '' if nothing is.

    Args:
        folder: an entry below the cache folder, with any key.
        whole: hash every file completely; otherwise only sizes are compared.
    """
    try:
        files = _manifest(folder)[1]
        for name, facts in files.items():
            path = folder / f"{name}.npy"
            if whole:
                _array(folder, name, facts, whole=True)
            elif path.stat().st_size != facts.bytes:
                return f"{path.name} has {path.stat().st_size} bytes, not {facts.bytes}"
    except (_Missing, Damaged) as error:
        return str(error) or f"{MANIFEST} is of another version"
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return ""


def _safe(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"cache name {name!r} can't be a file's name; use 1 to 100 of letters, digits, "
            "'.', '_', '+', '-', the first a letter or digit"
        )
    return name


def _checked(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    for name, array in arrays.items():
        _safe(name)
        if array.dtype.hasobject:
            raise UsageError(f"array {name!r} holds objects; only numbers and strings are cached")
    return dict(arrays)


def _in_memory(folder: Path, key: str, arrays: Arrays, error: Exception) -> Arrays:
    _log.warning(
        "can't keep prepared data in %s (%s): it stays in memory and is prepared again by each "
        "process; set %s to a folder that can be written",
        folder,
        error,
        CACHE_VARIABLE,
    )
    _held[folder, key] = {name: frozen(array) for name, array in arrays.items()}
    return dict(_held[folder, key])


def _open(folder: Path, key: str, *, whole: bool = False) -> Arrays:
    stored, files = _manifest(folder)
    if stored != key:
        raise _Missing
    return {name: _array(folder, name, facts, whole=whole) for name, facts in files.items()}


def _array(folder: Path, name: str, facts: _File, *, whole: bool) -> NDArray[Any]:
    try:
        return mapped(folder / f"{name}.npy", facts.bytes, facts.sha256, whole=whole)
    except Damaged as error:
        raise Damaged(f"{name}.npy: {error}") from error


def _manifest(folder: Path) -> tuple[str, dict[str, _File]]:
    """The key of an entry, and the size and sha256 of each file."""
    try:
        text = read_file(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.is_dir():
            raise Damaged(f"{MANIFEST} is missing") from error
        raise _Missing from error
    except OSError as error:
        raise Damaged(str(error)) from error
    try:
        manifest = json.loads(text)
        if manifest["schema"] != SCHEMA:
            raise _Missing
        files = {
            str(name): _File(int(facts["bytes"]), str(facts["sha256"]))
            for name, facts in manifest["files"].items()
        }
        return str(manifest["key"]), files
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} can't be read") from error


def _write(folder: Path, key: str, arrays: Arrays) -> None:
    with replaced_folder(folder) as place:
        files: dict[str, dict[str, str | int]] = {}
        for name, array in arrays.items():
            path = place / f"{name}.npy"
            with path.open("xb") as file:
                np.save(file, array, allow_pickle=False)
                sync(file)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        manifest = {"schema": SCHEMA, "key": key, "files": files}
        with (place / MANIFEST).open("x", encoding="utf-8") as text:
            text.write(canonical_json(manifest))
            sync(text)
