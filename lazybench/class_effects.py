"""The part of the variance of a mean that comes from the classes of its trials.

A test has many trials but few classes: 600 tasks of 5 ways draw each of Omniglot's 423 test classes
seven times. An interval over trials says how other tasks from the same classes would score; one
over classes says how tasks from other classes of the same kind would.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_SHARE = 1e-9
"""Of the information on classes that there could be, what is taken for rounding."""
_LEAST_Z = -8.0
"""Standard errors below 0 from which on an estimate isn't taken for what it is."""


class TrialClasses(NamedTuple):
    """The classes of each trial.

    Attributes:
        members: `[n, ways]` int64 numbers of classes; -1 fills rows of fewer classes.
        strata: None, or `[n]` int64: only differences between classes of the same stratum count
            as chance; those between strata belong to the design, as head and tail of a long tail.
        weights: None, or `[n, ways]` shares that classes have in their trial's score, which add up
            to 1; without them all classes of a trial have the same.
    """

    members: NDArray[np.int64]
    strata: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None


class Components(NamedTuple):
    """Variances of the model `score = stratum + mean of the trial's class effects + rest`.

    Attributes:
        classes: of a class's effect; unbiased, so that it may be below 0.
        trials: of the rest, one trial.
    """

    classes: float
    trials: float


class ClassEffects:
    """Random effects of classes on the scores of trials, crossed with whatever else varies.

    The components come from two moments: the squared scores about their stratum's mean, and the
    squared sums of these over the trials of each class (MINQUE with prior weight 0 on the classes,
    in balanced nested designs the analysis of variance). They are linear in the two, with
    coefficients that depend on the design alone, so that thousands of pairs of rows cost two
    distances each.

    Choice: the part of the variance that classes add is the mean of a normal distribution about the
    estimate, cut off below 0, and its degrees of freedom are Satterthwaite's. An estimate that is 0
    by luck, as in one of two tests without any class effect, says only that the part is small: how
    small depends on how well the design distinguishes classes.

    Attributes:
        n: trials.
        classes: distinct classes in them.
        ways: classes of a trial, their mean number.
        identified: whether the design distinguishes classes; without it there are no estimates.
        added: the share of a class's variance in that of the mean, beyond what the spread of the
            trials has of it.

    Reference: C. R. Rao, J. Multivariate Analysis 1 (1971), 257-275 (MINQUE); F. E. Satterthwaite,
        Biometrics Bulletin 2 (1946), 110-114.
    """

    def __init__(self, design: TrialClasses) -> None:
        """Prepare a design; a trial's weight is shared among its classes."""
        from scipy.sparse import csr_array

        members = np.asarray(design.members)
        held = members >= 0
        self.n = len(members)
        self.ways = float(held.sum()) / self.n
        names, columns = np.unique(members[held], return_inverse=True)
        self.classes = len(names)
        rows = np.nonzero(held)[0]
        even = (1.0 / held.sum(axis=1))[rows]
        weights = even if design.weights is None else np.asarray(design.weights)[held]
        shape = (self.n, self.classes)
        self._share = csr_array((weights, (rows, columns)), shape=shape)
        strata = np.zeros(self.n, np.int64) if design.strata is None else design.strata
        _, self._stratum = np.unique(strata, return_inverse=True)
        count = int(self._stratum.max()) + 1
        places = (np.arange(self.n), self._stratum)
        in_stratum = csr_array((np.ones(self.n), places), shape=(self.n, count))
        self._mean_of = in_stratum @ _diagonal(1.0 / np.bincount(self._stratum))
        means = (self._mean_of.T @ self._share).toarray()
        sizes = np.bincount(self._stratum)[:, None]
        gram = (self._share.T @ self._share).toarray() - means.T @ (sizes * means)
        square = gram @ gram
        self._freedom = self.n - count
        self._traces = (
            float(np.trace(gram)),
            float(np.trace(square)),
            float((gram * square).sum()),
            float((square * square).sum()),
        )
        t1, t2, *_ = self._traces
        information = t2 * self._freedom - t1**2
        squares = float((self._share.data**2).sum())
        self.identified = (
            t1 > _LEAST_SHARE * squares and information > _LEAST_SHARE * t2 * self._freedom
        )
        if self.identified:
            self._of_sums, self._of_scores = self._freedom / information, -t1 / information
        whole = np.asarray(self._share.sum(axis=0)) / self.n
        # Less what the variance between trials, divided by their number, has of it already.
        self.added = (self.n * float((whole**2).sum()) - squares / self.n) / max(1, self.n - 1)

    def moments(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Scores about their stratum's mean, and their weighted sums over each class.

        Both are linear in the scores; all estimates are made of their squared lengths.

        Args:
            scores: `[rows, n]`.

        Returns:
            `[rows, n]` and `[rows, classes]`.
        """
        centred = scores - (scores @ self._mean_of)[:, self._stratum]
        return centred, np.asarray(centred @ self._share)

    def components(self, scores: NDArray[np.float64]) -> Components:
        """The components of variance of one row's scores, `[n]`, in their unit squared."""
        squares, sums = (float((part**2).sum()) for part in self.moments(scores[None]))
        classes = self._of_sums * sums + self._of_scores * squares
        return Components(classes, (squares - self._traces[0] * classes) / self._freedom)

    def widened(
        self,
        squares: NDArray[np.float64],
        sums: NDArray[np.float64],
        trials: NDArray[np.float64],
        trials_df: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The variance of means over trials and classes, and its degrees of freedom, row by row.

        Args:
            squares: `[rows]` squared length of the first of `moments`.
            sums: that of the second.
            trials: variance of the mean over trials alone.
            trials_df: its degrees of freedom.
        """
        from scipy.special import erfcx

        t1, t2, t3, t4 = self._traces
        a, b = self._of_sums, self._of_scores
        classes = a * sums + b * squares
        above = np.maximum(0.0, classes)
        rest = np.maximum(0.0, (squares - t1 * above) / self._freedom)
        # Variances of the estimate, of the squares, and their covariance, for normal effects.
        spread = np.sqrt(
            2 * rest**2 * (a * a * t2 + 2 * a * b * t1 + b * b * self._freedom)
            + 4 * rest * above * (a * a * t3 + 2 * a * b * t2 + b * b * t1)
            + 2 * above**2 * (a * a * t4 + 2 * a * b * t3 + b * b * t2)
        )
        of_squares = 2 * (above**2 * t2 + 2 * above * rest * t1 + rest**2 * self._freedom)
        shared = 2 * (above**2 * (a * t3 + b * t2) + 2 * above * rest * (a * t2 + b * t1))
        known = spread > 0
        z = np.maximum(_LEAST_Z, classes / np.where(known, spread, 1.0))
        ratio = math.sqrt(2 / math.pi) / erfcx(-z / math.sqrt(2))
        mean = np.where(known, spread * (z + ratio), above)
        # How far the mean follows the estimate, and its own variance as a share of the estimate's.
        follows = np.clip(1 - ratio * (z + ratio), 0.0, 1.0)
        variance = trials + self.added * mean
        unit = trials / np.where(squares > 0, squares, 1.0)
        doubt = (
            unit**2 * of_squares
            + 2 * unit * self.added * follows * shared
            + self.added**2 * follows * spread**2
        )
        sure = doubt <= 0
        freedom = np.where(sure, trials_df, 2 * variance**2 / np.where(sure, 1.0, doubt))
        # Quarters, so that thousands of pairs share few quantiles.
        return variance, np.minimum(np.floor(4 * freedom) / 4, trials_df)


def _diagonal(values: NDArray[np.float64]) -> object:
    from scipy.sparse import diags_array

    return diags_array(values)
