"""An imported data set, opened: memory-mapped splits of which size and content are verified."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lazybench.data.checked_arrays import Damaged, mapped
from lazybench.data.imported import Meta, imported_root, lock_path, read_meta
from lazybench.data.pool import SPLITS, Pool, Split
from lazybench.errors import DataUnavailable, UsageError

_SWAP_S = 1.0
"""Seconds to wait for an import that may be replacing the folder."""


@dataclass(frozen=True)
class ImportedSet:
    """A data set that a user imported.

    Attributes:
        name: id of the data set.
        fingerprint: 64 hex digits over source content and split.
        prep: what was done to the sources.
        source: one line on where the data come from and how they are split.
        folder: where it lies.
        meta: all that is known of it.
        pools: the splits' pools.
    """

    name: str
    fingerprint: str
    prep: str
    source: str
    folder: Path
    meta: Meta = field(repr=False)
    pools: Mapping[Split, Pool] = field(repr=False)

    def pool(self, split: Split) -> Pool:
        """Return the instances of `split`: uint8 `[M, C, H, W]` or float32 `[M, d]`.

        Raises:
            UsageError: no such split.
        """
        if split not in SPLITS:
            raise UsageError(f"split {split!r} isn't one of {', '.join(SPLITS)}")
        return self.pools[split]

    def reread(self) -> str:
        """The fingerprint, once every file was read and is as it was imported.

        Raises:
            DataUnavailable: a file has other content.
        """
        for split in SPLITS:
            _array(self.folder, self.meta, split, whole=True)
        return self.fingerprint


def array_path(folder: Path, split: Split) -> Path:
    """File of a split's instances, in the order of the classes in `meta.json`."""
    return folder / f"{split}.npy"


def open_imported(name: str) -> ImportedSet:
    """The data set imported as `name`, its files verified as `checked_arrays` does.

    Raises:
        DataUnavailable: it isn't there, or a file isn't the one that was imported.
    """
    folder = imported_root() / name
    try:
        return _open(folder)
    except DataUnavailable:
        # An import may have replaced the folder amid the opening; while it does, it holds the lock.
        lock = lock_path(folder)
        if not lock.exists():
            raise
        # Imported here: it costs more than all the rest of an opening.
        from filelock import FileLock

        # What filelock raises where it has to wait too long is an OSError.
        with contextlib.suppress(OSError, NotImplementedError), FileLock(lock, _SWAP_S):
            return _open(folder)
        raise


def _open(folder: Path) -> ImportedSet:
    meta = read_meta(folder)
    with ThreadPoolExecutor(len(SPLITS)) as threads:
        pools = list(threads.map(lambda split: _pool(folder, meta, split), SPLITS))
    return ImportedSet(
        name=meta.name,
        fingerprint=meta.fingerprint,
        prep=meta.prep,
        source=meta.source,
        folder=folder,
        meta=meta,
        pools=dict(zip(SPLITS, pools, strict=True)),
    )


def check(name: str) -> Path:
    """Folder of the data set imported as `name`, after a look at the sizes of its files.

    Raises:
        DataUnavailable: a file is missing or cut.
    """
    folder = imported_root() / name
    meta = read_meta(folder)
    for split in SPLITS:
        _check_size(array_path(folder, split), meta.splits[split].bytes)
    return folder


def _damaged(path: Path, why: str) -> DataUnavailable:
    return DataUnavailable(
        f"{path} is damaged ({why}); import the data again with --name {path.parent.name} --replace"
    )


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if size != expected:
        raise _damaged(path, f"{size} bytes, not {expected}")


def _array(folder: Path, meta: Meta, split: Split, *, whole: bool = False) -> NDArray[np.generic]:
    facts, path = meta.splits[split], array_path(folder, split)
    # A pipe would be waited for; its size is never the right one.
    _check_size(path, facts.bytes)
    try:
        return mapped(path, facts.bytes, facts.sha256, whole=whole)
    except Damaged as error:
        raise _damaged(path, str(error)) from error


def _pool(folder: Path, meta: Meta, split: Split) -> Pool:
    facts, path = meta.splits[split], array_path(folder, split)
    x = _array(folder, meta, split)
    dtype = np.uint8 if meta.kind == "images" else np.float32
    if x.shape != (sum(facts.counts), *meta.shape) or x.dtype != dtype:
        raise _damaged(path, f"{x.dtype} {list(x.shape)}, which its meta.json doesn't say")
    count = np.array(facts.counts, np.int64)
    start = np.cumsum(count) - count
    start.flags.writeable = count.flags.writeable = False
    return Pool(x, start, count, facts.classes, facts.groups)
