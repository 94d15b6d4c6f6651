"""Episode samplers: whole blocks of tasks, each a pure function of its key.

A sampler answers `draw(keys)` with the rows of all tasks at once; nothing here runs once an image.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench import seeding
from lazybench.data.pool import Pool
from lazybench.envs.trial_classes import choose, query_counts, ways_of
from lazybench.errors import UsageError
from lazybench.tasks import PADDING, TaskShape

Labels = Literal["task", "class"]
"""What a label is: a class's place in its task, in [0, way), or in its split, in [0, classes)."""

_FEW = 64
"""Largest class size for which sorting random keys is faster than shuffling step by step."""


class Block(NamedTuple):
    """R tasks: support and query instances with their targets, answers included.

    Labels are int64 `[R, rows]`; regression targets float32 `[R, rows, *target_shape]`.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


class Sampler(Protocol):
    """Draws blocks of tasks of one shape."""

    task: TaskShape

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one task for each key."""
        ...

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return the query targets of the same tasks, drawn again, `[R, query rows, …]`."""
        ...


class Regression(Protocol):
    """A family of functions to draw points from."""

    def draw(
        self, keys: NDArray[np.uint64], points: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return inputs and targets, `[R, points, …]` each."""
        ...


def choose_of_few(
    words: NDArray[np.uint64], amount: int, sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return what `choose` does (other draws, equally distributed), by sorting a word an index.

    Args:
        words: `[R, most]` uint64, independent random words, one for each index to draw from.
        amount: how many to draw from each row.
        sizes: `[R]`, row r draws from [0, sizes[r]); amount <= sizes[r] <= most.
    """
    columns = np.arange(words.shape[1])
    if int(sizes.min(initial=len(columns))) < len(columns):
        words = np.where(columns < sizes[:, None], words, np.iinfo(np.uint64).max)
    return np.argsort(words, axis=1, kind="stable")[:, :amount]


class ClassSampler:
    """N-way K-shot episodes from a pool of instances grouped by class.

    The classes of a task come in random order, which is the order of its labels. Support and query
    instances are disjoint. Query rows are shuffled inside the episode, so that position carries no
    label; support rows stay class by class, shot by shot.

    Attributes:
        task: shape of every task.
        groups: None, or one list of classes for each label: label j is then always drawn from
            group j, the memorisation trap.
        labels: `task`, or `class` for the class's place in the pool: the instances are the same.

    Reference: Yin et al., "Meta-learning without memorization", ICLR 2020.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        way: int,
        shot: int,
        query: int,
        where: str,
    ) -> None:
        """Check that the pool can serve such tasks.

        Args:
            pool: instances by class.
            way: classes in a task.
            shot: support instances of a class.
            query: query instances of a class.
            where: name of data and split, for messages.

        Raises:
            UsageError: more ways than classes, or more shots and queries than a class holds.
        """
        if not 2 <= way <= pool.classes:
            raise UsageError(
                f"way must lie in [2, {pool.classes}] for {where}, got {way}; set fewer ways"
            )
        least = int(pool.count.min())
        if shot < 1 or query < 1 or shot + query > least:
            raise UsageError(
                f"shots + queries must be at most {least}, the instances of a class in {where}, "
                f"and each at least 1; got {shot} + {query}"
            )
        self.task = TaskShape(
            way=way,
            shot=shot,
            query=query,
            instance=pool.shape,
            dtype="uint8" if pool.x.dtype == np.uint8 else "float32",
            classes=pool.classes,
        )
        self._x = _tensor_view(pool.x)
        self._start, self._count = pool.start, pool.count
        self.groups: list[NDArray[np.int64]] | None = None
        self.labels: Labels = "task"
        self._most = int(pool.count.max())
        # Instances of a class that are drawn as queries; query rows choose among them.
        self._drawn = query

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one episode for each key."""
        task, blocks = self.task, len(keys)
        classes, rows = self._drawn_rows(keys)
        order = self._query_order(keys)
        query = np.take_along_axis(rows[..., task.shot :].reshape(blocks, -1), order, axis=1)
        labels = np.tile(np.arange(task.way).repeat(task.shot), (blocks, 1))
        return Block(
            self._gather(rows[..., : task.shot].reshape(blocks, -1)),
            torch.from_numpy(self._named(labels, classes)),
            self._gather(query),
            torch.from_numpy(self._named(order // self._drawn, classes)),
        )

    def _drawn_rows(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Classes `[R, way]` of tasks, and rows of the pool `[R, way, shot + drawn queries]`."""
        way = self.task.way
        # One call for all that depends on the key: words for the classes, then a key a class.
        words = seeding.mix(keys[:, None], np.arange(2 * way))
        classes = self._classes(words[:, :way])
        instance = self._instances(words[:, way:].reshape(-1), classes.reshape(-1))
        return classes, self._start[classes][..., None] + instance.reshape(len(keys), way, -1)

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return the query labels of the same episodes, int64 `[R, way * query]`."""
        places = self._query_order(keys) // self._drawn
        if self.labels == "task":
            return places
        return self._named(
            places, self._classes(seeding.mix(keys[:, None], np.arange(self.task.way)))
        )

    def _named(self, places: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of rows, from the places `[R, rows]` that their classes have in the tasks."""
        return places if self.labels == "task" else np.take_along_axis(classes, places, axis=1)

    def _query_order(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where each query row comes from in class-by-class order; row // drawn is its label."""
        return seeding.permutation(seeding.mix(keys, 2 * self.task.way), self.task.query_rows)

    def _classes(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The classes of each task, `[R, way]`."""
        if self.groups is None:
            return choose(words, np.full(len(words), len(self._count)))
        sizes = np.array([len(group) for group in self.groups])
        first = np.cumsum(sizes) - sizes
        held = np.concatenate(self.groups)
        picks = held[first + seeding.integers(words, sizes)]
        return np.asarray(picks, dtype=np.int64)

    def _instances(self, keys: NDArray[np.uint64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Distinct instances of each class, `[len(classes), shot + query]`, counted inside it."""
        sizes, amount = self._count[classes], self.task.shot + self._drawn
        if self._most <= _FEW:
            words = seeding.mix(keys[:, None], np.arange(self._most))
            return choose_of_few(words, amount, sizes)
        return choose(seeding.mix(keys[:, None], np.arange(amount)), sizes)

    def _gather(self, rows: NDArray[np.int64]) -> Tensor:
        flat = self._x.index_select(0, torch.from_numpy(rows.reshape(-1)))
        return flat.view(*rows.shape, *self.task.instance)


class DirichletSampler(ClassSampler):
    """Episodes whose queries are unevenly spread over the classes.

    The shares of a task's classes are drawn from a symmetric Dirichlet distribution, and its query
    rows follow them: `way * query` in all, as many in every task. `Choice:` counts are the shares
    rounded by largest remainders, where the authors round to the nearest number and then the other
    way where the remainder is nearest to a half. `Choice:` queries are never support instances,
    which they may be in the authors' code.

    Reference: Veilleux et al. 2021, "Realistic evaluation of transductive few-shot learning", and
    the sampler of the authors' code.
    """

    def __init__(
        self, pool: Pool, *, way: int, shot: int, query: int, where: str, concentration: int
    ) -> None:
        """Check that the pool can serve such tasks.

        Args:
            pool: instances by class.
            way: classes in a task.
            shot: support instances of a class.
            query: query instances of a class on average.
            where: name of data and split, for messages.
            concentration: the distribution's parameter, a whole number; 0 gives every class the
                same share, as a control.

        Raises:
            UsageError: tasks that the pool can't serve.
        """
        super().__init__(pool, way=way, shot=shot, query=query, where=where)
        least = int(pool.count.min())
        if shot + way * query > least:
            raise UsageError(
                f"all {way * query} queries of a task may be of one class, which has {least} "
                f"instances in {where}, {shot} of them in the support set; set fewer queries"
            )
        self._concentration = concentration
        self._drawn = way * query

    def _query_order(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        rows, shuffled = np.arange(self.task.query_rows), super()._query_order(keys)
        ends = np.cumsum(self.counts(keys), axis=1)
        places = (rows >= ends[..., None]).sum(1)
        starts = np.take_along_axis(np.pad(ends, ((0, 0), (1, 0))), places, axis=1)
        order: NDArray[np.int64] = places * self._drawn + rows - starts
        chosen: NDArray[np.int64] = np.take_along_axis(order, shuffled, axis=1)
        return chosen

    def counts(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the query rows of each class, int64 `[R, way]`, which add up to `query_rows`."""
        return query_counts(keys, self.task.way, self.task.query, self._concentration)


class UnevenSampler(ClassSampler):
    """Episodes of any number of ways and of shots, as they come.

    A task has from 2 to `way` classes, each of these from 1 to `shot` support instances, all
    equally likely, and `query` queries a class. Rows that a task doesn't have come last, are zero
    and have the label `PADDING`.

    Reference: Triantafillou et al. 2020, "Meta-Dataset", section 3, for uneven shots. `Choice:`
    ways and shots are uniform, where that draws shots from the sizes of classes.
    """

    def __init__(self, pool: Pool, *, way: int, shot: int, query: int, where: str) -> None:
        """Check that the pool can serve the largest task; arguments as in the base.

        Raises:
            UsageError: more ways than classes, or more shots and queries than a class holds.
        """
        super().__init__(pool, way=way, shot=shot, query=query, where=where)
        self.task = replace(self.task, uneven=True)

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one episode for each key."""
        task = self.task
        classes, drawn = self._drawn_rows(keys)
        rows = drawn.reshape(len(keys), -1)
        _, shots = self.sizes(keys)
        ends = np.cumsum(shots, axis=1)
        places = np.minimum((np.arange(task.support_rows) >= ends[..., None]).sum(1), task.way - 1)
        starts = np.take_along_axis(ends - shots, places, axis=1)
        within = np.arange(task.support_rows) - starts
        absent = np.arange(task.support_rows) >= ends[:, -1:]
        each = task.shot + task.query
        support = places * each + np.where(absent, 0, within)
        query_places, query_within = self._queries(keys)
        missing = query_places == PADDING
        query = np.where(missing, 0, query_places) * each + task.shot + query_within
        support_y = self._named(np.where(absent, 0, places), classes)
        query_y = self._named(np.where(missing, 0, query_places), classes)
        return Block(
            self._filled(np.take_along_axis(rows, support, axis=1), absent),
            torch.from_numpy(np.where(absent, PADDING, support_y)),
            self._filled(np.take_along_axis(rows, query, axis=1), missing),
            torch.from_numpy(np.where(missing, PADDING, query_y)),
        )

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return the query labels of the same episodes, int64 `[R, way * query]`, or `PADDING`."""
        places, _ = self._queries(keys)
        if self.labels == "task":
            return places
        words = seeding.mix(keys[:, None], np.arange(self.task.way))
        missing = places == PADDING
        named = self._named(np.where(missing, 0, places), self._classes(words))
        return np.where(missing, PADDING, named)

    def sizes(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ways `[R]` of tasks, and the shots of their classes `[R, way]` (0: none)."""
        task = self.task
        ways = ways_of(keys, task.way)
        words = seeding.mix(keys[:, None], 2 * task.way + 2 + np.arange(task.way))
        shots = 1 + seeding.integers(words, task.shot)
        return ways, np.where(np.arange(task.way) < ways[:, None], shots, 0)

    def _queries(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place of each query row's class, or `PADDING`, and its number inside the class."""
        ways, _ = self.sizes(keys)
        order = self._query_order(keys)
        missing = order // self.task.query >= ways[:, None]
        order = np.take_along_axis(order, np.argsort(missing, axis=1, kind="stable"), axis=1)
        places, within = order // self.task.query, order % self.task.query
        return np.where(places >= ways[:, None], PADDING, places), within

    def _filled(self, rows: NDArray[np.int64], absent: NDArray[np.bool_]) -> Tensor:
        """The instances of rows, zero where these are absent."""
        x = self._gather(rows)
        x[torch.from_numpy(absent)] = 0
        return x


class FunctionSampler:
    """K-shot regression tasks from a family of functions."""

    def __init__(self, family: Regression, *, shot: int, query: int) -> None:
        """Fix the number of points.

        Raises:
            UsageError: no shot or no query.
        """
        if shot < 1 or query < 1:
            raise UsageError(f"shots and queries must each be at least 1, got {shot} and {query}")
        self._family = family
        self.task = TaskShape(
            way=1,
            shot=shot,
            query=query,
            instance=(1,),
            dtype="float32",
            target="array",
            target_shape=(1,),
        )

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one task for each key."""
        shot = self.task.shot
        x, y = self._family.draw(keys, shot + self.task.query)
        parts = (x[:, :shot], y[:, :shot], x[:, shot:], y[:, shot:])
        return Block(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return the query targets of the same tasks, float32 `[R, query, 1]`."""
        return self.draw(keys).query_y.numpy()


def class_groups(classes: int, way: int, key: str, *, ordered: bool) -> list[NDArray[np.int64]]:
    """Return the fixed `way` groups of the memorisation trap; their sizes differ by at most 1.

    Args:
        classes: how many classes to split.
        way: number of groups.
        key: what the split is a function of.
        ordered: groups are runs of the classes in their order, instead of random ones.
    """
    order = np.arange(classes)
    if not ordered:
        order = seeding.permutation(seeding.mix(key, "groups")[None], classes)[0]
    return np.array_split(order, way)


def _tensor_view(array: NDArray[np.generic]) -> Tensor:
    """A tensor on the same, read-only memory: a pool may be mapped from a file, never copied."""
    with warnings.catch_warnings():
        # Torch warns that writing would be undefined; samplers only gather from it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
