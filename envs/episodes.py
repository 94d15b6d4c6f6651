"""Episode samplers: whole blocks of tasks, each a pure function of its key.

A sampler answers `draw(keys)` with the rows of all tasks at once; nothing here runs once an image.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench import counter
from lazybench.data.pool import Pool
from lazybench.errors import UsageError
from lazybench.task import TaskShape


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

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[np.generic]:
        """Return the query targets of the same tasks, drawn again, `[R, query rows, …]`."""
        ...


class Regression(Protocol):
    """A family of functions to draw points from."""

    def draw(
        self, keys: NDArray[np.uint64], points: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return inputs and targets, `[R, points, …]` each."""
        ...


def choose(keys: NDArray[np.uint64], amount: int, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `amount` distinct indices for each key, in random order, int64 `[R, amount]`.

    A partial Fisher-Yates shuffle of all rows at once.

    Args:
        keys: `[R]` uint64.
        amount: how many to draw from each row.
        sizes: `[R]`, row r draws from [0, sizes[r]); each must be >= amount.
    """
    rows = len(keys)
    order = np.broadcast_to(np.arange(int(sizes.max()), dtype=np.int64), (rows, int(sizes.max())))
    order = order.copy()
    steps = np.arange(amount)
    picks = steps + counter.integers(
        counter.mix(keys[:, None], steps), sizes[:, None] - steps
    )
    flat = order.reshape(-1)
    offset = np.arange(rows) * order.shape[1]
    for step in range(amount):
        here, there = offset + step, offset + picks[:, step]
        flat[here], flat[there] = flat[there], flat[here]
    return order[:, :amount]


class ClassSampler:
    """N-way K-shot episodes from a pool of instances grouped by class.

    The classes of a task come in random order, which is the order of its labels. Support and query
    instances are disjoint. Query rows are shuffled inside the episode, so that position tells nothing;
    support rows stay class by class, shot by shot.

    With `noniid`, train classes are split once into N groups and label j always comes from group j,
    the memorisation trap of Yin et al. 2020.
    """

    def __init__(
        self, pool: Pool, *, way: int, shot: int, query: int, where: str, noniid_key: str = "", ordered: bool = False
    ) -> None:
        """Check that the pool can serve such tasks.

        Args:
            pool: instances by class.
            way: classes in a task.
            shot: support instances of a class.
            query: query instances of a class.
            where: name of data and split, for messages.
            noniid_key: fixes the groups of the memorisation trap; empty for shuffled classes.
            ordered: with `noniid_key`, groups are runs of the sorted classes instead of random ones.

        Raises:
            UsageError: more ways than classes, or more shots and queries than a class has instances.
        """
        if not 2 <= way <= pool.classes:
            raise UsageError(
                f"way must lie in [2, {pool.classes}] for {where}, got {way}; ask for fewer ways"
            )
        least = int(pool.count.min())
        if shot < 1 or query < 1 or shot + query > least:
            raise UsageError(
                f"shots + queries must be at most {least}, the instances of a class in {where}, and "
                f"each at least 1; got {shot} + {query}"
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
        self._groups = _groups(pool.classes, way, noniid_key, ordered) if noniid_key else None

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one episode for each key."""
        task, blocks = self.task, len(keys)
        classes = self._classes(counter.mix(keys, 0))
        cells = counter.mix(counter.mix(keys, 1)[:, None], np.arange(task.way))
        instance = choose(
            cells.reshape(-1), task.shot + task.query, self._count[classes].reshape(-1)
        ).reshape(blocks, task.way, -1)
        rows = self._start[classes][..., None] + instance
        order = self._query_order(keys)
        query = np.take_along_axis(rows[..., task.shot :].reshape(blocks, -1), order, axis=1)
        labels = np.arange(task.way).repeat(task.shot)
        support_y = np.broadcast_to(labels, (blocks, task.support_rows)).copy()
        return Block(
            self._gather(rows[..., : task.shot].reshape(blocks, -1)),
            torch.from_numpy(support_y),
            self._gather(query),
            torch.from_numpy(order // task.query),
        )

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[np.generic]:
        """Return the query labels of the same episodes, int64 `[R, way * query]`."""
        return self._query_order(keys) // self.task.query

    def _query_order(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where each query row comes from in class-by-class order; row // query is its label."""
        return counter.permutation(counter.mix(keys, 2), self.task.query_rows)

    def _classes(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        if self._groups is None:
            return choose(keys, self.task.way, np.full(len(keys), len(self._count)))
        cells = counter.mix(keys[:, None], np.arange(self.task.way))
        sizes = np.array([len(group) for group in self._groups])
        picks = counter.integers(cells, sizes)
        table = np.full((len(sizes), sizes.max()), -1, dtype=np.int64)
        for label, group in enumerate(self._groups):
            table[label, : len(group)] = group
        return table[np.arange(self.task.way), picks]

    def _gather(self, rows: NDArray[np.int64]) -> Tensor:
        flat = self._x.index_select(0, torch.from_numpy(rows.reshape(-1)))
        return flat.view(*rows.shape, *self.task.instance)


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
            way=1, shot=shot, query=query, instance=(1,), dtype="float32", target="array", target_shape=(1,)
        )

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one task for each key."""
        shot = self.task.shot
        x, y = self._family.draw(keys, shot + self.task.query)
        parts = (x[:, :shot], y[:, :shot], x[:, shot:], y[:, shot:])
        return Block(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[np.generic]:
        """Return the query targets of the same tasks, float32 `[R, query, 1]`."""
        return self.draw(keys).query_y.numpy()


def _groups(classes: int, way: int, key: str, ordered: bool) -> list[NDArray[np.int64]]:
    """The fixed N groups of the memorisation trap."""
    order = np.arange(classes)
    if not ordered:
        order = counter.permutation(counter.mix(key, "groups")[None], classes)[0]
    return [group for group in np.array_split(order, way)]


def _tensor_view(array: NDArray[np.generic]) -> Tensor:
    """A tensor on the same, read-only memory: a pool may be mapped from a file and is never copied."""
    with warnings.catch_warnings():
        # Torch warns that writing would be undefined; samplers only gather from it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
