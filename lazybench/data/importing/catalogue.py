"""Data sets that users imported: folders that describe themselves.

`imported/<name>/` below the data root holds one `.npy` file a split and `meta.json`. Listings look
here each time, so nothing heavy is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lazybench.data.folders import data_root
from lazybench.data.splits import SPLITS, Split
from lazybench.errors import DataUnavailable
from lazybench.files import TEMPORARY, put_back, read_file
from lazybench.runtime.locks import held
from lazybench.specs import DataSpec

FOLDER = "imported"
META = "meta.json"
SCHEMA = 1
ORIGIN = "imported"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

QUERIES = 15
"""Query instances of a class in official few-shot trials."""

Kind = Literal["images", "features"]


@dataclass(frozen=True)
class SplitMeta:
    """One split of an imported data set.

    Attributes:
        classes: unique names, sorted.
        groups: super-category of each class; the class itself where there is none.
        counts: instances of each class.
        bytes: size of the split's file.
        sha256: 64 hex digits over the split's file.
    """

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    counts: tuple[int, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Meta:
    """Content of `meta.json`.

    Attributes:
        name: id of the data set.
        kind: `images` (uint8) or `features` (float32).
        shape: shape of one instance, `[channels, height, width]` or `[d]`.
        splits: train, val and test.
        fingerprint: 64 hex digits over source content and split.
        prep: what was done to the sources (`84-lanczos-1`).
        source: one line on where the data come from and how they are split.
        licence: as the user gave it.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    splits: Mapping[Split, SplitMeta]
    fingerprint: str
    prep: str
    source: str
    licence: str

    @property
    def most_way(self) -> int:
        """The most classes that a task of any split can have."""
        return min(len(split.classes) for split in self.splits.values())

    @property
    def most_shot(self) -> int:
        """The most support instances of a class in official trials of any split."""
        return min(min(split.counts) for split in self.splits.values()) - QUERIES

    @property
    def about(self) -> str:
        """One line for listings."""
        counts = "/".join(str(len(split.classes)) for split in self.splits.values())
        shape = "x".join(map(str, self.shape))
        what = f"images {shape}" if self.kind == "images" else f"{shape} features"
        return f"imported: {counts} classes of {what}"

    def text(self) -> dict[str, Any]:
        """The content of `meta.json`; `read_meta` gives it back."""
        facts = {"schema": SCHEMA} | asdict(self)
        return facts | {_CHECK: _checksum(facts)}


def imported_root() -> Path:
    """Folder of imported data sets; it need not exist."""
    return data_root() / FOLDER


def lock_path(folder: Path) -> Path:
    """File that whoever writes the imported data set in `folder` holds a lock on."""
    return folder.with_name(f".{folder.name}.lock")


def read_meta(folder: Path) -> Meta:
    """What is known of the imported data set in `folder`.

    Raises:
        DataUnavailable: `meta.json` is missing or isn't whole.
    """
    path = folder / META
    try:
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
    except OSError as error:
        raise DataUnavailable(
            f"{path} can't be read ({error.strerror}); {_again(folder.name)}"
        ) from error


def metas() -> tuple[list[Meta], dict[str, str]]:
    """All imported data sets by name, and what is wrong with those that can't be used."""
    found: list[Meta] = []
    broken: dict[str, str] = {}
    root = imported_root()
    try:
        entries = {entry.name for entry in os.scandir(root)}
        for lost in {entry.partition(TEMPORARY)[0] for entry in entries if TEMPORARY in entry}:
            if lost not in entries and _put_back(root / lost):
                entries.add(lost)
        names = sorted(entry for entry in entries if NAME.fullmatch(entry))
    except FileNotFoundError:
        names = []
    except OSError as error:
        names, broken[str(root)] = [], f"can't be listed ({error.strerror}); make it readable"
    for name in names:
        try:
            found.append(read_meta(root / name))
        except DataUnavailable as error:
            broken[f"{name} ({ORIGIN})"] = str(error)
    return found, broken


def data_specs() -> tuple[list[DataSpec], dict[str, str]]:
    """The imported data sets as the registry holds them, and what is wrong with the others."""
    found, broken = metas()
    specs = [
        DataSpec(
            meta.name,
            "lazybench.data.importing.write:open_imported",
            {"name": meta.name},
            probe=(f"{FOLDER}/{meta.name}/{META}",),
            licence=meta.licence,
            about=meta.about,
            origin=ORIGIN,
        )
        for meta in found
    ]
    return specs, broken


def _put_back(folder: Path) -> bool:
    """Whether a set that a killed import had moved aside is restored."""
    # A process that holds the lock is replacing the set and hasn't been killed.
    with contextlib.suppress(OSError), held(lock_path(folder)):
        put_back(folder)
    return folder.is_dir()


def _again(name: str) -> str:
    return f"import it again with: lazybench data import PATH --name {name} --replace"


_CHECK = "check"
_KEYS = {"schema", *(each.name for each in fields(Meta))}


def _checksum(facts: Mapping[str, Any]) -> str:
    """64 hex digits over all that `meta.json` holds but these digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _read(path: Path, *state: int) -> Meta:
    """The parsed file; its times, size and inode make the next reading of the same one free."""
    del state
    try:
        found = json.loads(read_file(path).decode("utf-8"))
        # Sets that were imported before there was a checksum have none.
        checksum = found.pop(_CHECK, None)
        if checksum not in (None, _checksum(found)) or not found.keys() <= _KEYS:
            raise ValueError("its content doesn't match its checksum")
        if found["schema"] != SCHEMA or found["name"] != path.parent.name:
            raise ValueError("of another schema or name")
        splits: dict[Split, SplitMeta] = {split: _split(found["splits"][split]) for split in SPLITS}
        kind: Kind = "images" if found["kind"] == "images" else "features"
        return Meta(
            name=found["name"],
            kind=kind,
            shape=tuple(int(edge) for edge in found["shape"]),
            splits=splits,
            fingerprint=str(found["fingerprint"]),
            prep=str(found["prep"]),
            source=str(found["source"]),
            licence=str(found["licence"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataUnavailable(
            f"{path} isn't whole ({error}); {_again(path.parent.name)}"
        ) from error


def _split(found: Mapping[str, Any]) -> SplitMeta:
    split = SplitMeta(
        classes=tuple(map(str, found["classes"])),
        groups=tuple(map(str, found["groups"])),
        counts=tuple(map(int, found["counts"])),
        bytes=int(found["bytes"]),
        sha256=str(found["sha256"]),
    )
    if not len(split.classes) == len(split.groups) == len(split.counts) > 0:
        raise ValueError("classes, groups and counts differ in number")
    return split
