"""Room for arrays under construction that may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lazybench.data.atomic_folder import replaced_folder, sync
from lazybench.data.checked_arrays import Damaged, frozen, mapped
from lazybench.data.folders import CACHE_VARIABLE, cache_root
from lazybench.errors import UsageError
from lazybench.files import read_file


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


Arrays = dict[str, NDArray[Any]]

MANIFEST = "manifest.json"
SCHEMA = 1
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

# What an unwritable cache leaves in memory: the second opening must not decode everything again.
_held: dict[tuple[Path, str], Arrays] = {}


class _File(NamedTuple):
    """What the manifest says of one file."""

    bytes: int
    sha256: str


class _Missing(Exception):
    """No entry stands there, or one of another key."""


def prepared(
    name: str,
    version: str,
    build: Callable[[], Mapping[str, NDArray[Any]]],
    *,
    key: str = "",
    whole: bool = False,
) -> Arrays:
    """Arrays that `build` made, now or earlier: read-only, memory-mapped where the cache allows.

    Every file's size and sha256 are verified as `checked_arrays` does: of a file of 64 MiB or more
    once per change, so that opening takes milliseconds. A damaged entry is rebuilt with one logged
    warning. Processes that want the same entry wait for the one that builds it. Where the folder
    can't be written, the arrays stay in memory, with one logged warning a process.

    Args:
        name: data set, as in `omniglot`; letters, digits, `.`, `_`, `+`, `-`.
        version: version of the preparation, in the same letters.
        build: makes the arrays, by name; called at most once, only when they aren't there.
            Strings are fine (`<U` arrays), objects aren't.
        key: cheap key of the sources (sizes, times); an entry of another key is replaced.
        whole: hash all of every file, whatever is remembered of it.

    Returns:
        The arrays by the names that `build` gave them.

    Raises:
        UsageError: a name can't be a file's name, or an array holds objects.
        Exception: whatever `build` raises; nothing is kept then.
    """
    entry = f"{_safe(name)}-{_safe(version)}"
    folder = cache_root() / entry
    # Without the lock first: an entry that verifies is whole, and a shared cache may be read-only.
    try:
        return _open(folder, key, whole=whole)
    except (_Missing, Damaged):
        pass
    if (folder, key) in _held:
        return dict(_held[folder, key])
    lock = FileLock(folder.with_name(f"{entry}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        return _in_memory(folder, key, _checked(build()), error)
    try:
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
    finally:
        lock.release()


def damage(folder: Path, *, whole: bool = False) -> str:
    """What is wrong with the entry in `folder`, as `prepared` would find; '' where nothing is.

    Args:
        folder: an entry below the cache folder, of any key.
        whole: hash all of every file; else only sizes are looked at.
    """
    try:
        files = _manifest(folder)[1]
        for name, told in files.items():
            path = folder / f"{name}.npy"
            if whole:
                _array(folder, name, told, whole=True)
            elif path.stat().st_size != told.bytes:
                return f"{path.name} has {path.stat().st_size} bytes, not {told.bytes}"
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
        "can't keep prepared data in %s (%s): it stays in memory and is prepared anew by each "
        "process; set %s to a folder that can be written",
        folder,
        error,
        CACHE_VARIABLE,
    )
    _held[folder, key] = {name: frozen(array) for name, array in arrays.items()}
    return dict(_held[folder, key])


def _open(folder: Path, key: str, *, whole: bool = False) -> Arrays:
    found, files = _manifest(folder)
    if found != key:
        raise _Missing
    return {name: _array(folder, name, told, whole=whole) for name, told in files.items()}


def _array(folder: Path, name: str, told: _File, *, whole: bool) -> NDArray[Any]:
    try:
        return mapped(folder / f"{name}.npy", told.bytes, told.sha256, whole=whole)
    except Damaged as error:
        raise Damaged(f"{name}.npy: {error}") from error


def _manifest(folder: Path) -> tuple[str, dict[str, _File]]:
    """The key of an entry, and what is told of its files."""
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


def _facts(path: Path) -> dict[str, str | int]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write(folder: Path, key: str, arrays: Arrays) -> None:
    with replaced_folder(folder) as place:
        files: dict[str, dict[str, str | int]] = {}
        for name, array in arrays.items():
            path = place / f"{name}.npy"
            with path.open("xb") as file:
                np.save(file, array, allow_pickle=False)
                sync(file)
            files[name] = _facts(path)
        manifest = {"schema": SCHEMA, "key": key, "files": files}
        with (place / MANIFEST).open("x", encoding="utf-8") as text:
            text.write(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
            sync(text)
