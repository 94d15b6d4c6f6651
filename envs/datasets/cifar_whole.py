"""CIFAR-10 and CIFAR-100 as they are given out: the same classes in a train and a test part.

Reference: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import data_root
from lazybench.data.pool import Labelled, Split
from lazybench.envs.datasets import cifar
from lazybench.envs.datasets.cifar import (
    Batch,
    batch,
    find_cifar,
    label_names,
    md5,
    read_cifar,
)
from lazybench.envs.datasets.image_set import (
    Images,
    ImageSet,
    Named,
    checker,
    hash_all,
    missing,
    official_parts,
    open_images,
)
from lazybench.errors import DataUnavailable, UsageError

PREP = "32-1"


@dataclass(frozen=True)
class Layout:
    """The authors' file format of one of the two sets.

    Attributes:
        title: name in sentences.
        folder: name of the unpacked folder.
        archive: name of what is given out.
        parents: folders below the data folder that may hold either.
        train: files of the train part.
        test: file of the test part.
        meta: file of the classes' names.
        labels: key of the labels in a file.
        names: key of the classes' names.
        each: images of a class in the train and in the test part, as given out.
        published: md5 sums of the authors' files.
        fingerprint: of the same images, however they are packed; empty if none is known.
    """

    title: str
    folder: str
    archive: str
    parents: tuple[str, ...]
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    each: Mapping[Split, int]
    published: Mapping[str, str]
    fingerprint: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All files, the train part first and the names last."""
        return (*self.train, self.test, self.meta)

    @property
    def expected(self) -> str:
        """Folders in which the files are looked for."""
        below = " or ".join(f"{place}/" for place in self.parents if place)
        return f"{self.folder}/ or {self.archive}, straight in the data folder or in {below}"


LAYOUTS: Mapping[str, Layout] = {
    "cifar10": Layout(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        parents=("", "cifar10"),
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
        each={"train": 5000, "test": 1000},
        published={
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    "cifar100": Layout(
        title="CIFAR-100",
        folder=cifar.FOLDER,
        archive=f"{cifar.FOLDER}.tar.gz",
        parents=cifar.PARENTS,
        train=(cifar.FILES[0],),
        test=cifar.FILES[1],
        meta=cifar.FILES[2],
        labels="fine_labels",
        names="fine_label_names",
        each={"train": 500, "test": 100},
        published=cifar.PUBLISHED,
        # Of a copy whose channels have the published means and deviations.
        fingerprint="a19aa0210d87f9cf67f5f0a422404dcd503df9b80a55a03295ad1522c4f28c30",
    ),
}


@dataclass(frozen=True)
class Whole:
    """The files of one set below a data folder.

    Attributes:
        root: data folder.
        name: `cifar10` or `cifar100`.
    """

    root: Path
    name: str

    @property
    def layout(self) -> Layout:
        """The file format of the set."""
        return LAYOUTS[self.name]

    def find(self) -> tuple[Path, ...]:
        """All files, or the archive.

        Raises:
            DataUnavailable: neither is there.
        """
        layout = self.layout
        found = find_cifar(
            self.root, layout.folder, layout.parents, layout.files, archive=layout.archive
        )
        if not found:
            raise self._missing("not found")
        return tuple(found)

    def read(self) -> Iterator[tuple[Split, Images]]:
        """The train and the test part, class after class in the order of the labels.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        layout, found = self.layout, self.find()
        where = str(found[0].parent if len(found) > 1 else found[0])
        try:
            values = read_cifar(found, layout.folder, layout.files)
            names = label_names(values[-1], f"{layout.meta} in {where}", layout.names)
            parts = [
                batch(value, f"{file} in {where}", layout.labels)
                for value, file in zip(values[:-1], layout.files[:-1], strict=True)
            ]
            yield "train", self._part(parts[:-1], names, "train", where)
            yield "test", self._part(parts[-1:], names, "test", where)
        except DataUnavailable as error:
            raise self._missing(str(error)) from error

    def about(self, fingerprint: str, counts: Mapping[Split, NDArray[np.int64]]) -> str:
        """The share of the images found, and whether they are the authors'."""
        layout = self.layout
        held = {split: int(count[0]) for split, count in counts.items()}
        sure = "not checked against the authors' files"
        if held != layout.each:
            counted = (f"{held[split]} of {layout.each[split]} {split}" for split in held)
            sure = f"a subset: {' and '.join(counted)} images a class"
        elif all(md5(path) == layout.published.get(path.name) for path in self.find()):
            sure = "the authors' files"
        elif fingerprint == layout.fingerprint:
            sure = "the known images, repacked"
        elif layout.fingerprint:
            sure = "the images differ from the known ones"
        return f"{layout.title}; {sure}"

    def _part(self, batches: list[Batch], names: list[str], split: Split, where: str) -> Images:
        """One part, sorted by class; inside a class the files' order stays."""
        y = np.concatenate([each.y for each in batches])
        counts = np.bincount(y[y >= 0], minlength=len(names))
        most = self.layout.each[split]
        if y.min(initial=0) < 0 or len(counts) != len(names) or len(set(names)) != len(names):
            raise DataUnavailable(f"{where} has labels that its {self.layout.meta} doesn't name")
        if not 0 < counts.min() == counts.max() <= most:
            raise DataUnavailable(
                f"{where} holds {counts.min()} to {counts.max()} {split} images a class, "
                f"not {most} (or fewer, but equally many)"
            )
        x = np.concatenate([each.x for each in batches])[np.argsort(y, kind="stable")]
        return Images(x, hash_all(x), counts, tuple(Named(name, name) for name in names))

    def _missing(self, what: str) -> DataUnavailable:
        return missing(self.name, what, self.layout.expected, self.root)


def open_cifar(name: str) -> ImageSet:
    """CIFAR-10 or CIFAR-100 with pools `train` and `test` of the same classes, in label order.

    Images `[3, 32, 32]` uint8. A copy with fewer images a class opens, too, and says so.

    Args:
        name: `cifar10` or `cifar100`.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
        UsageError: no such set.
    """
    return open_images(name, PREP, _sources(name))


def labelled(name: str) -> Labelled:
    """Return the set as a long-tailed stream uses it: the official parts.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
        UsageError: no such set.
    """
    return official_parts(open_cifar(name))


def _sources(name: str) -> Whole:
    if name not in LAYOUTS:
        raise UsageError(f"CIFAR set {name!r} isn't one of {', '.join(LAYOUTS)}")
    return Whole(data_root(), name)


check = checker(_sources)
