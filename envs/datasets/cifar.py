"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 600 images each, split for few-shot learning.

Reference: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
    L. Bertinetto, J. F. Henriques, P. H. S. Torr & A. Vedaldi, "Meta-learning with differentiable
    closed-form solvers", ICLR 2019 (CIFAR-FS); B. N. Oreshkin, P. Rodriguez & A. Lacoste, "TADAM:
    task dependent adaptive metric for improved few-shot learning", NeurIPS 2018 (FC100).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench.data.archives import read_members
from lazybench.data.folders import data_root
from lazybench.data.pickles import as_text, load_pickle, text_keys
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.datasets.image_set import (
    Images,
    ImageSet,
    Roster,
    checker,
    few_shot_roster,
    hash_all,
    missing,
    open_images,
)
from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import open_file

SIDE = 32


class Batch(NamedTuple):
    """Images of one pickled file.

    Attributes:
        x: `[M, 3, 32, 32]` uint8.
        y: `[M]` int64, the class of each.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def find_cifar(
    root: Path, folder: str, parents: Sequence[str], files: Sequence[str], *, archive: str = ""
) -> list[Path]:
    """Return the files of an unpacked CIFAR, else its archive alone, else nothing.

    Args:
        root: data folder.
        folder: name of the folder that is unpacked from the archive.
        parents: folders below `root` that may hold either; "" for `root`.
        files: what the folder must hold.
        archive: name of the archive, where it isn't the folder's with `.tar.gz`.
    """
    for place in parents:
        found = [root / place / folder / file for file in files]
        if all(path.is_file() for path in found):
            return found
        packed = root / place / (archive or f"{folder}.tar.gz")
        if packed.is_file():
            return [packed]
    return []


def read_cifar(found: Sequence[Path], folder: str, files: Sequence[str]) -> list[Any]:
    """Return what the pickled `files` hold, from what `find_cifar` found.

    Raises:
        DataUnavailable: the archive or a pickle is damaged or holds anything else than data.
    """
    if len(found) == 1 and len(files) > 1:
        names = [f"{folder}/{file}" for file in files]
        members = read_members(found[0], names)
        return [load_pickle(members[name], f"{name} in {found[0]}") for name in names]
    return [load_pickle(path) for path in found]


def batch(value: Any, where: str, labels: str) -> Batch:
    """Return the images of a batch as CIFAR's files hold them.

    Args:
        value: content of the pickle.
        where: its name in messages.
        labels: key of the classes (`fine_labels`).

    Raises:
        DataUnavailable: it has another form.
    """
    entries = text_keys(value, where, ("data", labels))
    x, given = entries["data"], entries[labels]
    # A list in a list may hold itself many times over: numpy would walk it for years.
    whole = isinstance(given, list) and all(isinstance(label, int) for label in given)
    if not isinstance(x, np.ndarray) or not (whole or isinstance(given, np.ndarray)):
        raise DataUnavailable(
            f"{where} holds data of {type(x).__name__} and {labels} of {type(given).__name__}, not "
            "an array and integers; fetch it again"
        )
    try:
        y = np.asarray(given, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataUnavailable(f"{where}: bad {labels} ({error}); fetch it again") from error
    if x.dtype != np.uint8 or x.shape != (len(y), 3 * SIDE * SIDE):
        raise DataUnavailable(
            f"{where} holds {x.dtype} {list(x.shape)} for {len(y)} labels, not uint8 "
            f"[{len(y)}, {3 * SIDE * SIDE}]; fetch it again"
        )
    return Batch(x.reshape(-1, 3, SIDE, SIDE), y)


def label_names(value: Any, where: str, key: str) -> list[str]:
    """Return the classes' names from the `meta` file, in the order of the labels.

    Raises:
        DataUnavailable: it has another form.
    """
    names = text_keys(value, where, (key,))[key]
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataUnavailable(f"{where} holds no list of names as {key}; fetch it again")
    return [as_text(name) for name in names]


def md5(path: Path) -> str:
    """Return the md5 sum of a file, which is what CIFAR's authors publish.

    Raises:
        DataUnavailable: it can't be read.
    """
    try:
        with open_file(path, None) as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise DataUnavailable(f"{path} can't be read ({error}); make it readable") from error


Protocol = Literal["cifarfs", "fc100"]

PREP = "32-1"
EACH = 600
EXPECTED = (
    "cifar-100-python/ with train, test and meta, or cifar-100-python.tar.gz, straight in the data "
    "folder or in cifar100/, cifarfs/ or fc100/ below it"
)
# Of a copy that isn't byte for byte what the authors give out, but whose channels have the
# published means and deviations. Other content opens all the same, and its `source` says so.
FINGERPRINTS: Mapping[Protocol, str] = {
    "cifarfs": "196254e26994e001fb467fcfce4b57217f2c28156d604eb66d2d4d705e7b6cbd",
    "fc100": "ece9bd50508499a4d8d156aed03276f8a4cf6a7f50a93f846531dc5d9d5000ea",
}

PUBLISHED = {
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
"""The md5 sums of the authors' files."""

FOLDER = "cifar-100-python"
PARENTS = ("", "cifar100", "cifarfs", "fc100")
FILES = ("train", "test", "meta")
_TITLES: Mapping[Protocol, str] = {
    "cifarfs": "CIFAR-100, split as CIFAR-FS",
    "fc100": "CIFAR-100, split by super-classes as FC100",
}


@dataclass(frozen=True)
class Cifar100:
    """CIFAR-100's files below a data folder, train and test joined class by class.

    Attributes:
        root: data folder.
        protocol: which split.
        roster: the split.
        each: images that a class must have.
    """

    root: Path
    protocol: Protocol
    roster: Roster
    each: int = EACH

    def find(self) -> tuple[Path, ...]:
        """The three files, or the archive.

        Raises:
            DataUnavailable: neither is there.
        """
        found = find_cifar(self.root, FOLDER, PARENTS, FILES)
        if not found:
            raise self._missing("not found")
        return tuple(found)

    def read(self) -> Iterator[tuple[Split, Images]]:
        """Each split; a class's training images come before its test images.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        x, rows = self._read()
        for split in SPLITS:
            classes = self.roster[split]
            held = x[np.concatenate([rows[each.name] for each in classes])]
            counts = np.full(len(classes), self.each, np.int64)
            yield split, Images(held, hash_all(held), counts, classes)

    def about(self, fingerprint: str, counts: Mapping[Split, NDArray[np.int64]]) -> str:
        """The split, and whether these are the authors' images."""
        del counts  # `read` refuses any number but `each`.
        sure = "the images differ from the known ones"
        if all(md5(path) == PUBLISHED[path.name] for path in self.find()):
            sure = "the authors' files"
        elif fingerprint == FINGERPRINTS[self.protocol]:
            sure = "the known images, repacked"
        return f"{_TITLES[self.protocol]}; {sure}"

    def _read(self) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
        """All images, and the rows of each class."""
        found = self.find()
        try:
            train, test, meta = read_cifar(found, FOLDER, FILES)
            where = str(found[0].parent if len(found) > 1 else found[0])
            names = label_names(meta, f"meta in {where}", "fine_label_names")
            parts = [
                batch(value, f"{file} in {where}", "fine_labels")
                for value, file in ((train, "train"), (test, "test"))
            ]
            y = np.concatenate([part.y for part in parts])
            rows = {name: np.flatnonzero(y == label) for label, name in enumerate(names)}
            wanted = {each.name for split in SPLITS for each in self.roster[split]}
            if set(names) != wanted or len(names) != len(wanted):
                raise DataUnavailable(f"{where} has other classes than CIFAR-100's {len(wanted)}")
            for name, held in rows.items():
                if len(held) != self.each:
                    raise DataUnavailable(
                        f"{where} holds {len(held)} images of {name}, not {self.each}"
                    )
        except DataUnavailable as error:
            raise self._missing(str(error)) from error
        return np.concatenate([part.x for part in parts]), rows

    def _missing(self, what: str) -> DataUnavailable:
        return missing(self.protocol, what, EXPECTED, self.root)


def open_cifar100(protocol: Protocol = "cifarfs") -> ImageSet:
    """CIFAR-FS (64/16/20 classes) or FC100 (60/20/20 classes of 12/4/4 super-classes).

    Images `[3, 32, 32]` uint8, 600 a class; groups are CIFAR-100's super-classes, which FC100
    doesn't share between splits and CIFAR-FS does.

    Args:
        protocol: `cifarfs` or `fc100`.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
        UsageError: no such protocol.
    """
    return open_images(protocol, PREP, _official(protocol))


def _official(protocol: Protocol = "cifarfs") -> Cifar100:
    if protocol not in _TITLES:
        raise UsageError(f"CIFAR-100 protocol {protocol!r} isn't one of {', '.join(_TITLES)}")
    return Cifar100(data_root(), protocol, few_shot_roster(protocol))


check = checker(_official)
