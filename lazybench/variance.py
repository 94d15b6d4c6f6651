"""Where the variance of a mean over seeds and trials comes from, and the intervals that follow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_P = 1e-12


class Parts(NamedTuple):
    """What the variance of a mean comes from, and from how many draws it is known.

    Attributes:
        seeds: variance that comes from the seeds.
        seeds_df: its degrees of freedom.
        trials: variance that comes from the trials and from chance within them.
        trials_df: its degrees of freedom.
    """

    seeds: float
    seeds_df: float
    trials: float
    trials_df: float

    @classmethod
    def of_mean(cls, arrays: list[NDArray[Any]]) -> Parts:
        """The parts of the mean over seeds, at least two."""
        import numpy as np

        n = min(array.size for array in arrays)
        between, noise = _between_and_noise(arrays)
        seeds = max(0.0, between - noise)
        if n > 1 and len({array.size for array in arrays}) == 1:
            noise = float(np.stack(arrays).mean(axis=0).var(ddof=1)) / n
        return cls(seeds, len(arrays) - 1, noise, max(1, n - 1))

    @classmethod
    def of_paired(cls, arrays: list[NDArray[Any]]) -> Parts:
        """The parts of the mean over at least two seeds' differences on the same trials.

        What is left of chance in the seeds' means stays with the seeds and isn't counted again
        among the trials. Taken off the seeds it would leave nothing there in many a draw of three,
        and p, which has heavy tails for three seeds, would have those of hundreds of trials.
        """
        import numpy as np

        seeds, noise = _between_and_noise(arrays)
        n = arrays[0].size
        if n == 1:
            return cls(seeds, len(arrays) - 1, 0.0, 1)
        trials = float(np.stack(arrays).mean(axis=0).var(ddof=1)) / n
        return cls(seeds, len(arrays) - 1, max(0.0, trials - noise), n - 1)

    @classmethod
    def of_difference(
        cls, left: list[NDArray[Any]], right: list[NDArray[Any]]
    ) -> tuple[Parts, NDArray[Any]]:
        """The parts of the difference of two sides' means, and that difference trial by trial."""
        import numpy as np

        found = [
            (max(0.0, between - noise), len(side) - 1)
            for side in (left, right)
            if len(side) > 1
            for between, noise in [_between_and_noise(side)]
        ]
        seeds = sum(part for part, _ in found)
        welch = sum(part**2 / df for part, df in found)
        df = seeds**2 / welch if welch else sum(df for _, df in found)
        differences = np.mean(left, axis=0) - np.mean(right, axis=0)
        n = differences.size
        trials = float(differences.var(ddof=1)) / n if n > 1 else 0.0
        return cls(seeds, max(1.0, df), trials, max(1, n - 1)), differences

    def scaled(self, factor: float) -> Parts:
        """The parts of the mean times a factor."""
        by = factor**2
        return Parts(by * self.seeds, self.seeds_df, by * self.trials, self.trials_df)

    def plus(self, other: Parts) -> Parts:
        """The parts of the sum or difference of two means that have nothing to do with each other.

        Degrees of freedom are Welch's.
        """
        seeds, seeds_df = _welch((self.seeds, self.seeds_df), (other.seeds, other.seeds_df))
        trials, trials_df = _welch((self.trials, self.trials_df), (other.trials, other.trials_df))
        return Parts(seeds, seeds_df, trials, trials_df)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(self.seeds + self.trials)

    def half(self, level: float) -> float:
        """Return half the width of the interval of a level."""
        from scipy.special import stdtrit

        top = 0.5 + level / 2
        seeds = float(stdtrit(self.seeds_df, top)) ** 2 * self.seeds
        return math.sqrt(seeds + float(stdtrit(self.trials_df, top)) ** 2 * self.trials)

    def p(self, mean: float) -> float:
        """Return the two-sided p of a mean: 1 less the level whose interval ends at 0."""
        from scipy.optimize import brentq

        if self.half(1 - _LEAST_P) <= abs(mean):
            return _LEAST_P
        return float(brentq(lambda p: self.half(1 - p) - abs(mean), _LEAST_P, 1.0, xtol=1e-13))


def _welch(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The sum of two variances and its degrees of freedom, the least of both where it is 0."""
    total = one[0] + other[0]
    told = sum(part**2 / df for part, df in (one, other) if part)
    return total, total**2 / told if told else min(one[1], other[1])


class Estimate(NamedTuple):
    """A mean and what its variance comes from.

    Attributes:
        mean: in the scores' unit.
        parts: of its variance; NaN among the trials where there is a single one.
    """

    mean: float
    parts: Parts

    def scaled(self, factor: float) -> Estimate:
        """This in another unit, or with the other sign."""
        return Estimate(factor * self.mean, self.parts.scaled(factor))

    def less(self, other: Estimate) -> Estimate:
        """The difference from another that has nothing to do with it."""
        return Estimate(self.mean - other.mean, self.parts.plus(other.parts))

    def p(self, value: float = 0.0) -> float:
        """Return the two-sided p of the true mean being `value`; NaN for a single trial.

        It is below .05 where the 95 % interval doesn't hold `value`. Without any spread it is the
        sign test's, the chance of as many equal signs as there are trials.
        """
        off = self.mean - value
        if math.isnan(self.parts.trials):
            return math.nan
        if off == 0:
            return 1.0
        if not self.parts.seeds + self.parts.trials:
            return float(min(1.0, 2.0 * 0.5 ** (self.parts.trials_df + 1)))
        return self.parts.p(off)


def _between_and_noise(arrays: list[NDArray[Any]]) -> tuple[float, float]:
    """The variance of the mean over seeds as their means tell it, and how much of it is chance."""
    import numpy as np

    count = len(arrays)
    between = float(np.var([array.mean() for array in arrays], ddof=1)) / count
    sizes = {array.size for array in arrays}
    if min(sizes) == 1:
        return between, 0.0
    if len(sizes) == 1:
        table = np.stack(arrays)
        left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        freedom = (count - 1) * (table.shape[1] - 1)
        noise = float((left**2).sum()) / freedom / table.size
    else:
        noise = sum(float(array.var(ddof=1)) / array.size for array in arrays) / count**2
    return between, noise
