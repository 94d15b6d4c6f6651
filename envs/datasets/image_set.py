"""Sets of images: published class lists, decoding, hashing and pools by split."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.archives import decoded, source_key
from lazybench.data.cache import Arrays, prepared, scratch
from lazybench.data.fingerprint import content_fingerprint, instance_hash, repeated_instances
from lazybench.data.folders import DATA_VARIABLE
from lazybench.data.pool import SPLITS, Labelled, Pool, PooledData, Split, whole_part
from lazybench.errors import DataUnavailable

_FEW_SHOT = "fewshot_classes.json"
_FEW_SHOT_SHA256 = "0a32ee96308e9b7da00d2c3ff1358593a81d1e0716c36d5becc5088e95c822ee"


class Named(NamedTuple):
    """A class and its super-category, the class itself where there is none."""

    name: str
    group: str


Roster = Mapping[Split, tuple[Named, ...]]
"""The classes of each split."""


P = ParamSpec("P")


def checker(sources: Callable[P, Sources]) -> Callable[P, Path]:
    """Return the `check` of a data set's module, of what gives the module's sources.

    It returns the folder of the files, and raises `DataUnavailable` where one is missing.
    """
    return lambda *args, **kwargs: sources(*args, **kwargs).find()[0].parent


@cache
def packaged_list(file: str, sha256: str) -> Any:
    """Return the content of a JSON file among the package's assets, to be read only.

    Raises:
        DataUnavailable: it isn't the one that this version shipped.
    """
    path = resources.files("lazybench.envs") / "assets" / file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnavailable(f"{path} can't be read ({error}); reinstall lazybench") from error
    got = hashlib.sha256(text.encode()).hexdigest()
    if got != sha256:
        raise DataUnavailable(
            f"{path} is damaged: sha256 {got}, expected {sha256}; reinstall lazybench"
        )
    return json.loads(text)


def few_shot_roster(data: str) -> Roster:
    """Return the published split of `cifarfs`, `fc100`, `miniimagenet` or `tieredimagenet`.

    Classes are sorted by name. The file names the paper and the repository behind each list.

    Raises:
        DataUnavailable: the list isn't the one that this version shipped.
    """
    lists = packaged_list(_FEW_SHOT, _FEW_SHOT_SHA256)[data]
    return {split: _sorted(lists[split]) for split in SPLITS}


def _sorted(lists: list[str] | dict[str, list[str]]) -> tuple[Named, ...]:
    grouped = {name: [name] for name in lists} if isinstance(lists, list) else lists
    return tuple(sorted(Named(name, group) for group in grouped for name in grouped[group]))


_CHUNK = 512
_MOST_THREADS = 8

_log = logging.getLogger(__name__)

ByClass = list[list[bytes]]


class Images(NamedTuple):
    """One split, as its sources have it.

    Attributes:
        x: `[M, 3, height, width]` uint8, class after class.
        hashes: `[M, 32]` uint8, what the fingerprint is made of.
        counts: `[C]` int64, images of each class.
        classes: the `C` classes, names unique.
    """

    x: NDArray[np.uint8]
    hashes: NDArray[np.uint8]
    counts: NDArray[np.int64]
    classes: tuple[Named, ...]


class Sources(Protocol):
    """Files of a data set; their `repr` is part of the cache key."""

    def find(self) -> tuple[Path, ...]:
        """Files, and folders of files, that hold the data, after a look whether all are there.

        Raises:
            DataUnavailable: some aren't; the message says where they belong and how to get
                them.
        """
        ...

    def read(self) -> Iterator[tuple[Split, Images]]:
        """Each split, read and decoded.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        ...

    def about(self, fingerprint: str, counts: Mapping[Split, NDArray[np.int64]]) -> str:
        """One line on the content, from its fingerprint and the images of each class."""
        ...


@dataclass(frozen=True)
class ImageSet(PooledData):
    """An image data set, opened; images are uint8 `[M, channels, height, width]`.

    Attributes:
        sources: the files behind it.
    """

    sources: Sources = field(repr=False)

    def check(self) -> None:
        """Check that the sources still hold every file, without reading them.

        Raises:
            DataUnavailable: they don't.
        """
        self.sources.find()

    def reread(self) -> str:
        """Fingerprint of the current sources, with every image decoded again.

        The prepared arrays are read as a whole too, and prepared again where damaged.

        Raises:
            DataUnavailable: they are missing, incomplete or damaged.
        """
        _prepared(self.name, self.prep, self.sources, whole=True)
        hashes: dict[str, ByClass] = {
            split: _by_class(images) for split, images in self.sources.read()
        }
        return content_fingerprint(hashes)


def open_images(name: str, prep: str, sources: Sources) -> ImageSet:
    """Return a data set, prepared at the first opening.

    Args:
        name: id of the data set.
        prep: version of the preparation.
        sources: its files.

    Raises:
        DataUnavailable: they are missing, incomplete or damaged.
    """
    arrays = _prepared(name, prep, sources, whole=False)
    return ImageSet(
        name=name,
        fingerprint=str(arrays["fingerprint"]),
        prep=prep,
        source=str(arrays["source"]),
        sources=sources,
        pools={split: _pool(arrays, split) for split in SPLITS if split in arrays},
    )


def official_parts(opened: ImageSet) -> Labelled:
    """Return a set of an official train and test part as a long-tailed stream uses it."""
    train, test = opened.pool("train"), opened.pool("test")
    return Labelled(
        name=opened.name,
        fingerprint=opened.fingerprint,
        prep=opened.prep,
        source=opened.source,
        classes=train.names,
        train=whole_part(train),
        test=whole_part(test),
    )


def _prepared(name: str, prep: str, sources: Sources, *, whole: bool) -> Arrays:
    digest = hashlib.sha256(repr(sources).encode())
    for path in sources.find():
        digest.update(source_key(path, flat=True).encode())
    build = partial(_prepare, name, sources)
    return prepared(name, prep, build, key=digest.hexdigest(), whole=whole)


def _prepare(name: str, sources: Sources) -> Arrays:
    arrays: Arrays = {}
    hashes: dict[str, ByClass] = {}
    classes: dict[str, list[str]] = {}
    for split, images in sources.read():
        hashes[split] = _by_class(images)
        classes[split] = [each.name for each in images.classes]
        arrays[split] = images.x
        arrays[f"{split}-count"] = images.counts
        arrays[f"{split}-classes"] = np.array(images.classes)
    for note in repeated_instances(hashes, classes):
        _log.warning("%s: %s", name, note)
    fingerprint = content_fingerprint(hashes)
    about = sources.about(fingerprint, _counts(arrays))
    return arrays | {"fingerprint": np.array(fingerprint), "source": np.array(about)}


def _counts(arrays: Arrays) -> dict[Split, NDArray[np.int64]]:
    return {split: arrays[f"{split}-count"] for split in SPLITS if split in arrays}


def _by_class(images: Images) -> ByClass:
    parts = np.split(images.hashes, np.cumsum(images.counts)[:-1])
    return [[bytes(line) for line in part] for part in parts]


def _pool(arrays: Arrays, split: Split) -> Pool:
    count = arrays[f"{split}-count"]
    start = np.cumsum(count) - count
    start.flags.writeable = False
    names, groups = (tuple(map(str, column)) for column in arrays[f"{split}-classes"].T)
    return Pool(arrays[split], start, count, names, groups)


def decode_all(
    many: int, read: Callable[[int], tuple[bytes, str]], *, kind: str, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return many image files as `x` `[M, 3, side, side]` uint8 and their hashes `[M, 32]`.

    A hash is over the decoded pixels, `[3, height, width]`; of a JPEG, which decoders read
    differently, over the file's bytes.

    Args:
        many: number of files, M.
        read: gives content and name, for messages, of file i; called from several threads.
        kind: Pillow's name of the format.
        side: pixels; images of another size are resized by LANCZOS.

    Raises:
        DataUnavailable: a file isn't a complete image of that format.
    """
    x: NDArray[np.uint8] = scratch((many, 3, side, side), np.uint8)
    hashes = np.empty((many, 32), np.uint8)

    def decode(first: int) -> None:
        for row in range(first, min(first + _CHUNK, many)):
            data, where = read(row)
            image = decoded(data, where, kind).convert("RGB")
            pixels = np.asarray(image).transpose(2, 0, 1)
            hashed = np.frombuffer(data, np.uint8) if kind == "JPEG" else pixels
            hashes[row] = np.frombuffer(instance_hash(hashed), np.uint8)
            if image.size != (side, side):
                small = image.resize((side, side), Image.Resampling.LANCZOS)
                pixels = np.asarray(small).transpose(2, 0, 1)
            x[row] = pixels

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        deque(pool.map(decode, range(0, many, _CHUNK)), maxlen=0)
    return x, hashes


def hash_all(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the hashes of images as they are, `[M, 32]` uint8."""
    hashes = np.empty((len(x), 32), np.uint8)
    for row, pixels in enumerate(x):
        hashes[row] = np.frombuffer(instance_hash(pixels), np.uint8)
    return hashes


def missing(name: str, what: str, expected: str, root: Path, get: str = "") -> DataUnavailable:
    """Return the error that says what is missing, where it belongs and how to get it.

    Args:
        name: id of the data set.
        what: what isn't there, or isn't right.
        expected: files that are looked for.
        root: data folder.
        get: name that `data get` knows them under, where it isn't `name`.
    """
    return DataUnavailable(
        f"{name}: {what}; expected below {root}: {expected}; get it with 'lazybench data get "
        f"{get or name}', or set {DATA_VARIABLE} to the folder that holds it"
    )
