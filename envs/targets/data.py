"""The images of the data sets that have named targets, in the order in which they are given out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from lazybench.data.archives import source_key
from lazybench.data.cache import prepared
from lazybench.data.folders import data_root
from lazybench.data.pool import Pool
from lazybench.envs.datasets.cifar_files import batch, read_cifar
from lazybench.envs.datasets.cifar_whole import Whole, open_cifar
from lazybench.envs.datasets.glyphs_variants import CHARACTERS, open_ten
from lazybench.envs.datasets.images import ImageSet, Sources
from lazybench.envs.datasets.mnist import Mnist, open_mnist
from lazybench.errors import UsageError, nearest

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images `[N, channels, height, width]` and their classes `[N]`."""


@dataclass(frozen=True)
class TargetData:
    """A data set for classifiers, opened.

    Attributes:
        name: id of the data set.
        fingerprint: 64 hex digits over the images.
        prep: version of the preparation.
        source: one line on where the images come from.
        classes: number of classes.
        instance: shape of one image, (channels, height, width).
    """

    name: str
    fingerprint: str
    prep: str
    source: str
    classes: int
    instance: tuple[int, ...]
    _images: Callable[[Part], Labelled] = field(repr=False)

    def images(self, part: Part) -> Labelled:
        """Return all images of a part and their classes, in the order of the files.

        Raises:
            UsageError: no such part.
            DataUnavailable: the files have become unreadable.
        """
        if part not in PARTS:
            raise UsageError(f"part must be one of {', '.join(PARTS)}, got '{part}'")
        return self._images(part)


def target_data(name: str) -> TargetData:
    """Return a data set that named targets are trained on.

    Raises:
        UsageError: no such data set.
        DataUnavailable: it isn't installed or is damaged.
    """
    if name not in _OPENERS:
        raise UsageError(
            f"no target is trained on '{name}'; there are {', '.join(_OPENERS)}."
            f"{nearest(name, _OPENERS)}"
        )
    return _OPENERS[name]()


def _glyphs() -> TargetData:
    opened = open_ten()

    def images(part: Part) -> Labelled:
        return opened.x[part], opened.labels(part)

    return TargetData(
        opened.name,
        opened.fingerprint,
        opened.prep,
        opened.source,
        len(CHARACTERS),
        opened.x["test"].shape[1:],
        images,
    )


def _mnist() -> TargetData:
    files = Mnist(data_root())
    return _in_file_order(open_mnist(), files, lambda: {split: y for split, _, y in files.parts()})


def _cifar10() -> TargetData:
    files = Whole(data_root(), "cifar10")
    layout = files.layout

    def labels() -> Mapping[str, NDArray[np.int64]]:
        values = read_cifar(files.find(), layout.folder, layout.files)
        y = [
            batch(value, file, layout.labels).y
            for value, file in zip(values[:-1], layout.files[:-1], strict=True)
        ]
        return {"train": np.concatenate(y[:-1]), "test": y[-1]}

    return _in_file_order(open_cifar("cifar10"), files, labels)


_OPENERS: Mapping[str, Callable[[], TargetData]] = {
    "glyphs": _glyphs,
    "mnist": _mnist,
    "cifar10": _cifar10,
}


def _in_file_order(
    opened: ImageSet, files: Sources, labels: Callable[[], Mapping[str, NDArray[np.int64]]]
) -> TargetData:
    """A set whose pools lie class after class, and inside a class in the files' order.

    `labels` reads each part's classes in the order of the files; they are kept in the cache.
    """
    key = "\n".join(source_key(path, flat=True) for path in files.find())
    order = prepared(f"{opened.name}-labels", f"{opened.prep}-1", lambda: dict(labels()), key=key)
    pool: Pool = opened.pool("train")
    # `Choice:` a copy whose files lie class after class is dealt out in turns, one image of each
    # class: the first hundred would all be of one class otherwise. Its preparation says so.
    dealt = bool((np.diff(order["test"]) >= 0).all())

    def images(part: Part) -> Labelled:
        y = np.asarray(order[part])
        x = np.empty((len(y), *pool.shape), np.uint8)
        place = np.argsort(y, kind="stable")
        x[place] = cast(NDArray[np.uint8], opened.pool(part).x)
        if not dealt:
            return x, y
        turn = np.empty(len(y), np.int64)
        turn[place] = np.arange(len(y)) - np.searchsorted(y[place], y[place])
        rows = np.lexsort((y, turn))
        return x[rows], y[rows]

    return TargetData(
        opened.name,
        opened.fingerprint,
        f"{opened.prep}-dealt" if dealt else opened.prep,
        opened.source,
        pool.classes,
        pool.shape,
        images,
    )
