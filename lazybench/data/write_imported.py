"""Writes what is imported: one array a split, class after class, and `meta.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench.data.fingerprint import content_fingerprint, repeated_instances
from lazybench.data.imported import META, Meta, SplitMeta
from lazybench.data.imported_set import array_path
from lazybench.data.npz_arrays import MOST_FEATURE
from lazybench.data.rows import Read, Rows
from lazybench.data.split_choice import ChosenSplit
from lazybench.data.splits import SPLITS, Split
from lazybench.data.swap import sync
from lazybench.errors import UsageError
from lazybench.records.atomic import write_json

STANDARDISED_PREP = "standardised-1"


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
    """What was written, and what the user may want to know of it.

    One class is held in memory at a time, as far as the source allows.

    Args:
        place: empty folder to write to.
        name: name of the data set.
        rows: the source.
        chosen: its classes and their splits.
        licence: as it is shown.
        standardise: shift and scale each feature to mean 0 and deviation 1 over train.

    Raises:
        UsageError: features beyond what environments declare.
        DataUnavailable: a source can't be read.
        OSError: `place` can't be written.
    """
    scale = _scale(rows, chosen) if standardise else None
    splits: dict[Split, SplitMeta] = {}
    hashes: dict[str, list[list[bytes]]] = {}
    for split in SPLITS:
        path = array_path(place, split)
        hashes[split] = _write_split(path, rows, chosen, split, scale)
        classes = chosen.split.classes(split)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        splits[split] = SplitMeta(
            classes=tuple(classes),
            groups=tuple(chosen.groups[label] or label for label in classes),
            counts=tuple(len(chosen.members[label]) for label in classes),
            bytes=path.stat().st_size,
            sha256=digest,
        )
    meta = Meta(
        name=name,
        kind=rows.kind,
        shape=rows.shape,
        splits=splits,
        fingerprint=content_fingerprint(hashes),
        prep=rows.prep if scale is None else STANDARDISED_PREP,
        source=f"imported from {rows.what}; {chosen.split.how}",
        licence=licence,
    )
    write_json(place / META, meta.text())
    return meta, repeated_instances(hashes, {split: splits[split].classes for split in splits})


def _blocks(rows: Rows, chosen: ChosenSplit, split: Split) -> Iterator[Read]:
    """The instances of each class of a split, sorted by content, so that no packaging shows."""
    for label in chosen.split.classes(split):
        x, hashes = rows.read(chosen.members[label])
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        yield Read(x[order], [hashes[at] for at in order])


def _scale(rows: Rows, chosen: ChosenSplit) -> _Scale:
    """Mean and deviation over train; 1 for a feature that is constant there."""
    size, total = 0, np.zeros(rows.shape)
    for x, _ in _blocks(rows, chosen, "train"):
        size, total = size + len(x), total + x.sum(axis=0, dtype=np.float64)
    mean = total / size
    squares = np.zeros(rows.shape)
    for x, _ in _blocks(rows, chosen, "train"):
        squares += np.square(x - mean).sum(axis=0)
    deviation = np.sqrt(squares / size)
    # Sums of equal numbers round: what is left then is no deviation.
    constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-30)
    return _Scale(mean, np.where(constant, 1.0, deviation))


def _write_split(
    path: Path, rows: Rows, chosen: ChosenSplit, split: Split, scale: _Scale | None
) -> list[list[bytes]]:
    """Write the instances of a split; the hashes of each class."""
    dtype = np.dtype(np.uint8 if rows.kind == "images" else "<f4")
    count = sum(len(chosen.members[label]) for label in chosen.split.classes(split))
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, *rows.shape),
    }
    found: list[list[bytes]] = []
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for x, hashes in _blocks(rows, chosen, split):
            scaled = x if scale is None else (x - scale.mean) / scale.deviation
            if rows.kind == "features":
                _check_range(scaled, split)
            # Written, not mapped: a full disk must be an error, not a signal.
            file.write(np.ascontiguousarray(scaled, dtype).tobytes())
            found.append(hashes)
        sync(file)
    return found


def _check_range(x: NDArray[Any], split: Split) -> None:
    largest = np.abs(x).max(axis=0)
    if largest.max() > MOST_FEATURE:
        column = int(largest.argmax())
        raise UsageError(
            f"feature {column} reaches {largest[column]:.3g} in {split}, at most "
            f"{MOST_FEATURE:.0e} is allowed; add --standardise, or scale it"
        )
