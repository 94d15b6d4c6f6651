"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Reference: B. M. Lake, R. Salakhutdinov & J. B. Tenenbaum, "Human-level concept learning through
    probabilistic program induction", Science 350 (2015).
"""

from __future__ import annotations

import hashlib
import logging
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

from lazybench.data.archives import Tree, decode_grey, open_tree, source_key
from lazybench.data.cache import Arrays, prepared
from lazybench.data.fingerprint import content_fingerprint, instance_hash, repeated_instances
from lazybench.data.folders import DATA_VARIABLE, data_root
from lazybench.data.folders import SOURCES as REMOTES
from lazybench.data.pool import SPLITS, Pool, PooledData, Split
from lazybench.envs.datasets.image_set import packaged_list
from lazybench.errors import DataUnavailable, UsageError

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
    """The characters of the whole Omniglot and their splits.

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
    parts: dict[Part, Path] = {}
    for part in PARTS:
        for folder in _FOLDERS:
            for below in (root / folder, root / folder / "raw"):
                # The zip first: one stat shows whether it changed, and each member has a checksum.
                zipped = below / f"images_{part}.zip"
                plain = below / f"images_{part}"
                if os.path.isfile(zipped):
                    parts.setdefault(part, zipped)
                elif os.path.isdir(plain):
                    parts.setdefault(part, plain)
    if len(parts) < len(PARTS):
        has = ", ".join(map(str, parts.values())) or "nothing"
        lacks = " and ".join(f"images_{part}(.zip)" for part in PARTS if part not in parts)
        raise _unavailable(root, f"{lacks} not found, found {has}")
    return parts


def list_all(root: Path, roster: Roster) -> None:
    """Check that no file of `roster` is missing, without reading any.

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
    by_folder: dict[str, list[str]] = {}
    for name in tree.names():
        if name.endswith(".png"):
            by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    missing = [name for name in classes if name not in by_folder]
    if missing:
        raise DataUnavailable(
            f"{tree.path} is incomplete: {len(classes) - len(missing)} of {len(classes)} "
            f"characters, {missing[0]} is the first missing"
        )
    for name, files in by_folder.items():
        if len(files) != each:
            raise DataUnavailable(
                f"{tree.path} holds {len(files)} images of {name or 'no character'}, not {each}"
            )
    known = frozenset(classes)
    extra = [name for name in by_folder if name not in known]
    if extra:
        raise DataUnavailable(
            f"{tree.path} holds {len(by_folder)} characters, not {len(classes)}: {extra[0]} isn't "
            "one of Omniglot"
        )
    return by_folder


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


_log = logging.getLogger(__name__)

PREP = "28-lanczos-1"
ROTATIONS = ("", "/rot090", "/rot180", "/rot270")

# Of the copy that this package was tested with: complete, but repacked, so that the official md5
# sums can't vouch for it. Other content opens all the same, and its `source` says so.
FINGERPRINTS: Mapping[Protocol, str] = {
    "random": "91d64e846b1184c6b0ea93352f7136f9716015d6014e2cd7e90ea404a4c43ebf",
    "alphabet": "156339e3decf3fcc87599c80846c73a64062e58045eeb4ebb05643c7ed271740",
}


@dataclass(frozen=True)
class Omniglot(PooledData):
    """Omniglot, opened: images `[M, 1, 28, 28]` uint8, strokes bright on 0, 20 a class.

    Train holds each character four times, as drawn and turned by 90, 180 and 270 degrees
    (`…/rot090`: counter-clockwise); val and test only as drawn. Groups are the alphabets.

    Attributes:
        protocol: which split.
        root: data folder that the sources were found in.
        roster: what the sources must hold.
    """

    protocol: Protocol
    root: Path
    roster: Roster

    def check(self) -> None:
        """Check that the sources still hold every file, without reading them.

        Raises:
            DataUnavailable: they are missing, incomplete or cut.
        """
        list_all(self.root, self.roster)

    def reread(self) -> str:
        """Fingerprint of the current sources, with every image decoded again.

        Raises:
            DataUnavailable: they are missing, incomplete or damaged.
        """
        arrays = decode_all(self.root, self.roster)
        return _fingerprint(arrays["hashes"], self.roster, self.protocol)


def open_omniglot(protocol: Protocol = "random") -> Omniglot:
    """Omniglot from below the data folder, prepared once and memory-mapped afterwards.

    Args:
        protocol: `random` for 1,100/100/423 characters from anywhere, by the list in the package;
            `alphabet` for the authors' background (five alphabets of it are val) and evaluation
            sets. Train classes come in four rotations in both.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
        UsageError: no such protocol.

    Choice: the list of `random` ranks the 1,623 names by sha256 of `lazybench omniglot 1:<name>`:
        the first 1,100 are train, the next 100 val. No published list of these sizes exists.
    Choice: `alphabet` holds out the five background alphabets that come first by sha256 of
        `lazybench omniglot-alphabet 1:<alphabet>`: 137 characters, each alphabet of 20 or more.
    Choice: images are made grey before they are resized. MAML's script asks Pillow for LANCZOS on
        the two-level files, where Pillow silently takes the nearest pixel instead and breaks thin
        strokes; grey LANCZOS is what it meant and what learn2learn does.
    Reference: C. Finn, P. Abbeel & S. Levine, "Model-agnostic meta-learning", ICML 2017 (28x28,
        rotations); A. Santoro et al., ICML 2016 (rotations as new classes).
    """
    if protocol not in ("random", "alphabet"):
        raise UsageError(f"omniglot protocol {protocol!r} isn't one of random, alphabet")
    return open_below(data_root(), protocol, official_roster())


def check(protocol: Protocol = "random") -> Path:
    """The folder of the sources, after a check that no file is missing.

    Raises:
        DataUnavailable: they are missing, incomplete or cut.
    """
    del protocol  # Both protocols need both parts.
    list_all(data_root(), official_roster())
    return find_parts(data_root())["background"].parent


def open_below(root: Path, protocol: Protocol, roster: Roster) -> Omniglot:
    """Omniglot from the sources below `root`, which must hold what `roster` says.

    Raises:
        DataUnavailable: they are missing, incomplete or damaged.
    """
    digest = hashlib.sha256(repr((roster.parts, roster.splits, roster.each)).encode())
    for path in find_parts(root).values():
        digest.update(source_key(path).encode())
    key = digest.hexdigest()
    name = "omniglot" if protocol == "random" else f"omniglot-{protocol}"

    def build() -> Arrays:
        characters = prepared(
            "omniglot-characters", PREP, lambda: decode_all(root, roster), key=key
        )
        instances = _instances(characters["hashes"], roster, protocol)
        classes = {str(split): each for split, each in roster.splits[protocol].items()}
        for note in repeated_instances(instances, classes):
            _log.warning("%s: %s", name, note)
        return _split(characters, roster, protocol)

    arrays = prepared(name, PREP, build, key=key)
    fingerprint = str(arrays["fingerprint"])
    source = "Omniglot, images_background and images_evaluation"
    if fingerprint != FINGERPRINTS[protocol]:
        source += "; the images differ from the known ones"
    return Omniglot(
        name=name,
        fingerprint=fingerprint,
        prep=PREP,
        source=source,
        protocol=protocol,
        root=root,
        roster=roster,
        pools={split: _pool(arrays[split], split, roster, protocol) for split in SPLITS},
    )


def _rows(roster: Roster) -> dict[str, int]:
    order = [name for part in PARTS for name in roster.parts[part]]
    return {name: index * roster.each for index, name in enumerate(order)}


def _instances(
    hashes: NDArray[np.uint8], roster: Roster, protocol: Protocol
) -> dict[str, list[list[bytes]]]:
    """The hashes of each class's images as drawn, in each split."""
    rows = _rows(roster)
    splits = roster.splits[protocol]
    return {
        split: [
            [bytes(line) for line in hashes[rows[name] : rows[name] + roster.each]]
            for name in splits[split]
        ]
        for split in SPLITS
    }


def _fingerprint(hashes: NDArray[np.uint8], roster: Roster, protocol: Protocol) -> str:
    return content_fingerprint(_instances(hashes, roster, protocol))


def _split(characters: Arrays, roster: Roster, protocol: Protocol) -> Arrays:
    rows = _rows(roster)
    x = characters["x"]
    arrays: Arrays = {"fingerprint": np.array(_fingerprint(characters["hashes"], roster, protocol))}
    for split in SPLITS:
        starts = np.array([rows[name] for name in roster.splits[protocol][split]], np.int64)
        drawn = x[starts[:, None] + np.arange(roster.each)]
        turns = range(len(ROTATIONS)) if split == "train" else range(1)
        turned = np.stack([np.rot90(drawn, turn, axes=(-2, -1)) for turn in turns], axis=1)
        arrays[split] = turned.reshape(-1, 1, SIDE, SIDE)
    return arrays


def _pool(x: NDArray[np.uint8], split: Split, roster: Roster, protocol: Protocol) -> Pool:
    turns = ROTATIONS if split == "train" else ROTATIONS[:1]
    names = tuple(name + turn for name in roster.splits[protocol][split] for turn in turns)
    start = np.arange(len(names), dtype=np.int64) * roster.each
    count = np.full(len(names), roster.each, dtype=np.int64)
    start.flags.writeable = count.flags.writeable = False
    return Pool(x, start, count, names, tuple(alphabet_of(name) for name in names))
