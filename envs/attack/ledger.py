"""The ledger of an attack: the queries of each image, its remaining budget and its successes.

It holds no images: rows are charged to their owners before anything is sent, and outcomes are
recorded by the rows' positions. Calls are handled as a whole, without a loop over rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazybench.envs.attack.summary import BAD_CHECKPOINTS

Rows = NDArray[np.int64]


class Charged(NamedTuple):
    """The rows of one call: served or refused, and the owner's query count by then.

    Attributes:
        served: `[R]` bool: charged, and to be sent.
        position: `[R]` int64: which query of its image a served row is, from 1; 0 if refused.
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
        bad_budget: bad answers that finish an image; None for any number.
        bad: `[n]` int64, bad answers so far.
        success_bad: `[n]` int64, bad answers before the first success; -1 for none.
        flagged: `[n]` int64, queries that a detector flagged.
        detected: `[n]` int64, position of the first of them; 0 for none.
    """

    def __init__(
        self, images: int, budget: int, *, ends_at_success: bool, bad_budget: int | None = None
    ) -> None:
        """Open a ledger whose images are all finished until `open` is called.

        Args:
            images: n.
            budget: queries that each image has.
            ends_at_success: whether an image is finished after the call of its first success.
            bad_budget: bad answers that finish an image; None for any number.
        """
        self.budget, self.bad_budget = budget, bad_budget
        self.bad = np.zeros(images, np.int64)
        self.success_bad = np.full(images, -1)
        # Position of each image's k-th bad answer for the k of BAD_CHECKPOINTS; 0 for not yet.
        self._bad_at = np.zeros((images, len(BAD_CHECKPOINTS)), np.int64)
        self.flagged = np.zeros(images, np.int64)
        self.detected = np.zeros(images, np.int64)
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
        self.bad[images], self.success_bad[images], self._bad_at[images] = 0, -1, 0
        self.flagged[images] = self.detected[images] = 0
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
        position = self.queries[owner] + _numbered(owner, counts)
        served = (position <= self.budget) & ~self.done[owner]
        self.queries += np.minimum(counts, np.where(self.done, 0, self.left))
        return Charged(served, np.where(served, position, 0))

    def safe(self, owner: Rows) -> NDArray[np.bool_]:
        """Return which rows can be sent at once without exceeding the bad budget, `[R]`.

        Of each image the first rows, as many as it has bad answers left: at worst all of them are
        bad. Rows of finished images are among them, since `charge` refuses these.

        Args:
            owner: `[R]` int64 in [0, n).
        """
        if self.bad_budget is None:
            return np.ones(len(owner), np.bool_)
        left = np.where(self.done, len(owner), self.bad_budget - self.bad)
        counts = np.bincount(owner, minlength=len(left))
        return np.asarray(_numbered(owner, counts) <= left[owner])

    def count(self, owner: Rows, position: Rows, bad: NDArray[np.bool_]) -> None:
        """Count the bad answers of a call, after `record`; finish images whose bad budget is spent.

        Args:
            owner: `[R]` images of the answered rows.
            position: `[R]` their positions.
            bad: `[R]` whose answer is bad.
        """
        of, at, images = owner[bad], position[bad], len(self.queries)
        fresh = (self.success_query > 0) & (self.success_bad < 0)
        if fresh.any():
            early = np.bincount(of[at < self.success_query[of]], minlength=images)
            self.success_bad[fresh] = (self.bad + early)[fresh]
        counts = np.bincount(of, minlength=images)
        number = self.bad[of] + _numbered(of, counts)
        for column, checkpoint in enumerate(BAD_CHECKPOINTS):
            there = number == checkpoint
            self._bad_at[of[there], column] = at[there]
        self.bad += counts
        if self.bad_budget is not None:
            self.done |= self.bad >= self.bad_budget

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

    def flag(self, owner: Rows, position: Rows, flagged: NDArray[np.bool_]) -> None:
        """Count flagged queries; later rows of their images no longer count as adversarial.

        Attackers see no sign of it.

        Args:
            owner: `[R]` images of the answered rows, those of one image in order.
            position: `[R]` their positions.
            flagged: `[R]` which of them a detector flagged.
        """
        of, at = owner[flagged], position[flagged]
        self.flagged += np.bincount(of, minlength=len(self.queries))
        first = np.full(len(self.queries), self.budget + 1)
        np.minimum.at(first, of, at)
        fresh = (self.detected == 0) & (first <= self.budget)
        self.detected[fresh] = first[fresh]

    @property
    def undetected(self) -> NDArray[np.bool_]:
        """Whether each image's first success came before its first flagged query, `[n]`."""
        return np.asarray((self.detected == 0) | (self.success_query < self.detected))

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

        Infinite where no row was adversarial before the first flagged query.
        """
        if (by is None or by >= self.budget) and not self.detected.any():
            return self._least.copy()
        return self._least_l2(np.full(len(self.queries), self.budget if by is None else by))

    def least_l2_at_bad(self, checkpoint: int) -> NDArray[np.float64]:
        """Return each image's least Euclidean distance until so many bad answers, `[n]`.

        What a bad budget of that size would have given: later rows don't count, and all rows count
        where there were fewer bad answers. Infinite where no row was adversarial.

        Args:
            checkpoint: one of `BAD_CHECKPOINTS`.
        """
        at = self._bad_at[:, BAD_CHECKPOINTS.index(checkpoint)]
        return self._least_l2(np.where(at > 0, at, self.budget)) if at.any() else self.least_l2()

    def _least_l2(self, by: Rows) -> NDArray[np.float64]:
        """Each image's least Euclidean distance up to a position of its own, `[n]`."""
        least = np.full(len(self.queries), np.inf)
        by = np.where(self.detected > 0, np.minimum(by, self.detected - 1), by)
        for of, at, far in self._trace:
            early = at <= by[of]
            np.minimum.at(least, of[early], far[early])
        return least


def _numbered(owner: Rows, counts: Rows) -> Rows:
    """Return the number of each row among those of its owner, from 1, `[R]`.

    Args:
        owner: `[R]` int64.
        counts: `[n]` rows of each owner.
    """
    if len(owner) < 2 or bool((owner[1:] > owner[:-1]).all()):
        # One row an image, as most attacks in lock-step query.
        return np.ones(len(owner), np.int64)
    number = np.empty(len(owner), np.int64)
    begin = np.cumsum(counts) - counts
    number[np.argsort(owner, kind="stable")] = np.arange(1, len(owner) + 1) - np.repeat(
        begin, counts
    )
    return number


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
