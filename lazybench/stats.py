"""Intervals and tests of means over seeds and trials, from the sources of their variance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lazybench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lazybench.class_effects import ClassEffects


_LEAST_P = 1e-12


class Parts(NamedTuple):
    """The variance of a mean by source, with degrees of freedom.

    Attributes:
        seeds: variance that comes from the seeds.
        seeds_df: its degrees of freedom.
        trials: variance that comes from the trials and from chance within them; with class effects
            from the classes of the trials, too.
        trials_df: its degrees of freedom.
    """

    seeds: float
    seeds_df: float
    trials: float
    trials_df: float

    @classmethod
    def of_trials(cls, values: NDArray[Any]) -> Parts:
        """The parts of the mean of one seed, or of one difference, over its trials."""
        n = values.size
        return cls(0.0, 1.0, float(values.var(ddof=1)) / n if n > 1 else math.nan, max(1, n - 1))

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
        """The parts of the sum or difference of two independent means.

        Degrees of freedom are Welch's.
        """
        seeds, seeds_df = _welch((self.seeds, self.seeds_df), (other.seeds, other.seeds_df))
        trials, trials_df = _welch((self.trials, self.trials_df), (other.trials, other.trials_df))
        return Parts(seeds, seeds_df, trials, trials_df)

    def with_classes(self, effects: ClassEffects, scores: NDArray[Any]) -> Parts:
        """The parts where the classes of the trials are random, too.

        Args:
            effects: of the trials' classes.
            scores: [n] the mean over seeds of each trial, or a difference of such means.
        """
        import numpy as np

        moments = [(part**2).sum(axis=1) for part in effects.moments(scores[None])]
        trials = np.array([self.trials]), np.array([float(self.trials_df)])
        variance, freedom = effects.widened(moments[0], moments[1], *trials)
        return self._replace(trials=float(variance[0]), trials_df=float(freedom[0]))

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
    """The sum of two variances and its degrees of freedom, the smaller of both if it is 0."""
    total = one[0] + other[0]
    spread = sum(part**2 / df for part, df in (one, other) if part)
    return total, total**2 / spread if spread else min(one[1], other[1])


class Estimate(NamedTuple):
    """A mean, and the sources of its variance.

    Attributes:
        mean: in the scores' unit.
        parts: of its variance; NaN among the trials where there is a single one.
    """

    mean: float
    parts: Parts

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit, or with the other sign."""
        return Estimate(factor * self.mean, self.parts.scaled(factor))

    def less(self, other: Estimate) -> Estimate:
        """The difference from an independent estimate."""
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
    """The variance of the mean over seeds from their means, and the part of it that is chance."""
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


LEVEL = 0.95
FEWEST_PAIRS = 3
"""Smallest number of seeds that are paired between two sides."""

_ROUNDING = 1e-20
"""Variances below this share of the squared means are rounding errors."""


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval, in the scores' unit."""

    mean: float
    lo: float
    hi: float


class Summary(NamedTuple):
    """One agent over its seeds.

    Attributes:
        mean: mean of the seeds' means.
        lo: lower end of the 95 % interval.
        hi: upper end of the 95 % interval.
        n_trials: trials of one seed (the smallest number, where they differ).
        n_seeds: number of seeds.
        seed_std: standard deviation of the seeds' means; NaN for one seed.
    """

    mean: float
    lo: float
    hi: float
    n_trials: int
    n_seeds: int
    seed_std: float


class Difference(NamedTuple):
    """The mean of a - b over trials, its 95 % interval, and a two-sided p for no difference."""

    mean: float
    lo: float
    hi: float
    p: float


def _of_seeds(seeds: Sequence[ArrayLike]) -> list[NDArray[Any]]:
    """Return the scores of each seed as an array.

    Raises:
        UsageError: no seed is given, or a seed's scores are empty or not finite.
    """
    arrays = [_scores(scores) for scores in seeds]
    if not arrays:
        raise UsageError("scores of at least one seed are needed, got none")
    return arrays


def _scores(values: ArrayLike) -> NDArray[Any]:
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise UsageError(
            f"scores must be one finite number a trial and at least one, got shape {array.shape}"
            f"{'' if np.isfinite(array).all() else ' with NaN or inf'}; a run without them has a "
            "status other than ok"
        )
    return array


def wilson(hits: float, n: float) -> tuple[float, float]:
    """The ends of Wilson's 95 % score interval for `hits` of `n`, in [0, 1]; never of width 0.

    `n` may be an effective number of trials, which needn't be whole (`scipy.stats.binomtest` takes
    whole numbers only).

    Reference: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.

    Raises:
        UsageError: `n` isn't positive or `hits` isn't in [0, n].
    """
    if n <= 0 or not 0 <= hits <= n:
        raise UsageError(f"hits must be in [0, n] and n positive, got {hits} of {n}")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + LEVEL / 2))
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    lo = 0.0 if hits == 0 else max(0.0, middle - half)
    return lo, 1.0 if hits == n else min(1.0, middle + half)


def mean_interval(scores: ArrayLike) -> Interval:
    """`(mean, lo, hi)`: the mean of the trials' scores and its 95 % interval.

    Scores that are all 0 or 1 have Wilson's interval, so that it isn't empty at 0 % and 100 %;
    others have Student's t interval of the trial means; other constant scores have one of width 0.
    The ends are NaN for a single trial that is neither 0 nor 1.

    Choice: t and not a bootstrap, since official boards have 100 trials or more, where the two
    agree and t is exact to the last digit on every machine. Choice: Wilson counts trials, not
    query hits, since hits inside a trial aren't independent.

    Args:
        scores: [n] finite numbers, one per trial.

    Raises:
        UsageError: `scores` is empty, has more than one axis, or holds NaN or infinity.
    """
    import numpy as np

    values = _scores(scores)
    mean = float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        return Interval(mean, *wilson(float(values.sum()), values.size))
    if values.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    if (values == values[0]).all():
        constant = float(values[0])
        return Interval(constant, constant, constant)
    half = _t_half(values)
    return Interval(mean, mean - half, mean + half)


def _t_half(values: NDArray[Any]) -> float:
    from scipy.special import stdtrit

    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    return float(stdtrit(values.size - 1, 0.5 + LEVEL / 2)) * error


def over_seeds(seeds: Sequence[ArrayLike], effects: ClassEffects | None = None) -> Summary:
    """The mean over seeds with a 95 % interval in which seeds and trials are both random.

    One seed: the interval over its trials (`mean_interval`). Several: the half-width is the root of
    `t(S - 1)^2 * seeds + t(n - 1)^2 * trials`, Student's quantiles times the variance of the mean
    that comes from the seeds and from the trials. Where all seeds have equally many trials these
    are the same ones, and the two are separated as in a two-way table. Scores that are all 0 or 1
    have Wilson's interval of as many trials as would have that half-width, so that it leans away
    from 0 % and 100 % and stays within.

    Choice: this and not a bootstrap of seeds, then trials. Draws from S seeds vary too little where
    S is small: of 3 seeds that differ by three points 84 % of its intervals hold the true mean.
    This formula holds it in 95 to 97 % from 3 seeds on, however much they differ, and in 92 to 96 %
    with 2 (`benchmarks/intervals.py` has both).

    Reference: E. L. Korn, B. I. Graubard, Survey Methodology 24 (1998), 193-201, on proportions by
    an effective number of trials.

    Args:
        seeds: one [n] array of scores a seed.
        effects: those of the trials' classes, where these are random, too; the interval then holds
            the mean over other classes of the same kind. All seeds have its trials.

    Raises:
        UsageError: no seed is given, or a seed's scores are empty, not finite or not of the
            effects' trials.
    """
    import numpy as np

    arrays = _of_seeds(seeds)
    _check_effects(effects, arrays)
    means = np.asarray([array.mean() for array in arrays])
    n_trials = min(array.size for array in arrays)
    spread = float(means.std(ddof=1)) if len(arrays) > 1 else math.nan
    everything = np.concatenate(arrays)
    alone = len(arrays) == 1 and effects is None
    if alone or (everything == everything[0]).all():
        return Summary(*mean_interval(arrays[0]), n_trials, len(arrays), spread)
    mean, parts = mean_estimate(arrays, effects)
    half = parts.half(LEVEL)
    lo, hi = mean - half, mean + half
    if np.isin(everything, (0.0, 1.0)).all():
        lo, hi = _wilson_as_wide(mean, half, everything.size)
    return Summary(mean, lo, hi, n_trials, len(arrays), spread)


def mean_estimate(seeds: Sequence[ArrayLike], effects: ClassEffects | None = None) -> Estimate:
    """Return the mean of `over_seeds` with the parts of its variance.

    The difference of two such means from different trials is `Estimate.less`, with Welch's degrees
    of freedom.

    Args:
        seeds: as there.
        effects: as there.

    Raises:
        UsageError: as there.
    """
    import numpy as np

    arrays = _of_seeds(seeds)
    _check_effects(effects, arrays)
    parts = Parts.of_mean(arrays) if len(arrays) > 1 else Parts.of_trials(arrays[0])
    if effects is not None:
        parts = parts.with_classes(effects, np.mean(arrays, axis=0))
    return Estimate(float(np.mean([array.mean() for array in arrays])), parts)


def standard_error(seeds: Sequence[ArrayLike]) -> float:
    """The standard error of the mean over seeds that `over_seeds` has an interval of.

    For one seed of scores that are all 0 or 1, Wilson's half-width by the normal quantile it is
    made with, so that it isn't 0 at 0 and 100 %. NaN for a single trial that is neither.

    Args:
        seeds: one [n] array of scores a seed.

    Raises:
        UsageError: no seed is given, or a seed's scores are empty or not finite.
    """
    import numpy as np
    from scipy.special import ndtri

    arrays = _of_seeds(seeds)
    everything = np.concatenate(arrays)
    if len(arrays) > 1 and (everything != everything[0]).any():
        return Parts.of_mean(arrays).error
    values = arrays[0]
    if np.isin(values, (0.0, 1.0)).all():
        lo, hi = wilson(float(values.sum()), values.size)
        return (hi - lo) / 2 / float(ndtri(0.5 + LEVEL / 2))
    if values.size == 1:
        return math.nan
    if (values == values[0]).all():
        return 0.0
    return float(values.std(ddof=1)) / math.sqrt(values.size)


def _check_effects(effects: ClassEffects | None, arrays: Sequence[NDArray[Any]]) -> None:
    if effects is not None and {array.size for array in arrays} != {effects.n}:
        sizes = sorted({array.size for array in arrays})
        raise UsageError(f"class effects of {effects.n} trials don't fit scores of {sizes} trials")


def _wilson_as_wide(share: float, half: float, most: int) -> tuple[float, float]:
    """Wilson's interval for the number of trials, up to `most`, that gives a half-width."""
    from scipy.special import ndtri

    z = float(ndtri(0.5 + LEVEL / 2))
    # Seeds whose hits make up for each other leave no width at all.
    n = min(most, share * (1 - share) * (z / half) ** 2) if half > 0 else most
    return wilson(share * n, n)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, same_seeds: bool = False, effects: ClassEffects | None = None
) -> Difference:
    """Return how much higher `a` scores than `b` on the same trials.

    One seed a side: Student's t over the trials' differences, which says something about two
    trained models; its ends and p are NaN for a single trial. Several: as `over_seeds`, of the
    differences seed by seed where both sides have the same ones, else with the seeds of both sides
    separate (Welch's degrees of freedom). p belongs to the interval: it is below .05 where 0 is
    outside.

    Choice: paired seeds keep what chance is left in their means (`Parts.of_paired`), so that
    intervals hold the true difference in 95 to 97.5 % and equal agents come out different on at
    most 6 % of boards, even from 3 seeds. With that chance taken off, as in `over_seeds`, three
    seeds often look alike and p comes from the trials alone: one board in five found equal agents
    different.

    Choice: seeds are paired where they can be. A seed draws the same first weights, batches and
    held-out images for every agent, so that sides that differ in little differ by about as much
    with every seed (two meta-weighting agents: an interval of .06 points, in place of 4). Two seeds
    are kept separate all the same, since a single difference between them says too little: in the
    simulation 90 % of such intervals held the truth.

    Args:
        a: [n] scores, or a list with one such array a seed.
        b: the same for the other side; trial i is the same trial on both.
        same_seeds: whether array i of both sides is of the same seed.
        effects: those of the trials' classes, where these are random, too.

    Raises:
        UsageError: the sides differ in the number of trials (or of the same seeds), or scores are
            empty, not finite or not of the effects' trials.
    """
    parts, differences = _paired(a, b, same_seeds, effects)
    mean = float(differences.mean())
    if parts is None:
        return _paired_t(differences)
    half = parts.half(LEVEL)
    return Difference(mean, mean - half, mean + half, parts.p(mean))


def paired_estimate(
    a: ArrayLike, b: ArrayLike, *, same_seeds: bool = False, effects: ClassEffects | None = None
) -> Estimate:
    """The mean of `paired_difference` with the parts of its variance.

    Args:
        a: as there.
        b: as there.
        same_seeds: as there.
        effects: as there.

    Raises:
        UsageError: as there.
    """
    parts, differences = _paired(a, b, same_seeds, effects)
    if parts is None:
        n = differences.size
        parts = Parts.of_trials(differences)
        if n > 1 and (differences == differences[0]).all():
            parts = Parts(0.0, 1.0, 0.0, n - 1)
    return Estimate(float(differences.mean()), parts)


def _paired(
    a: Any, b: Any, same_seeds: bool, effects: ClassEffects | None = None
) -> tuple[Parts | None, NDArray[Any]]:
    """The parts of a paired difference, None for trials alone, and it trial by trial."""
    sides = [_by_seed(a), _by_seed(b)]
    sizes = sorted({array.size for side in sides for array in side})
    if len(sizes) > 1:
        raise UsageError(
            f"a paired difference needs the same trials on both sides, got {sizes} trials; "
            "evaluate both on all official trials"
        )
    if same_seeds and len(sides[0]) != len(sides[1]):
        raise UsageError(
            f"the same seeds are as many on both sides, got {len(sides[0])} and {len(sides[1])}"
        )
    _check_effects(effects, sides[0])
    if len(sides[0]) == len(sides[1]) == 1:
        differences = sides[0][0] - sides[1][0]
        if effects is None or (differences == differences[0]).all():
            return None, differences
        return Parts.of_trials(differences).with_classes(effects, differences), differences
    if same_seeds and len(sides[0]) >= FEWEST_PAIRS:
        found = [left - right for left, right in zip(*sides, strict=True)]
        parts, differences = Parts.of_paired(found), sum(found) / len(found)
    else:
        parts, differences = Parts.of_difference(*sides)
    if parts.seeds == parts.trials == 0:
        return None, differences
    return (parts if effects is None else parts.with_classes(effects, differences)), differences


def adjusted(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that declaring those below q keeps false discoveries below q.

    Reference: Benjamini & Hochberg 1995; comparisons on one board lean the same way, since they
    share trials.

    Args:
        p: numbers in [0, 1].
    """
    if len(p) < 2:
        return list(p)
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p)]


def _by_seed(side: Any) -> list[NDArray[Any]]:
    import numpy as np

    several = isinstance(side, list | tuple) and len(side) > 0 and np.ndim(side[0]) > 0
    return [_scores(scores) for scores in (side if several else [side])]


def _paired_t(differences: NDArray[Any]) -> Difference:
    mean = float(differences.mean())
    if differences.size == 1:
        return Difference(mean, float("nan"), float("nan"), float("nan"))
    if (differences == differences[0]).all():
        # No spread, so no t: p is the sign test's, the chance of n equal signs under no difference.
        p = 1.0 if mean == 0 else min(1.0, 2.0 * 0.5**differences.size)
        constant = float(differences[0])
        return Difference(constant, constant, constant, p)
    from scipy.special import stdtr

    half = _t_half(differences)
    t = mean / (float(differences.std(ddof=1)) / math.sqrt(differences.size))
    p = float(2 * stdtr(differences.size - 1, -abs(t)))
    return Difference(mean, mean - half, mean + half, p)


class _Pairs:
    """Paired differences of all pairs of some sides on the same trials, as arrays over the pairs.

    The same numbers as `paired_difference` gives one by one, from tables that are made once a side.
    """

    def __init__(
        self,
        sides: Sequence[list[NDArray[Any]]],
        seeds: Sequence[Sequence[int]],
        effects: ClassEffects | None = None,
    ) -> None:
        """Take sides of at least two seeds each, all on as many trials, those of the effects."""
        import numpy as np

        self._sides, self._seeds = sides, [tuple(each) for each in seeds]
        self._effects = effects
        means = np.stack([np.mean(side, axis=0) for side in sides])
        self._mean = means.mean(axis=1)
        count, self._n = means.shape
        one, other = np.triu_indices(count, 1)
        self.pairs = np.stack([one, other], axis=1)
        self.mean = self._mean[one] - self._mean[other]
        self.trials = np.zeros(len(one))
        if self._n > 1:
            spread = means - self._mean[:, None]
            self.trials = _squared_distances(spread) / (self._n - 1) / self._n
        self.trials_df = np.full(len(one), max(1.0, self._n - 1.0))
        own = [Parts.of_mean(side) for side in sides]
        variance, freedom = np.array([(part.seeds, part.seeds_df) for part in own]).T
        self.seeds = variance[one] + variance[other]
        welch = variance[one] ** 2 / freedom[one] + variance[other] ** 2 / freedom[other]
        unknown = welch == 0
        whole = self.seeds**2 / np.where(unknown, 1.0, welch)
        self.seeds_df = np.maximum(1.0, np.where(unknown, freedom[one] + freedom[other], whole))
        for each in set(self._seeds):
            if len(each) >= FEWEST_PAIRS:
                self._pair([i for i, seeds in enumerate(self._seeds) if seeds == each])
        self.p = np.full(len(one), -1.0)
        self._set_exact_p()
        if effects is not None:
            squares, sums = map(_squared_distances, effects.moments(means))
            self.trials, self.trials_df = effects.widened(
                squares, sums, self.trials, self.trials_df
            )

    def _pair(self, places: list[int]) -> None:
        """Pair the seeds of sides that have the same ones, as `Parts.of_paired` does."""
        import numpy as np

        table = np.stack([np.stack(self._sides[i]) for i in places])
        _, seeds, n = table.shape
        inner = np.zeros(len(self._sides), dtype=bool)
        inner[places] = True
        which = np.flatnonzero(inner[self.pairs].all(axis=1))
        rows = table.mean(axis=2)
        level = rows - rows.mean(axis=1, keepdims=True)
        self.seeds[which] = _squared_distances(level) / (seeds - 1) / seeds
        self.seeds_df[which] = seeds - 1
        if n > 1:
            left = table - table.mean(axis=1, keepdims=True) - level[:, :, None]
            noise = _squared_distances(left.reshape(len(places), -1)) / ((seeds - 1) * (n - 1))
            self.trials[which] = np.maximum(0.0, self.trials[which] - noise / (seeds * n))

    def _set_exact_p(self) -> None:
        """Set p where nothing varies, or so little that rounding decides; NaN for one trial."""
        import numpy as np

        size = self._mean[self.pairs] ** 2
        for k in np.flatnonzero(self.seeds + self.trials <= _ROUNDING * size.sum(axis=1)):
            i, j = self.pairs[k]
            same = self._seeds[i] == self._seeds[j]
            self.p[k] = paired_difference(
                self._sides[i], self._sides[j], same_seeds=same, effects=self._effects
            ).p

    def below(self, p: float, which: NDArray[Any]) -> NDArray[Any]:
        """Return which of some pairs have a p below one."""
        import numpy as np
        from scipy.special import stdtrit

        parts = ((self.seeds, self.seeds_df), (self.trials, self.trials_df))
        width = np.zeros(len(which))
        for variance, freedom in parts:
            values, place = np.unique(freedom[which], return_inverse=True)
            width += (stdtrit(values, 1 - p / 2) ** 2)[place] * variance[which]
        known = self.p[which]
        wide = np.sqrt(width) < np.abs(self.mean[which])
        found: NDArray[Any] = which[np.where(known < 0, wide, known < p)]
        return found


def _squared_distances(rows: NDArray[Any]) -> NDArray[Any]:
    """The squared distance of each pair of rows, pair after pair in the order of combinations."""
    import numpy as np

    found = [np.zeros(0)]
    for i in range(len(rows) - 1):
        off = rows[i + 1 :] - rows[i]
        found.append(np.einsum("ij,ij->i", off, off))
    return np.concatenate(found)


def significant_pairs(
    sides: Sequence[list[NDArray[Any]]],
    seeds: Sequence[Sequence[int]],
    effects: ClassEffects | None = None,
) -> set[tuple[int, int]]:
    """Return the pairs of places whose sides differ, after correction for the number of pairs.

    Those of `adjusted` p-values of `paired_difference` below 5 %. Pairs without the same trials
    can't be compared and count as different.

    Args:
        sides: for each side one [n] array of scores a seed, at least two; none where it has none.
        seeds: their seeds.
        effects: those of the trials' classes, where these are random, too; sides of another number
            of trials are compared without them.
    """
    import numpy as np

    arrays = [[_scores(scores) for scores in side] for side in sides]
    sizes = [{array.size for array in side} for side in arrays]
    by_size: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        if len(size) == 1:
            by_size.setdefault(next(iter(size)), []).append(place)
    different = set(itertools.combinations(range(len(sides)), 2))
    found = []
    for trials, places in by_size.items():
        if len(places) > 1:
            fitting = effects if effects is not None and effects.n == trials else None
            pairs = _Pairs([arrays[i] for i in places], [seeds[i] for i in places], fitting)
            known = np.flatnonzero(~np.isnan(pairs.p))
            different -= {(places[i], places[j]) for i, j in pairs.pairs[known].tolist()}
            found.append((places, pairs, known))
    # Benjamini and Hochberg's step-up: the most pairs whose largest p is in proportion to them.
    total = left = sum(len(known) for _, _, known in found)
    while left:
        p = (1 - LEVEL) * left / total
        found = [(places, pairs, pairs.below(p, known)) for places, pairs, known in found]
        count = sum(len(known) for _, _, known in found)
        if count == left:
            break
        left = count
    return different | {
        (places[i], places[j])
        for places, pairs, known in found
        for i, j in pairs.pairs[known].tolist()
    }


class RandomEffects(NamedTuple):
    """The mean of effects that differ from study to study.

    Attributes:
        mean: of the effects, in their unit.
        error: its standard error.
        df: degrees of freedom of Student's t.
        tau: standard deviation of the true effects.
    """

    mean: float
    error: float
    df: int
    tau: float

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval of the mean."""
        from scipy.special import stdtrit

        return float(stdtrit(self.df, 0.5 + LEVEL / 2)) * self.error

    def p(self, value: float = 0.0) -> float:
        """Return the two-sided p of the true mean being `value`."""
        from scipy.special import stdtr

        return float(2 * stdtr(self.df, -abs(self.mean - value) / self.error))


def random_effects(effects: Sequence[float], errors: Sequence[float]) -> RandomEffects:
    """Return the random-effects mean of several studies with Hartung and Knapp's interval.

    The variance between studies, tau^2, is Paule and Mandel's: with weights `1 / (error^2 + tau^2)`
    the weighted squares about the mean sum to k - 1. The standard error of the mean is
    `sqrt(q / sum of weights)` with q that sum over k - 1, and Student's t has k - 1 degrees of
    freedom. `Choice:` q is at least 1, since studies that happen to agree would otherwise give an
    interval narrower than their own errors do.

    Reference: R. C. Paule, J. Mandel, J. Res. Natl. Bur. Stand. 87 (1982), 377-385; J. Hartung,
    G. Knapp, Stat. Med. 20 (2001), 3875-3889; C. Roever et al., BMC Med. Res. Methodol. 15 (2015),
    99 (the lower bound of q).

    Args:
        effects: [k] effects, at least two.
        errors: [k] their standard errors, all above 0.

    Raises:
        UsageError: there are fewer than two effects, or an error isn't above 0.
    """
    import numpy as np
    from scipy.optimize import brentq

    y, variance = np.asarray(effects, np.float64), np.asarray(errors, np.float64) ** 2
    k = y.size
    if k < 2 or variance.shape != y.shape or not (variance > 0).all():
        raise UsageError(
            "a random-effects mean needs at least two effects, each with a standard error above 0; "
            f"got effects {list(effects)} and errors {list(errors)}"
        )

    def mean_and_squares(tau2: float) -> tuple[float, float, float]:
        weights = 1 / (variance + tau2)
        mean = float((weights * y).sum() / weights.sum())
        return mean, float((weights * (y - mean) ** 2).sum()), float(weights.sum())

    tau2 = 0.0
    if mean_and_squares(0.0)[1] > k - 1:
        most = float(((y - y.mean()) ** 2).sum())
        tau2 = float(brentq(lambda t: mean_and_squares(t)[1] - (k - 1), 0.0, most, xtol=1e-14))
    mean, squares, total = mean_and_squares(tau2)
    q = max(1.0, squares / (k - 1))
    return RandomEffects(mean, math.sqrt(q / total), k - 1, math.sqrt(tau2))
