"""Folders of data sets and prepared arrays on this machine, and addresses of downloads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

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
