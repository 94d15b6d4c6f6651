"""The ledger of an attack: the queries of each image, its remaining budget and its successes.

It holds no images: rows are charged to their owners before anything is sent, and outcomes are
recorded by the rows' positions. Calls are handled as a whole, without a loop over rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Charged(NamedTuple):
    """The rows of one call: served or refused, and the owner's query count by then.

    Attributes:
        served: `[R]` bool: charged, and to be sent.
        position: `[R]` int64: which query of its image a served row is, from 1; 0 where refused.
    """

    served: NDArray[np.bool_]
    position: Rows


class Ledger:
    """Queries, successes and nearest adversarials of n images.

    Attributes:
        budget: queries that each image has.
        queries: `[n]` int64, queries charged so far.
        done: `[n]` bool, images that are finished: their rows are refused.
        success_query: `[n]` int64, position of the first success, from 1; 0 for none.
        nearest: `[n]` float64, distance of the nearest adversarial row; infinite for none.
    """

    def __init__(self, images: int, budget: int, *, ends_at_success: bool) -> None:
        """Open a ledger whose images are all finished until `open` is called.

        Args:
            images: n.
            budget: queries that each image has.
            ends_at_success: whether an image is finished after the call of its first success.
        """
        self.budget = budget
        self.queries = np.zeros(images, np.int64)
        self.done = np.ones(images, np.bool_)
        self.success_query = np.zeros(images, np.int64)
        self.nearest = np.full(images, np.inf)
        self._ends_at_success = ends_at_success
        self._least = np.full(images, np.inf)
        # Improvements, call by call: image, position, Euclidean distance.
        self._trace: list[tuple[Rows, Rows, NDArray[np.float64]]] = []

    @property
    def left(self) -> Rows:
        """Queries that each image has left, `[n]`, including unused ones of finished images."""
        return self.budget - self.queries

    def open(self, images: NDArray[np.bool_]) -> None:
        """Start over for the images of a mask `[n]`; the others keep their accounts."""
        self.queries[images] = self.success_query[images] = 0
        self.done[images] = False
        self.nearest[images] = self._least[images] = np.inf
        kept = [(of, ~images[of], at, far) for of, at, far in self._trace]
        self._trace = [(of[keep], at[keep], far[keep]) for of, keep, at, far in kept if keep.any()]

    def charge(self, owner: Rows) -> Charged:
        """Charge rows to their images, in order, except past a budget or of finished images.

        Args:
            owner: `[R]` int64 in [0, n).
        """
        if len(owner) < 2 or bool((owner[1:] > owner[:-1]).all()):
            # One row an image, as most attacks in lock-step query.
            position = self.queries[owner] + 1
            served = (position <= self.budget) & ~self.done[owner]
            self.queries[owner] += served
            return Charged(served, np.where(served, position, 0))
        counts = np.bincount(owner, minlength=len(self.queries))
        order = np.argsort(owner, kind="stable")
        begin = np.cumsum(counts) - counts
        position = np.empty(len(owner), np.int64)
        position[order] = np.arange(1, len(owner) + 1) - np.repeat(begin, counts)
        position += self.queries[owner]
        served = (position <= self.budget) & ~self.done[owner]
        self.queries += np.minimum(counts, np.where(self.done, 0, self.left))
        return Charged(served, np.where(served, position, 0))

    def record(
        self,
        owner: Rows,
        position: Rows,
        hit: NDArray[np.bool_],
        distance: NDArray[np.float64],
        l2: NDArray[np.float64],
    ) -> Rows:
        """Record the adversarial rows of a call; return which are the nearest so far, `[k]`.

        Args:
            owner: `[A]` images of the adversarial rows.
            position: `[A]` their positions.
            hit: `[A]` which of them are successes, i.e. near enough.
            distance: `[A]` distances in the norm of the attack.
            l2: `[A]` Euclidean distances.

        Returns:
            Indices into these rows, at most one for each image.
        """
        first = np.full(len(self.queries), self.budget + 1)
        np.minimum.at(first, owner[hit], position[hit])
        fresh = (self.success_query == 0) & (first <= self.budget)
        self.success_query[fresh] = first[fresh]
        better = improvements(owner, position, l2, self._least)
        if len(better):
            self._trace.append((owner[better], position[better], l2[better]))
            np.minimum.at(self._least, owner[better], l2[better])
        nearer = improvements(owner, position, distance, self.nearest)
        np.minimum.at(self.nearest, owner[nearer], distance[nearer])
        return np.asarray(nearer[distance[nearer] == self.nearest[owner[nearer]]])

    def close(self) -> None:
        """Finish the images whose budget is spent or whose success ends them."""
        self.done |= self.queries >= self.budget
        if self._ends_at_success:
            self.done |= self.success_query > 0

    def give_up(self) -> None:
        """Finish all images; what they have left isn't charged."""
        self.done[:] = True

    def trace(self, image: int) -> NDArray[np.float64]:
        """Return how an image's least Euclidean distance fell, `[k, 2]`: position, distance."""
        own = [(at[of == image], far[of == image]) for of, at, far in self._trace]
        return np.array([pair for at, far in own for pair in zip(at, far, strict=True)]).reshape(
            -1, 2
        )

    def least_l2(self, by: int | None = None) -> NDArray[np.float64]:
        """Return each image's least Euclidean distance within its first `by` queries, `[n]`.

        Infinite where no row was adversarial.
        """
        if by is None or by >= self.budget:
            return self._least.copy()
        least = np.full(len(self.queries), np.inf)
        for of, at, far in self._trace:
            early = at <= by
            np.minimum.at(least, of[early], far[early])
        return least


def improvements(
    owner: Rows, position: Rows, value: NDArray[np.float64], best: NDArray[np.float64]
) -> Rows:
    """Return the rows that are below `best` and all earlier rows of their owner, in order.

    Args:
        owner: `[A]` int64.
        position: `[A]` int64, the order within an owner.
        value: `[A]` float64.
        best: `[n]` float64, the least value of each owner before these rows.
    """
    below = np.flatnonzero(value < best[owner])
    if not len(below):
        return below
    rows = below[np.lexsort((position[below], owner[below]))]
    # Ranks are exact, so a segment can be shifted below the one before it: the running minimum of
    # the whole then starts over with each owner.
    ranks = np.unique(value[rows], return_inverse=True)[1]
    segment = np.cumsum(np.diff(owner[rows], prepend=owner[rows[0]]) != 0)
    low = np.minimum.accumulate(ranks - segment * len(rows))
    return rows[np.diff(low, prepend=low[0] + 1) < 0]
