"""Writes and opens imported data sets: memory-mapped splits with verified size and content."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench.data.cache import Damaged, mapped
from lazybench.data.fingerprint import class_order, content_fingerprint, repeated_instances
from lazybench.data.importing.arrays import MOST_FEATURE
from lazybench.data.importing.catalogue import (
    META,
    PARTS,
    Meta,
    Part,
    SplitMeta,
    again,
    imported_root,
    lock_path,
    read_meta,
)
from lazybench.data.importing.split import ChosenParts, ChosenSplit, Members, Read, Rows
from lazybench.data.pool import Labelled, Pool, PooledData, held_out_labelled, whole_part
from lazybench.data.splits import SPLITS, Split
from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import file_digest, sync, write_json
from lazybench.runtime.locks import held

_SWAP_S = 1.0
"""Seconds to wait for another import that may be replacing the folder."""


@dataclass(frozen=True)
class ImportedSet(PooledData):
    """A data set that a user imported: images uint8 `[M, C, H, W]` or vectors float32 `[M, d]`.

    Attributes:
        folder: its folder.
        meta: its description.
    """

    folder: Path
    meta: Meta = field(repr=False)

    @property
    def weights(self) -> str:
        """Training data of the weights behind embedded features; empty for imported features."""
        return "" if self.meta.embedding is None else self.meta.embedding.weights

    def pool(self, split: Split) -> Pool:
        """Return the instances of `split`.

        Raises:
            UsageError: no such split.
            DataUnavailable: it isn't embedded yet.
        """
        if split in SPLITS and split not in self.pools:
            raise not_embedded(self.meta, split)
        return super().pool(split)

    def classes(self, split: Split) -> int:
        """Return the number of classes of `split`, embedded or not.

        Raises:
            DataUnavailable: it has no splits.
        """
        if not self.meta.splits:
            raise not_embedded(self.meta, split)
        return len(self.meta.splits[split].classes)

    def reread(self) -> str:
        """Read every file, check that it is unchanged, and return the fingerprint.

        Raises:
            DataUnavailable: a file has changed.
        """
        for file, facts in present(self.meta).items():
            _array(self.folder, file, facts, whole=True)
        return self.fingerprint


def files_of(meta: Meta) -> dict[str, SplitMeta]:
    """Return the files of instances that a data set has, by their names without `.npy`."""
    listed = {str(split): facts for split, facts in meta.splits.items()}
    return listed | {f"lt-{part}": facts for part, facts in meta.stream_parts.items()}


def present(meta: Meta) -> dict[str, SplitMeta]:
    """Return those of them that are there: splits of features may be embedded later."""
    return {file: facts for file, facts in files_of(meta).items() if facts.bytes}


def not_embedded(meta: Meta, split: str) -> DataUnavailable:
    """Return the error that says how to get a split of features that isn't there yet."""
    embedding = meta.embedding
    if embedding is None or not meta.splits:
        return DataUnavailable(f"{meta.name} has no split {split} of few-shot tasks")
    return DataUnavailable(
        f"split {split} of {meta.name} isn't embedded yet; get it with: "
        f"{embedding.command(meta.name, '--splits', split)}"
    )


def part_path(folder: Path, file: str) -> Path:
    """File of instances, in the order of the classes in `meta.json`.

    Args:
        folder: of the data set.
        file: a split, or `lt-train` or `lt-test`.
    """
    return folder / f"{file}.npy"


def open_imported(name: str) -> ImportedSet:
    """Open the data set imported as `name`, and verify its files as `data.cache` does.

    Raises:
        DataUnavailable: it doesn't exist, or a file has changed since the import.
    """
    folder = imported_root() / name
    try:
        return _open(folder)
    except DataUnavailable:
        # Another import may be replacing the folder; it holds the lock while it does.
        lock = lock_path(folder)
        if not lock.exists():
            raise
        # TimeoutError is an OSError, too.
        with contextlib.suppress(OSError), held(lock, _SWAP_S):
            return _open(folder)
        raise


def _open(folder: Path) -> ImportedSet:
    meta = read_meta(folder)
    there = [split for split in SPLITS if split in present(meta)]
    with ThreadPoolExecutor(len(SPLITS)) as threads:
        pools = list(threads.map(lambda split: _pool(folder, meta, split), there))
    return ImportedSet(
        name=meta.name,
        fingerprint=meta.fingerprint,
        prep=meta.prep,
        source=meta.source,
        folder=folder,
        meta=meta,
        pools=dict(zip(there, pools, strict=True)),
    )


def labelled(name: str) -> Labelled:
    """Return the data set imported as `name` as a long-tailed stream uses it.

    Features have the train and test part of the images that were embedded, row by row.

    Raises:
        DataUnavailable: it doesn't exist, or a file has changed since the import.
        UsageError: too few instances of a class.
    """
    opened = open_imported(name)
    meta = opened.meta
    parts = meta.stream_parts
    if not parts:
        return held_out_labelled(opened, meta.embedding.data if meta.embedding else name)
    train, test = (
        whole_part(pool_of(opened.folder, meta, f"lt-{part}", parts[part])) for part in PARTS
    )
    return Labelled(
        name=opened.name,
        fingerprint=opened.fingerprint,
        prep=opened.prep,
        source=opened.source,
        classes=parts["train"].classes,
        train=train,
        test=test,
        weights=opened.weights,
    )


def check(name: str) -> Path:
    """Return the folder of the data set imported as `name`, after a check of its files' sizes.

    Raises:
        DataUnavailable: a file is missing or incomplete.
    """
    folder = imported_root() / name
    meta = read_meta(folder)
    for file, facts in present(meta).items():
        _check_size(part_path(folder, file), facts.bytes)
    return folder


def _damaged(path: Path, why: str) -> DataUnavailable:
    return DataUnavailable(f"{path} is damaged ({why}); {again(path.parent.name)}")


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if size != expected:
        raise _damaged(path, f"{size} bytes, not {expected}")


def _array(
    folder: Path, file: str, facts: SplitMeta, *, whole: bool = False
) -> NDArray[np.generic]:
    path = part_path(folder, file)
    # Reading a pipe would block, but its size never matches.
    _check_size(path, facts.bytes)
    try:
        return mapped(path, facts.bytes, facts.sha256, whole=whole)
    except Damaged as error:
        raise _damaged(path, str(error)) from error


def _pool(folder: Path, meta: Meta, split: Split) -> Pool:
    return pool_of(folder, meta, split, meta.splits[split])


def pool_of(folder: Path, meta: Meta, file: str, facts: SplitMeta) -> Pool:
    """Return the instances in a file of a data set.

    Raises:
        DataUnavailable: it isn't the one that was written.
    """
    path, x = part_path(folder, file), _array(folder, file, facts)
    dtype = np.uint8 if meta.kind == "images" else np.float32
    if x.shape != (sum(facts.counts), *meta.shape) or x.dtype != dtype:
        raise _damaged(path, f"{x.dtype} {list(x.shape)}, which its meta.json doesn't say")
    count = np.array(facts.counts, np.int64)
    start = np.cumsum(count) - count
    start.flags.writeable = count.flags.writeable = False
    return Pool(x, start, count, facts.classes, facts.groups)


STANDARDISED_PREP = "standardised-1"
_DARK_ROWS = 256
"""Images whose brightness is read at a time."""


class _Scale(NamedTuple):
    """Mean and deviation of each feature, float64 `[d]`."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def write_imported(
    place: Path,
    name: str,
    rows: Rows,
    chosen: ChosenSplit,
    *,
    licence: str = "",
    standardise: bool = False,
) -> tuple[Meta, tuple[str, ...]]:
    """Write a data set to a folder; return its description, and notes for the user.

    If the source allows it, only one class is in memory at a time.

    Args:
        place: empty folder to write to.
        name: name of the data set.
        rows: the source.
        chosen: its classes and their splits.
        licence: licence of the data.
        standardise: whether to scale each feature to mean 0 and deviation 1 over train.

    Raises:
        UsageError: features larger than environments declare.
        DataUnavailable: a source can't be read.
        OSError: `place` can't be written.
    """
    scale = _scale(rows, chosen.members_of("train")) if standardise else None
    splits: dict[Split, SplitMeta] = {}
    hashes: dict[str, list[list[bytes]]] = {}
    for split in SPLITS:
        path, members = part_path(place, split), chosen.members_of(split)
        hashes[split] = _write_file(path, rows, members, scale)
        splits[split] = _described(path, members, hashes[split], chosen.groups)
    meta = Meta(
        name=name,
        kind=rows.kind,
        shape=rows.shape,
        splits=splits,
        fingerprint=content_fingerprint(hashes),
        prep=f"{rows.prep if scale is None else STANDARDISED_PREP}-{class_order(hashes)}",
        source=f"imported from {rows.what}; {chosen.split.how}",
        licence=licence,
    )
    write_json(place / META, meta.text())
    repeated = repeated_instances(hashes, {split: splits[split].classes for split in splits})
    return meta, (*_dark(meta, [part_path(place, split) for split in splits]), *repeated)


def write_parts(
    place: Path, name: str, rows: Rows, chosen: ChosenParts, *, licence: str = ""
) -> tuple[Meta, tuple[str, ...]]:
    """Write the parts of long-tailed streams to a folder, as `write_imported` writes splits.

    Choice: the test has equally many images of each class, the first in the order of their hashes,
        as the scores of streams need.

    Args:
        place: empty folder to write to.
        name: name of the data set.
        rows: the source.
        chosen: its classes in both parts.
        licence: licence of the data.

    Raises:
        DataUnavailable: a source can't be read.
        OSError: `place` can't be written.
    """
    each = min(map(len, chosen.members["test"].values()))
    parts: dict[Part, SplitMeta] = {}
    hashes: dict[str, list[list[bytes]]] = {}
    for part in PARTS:
        path, members = part_path(place, f"lt-{part}"), chosen.members[part]
        hashes[part] = _write_file(path, rows, members, most=each if part == "test" else None)
        parts[part] = _described(path, members, hashes[part], chosen.groups)
    meta = Meta(
        name=name,
        kind=rows.kind,
        shape=rows.shape,
        splits={},
        fingerprint=content_fingerprint(hashes),
        prep=f"{rows.prep}-{class_order(hashes)}",
        source=f"imported from {rows.what}; train and test given by {rows.split_by}",
        licence=licence,
        parts=parts,
    )
    write_json(place / META, meta.text())
    repeated = repeated_instances(hashes, {part: parts[part].classes for part in parts})
    return meta, (*_dark(meta, [part_path(place, f"lt-{part}") for part in parts]), *repeated)


def _dark(meta: Meta, files: Sequence[Path]) -> tuple[str, ...]:
    """A note on images whose pixels are all 0 or 1; the first bright pixel ends the search."""
    if meta.kind != "images":
        return ()
    highest = 0
    for file in files:
        x = np.load(file, mmap_mode="r")
        for first in range(0, len(x), _DARK_ROWS):
            highest = max(highest, int(x[first : first + _DARK_ROWS].max()))
            if highest > 1:
                return ()
    return (
        f"the largest value of all images is {highest}, and pixels go from 0 to 255; if they are 0 "
        "and 1, multiply them by 255",
    )


def _blocks(rows: Rows, members: Members, most: int | None = None) -> Iterator[Read]:
    """The instances of each class, sorted by content, whatever their packaging; at most `most`."""
    for numbers in members.values():
        x, hashes = rows.read(numbers)
        order = sorted(range(len(hashes)), key=hashes.__getitem__)[:most]
        yield Read(x[order], [hashes[at] for at in order])


def _scale(rows: Rows, members: Members) -> _Scale:
    """Mean and deviation over train; 1 for a feature that is constant there."""
    size, total = 0, np.zeros(rows.shape)
    for x, _ in _blocks(rows, members):
        size, total = size + len(x), total + x.sum(axis=0, dtype=np.float64)
    mean = total / size
    squares = np.zeros(rows.shape)
    for x, _ in _blocks(rows, members):
        squares += np.square(x - mean).sum(axis=0)
    deviation = np.sqrt(squares / size)
    # Sums of equal numbers are rounded; the remainder isn't a deviation.
    constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-30)
    return _Scale(mean, np.where(constant, 1.0, deviation))


def _described(
    path: Path,
    members: Members,
    hashes: Sequence[Sequence[bytes]],
    groups: Mapping[str, str | None],
) -> SplitMeta:
    """The description of a file that was written."""
    return SplitMeta(
        classes=tuple(members),
        groups=tuple(groups[label] or label for label in members),
        counts=tuple(map(len, hashes)),
        bytes=path.stat().st_size,
        sha256=file_digest(path),
    )


def _write_file(
    path: Path, rows: Rows, members: Members, scale: _Scale | None = None, most: int | None = None
) -> list[list[bytes]]:
    """Write the instances of some classes, at most `most` of each; the hashes of each class."""
    dtype = np.dtype(np.uint8 if rows.kind == "images" else "<f4")
    count = sum(len(numbers[:most]) for numbers in members.values())
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, *rows.shape),
    }
    by_class: list[list[bytes]] = []
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for x, hashes in _blocks(rows, members, most):
            scaled = x if scale is None else (x - scale.mean) / scale.deviation
            if rows.kind == "features":
                _check_range(scaled, path.stem)
            # Written and not memory-mapped, so that a full disk raises an error and not a signal.
            file.write(np.ascontiguousarray(scaled, dtype).tobytes())
            by_class.append(hashes)
        sync(file)
    return by_class


def _check_range(x: NDArray[Any], split: str) -> None:
    largest = np.abs(x).max(axis=0)
    if largest.max() > MOST_FEATURE:
        column = int(largest.argmax())
        raise UsageError(
            f"feature {column} reaches {largest[column]:.3g} in {split}, at most "
            f"{MOST_FEATURE:.0e} is allowed; add --standardise, or scale it"
        )
