"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 600 images each, split for few-shot learning.

Reference: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
    L. Bertinetto, J. F. Henriques, P. H. S. Torr & A. Vedaldi, "Meta-learning with differentiable
    closed-form solvers", ICLR 2019 (CIFAR-FS); B. N. Oreshkin, P. Rodriguez & A. Lacoste, "TADAM:
    task dependent adaptive metric for improved few-shot learning", NeurIPS 2018 (FC100).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import data_root
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.datasets.cifar_files import batch, find_cifar, label_names, md5, read_cifar
from lazybench.envs.datasets.class_lists import Roster, few_shot_roster
from lazybench.envs.datasets.images import Images, ImageSet, hash_all, missing, open_images
from lazybench.errors import DataUnavailable, UsageError

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
BESIDE = ("", "cifar100", "cifarfs", "fc100")
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
        found = find_cifar(self.root, FOLDER, BESIDE, FILES)
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
        """The split, and how sure it is that these are CIFAR-100's images."""
        del counts  # `read` refuses any number but `each`.
        sure = "the images differ from the known ones"
        if all(md5(path) == PUBLISHED[path.name] for path in self.find()):
            sure = "the authors' files"
        elif fingerprint == FINGERPRINTS[self.protocol]:
            sure = "the known images, repacked"
        return f"{_TITLES[self.protocol]}; {sure}"

    def _read(self) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
        """All images, and where each class's stand."""
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

    Images `[3, 32, 32]` uint8, 600 a class; groups are CIFAR-100's super-classes, which FC100 keeps
    apart between splits and CIFAR-FS doesn't.

    Args:
        protocol: `cifarfs` or `fc100`.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
        UsageError: no such protocol.
    """
    return open_images(protocol, PREP, _official(protocol))


def check(protocol: Protocol = "cifarfs") -> Path:
    """Folder that the files lie in, after a look whether all are there.

    Raises:
        DataUnavailable: they aren't.
    """
    return _official(protocol).find()[0].parent


def _official(protocol: Protocol) -> Cifar100:
    if protocol not in _TITLES:
        raise UsageError(f"CIFAR-100 protocol {protocol!r} isn't one of {', '.join(_TITLES)}")
    return Cifar100(data_root(), protocol, few_shot_roster(protocol))
