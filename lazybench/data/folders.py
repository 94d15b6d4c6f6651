"""Folders of data sets and prepared arrays, addresses of downloads, and what is installed.

Besides its opener, a data set's module may have `check(**kwargs) -> Path`, which looks for the
files without reading them and returns the folder. An opened data set may have `reread() -> str`,
the current fingerprint of its sources. Without them the status is less detailed.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from platformdirs import user_cache_path, user_data_path

from lazybench.errors import DataUnavailable, LazybenchError
from lazybench.registry import DATASETS, open_data
from lazybench.specs import DataSpec
from lazybench.user_code import declared, load

DATA_VARIABLE = "LAZYBENCH_DATA"
CACHE_VARIABLE = "LAZYBENCH_CACHE"


def data_root() -> Path:
    """Absolute folder that holds the data sets' source files; it need not exist.

    `LAZYBENCH_DATA` where it is set and not empty, else the platform's data folder for lazybench.
    """
    return _chosen(DATA_VARIABLE) or user_data_path("lazybench", appauthor=False)


def cache_root() -> Path:
    """Absolute folder that holds prepared arrays; it need not exist, all in it can be rebuilt.

    `LAZYBENCH_CACHE` where it is set and not empty, else the platform's cache folder for lazybench.
    """
    return _chosen(CACHE_VARIABLE) or own_cache_root()


def own_cache_root() -> Path:
    """Absolute cache folder of the user on this platform, whatever `LAZYBENCH_CACHE` says."""
    return user_cache_path("lazybench", appauthor=False)


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    # Absolute, so that a later change of the working folder can't move the data.
    return Path(os.path.abspath(os.path.expanduser(value))) if value else None


@dataclass(frozen=True)
class Remote:
    """One file of a data set.

    Attributes:
        url: its official address.
        place: its path below the data folder.
        md5: the published checksum, 32 hex digits; empty if none is published.
    """

    url: str
    place: str
    md5: str = ""

    @property
    def file(self) -> str:
        """Its name at the address."""
        return self.url.rpartition("/")[2]


_OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_ZENODO = "https://zenodo.org/record/7978538/files"

_omniglot = tuple(
    Remote(f"{_OMNIGLOT}/{file}", f"omniglot-py/{file}", md5)
    for file, md5 in (
        ("images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    )
)
_cifar100 = (
    Remote(
        f"{_CIFAR}/cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
)

SOURCES: Mapping[str, tuple[Remote, ...]] = {
    "omniglot": _omniglot,
    "omniglot-alphabet": _omniglot,
    "mnist": tuple(
        Remote(f"{_MNIST}/{file}", f"MNIST/raw/{file}", md5)
        for file, md5 in (
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        )
    ),
    "cifar10": (
        Remote(
            f"{_CIFAR}/cifar-10-python.tar.gz",
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
        ),
    ),
    "cifar100": _cifar100,
    "cifarfs": _cifar100,
    "fc100": _cifar100,
    "miniimagenet": tuple(
        Remote(f"{_ZENODO}/{file}", f"miniimagenet/{file}")
        for file in (f"mini-imagenet-cache-{name}.pkl" for name in ("train", "validation", "test"))
    ),
    "tieredimagenet": tuple(
        Remote(f"{_ZENODO}/{file}", f"tieredimagenet/{file}")
        for kind in ("labels", "images_png")
        for file in (f"tiered-imagenet-{split}_{kind}.pkl" for split in ("train", "val", "test"))
    ),
}
"""The files of each data set that can be downloaded, by its id."""


@dataclass(frozen=True)
class DataStatus:
    """Status of one data set on this machine.

    Attributes:
        name: id of the data set.
        installed: whether its files exist; they may still be damaged.
        path: folder of its files, or None if there are none.
        source: one line on where the data come from.
        detail: the result, or what is wrong and what to do about it.
        verified: after `verify`, whether all content was read and is unchanged; else None.
        fingerprint: 64 hex digits after `verify`, else empty.
    """

    name: str
    installed: bool
    path: Path | None
    source: str
    detail: str
    verified: bool | None = None
    fingerprint: str = ""


@runtime_checkable
class RereadDataSet(Protocol):
    """An opened data set that can read its sources again."""

    fingerprint: str

    def reread(self) -> str:
        """Return the current fingerprint of the sources, 64 hex digits."""
        ...


def status() -> list[DataStatus]:
    """Return the status of each registered data set, by id; prepares nothing."""
    return [_look(spec) for spec in DATASETS.specs()]


def where(name: str) -> Path:
    """Return the folder of a data set, or the folder for its files if it isn't installed.

    Raises:
        UnknownName: no such data set.
    """
    return _look(DATASETS.resolve(name).spec).path or data_root()


def verify(name: str) -> DataStatus:
    """Read a data set completely, compute its fingerprint again, and return its status.

    Raises:
        UnknownName: no such data set.
    """
    spec: DataSpec = DATASETS.resolve(name).spec
    looked = _look(spec)
    try:
        opened = open_data(name)
        rereads = isinstance(opened, RereadDataSet)
        now = opened.reread() if rereads else opened.fingerprint
    except DataUnavailable as error:
        return DataStatus(spec.id, False, looked.path, looked.source, str(error), verified=False)
    verified: bool | None = now == opened.fingerprint
    detail = "every file was read again and the fingerprint is the same"
    if not verified:
        detail = (
            f"the files changed after they were prepared: fingerprint {now}, prepared "
            f"{opened.fingerprint}; delete {cache_root()} to prepare them again"
        )
    elif not rereads and spec.embedded:
        detail = "the included file was verified when it was opened"
    elif not rereads:
        verified, detail = None, "it can be opened; it has no method to read its files again"
    return DataStatus(spec.id, True, looked.path, opened.source, detail, verified, now)


def _look(spec: DataSpec) -> DataStatus:
    source = spec.about
    try:
        if spec.embedded:
            path = Path(inspect.getfile(load(spec.target))).parent
            return DataStatus(spec.id, True, path, source, "included in the package")
        check: Callable[..., Path] | None = declared(spec.target, "check", None)
        if check is not None:
            path = check(**spec.kwargs)
            return DataStatus(spec.id, True, path, source, "all files exist")
        present = [data_root() / probe for probe in spec.probe if (data_root() / probe).exists()]
        if spec.probe and not present:
            expected = " or ".join(spec.probe)
            detail = f"not installed; expected {expected} below {data_root()}"
            return DataStatus(spec.id, False, None, source, detail)
        if present:
            detail = "its folder exists; its content wasn't checked"
            return DataStatus(spec.id, True, present[0], source, detail)
        opened = load(spec.target)(**spec.kwargs)
        return DataStatus(spec.id, True, None, opened.source, "it can be opened")
    except (LazybenchError, OSError) as error:
        return DataStatus(spec.id, False, None, source, str(error))
