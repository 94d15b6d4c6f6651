"""Instances of a data set grouped by class, as environments use them.

Few-shot environments use a `Pool` of each split, with different classes. Long-tailed streams use
`Labelled`: train and test instances of the same classes. A data set's module may have
`labelled(**kwargs) -> Labelled` besides its opener. For other data sets, streams use the train
classes and hold out a fifth of each class's instances for the test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.data.splits import HELD_OUT, SPLITS, Split, held_out_each
from lazybench.errors import UsageError
from lazybench.registry import DATASETS
from lazybench.user_code import declared, load

__all__ = [
    "SPLITS",
    "DataSet",
    "Labelled",
    "Part",
    "Pool",
    "Split",
    "held_out",
    "open_labelled",
    "random_ranks",
    "whole_part",
]


@dataclass(frozen=True)
class Pool:
    """All instances of one split, class after class.

    Attributes:
        x: `[M, *shape]`, uint8 images `[M, channels, height, width]` or float32 vectors `[M, d]`;
            read-only, may be memory-mapped.
        start: `[C]` int64, row of each class's first instance.
        count: `[C]` int64, number of instances of each class.
        names: `C` class names, unique.
        groups: `C` super-category names (alphabet, script, ImageNet category), equal where shared.
    """

    x: NDArray[np.generic]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one instance."""
        return tuple(self.x.shape[1:])


@runtime_checkable
class DataSet(Protocol):
    """An opened data set; `pool` may be called for each split, and is cheap the second time."""

    @property
    def name(self) -> str:
        """Id of the data set, as in environment ids (`glyphs`, `omniglot`)."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hex digits over content and split, independent of packaging."""
        ...

    @property
    def prep(self) -> str:
        """Version of the preparation (resizing, jitter) that turned sources into instances."""
        ...

    @property
    def source(self) -> str:
        """One line on where the images come from, and on a subset or a custom split."""
        ...

    def pool(self, split: Split) -> Pool:
        """Return the instances of `split`."""
        ...


@dataclass(frozen=True)
class PooledData:
    """Base of opened data sets that hold a pool for each split.

    Attributes:
        name: id of the data set.
        fingerprint: 64 hex digits over content and split.
        prep: version of the preparation.
        source: one line on where the instances come from.
        pools: the splits' pools; one with an official train and test part has no val.
    """

    name: str
    fingerprint: str
    prep: str
    source: str
    pools: Mapping[Split, Pool] = field(repr=False)

    def pool(self, split: Split) -> Pool:
        """Return the instances of `split`.

        Raises:
            UsageError: no such split.
        """
        if split not in self.pools:
            raise UsageError(f"split {split!r} isn't one of {', '.join(self.pools)}")
        return self.pools[split]


@runtime_checkable
class OfNetwork(Protocol):
    """A data set that says whether a network made its instances.

    Attributes:
        weights: what that network was trained on; empty where none made them.
    """

    @property
    def weights(self) -> str:
        """The training data of the network."""
        ...


def data_facts(opened: DataSet | Labelled) -> dict[str, str]:
    """Return the facts of a data set that records keep, as `lazybench.records` has them."""
    facts = {
        "name": opened.name,
        "fingerprint": opened.fingerprint,
        "prep": opened.prep,
        "source": opened.source,
    }
    if isinstance(opened, OfNetwork) and opened.weights:
        facts["weights"] = opened.weights
    return facts


@dataclass(frozen=True)
class Part:
    """Instances by class; `x` isn't copied, so it may contain instances of other parts.

    Attributes:
        x: `[M, channels, height, width]` uint8 images or `[M, d]` float32 vectors, read-only, may
            be memory-mapped.
        rows: `[n]` int64, rows of `x` with the part's instances, class after class.
        count: `[C]` int64, instances of each class.
    """

    x: NDArray[np.generic]
    rows: NDArray[np.int64]
    count: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, `[n]`."""
        return np.repeat(np.arange(len(self.count)), self.count)


@dataclass(frozen=True)
class Labelled:
    """A data set whose train and test part have the same classes.

    Attributes:
        name: id of the data set.
        fingerprint: 64 hex digits over the images and the parts.
        prep: version of the preparation.
        source: one line on where the images come from.
        classes: names, in the order of the labels.
        train: images from which the dev set and the long tail are drawn.
        test: images of the test.
        weights: of features, what the network was trained on that made them.
    """

    name: str
    fingerprint: str
    prep: str
    source: str
    classes: tuple[str, ...]
    train: Part = field(repr=False)
    test: Part = field(repr=False)
    weights: str = ""


def open_labelled(data: str) -> Labelled:
    """Return a data set as a long-tailed stream uses it.

    Raises:
        UnknownName: no such data set.
        UsageError: it holds neither images nor vectors, or too few of a class.
        DataUnavailable: it isn't installed or is damaged.
    """
    spec = DATASETS.resolve(data).spec
    own: Callable[..., Labelled] | None = declared(spec.target, "labelled", None)
    if own is not None:
        return own(**spec.kwargs)
    opened: object = load(spec.target)(**spec.kwargs)
    if not isinstance(opened, DataSet):
        raise UsageError(f"{data} has no classes; a long-tailed stream needs labelled images")
    return held_out_labelled(opened, opened.name)


def held_out_labelled(opened: DataSet, key: str) -> Labelled:
    """Return the train classes of a data set, with a part of each held out for the test.

    Args:
        opened: the data set.
        key: which instances are held out is a function of it.

    Raises:
        UsageError: it holds neither images nor vectors, or too few of a class.
    """
    pool = opened.pool("train")
    train, test = held_out(pool, key)
    return Labelled(
        name=opened.name,
        fingerprint=opened.fingerprint,
        prep=f"{opened.prep}-heldout1",
        source=f"{opened.source}; its train classes, one image in {HELD_OUT} held out for the test",
        classes=pool.names,
        train=train,
        test=test,
        weights=opened.weights if isinstance(opened, OfNetwork) else "",
    )


def whole_part(pool: Pool) -> Part:
    """Return all instances of a pool.

    Raises:
        UsageError: they are neither images nor vectors.
    """
    if (pool.x.dtype.name, pool.x.ndim) not in (("uint8", 4), ("float32", 2)):
        raise UsageError(
            "a long-tailed stream needs uint8 images [channels, height, width] or float32 vectors "
            f"[d], got {pool.x.dtype} {list(pool.shape)}"
        )
    return Part(pool.x, np.arange(len(pool.x)), pool.count)


def held_out(pool: Pool, key: str) -> tuple[Part, Part]:
    """Return train and test part of a pool, with equally many test instances of each class.

    They are a function of `key` and of an instance's row in the pool.

    Raises:
        UsageError: they are neither images nor vectors, or a class has too few.
    """
    whole = whole_part(pool)
    each = held_out_each(int(pool.count.min()))
    if not each:
        raise UsageError(
            f"a class of {key} has {pool.count.min()} images; holding out one in {HELD_OUT} for "
            f"the test takes at least {HELD_OUT}"
        )
    rank = random_ranks(whole, seeding.mix(key, "held out 1"))
    kept = rank >= each
    test = np.full(len(pool.count), each, np.int64)
    return (
        Part(whole.x, whole.rows[kept], pool.count - each),
        Part(whole.x, whole.rows[~kept], test),
    )


def random_ranks(part: Part, key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return each image's place, int64 `[n]`, in a random order of its class."""
    order = np.lexsort((seeding.mix(key, part.rows), part.labels))
    first = np.cumsum(part.count) - part.count
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(first, part.count)
    return rank
