"""Imported and embedded data sets: their folders and descriptions.

`imported/<name>/` below the data root holds one `.npy` file per split and `meta.json`. Features of
another data set by a pre-trained backbone are named `<data>@<backbone>`. Every listing reads these
folders, so nothing heavy is loaded here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lazybench.arguments import WITH
from lazybench.data.folders import data_root
from lazybench.data.splits import (
    DEV_PER_CLASS,
    QUERIES,
    SPLITS,
    Split,
    held_out_each,
    most_imbalance,
)
from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import TEMPORARY, put_back, read_file
from lazybench.runtime.locks import held
from lazybench.specs import DataSpec

FOLDER = "imported"
META = "meta.json"
SCHEMA = 1
ORIGIN = "imported"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
FEATURES_NAME = re.compile(NAME.pattern + r"@[a-z0-9]+(-[a-z0-9]+)*")
"""Of features: the data set that was embedded, and whatever names the backbone."""

_IMAGENETS = frozenset(
    {"imagenet-1k", "imagenet-12k", "imagenet-21k", "imagenet-22k", "lvd-142m", "lvd-1689m"}
)
OVERLAPS: Mapping[str, frozenset[str]] = {
    "miniimagenet": _IMAGENETS | {"tieredimagenet"},
    "tieredimagenet": _IMAGENETS | {"miniimagenet"},
    "cifarfs": frozenset({"cifar-100", "cifar100", "fc100"}),
    "fc100": frozenset({"cifar-100", "cifar100", "cifarfs"}),
    "cifar100": frozenset({"cifar-100", "cifarfs", "fc100"}),
    "cifar10": frozenset({"cifar-10"}),
    "omniglot": frozenset({"omniglot-alphabet"}),
    "omniglot-alphabet": frozenset({"omniglot"}),
}
"""By data set, the pre-training that is known to have seen its test classes with their labels, or
images of them picked for the purpose (LVD-142M holds ImageNet-22k). Data sets of this package are
among it: other splits of the same classes, and few-shot splits, which train on all images of a
class, for the test images of a long tail."""

_OF_RUN = re.compile(r".+ on (?P<env>\S+) \([0-9a-f]+, step \d+\)")

Kind = Literal["images", "features"]
Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
"""The parts of a long-tailed stream, whose classes are the same."""


@dataclass(frozen=True)
class SplitMeta:
    """One split of an imported data set.

    Attributes:
        classes: unique names, sorted.
        groups: super-category of each class; the class itself if it has none.
        counts: number of instances of each class.
        bytes: size of the split's file.
        sha256: 64 hex digits over the split's file.
    """

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    counts: tuple[int, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Embedding:
    """The origin of features of another data set.

    Attributes:
        data: id of the data set that was embedded.
        data_fingerprint: 64 hex digits over what was embedded of it.
        backbone: name of the network, as it was given.
        backbone_sha256: 64 hex digits over its weights.
        weights: what these were trained on.
        held_out: whether long-tailed streams hold out a part of the train classes' instances, as
            on imported images.
        parts: the train and test part of long-tailed streams, where the data set has its own.
        size: edge in pixels that images were resized to; None for the backbone's own.
        allow_overlap: whether the weights were allowed to have seen the test classes.
    """

    data: str
    data_fingerprint: str
    backbone: str
    backbone_sha256: str
    weights: str
    held_out: bool = False
    parts: Mapping[Part, SplitMeta] = field(default_factory=dict)
    size: int | None = None
    allow_overlap: bool = False

    def command(self, name: str, *options: str) -> str:
        """Return the command that embeds these features under a name, with further options."""
        words = ["lazybench", "data", "embed", self.data, "--with", self.backbone, "--name", name]
        words += ["--size", str(self.size)] if self.size is not None else []
        words += ["--allow-overlap"] if self.allow_overlap else []
        return shlex.join([*words, *options])


@dataclass(frozen=True)
class Meta:
    """Content of `meta.json`.

    Attributes:
        name: id of the data set.
        kind: `images` (uint8) or `features` (float32).
        shape: shape of one instance, `[channels, height, width]` or `[d]`.
        splits: train, val and test; none where the data set that was embedded has no few-shot
            tasks. Splits that aren't embedded yet have no bytes.
        fingerprint: 64 hex digits over source content and split.
        prep: preparation of the sources (`84-lanczos-1`) and, of an import, 8 digits over the order
            of its classes.
        source: one line on where the data comes from and how it is split.
        licence: the user's text.
        parts: the train and test part of long-tailed streams, where the source has both with the
            same classes; then there are no splits.
        embedding: how a backbone computed the features; None for imported data.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    splits: Mapping[Split, SplitMeta]
    fingerprint: str
    prep: str
    source: str
    licence: str
    embedding: Embedding | None = None
    parts: Mapping[Part, SplitMeta] = field(default_factory=dict)

    @property
    def stream_parts(self) -> Mapping[Part, SplitMeta]:
        """The parts of long-tailed streams, of images or of features; empty without any."""
        return self.parts if self.embedding is None else self.embedding.parts

    @property
    def most_way(self) -> int:
        """The most classes that a task of any split can have; 0 without splits."""
        return min((len(split.classes) for split in self.splits.values()), default=0)

    @property
    def most_shot(self) -> int:
        """The most support instances of a class in official trials of any split."""
        return min((min(split.counts) for split in self.splits.values()), default=0) - QUERIES

    @property
    def most_imbalance(self) -> int:
        """The largest imbalance of a long-tailed stream; 0 where a class has too few images."""
        if self.stream_parts:
            head = min(self.stream_parts["train"].counts)
        elif not self.splits:
            return 0
        else:
            least = min(self.splits["train"].counts)
            head = least - held_out_each(least)
        return most_imbalance(head - DEV_PER_CLASS) if head > DEV_PER_CLASS else 0

    @property
    def about(self) -> str:
        """One line for listings."""
        held = self.splits.values() or self.stream_parts.values()
        counts = "/".join(str(len(split.classes)) for split in held)
        shape = "x".join(map(str, self.shape))
        what = f"images {shape}" if self.kind == "images" else f"{shape} features"
        how = "imported"
        if self.embedding is not None:
            how = f"embedded by {self.embedding.backbone} ({self.embedding.weights})"
        return f"{how}: {counts} classes of {what}"

    def text(self) -> dict[str, Any]:
        """The content of `meta.json`; `read_meta` gives it back."""
        facts = {"schema": SCHEMA} | asdict(self)
        if self.embedding is None:
            del facts["embedding"]
        if not self.parts:
            del facts["parts"]
        return facts | {_CHECK: _checksum(facts)}


def overlap(data: str, weights: str | None) -> bool:
    """Return whether pre-training is known to have seen the test classes of a data set.

    Args:
        data: id, of images or of features of it (`miniimagenet@effnet-lite0`).
        weights: what a backbone's weights were trained on: names joined by `WITH`, or a run as
            `AGENT on ENV (KEY, step N)`.
    """
    seen = OVERLAPS.get(data.partition("@")[0], frozenset())
    if seen & set((weights or "").split(WITH)):
        return True
    run = _OF_RUN.fullmatch(weights or "")
    return run is not None and data_of_env(run["env"]) in seen


def data_of_env(env: str) -> str:
    """Return the data set in an environment's id, of features that of their images."""
    whole = re.match(r"(?P<data>.+?)(@[^-]+.*)?-(\d+way-|anyway|lt-|\d+shot)", env)
    return env if whole is None else whole["data"]


def check_overlap(data: str, backbone: str, weights: str) -> None:
    """Check that pre-training hasn't seen the test classes of a data set, as far as is known.

    Raises:
        UsageError: it has.
    """
    if overlap(data, weights):
        raise UsageError(
            f"the weights of {backbone} were trained on {weights}, which holds the test classes of "
            f"{data.partition('@')[0]}: a few-shot score would count what was seen; choose other "
            "weights or data, or add --allow-overlap, which marks each row"
        )


def imported_root() -> Path:
    """Folder of imported data sets; it need not exist."""
    return data_root() / FOLDER


def lock_path(folder: Path) -> Path:
    """Lock file of processes that write the imported data set in `folder`."""
    return folder.with_name(f".{folder.name}.lock")


def read_meta(folder: Path) -> Meta:
    """The description of the imported data set in `folder`.

    Raises:
        DataUnavailable: `meta.json` is missing or invalid.
    """
    path = folder / META
    try:
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
    except OSError as error:
        raise DataUnavailable(
            f"{path} can't be read ({error.strerror}); {again(folder.name)}"
        ) from error


def imported_fingerprint(name: str) -> str | None:
    """Return the fingerprint of the data set imported as `name`; None if none is installed."""
    try:
        return read_meta(imported_root() / name).fingerprint if is_name(name) else None
    except DataUnavailable:
        return None


def metas() -> tuple[list[Meta], dict[str, str]]:
    """All imported data sets by name, and the errors of unusable ones."""
    imported: list[Meta] = []
    broken: dict[str, str] = {}
    root = imported_root()
    try:
        entries = {entry.name for entry in os.scandir(root)}
        for lost in {entry.partition(TEMPORARY)[0] for entry in entries if TEMPORARY in entry}:
            if lost not in entries and _put_back(root / lost):
                entries.add(lost)
        names = sorted(entry for entry in entries if is_name(entry))
    except FileNotFoundError:
        names = []
    except OSError as error:
        names, broken[str(root)] = [], f"can't be listed ({error.strerror}); make it readable"
    for name in names:
        try:
            imported.append(read_meta(root / name))
        except DataUnavailable as error:
            broken[f"{name} ({ORIGIN})"] = str(error)
    return imported, broken


def data_specs() -> tuple[list[DataSpec], dict[str, str]]:
    """The specs of imported data sets, and the errors of unusable ones."""
    imported, broken = metas()
    specs = [
        DataSpec(
            meta.name,
            "lazybench.data.importing.storage:open_imported",
            {"name": meta.name},
            probe=(f"{FOLDER}/{meta.name}/{META}",),
            licence=meta.licence,
            about=meta.about,
            origin=ORIGIN,
        )
        for meta in imported
    ]
    return specs, broken


def _put_back(folder: Path) -> bool:
    """Restore a data set that a killed import had moved away; return whether there was one."""
    # A process that holds the lock is replacing the set and hasn't been killed.
    with contextlib.suppress(OSError), held(lock_path(folder)):
        put_back(folder)
    return folder.is_dir()


def is_name(name: str) -> bool:
    """Return whether a folder of that name may hold an imported or embedded data set."""
    return bool(NAME.fullmatch(name) or FEATURES_NAME.fullmatch(name))


def again(name: str) -> str:
    """Return what to do where a data set's folder is damaged."""
    data, embedded, _ = name.partition("@")
    if embedded:
        return (
            f"embed it again: lazybench data embed {data} --with BACKBONE --name {name} --replace"
        )
    return f"import the data again with: lazybench data import PATH --name {name} --replace"


_CHECK = "check"
_KEYS = {"schema", *(each.name for each in fields(Meta))}


def _checksum(facts: Mapping[str, Any]) -> str:
    """64 hex digits over the content of `meta.json` other than these digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _read(path: Path, *state: int) -> Meta:
    """The parsed file, cached by its times, size and inode."""
    del state
    try:
        fields = json.loads(read_file(path).decode("utf-8"))
        # Sets that were imported before there was a checksum have none.
        checksum = fields.pop(_CHECK, None)
        if checksum not in (None, _checksum(fields)) or not fields.keys() <= _KEYS:
            raise ValueError("its content doesn't match its checksum")
        if fields["schema"] != SCHEMA or fields["name"] != path.parent.name:
            raise ValueError("of another schema or name")
        embedding = _embedding(fields["embedding"]) if "embedding" in fields else None
        parts = fields.get("parts", {})
        held = fields["splits"]
        listed = SPLITS if held or not (parts or embedding) else ()
        splits: dict[Split, SplitMeta] = {split: _split(held[split]) for split in listed}
        kind: Kind = "images" if fields["kind"] == "images" else "features"
        return Meta(
            name=fields["name"],
            kind=kind,
            shape=tuple(int(edge) for edge in fields["shape"]),
            splits=splits,
            fingerprint=str(fields["fingerprint"]),
            prep=str(fields["prep"]),
            source=str(fields["source"]),
            licence=str(fields["licence"]),
            embedding=embedding,
            parts={part: _split(parts[part]) for part in PARTS if parts},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataUnavailable(f"{path} isn't whole ({error}); {again(path.parent.name)}") from error


def _embedding(fields: Mapping[str, Any]) -> Embedding:
    parts: dict[Part, SplitMeta] = {
        part: _split(fields["parts"][part]) for part in PARTS if fields["parts"]
    }
    texts = {name: str(fields[name]) for name in _EMBEDDING_TEXTS}
    size = fields.get("size")
    return Embedding(
        **texts,
        held_out=bool(fields["held_out"]),
        parts=parts,
        size=None if size is None else int(size),
        allow_overlap=bool(fields.get("allow_overlap", False)),
    )


_EMBEDDING_TEXTS = ("data", "data_fingerprint", "backbone", "backbone_sha256", "weights")


def _split(fields: Mapping[str, Any]) -> SplitMeta:
    split = SplitMeta(
        classes=tuple(map(str, fields["classes"])),
        groups=tuple(map(str, fields["groups"])),
        counts=tuple(map(int, fields["counts"])),
        bytes=int(fields["bytes"]),
        sha256=str(fields["sha256"]),
    )
    if not len(split.classes) == len(split.groups) == len(split.counts) > 0:
        raise ValueError("classes, groups and counts differ in number")
    return split
