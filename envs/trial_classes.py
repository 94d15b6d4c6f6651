"""Classes of official test trials, from the trials' numbers, without opening a data set.

The draw of a few-shot trial's classes is a function of the environment's settings, the trial's
index and the number of classes in the split. The last is known by the data's fingerprint, so that
records of before are served, too, and boards need no data. For unevenly spread queries and tasks of
any number of ways, so are the weights of the classes. The test images of a long tail lie class
after class, all as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.class_effects import TrialClasses
from lazybench.data.splits import QUERIES
from lazybench.envs import SIZES
from lazybench.specs import EnvSpec


class SplitSize(NamedTuple):
    """What the draws of trials depend on.

    Attributes:
        classes: of the split.
        least: instances of its smallest class.
    """

    classes: int
    least: int


TEST_SPLITS: Mapping[str, SplitSize] = {
    # glyphs
    "96c6f20e19fa802183fe3a90e174943bc3c8c7f260cc26babc567c031ce72b7a": SplitSize(425, 20),
    # glyphshard
    "d26fe2f8690e9a3c06f9285bdb5b211f17f1349c12d6bdd49a9b07a6adeb5724": SplitSize(425, 20),
    # omniglot
    "91d64e846b1184c6b0ea93352f7136f9716015d6014e2cd7e90ea404a4c43ebf": SplitSize(423, 20),
    # omniglot-alphabet
    "156339e3decf3fcc87599c80846c73a64062e58045eeb4ebb05643c7ed271740": SplitSize(659, 20),
    # cifarfs
    "196254e26994e001fb467fcfce4b57217f2c28156d604eb66d2d4d705e7b6cbd": SplitSize(20, 600),
    # cifarfs@effnet-lite0
    "d5112fc006a525723e3f8ae3d1dc7b228e228c828b8f3c793087c84efc9cc321": SplitSize(20, 600),
    # omniglot@effnet-lite0
    "c26e1cdd422f7ef4a2712fba4d29b1d0c499ef4d2d7fec058233a7fff5538982": SplitSize(423, 20),
    # fc100
    "ece9bd50508499a4d8d156aed03276f8a4cf6a7f50a93f846531dc5d9d5000ea": SplitSize(20, 600),
    # miniimagenet, subset
    "d6d24f43678362f630757f2c3fecf3dcb8f737ac1669a1253865af798126f7be": SplitSize(20, 100),
}
"""Test splits by fingerprint of the data. All have more train classes than any task has ways."""

_MOST_CONCENTRATION = 1000
"""Beyond it, drawing the shares takes long, and a record may claim anything."""


def few_shot_classes(spec: EnvSpec, fingerprint: str, trials: int) -> TrialClasses | None:
    """Return the test classes of trials 0..trials-1, or None if their number isn't known.

    With `concentration`, a class weighs as its share of the queries. With `uneven`, trials of as
    many ways are a stratum: how hard tasks of a number of ways are belongs to the design.

    Args:
        spec: a few-shot environment on data with classes.
        fingerprint: of the data.
        trials: how many.
    """
    split = TEST_SPLITS.get(fingerprint)
    if split is None:
        return None
    keys = seeding.mix(seeding.mix(protocol_name(spec.kwargs), "test"), np.arange(trials))
    way = int(spec.kwargs["way"])
    if spec.kwargs.get("uneven"):
        way = min(way, split.classes)
    members = choose(seeding.mix(keys[:, None], np.arange(way)), np.full(trials, split.classes))
    if spec.kwargs.get("uneven"):
        ways = ways_of(keys, way)
        return TrialClasses(np.where(np.arange(way) < ways[:, None], members, -1), ways)
    concentration = spec.kwargs.get("concentration")
    if concentration is None:
        return TrialClasses(members)
    if not 0 <= concentration <= _MOST_CONCENTRATION:
        return None
    query = spread_queries(QUERIES, split.least, int(spec.kwargs["shot"]), way)
    counts = query_counts(keys, way, query, concentration)
    return TrialClasses(members, weights=counts / (way * query))


def ways_of(keys: NDArray[np.uint64], most: int) -> NDArray[np.int64]:
    """Return the ways of uneven tasks, int64 `[R]`, from 2 to `most`, all equally likely."""
    return 2 + seeding.integers(seeding.mix(keys, 2 * most + 1), most - 1)


def spread_queries(queries: int, least: int, shot: int, way: int) -> int:
    """Return the queries of a class on average, few enough for one class to have all of them.

    Args:
        queries: the most.
        least: instances of the smallest class.
        shot: support instances of a class.
        way: classes in a task.
    """
    return min(queries, max(1, (least - shot) // way))


def query_counts(
    keys: NDArray[np.uint64], way: int, query: int, concentration: int
) -> NDArray[np.int64]:
    """Return the query rows of each class, int64 `[R, way]`, which add up to `way * query`.

    Args:
        keys: one for each task.
        way: classes in a task.
        query: query rows of a class on average.
        concentration: parameter of the Dirichlet distribution, a whole number; 0 gives every class
            the same share.
    """
    if not concentration:
        return np.full((len(keys), way), query)
    # A gamma variable of a whole parameter is a sum of exponential ones.
    words = np.arange(way * concentration).reshape(way, -1) + 2 * way + 1
    exponential = -np.log1p(-seeding.uniform(seeding.mix(keys[:, None, None], words)))
    gamma = exponential.sum(2)
    exact = way * query * gamma / gamma.sum(1, keepdims=True)
    counts = np.floor(exact).astype(np.int64)
    missing = way * query - counts.sum(1, keepdims=True)
    order = np.argsort(counts - exact, axis=1, kind="stable")
    np.put_along_axis(
        counts, order, np.take_along_axis(counts, order, 1) + (np.arange(way) < missing), 1
    )
    rounded: NDArray[np.int64] = counts
    return rounded


def long_tail_classes(spec: EnvSpec, fingerprint: str, trials: int) -> TrialClasses | None:
    """Return the class of each test image, or None if they aren't those of a built-in data set.

    Features have the test images of their data.

    Strata are pairs of classes that are neighbours in the long tail, so that they have about as
    many training images: how accuracy falls from head to tail belongs to the protocol, and what
    differs between neighbours is what the choice of classes adds by chance.

    Args:
        spec: a long-tailed stream.
        fingerprint: of the data; the data set's name says enough.
        trials: test images.
    """
    del fingerprint
    classes, images = SIZES.get(spec.data.partition("@")[0], (0, 0))
    if trials != images:
        return None
    labels = np.repeat(np.arange(classes), images // classes)
    return TrialClasses(labels[:, None], np.minimum(labels // 2, classes // 2 - 1))


def protocol_name(settings: Mapping[str, Any]) -> str:
    """Return everything but split and index that the draws of an environment depend on.

    Args:
        settings: `data`, `way`, `shot`, and those of `noniid`, `order`, `concentration` and
            `uneven` that aren't the default.
    """
    if settings.get("uneven"):
        return f"{settings['data']}-anyway"
    noniid, order = settings.get("noniid", False), settings.get("order", "random")
    groups = ("-noniid-sorted" if order == "sorted" else "-noniid") if noniid else ""
    concentration = settings.get("concentration")
    spread = "" if concentration is None else f"-dirichlet{concentration}"
    return f"{settings['data']}-{settings['way']}way-{settings['shot']}shot{groups}{spread}"


def choose(words: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return distinct indices for each row, in random order, int64 `[R, amount]`.

    A partial Fisher-Yates shuffle of all rows at once.

    Args:
        words: `[R, amount]` uint64, independent random words, one for each index to draw.
        sizes: `[R]`, row r draws from [0, sizes[r]); each must be >= amount.
    """
    rows, amount = words.shape
    most = int(sizes.max(initial=amount))
    order = np.tile(np.arange(most, dtype=np.int64), rows)
    steps = np.arange(amount)
    picks = steps + seeding.integers(words, sizes[:, None] - steps)
    offset = np.arange(rows) * most
    for step in range(amount):
        here, there = offset + step, offset + picks[:, step]
        order[here], order[there] = order[there], order[here]
    return order.reshape(rows, most)[:, :amount]
