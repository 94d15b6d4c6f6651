"""Features of a data set: each image passes once through a pre-trained network.

The rows are written as they are computed, so that an interrupted embedding goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lazybench import gymnasium_ids
from lazybench.data.importing.arrays import MOST_FEATURE
from lazybench.data.importing.catalogue import (
    META,
    ORIGIN,
    PARTS,
    Embedding,
    Meta,
    SplitMeta,
    check_overlap,
    imported_root,
    read_meta,
)
from lazybench.data.importing.importer import (
    alone_on,
    check_free,
    check_name,
    unfinished_path,
    writing,
)
from lazybench.data.importing.storage import files_of, part_path
from lazybench.data.pool import SPLITS, DataSet, Labelled, Pool, Split, open_labelled
from lazybench.errors import DataUnavailable, UnknownName, UsageError
from lazybench.files import file_digest, read_file, replaced_folder, sync, write_json
from lazybench.nets.pretrained import Pretrained, pretrained
from lazybench.registry import DATASETS, ENVS, open_data
from lazybench.runtime.threads import map_tasks, threads
from lazybench.specs import DataSpec
from lazybench.user_code import load

BATCH = 16
"""Images that pass through the network at once."""

_IDENTITY = "identity.json"
_VERSION = 1

Progress = Callable[[str, int, int], None]
"""Is called with a part's name, its rows that are done, and all of its rows."""


@dataclass(frozen=True)
class EmbedRequest:
    """A request to embed a data set.

    Attributes:
        data: id of a data set of images.
        backbone: see `lazybench.nets.pretrained`.
        size: edge that images are resized to, in pixels; None for the backbone's own.
        name: id of the features, `DATA@ANYTHING`; empty for `DATA@BACKBONE`.
        splits: those of few-shot tasks to embed; the others can follow later. The parts of
            long-tailed streams are always embedded.
        weights: what the backbone's weights were trained on, where its name doesn't say it.
        allow_overlap: whether these may be known to have seen the test classes.
        device: where the network computes.
        replace: whether features of this name are made again, whatever they are of.
    """

    data: str
    backbone: str
    size: int | None = None
    name: str = ""
    splits: tuple[Split, ...] = SPLITS
    weights: str = ""
    allow_overlap: bool = False
    device: str = "cpu"
    replace: bool = False


@dataclass(frozen=True)
class Embedded:
    """A data set of features.

    Attributes:
        meta: all that is known of it.
        folder: its folder.
        computed: images that passed through the network now.
        resumed: those that an interrupted embedding had left.
    """

    meta: Meta
    folder: Path
    computed: int
    resumed: int


class _Rows(NamedTuple):
    """The images of one file of features.

    Attributes:
        x: `[M, channels, height, width]` uint8; `rows` says which, in order.
        rows: `[n]` int64.
        classes: their names.
        groups: their super-categories.
        counts: images of each class.
    """

    x: NDArray[Any]
    rows: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Source:
    """The parts to embed: splits of few-shot tasks, and parts of long-tailed streams."""

    spec: DataSpec
    files: Mapping[str, _Rows]
    fingerprint: str
    source: str
    shape: tuple[int, ...]


def embed_data(request: EmbedRequest, progress: Progress = lambda *_: None) -> Embedded:
    """Return the features of a data set, computed as far as they aren't there yet, and registered.

    Raises:
        UsageError: a name, size or backbone that isn't allowed, a network that doesn't suit the
            images, or pre-training that is known to have seen the test classes.
        DuplicateName: other features have this name, or the data or weights have changed.
        DataUnavailable: the data set or the weights can't be had.
        OutputUnavailable: the data folder can't be written.
        StoreError: its disk is full.
    """
    source = _source(request.data)
    network = pretrained(request.backbone, source.shape, size=request.size, weights=request.weights)
    if not request.allow_overlap:
        check_overlap(request.data, request.backbone, network.weights)
    name = request.name or default_name(request.data, request.backbone, request.size)
    check_name(name, of=request.data)
    device = torch.device(request.device)
    module = network.module.to(device)
    width = _width(module, source, request.backbone, device)
    meta = _meta(name, request, source, network, width)
    folder = imported_root() / name
    with writing(folder), alone_on(folder):
        had = _had(folder, meta, request)
        meta = _as_declared(meta, had, request)
        wanted = [
            file
            for file in source.files
            if (file in request.splits or file not in SPLITS)
            and (request.replace or not _bytes(had, file))
        ]
        if not wanted and had is not None and had.embedding == meta.embedding:
            return Embedded(had, folder, 0, 0)
        place = _begin(unfinished_path(folder), meta)
        resumed = computed = 0
        for file in wanted:
            with _Writer(part_path(place, file), len(source.files[file].rows), width) as writer:
                resumed += writer.done
                before = writer.done
                for block in _blocks(module, source.files[file], writer.done, device):
                    _check(block, request.backbone)
                    writer.write(block)
                    progress(f"{name} {file}", writer.done, len(source.files[file].rows))
                computed += writer.done - before
        whole = _publish(folder, place, meta, had, wanted)
    if "gymnasium" in sys.modules:
        gymnasium_ids.register_all()
    return Embedded(whole, folder, computed, resumed)


def default_name(data: str, backbone: str, size: int | None = None) -> str:
    """Return `DATA@BACKBONE`: its name in small letters, of a file of one's own the function's."""
    where, _, rest = backbone.rpartition(":")
    plain = rest if where.endswith(".py") else backbone.partition("@")[0]
    plain = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return f"{data}@{plain}" + ("" if size is None else f"-{size}px")


def _source(data: str) -> _Source:
    """The images of a data set that its environments use."""
    spec: DataSpec = DATASETS.resolve(data).spec
    few_shot = _is_env(f"{data}-5way-1shot")
    own: Any = getattr(inspect.getmodule(load(spec.target)), "labelled", None)
    files: dict[str, _Rows] = {}
    prints, sources = [], []
    if few_shot:
        opened: DataSet = open_data(data)
        files |= {split: _of_pool(opened.pool(split)) for split in SPLITS}
        prints += [opened.fingerprint, opened.prep]
        sources.append(opened.source)
    if own is not None and (spec.origin != ORIGIN or read_meta(imported_root() / data).parts):
        labelled = open_labelled(data)
        files |= {f"lt-{part}": _of_part(labelled, part) for part in PARTS}
        prints += [labelled.fingerprint, labelled.prep]
        sources.append(labelled.source)
    shapes = {rows.x.shape[1:] for rows in files.values()}
    if not files or {len(shape) for shape in shapes} != {3}:
        raise UsageError(
            f"{data} has no images of classes to embed; choose a data set of images, as in: "
            "lazybench data embed cifarfs --with effnet-lite0 (see: lazybench data list)"
        )
    fingerprint = hashlib.sha256("\n".join(prints).encode()).hexdigest()
    return _Source(spec, files, fingerprint, sources[0], min(shapes))


def _is_env(name: str) -> bool:
    try:
        ENVS.resolve(name)
    except UnknownName:
        return False
    return True


def _of_pool(pool: Pool) -> _Rows:
    counts = tuple(map(int, pool.count))
    rows = np.concatenate([np.arange(s, s + n) for s, n in zip(pool.start, counts, strict=True)])
    return _Rows(pool.x, rows, pool.names, pool.groups, counts)


def _of_part(labelled: Labelled, name: str) -> _Rows:
    part = labelled.train if name == "train" else labelled.test
    counts = tuple(map(int, part.count))
    return _Rows(part.x, part.rows, labelled.classes, labelled.classes, counts)


def _width(module: nn.Module, source: _Source, backbone: str, device: torch.device) -> int:
    """The number of features of an image.

    Raises:
        UsageError: the network fails on an image, or gives no features `[n, d]`.
    """
    first = next(iter(source.files.values()))
    try:
        with torch.inference_mode():
            got = module(_images(first, np.arange(1), device))
    except Exception as error:
        raise UsageError(
            f"backbone '{backbone}' failed on images {list(source.shape)}: "
            f"{' '.join(str(error).split())[:200]}; try another --size"
        ) from error
    if got.dim() != 2 or len(got) != 1 or not got.shape[1] or not got.is_floating_point():
        raise UsageError(
            f"backbone '{backbone}' must give features [n, d], got {got.dtype} {list(got.shape)}; "
            "flatten them, and leave out the last layer"
        )
    return int(got.shape[1])


def _images(rows: _Rows, places: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """Images `[n, channels, height, width]` in [0, 1]."""
    x = torch.from_numpy(np.take(rows.x, rows.rows[places], axis=0)).to(device)
    return x.to(torch.float32).div_(255)


def _blocks(
    module: nn.Module, rows: _Rows, first: int, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """The features of the images from `first` on, `[n, d]`, several batches at a time."""

    def one(start: int) -> NDArray[np.float32]:
        places = np.arange(start, min(start + BATCH, len(rows.rows)))
        with torch.inference_mode():
            features = module(_images(rows, places, device))
        vectors: NDArray[np.float32] = features.float().cpu().numpy()
        return vectors

    several = BATCH * threads()
    for start in range(first, len(rows.rows), several):
        starts = range(start, min(start + several, len(rows.rows)), BATCH)
        yield np.concatenate(map_tasks(one, starts))


def _check(features: NDArray[np.float32], backbone: str) -> None:
    largest = float(np.abs(features).max())
    if not largest <= MOST_FEATURE:
        raise UsageError(
            f"backbone '{backbone}' gives features of magnitude {largest:.3g}; they must be finite "
            f"and at most {MOST_FEATURE:.0e}"
        )


def _meta(
    name: str, request: EmbedRequest, source: _Source, network: Pretrained, width: int
) -> Meta:
    """The description of the features before any is computed."""
    identity = [
        f"lazybench features {_VERSION}",
        source.fingerprint,
        network.sha256,
        network.preparation,
    ]

    def planned(rows: _Rows) -> SplitMeta:
        return SplitMeta(rows.classes, rows.groups, rows.counts, 0, "")

    embedding = Embedding(
        data=request.data,
        data_fingerprint=source.fingerprint,
        backbone=network.name,
        backbone_sha256=network.sha256,
        weights=network.weights,
        held_out=source.spec.origin == ORIGIN and "lt-train" not in source.files,
        parts={part: planned(source.files[f"lt-{part}"]) for part in PARTS}
        if "lt-train" in source.files
        else {},
        size=request.size,
        allow_overlap=request.allow_overlap,
    )
    return Meta(
        name=name,
        kind="features",
        shape=(width,),
        splits={split: planned(source.files[split]) for split in SPLITS if split in source.files},
        fingerprint=hashlib.sha256("\n".join(identity).encode()).hexdigest(),
        prep=f"embedded-{_VERSION}",
        source=f"features of {_without_folder(network.name)} ({network.weights}); {source.source}",
        licence=source.spec.licence,
        embedding=embedding,
    )


def _without_folder(backbone: str) -> str:
    """A backbone's name in records: of a file, not where it lies."""
    name, at, file = backbone.partition("@")
    return name + at + Path(file).name


def _bytes(meta: Meta | None, file: str) -> int:
    """The size of a file of features that are there; 0 where they aren't."""
    held = _held(meta, file)
    return 0 if held is None else held.bytes


def _held(meta: Meta | None, file: str) -> SplitMeta | None:
    return None if meta is None else files_of(meta).get(file)


def _had(folder: Path, meta: Meta, request: EmbedRequest) -> Meta | None:
    """The features of this name and content that are there; None where there are none.

    Raises:
        DuplicateName: they are of other content, and aren't to be replaced.
        DataUnavailable: they are damaged, and aren't to be replaced.
    """
    if not folder.exists():
        return None
    try:
        had = read_meta(folder)
    except DataUnavailable:
        if request.replace:
            return None
        raise
    if had.fingerprint == meta.fingerprint:
        return had
    if request.replace:
        return None
    old, new = had.embedding, meta.embedding
    what = "another size or preparation"
    if old is not None and new is not None:
        if old.data_fingerprint != new.data_fingerprint:
            what = (
                f"{request.data} as it was: its fingerprint is {new.data_fingerprint[:12]} now, "
                f"{old.data_fingerprint[:12]} then"
            )
        elif old.backbone_sha256 != new.backbone_sha256:
            what = f"other weights ({old.backbone} {old.backbone_sha256[:12]})"
    check_free(folder, False, f"{folder.name} holds features of {what}")
    return None


def _as_declared(meta: Meta, had: Meta | None, request: EmbedRequest) -> Meta:
    """The description with what was declared of the weights, now or when they were embedded."""
    if meta.embedding is None or had is None or had.embedding is None:
        return meta
    parts = had.embedding.parts
    if request.weights:
        return replace(meta, embedding=replace(meta.embedding, parts=parts))
    embedding = replace(meta.embedding, weights=had.embedding.weights, parts=parts)
    return replace(meta, embedding=embedding, source=had.source)


def _begin(place: Path, meta: Meta) -> Path:
    """The folder of an unfinished embedding; emptied where it is of something else."""
    identity = {"fingerprint": meta.fingerprint, "width": meta.shape[0]}
    with contextlib.suppress(OSError, ValueError):
        if json.loads(read_file(place / _IDENTITY)) == identity:
            return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_json(place / _IDENTITY, identity)
    return place


class _Writer:
    """Appends rows to a `.npy` file of a known shape; what is there stays.

    Attributes:
        done: whole rows in the file.
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self._path, self._row_bytes = path, 4 * width
        self._header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        self._rows = rows

    def __enter__(self) -> _Writer:
        self._file = self._path.open("ab")
        if not self._file.tell():
            np.lib.format.write_array_header_1_0(self._file, self._header)
            self._file.flush()
            self._start = self._file.tell()
        else:
            with self._path.open("rb") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                self._start = file.tell()
        size = self._path.stat().st_size
        # The last batches are computed again: a write may have been cut anywhere.
        self.done = min(self._rows, (size - self._start) // self._row_bytes)
        if self.done < self._rows:
            self.done -= self.done % BATCH
        self._file.truncate(self._start + self.done * self._row_bytes)
        return self

    def __exit__(self, *error: object) -> None:
        # A full disk shows at the last write, too.
        with contextlib.ExitStack() as stack:
            stack.callback(self._file.close)
            if error[0] is None:
                sync(self._file)

    def write(self, rows: NDArray[np.float32]) -> None:
        """Append rows `[n, d]`."""
        # Written, not mapped: a full disk must be an error, not a signal.
        self._file.write(np.ascontiguousarray(rows, "<f4").tobytes())
        self._file.flush()
        self.done += len(rows)


def _publish(folder: Path, place: Path, meta: Meta, had: Meta | None, fresh: list[str]) -> Meta:
    """Move the features into their folder, with those that were there; the whole description."""
    held: dict[str, SplitMeta] = {}
    with replaced_folder(folder) as final:
        for file in (*SPLITS, *(f"lt-{part}" for part in PARTS)):
            planned, old = _held(meta, file), _held(had, file)
            if file in fresh and planned is not None:
                _link(part_path(place, file), part_path(final, file))
                path = part_path(final, file)
                held[file] = replace(planned, bytes=path.stat().st_size, sha256=file_digest(path))
            elif old is not None and old.bytes:
                _link(part_path(folder, file), part_path(final, file))
                held[file] = old
            elif planned is not None:
                held[file] = planned
        if meta.embedding is None:
            raise ValueError("features say how they were embedded")
        parts = {part: held[f"lt-{part}"] for part in meta.embedding.parts}
        whole = replace(
            meta,
            splits={split: held[split] for split in meta.splits},
            embedding=replace(meta.embedding, parts=parts),
        )
        write_json(final / META, whole.text())
    shutil.rmtree(place, ignore_errors=True)
    return whole


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
