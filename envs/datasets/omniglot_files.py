"""Omniglot's files: what they must hold, where they are looked for, and how they are decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.archives import Tree, decode_grey, open_tree
from lazybench.data.cache import Arrays
from lazybench.data.fingerprint import instance_hash
from lazybench.data.folders import DATA_VARIABLE
from lazybench.data.pool import SPLITS, Split
from lazybench.data.sources import SOURCES as REMOTES
from lazybench.envs.datasets.class_lists import packaged_list
from lazybench.errors import DataUnavailable

Protocol = Literal["random", "alphabet"]
Part = Literal["background", "evaluation"]

PARTS: tuple[Part, ...] = ("background", "evaluation")
SIDE = 28
SOURCE_SIDE = 105
SOURCES = tuple((remote.url, remote.md5) for remote in REMOTES["omniglot"])
EXPECTED = (
    "images_background and images_evaluation, each as the official zip (repacked is fine) or "
    "unpacked as <alphabet>/<character>/<image>.png, in omniglot-py/, omniglot/ or straight in the "
    "data folder, there or in raw/ below; 964 and 659 characters of 20 images, 105x105 pixels"
)
HELD_OUT = ("Arcadian", "Asomtavruli_(Georgian)", "Futurama", "Hebrew", "Syriac_(Estrangelo)")

_FOLDERS = ("omniglot-py", "omniglot", "")
_CLASSES = "omniglot_classes.json"
_CLASSES_SHA256 = "788dd041bc45e7d0300ee3644e262291ba64bf06e7036048d114d720682928ac"


@dataclass(frozen=True)
class Roster:
    """What a whole Omniglot holds and how its characters are split.

    Attributes:
        parts: for each part its class names, `alphabet/character`, sorted.
        splits: for each protocol and split its class names, sorted.
        each: images a character.
    """

    parts: Mapping[Part, tuple[str, ...]]
    splits: Mapping[Protocol, Mapping[Split, tuple[str, ...]]]
    each: int = 20


@cache
def official_roster() -> Roster:
    """Roster of the published data set, from the package's own list.

    Raises:
        DataUnavailable: the list isn't the one that this version shipped.
    """
    lists = packaged_list(_CLASSES, _CLASSES_SHA256)
    parts: dict[Part, tuple[str, ...]] = {
        part: _names((a, range(1, n + 1)) for a, n in lists["parts"][part].items())
        for part in PARTS
    }
    held = tuple(name for name in parts["background"] if alphabet_of(name) in HELD_OUT)
    return Roster(
        parts=parts,
        splits={
            "random": {split: _names(lists["random"][split].items()) for split in SPLITS},
            "alphabet": {
                "train": tuple(name for name in parts["background"] if name not in held),
                "val": held,
                "test": parts["evaluation"],
            },
        },
    )


def _names(alphabets: Iterable[tuple[str, Iterable[int]]]) -> tuple[str, ...]:
    return tuple(sorted(f"{name}/character{n:02d}" for name, numbers in alphabets for n in numbers))


def alphabet_of(name: str) -> str:
    """Alphabet of the class `name`, its super-category."""
    return name.split("/")[0]


def _unavailable(root: Path, what: str) -> DataUnavailable:
    fetch = " and ".join(f"{url} (md5 {md5})" for url, md5 in SOURCES)
    return DataUnavailable(
        f"omniglot: {what}; expected below {root}: {EXPECTED}; 'lazybench data get "
        f"omniglot' fetches {fetch}; or put them into "
        f"{root / _FOLDERS[0]}, or set {DATA_VARIABLE} to the folder that holds them"
    )


def find_parts(root: Path) -> dict[Part, Path]:
    """Zip file or folder of each part, below `root`.

    Raises:
        DataUnavailable: one of them isn't there.
    """
    found: dict[Part, Path] = {}
    for part in PARTS:
        for folder in _FOLDERS:
            for below in (root / folder, root / folder / "raw"):
                # The zip first: one look tells whether it changed, and each member has a checksum.
                zipped = below / f"images_{part}.zip"
                plain = below / f"images_{part}"
                if os.path.isfile(zipped):
                    found.setdefault(part, zipped)
                elif os.path.isdir(plain):
                    found.setdefault(part, plain)
    if len(found) < len(PARTS):
        has = ", ".join(map(str, found.values())) or "nothing"
        lacks = " and ".join(f"images_{part}(.zip)" for part in PARTS if part not in found)
        raise _unavailable(root, f"{lacks} not found, found {has}")
    return found


def list_all(root: Path, roster: Roster) -> None:
    """Look whether every file of `roster` is there, without reading any.

    Raises:
        DataUnavailable: the sources are missing, incomplete or cut.
    """
    for part, path in find_parts(root).items():
        try:
            with closing(open_tree(path)) as tree:
                _list(tree, roster.parts[part], roster.each)
        except DataUnavailable as error:
            raise _unavailable(root, str(error)) from error


def _list(tree: Tree, classes: tuple[str, ...], each: int) -> dict[str, list[str]]:
    """Sorted image names of each class, after a check that none lacks or is too many."""
    found: dict[str, list[str]] = {}
    for name in tree.names():
        if name.endswith(".png"):
            found.setdefault(name.rpartition("/")[0], []).append(name)
    missing = [name for name in classes if name not in found]
    if missing:
        raise DataUnavailable(
            f"{tree.path} is incomplete: {len(classes) - len(missing)} of {len(classes)} "
            f"characters, {missing[0]} is the first missing"
        )
    for name, files in found.items():
        if len(files) != each:
            raise DataUnavailable(
                f"{tree.path} holds {len(files)} images of {name or 'no character'}, not {each}"
            )
    known = frozenset(classes)
    extra = [name for name in found if name not in known]
    if extra:
        raise DataUnavailable(
            f"{tree.path} holds {len(found)} characters, not {len(classes)}: {extra[0]} isn't "
            "one of Omniglot"
        )
    return found


def decode_all(root: Path, roster: Roster) -> Arrays:
    """All characters, part after part: `x` `[M, 1, 28, 28]` uint8, `hashes` `[M, 32]` uint8.

    Raises:
        DataUnavailable: the sources are missing, incomplete or damaged.
    """
    many = roster.each * sum(len(names) for names in roster.parts.values())
    x = np.empty((many, 1, SIDE, SIDE), np.uint8)
    hashes = np.empty((many, 32), np.uint8)
    row = 0
    try:
        for part, path in find_parts(root).items():
            with closing(open_tree(path)) as tree:
                files = _list(tree, roster.parts[part], roster.each)
                for character in roster.parts[part]:
                    for file in files[character]:
                        where = f"{file} in {path}"
                        grey = decode_grey(tree.read(file), where)
                        if grey.shape != (SOURCE_SIDE, SOURCE_SIDE):
                            size = "x".join(map(str, grey.shape))
                            raise DataUnavailable(
                                f"{where} has {size} pixels, not {SOURCE_SIDE}x{SOURCE_SIDE}"
                            )
                        x[row, 0] = _small(grey)
                        hashes[row] = np.frombuffer(instance_hash(grey), np.uint8)
                        row += 1
    except DataUnavailable as error:
        raise _unavailable(root, str(error)) from error
    return {"x": x, "hashes": hashes}


def _small(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Sources are black on white; 255 minus turns the background into the 0 that padding adds.
    image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.uint8(255) - np.asarray(image)
