"""Numbers of trials, classes and seeds needed to detect a difference of two rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lazybench.boards.compare import select
from lazybench.boards.group import Group, factor, groups
from lazybench.errors import UsageError
from lazybench.records.schema import Record
from lazybench.stats import FEWEST_PAIRS, LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 1_000_000
"""No larger number of trials, classes or seeds is looked for."""
_SURE = 5.0
"""Standard errors from which on a difference doesn't come out with the other sign."""


class Size(NamedTuple):
    """The size of a comparison: trials, classes (None where they are no sample), seeds a side."""

    trials: int
    classes: int | None
    seeds: int


@dataclass(frozen=True)
class Variances:
    """Sources of the variance of a paired difference, in its unit squared.

    Attributes:
        seeds: of a pair of models (one seed) about the agents' difference.
        classes: of a class's effect on the difference; 0 where classes are no sample.
        trials: of a trial, the same for all seeds.
        chance: of a trial for one seed, what is left.
        ways: classes of a trial.
    """

    seeds: float
    classes: float
    trials: float
    chance: float
    ways: float

    def power(self, size: Size, difference: float) -> float:
        """Return the chance that the 95 % interval of a true difference doesn't hold 0.

        The interval is that of `paired_difference` with each part of the variance at its mean; for
        a single part the chance is exactly that of Student's t-test.
        """
        from scipy.special import stdtrit
        from scipy.stats import nct

        n, classes, seeds = size
        by_seed = self.seeds / seeds + self.chance / (seeds * n)
        by_class = 0.0
        if classes is not None:
            by_class = self.classes * (1 / classes + (1 - self.ways / classes) / (self.ways * n))
        parts = [(by_seed, seeds - 1), (self.trials / n, n - 1)]
        parts += [] if classes is None else [(by_class, classes - 1)]
        if any(variance and df < 1 for variance, df in parts):
            return 0.0
        whole = sum(variance for variance, _ in parts)
        if not whole:
            return 1.0
        common = _freedom(parts[1:])
        top = 0.5 + LEVEL / 2
        wide = 0.0
        for variance, df in ((by_seed, seeds - 1), (whole - by_seed, common)):
            wide += variance * float(stdtrit(df, top)) ** 2 if variance else 0.0
        error, freedom = math.sqrt(whole), _freedom(parts)
        bound, off = math.sqrt(wide) / error, abs(difference) / error
        found = float(nct.sf(bound, freedom, off))
        # The wrong sign is as good as impossible beyond, where its chance comes out as NaN.
        return found + float(nct.cdf(-bound, freedom, off)) if off < _SURE else found


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances; infinite for no variance."""
    spread = sum(variance**2 / df for variance, df in parts if variance)
    return sum(variance for variance, _ in parts) ** 2 / spread if spread else math.inf


@dataclass(frozen=True)
class Plan:
    """The comparison sizes that detect a difference between two rows.

    Attributes:
        env: environment id.
        metric: name of the score.
        unit: of differences; fractions are shown as `%`.
        left: name of the first row.
        right: name of the second row.
        observed: their mean difference in the records, the first less the second.
        difference: the difference to detect.
        wanted: the power that is wanted.
        variances: where the variance of a difference comes from.
        now: size of the records' comparison.
        power: its power.
        trials: how many are needed where the rest stays; None where no number is enough.
        classes: the same of classes.
        seeds: the same of seeds.
        together: the smallest size that is enough where all three grow in proportion, or None.
    """

    env: str
    metric: str
    unit: str
    left: str
    right: str
    observed: float
    difference: float
    wanted: float
    variances: Variances
    now: Size
    power: float
    trials: int | None
    classes: int | None
    seeds: int | None
    together: Size | None


def check_aim(difference: float, power: float) -> None:
    """Check a difference to detect and the chance of detecting it.

    Raises:
        UsageError: either is out of its range.
    """
    if not (math.isfinite(difference) and difference > 0):
        raise UsageError(f"the difference must be a number above 0, got {difference}")
    if not 1 - LEVEL < power < 1:
        raise UsageError(f"power must lie between {1 - LEVEL:.2f} and 1, got {power}")


def plan(
    records: Sequence[Record],
    left: str,
    right: str,
    *,
    difference: float,
    power: float,
    norm: str | None = None,
) -> Plan:
    """Return what it takes to detect a difference between two rows of one board.

    Args:
        records: of one environment, data content, protocol and budget.
        left: a row, as `compare` takes it.
        right: the other row.
        difference: in the board's unit, above 0.
        power: in (0, 1).
        norm: batch norm of the rows, as `compare` takes it.

    Raises:
        UnknownName: no such row.
        UsageError: a setting that isn't allowed, rows without scores of the same trials, or a side
            with a single seed.
    """
    check_aim(difference, power)
    rows = groups(records)
    one, other = (select(rows, name, norm) for name in (left, right))
    first = one.records[0]
    found, means = _variances(one, other, factor(first))
    effects = one.class_effects()
    sizes = [len(one.scored), len(other.scored)]
    now = Size(len(means), None if effects is None else effects.classes, min(sizes))

    def enough(size: Size) -> bool:
        return found.power(size, difference) >= power

    def grown(times: float) -> Size:
        classes = None if now.classes is None else math.ceil(now.classes * times)
        return Size(math.ceil(now.trials * times), classes, math.ceil(now.seeds * times))

    hundredths = _least(lambda k: enough(grown(k / 100)))
    ways = max(2, math.ceil(found.ways))
    return Plan(
        env=first.env.id,
        metric=first.env.metric,
        unit="%" if first.env.unit == "fraction" else first.env.unit,
        left=one.name,
        right=other.name,
        observed=float(means.mean()),
        difference=difference,
        wanted=power,
        variances=found,
        now=now,
        power=found.power(now, difference),
        trials=_least(lambda k: enough(now._replace(trials=k)), 2),
        classes=None
        if now.classes is None
        else _least(lambda k: enough(now._replace(classes=k)), ways),
        seeds=_least(lambda k: enough(now._replace(seeds=k)), 2),
        together=None if hundredths is None else grown(hundredths / 100),
    )


def _least(holds: Callable[[int], bool], least: int = 1) -> int | None:
    """The least number from which on something holds, or None where it does for none."""
    if not holds(MOST):
        return None
    low, high = least - 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _variances(one: Group, other: Group, scale: float) -> tuple[Variances, NDArray[Any]]:
    """The variances in the board's unit squared, and the mean difference of each trial in it."""
    import numpy as np

    sides = []
    for group in (one, other):
        scores = group.trial_scores()
        if scores is None:
            raise UsageError(f"{group.name} has no score of each trial; power needs these")
        if len(scores) < 2:
            raise UsageError(
                f"{group.name} has 1 seed, which doesn't say how much seeds differ; power needs at "
                f"least 2: lazybench run --agent {group.records[0].agent.id} --env "
                f"{group.records[0].env.id} --seeds 0-2"
            )
        sides.append(scale * np.asarray(scores, np.float64))
    if len({side.shape[1] for side in sides}) > 1:
        raise UsageError("power needs rows on the same trials; evaluate both on all of them")
    seeds = [[record.seed for record in group.scored] for group in (one, other)]
    means = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    tables = sides
    if seeds[0] == seeds[1] and len(seeds[0]) >= FEWEST_PAIRS:
        tables = [sides[0] - sides[1]]
    by_seed = chance = left = 0.0
    for table in tables:
        count, n = table.shape
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        own = float((rest**2).sum()) / max(1, (count - 1) * (n - 1))
        by_seed += max(0.0, float(table.mean(axis=1).var(ddof=1)) - own / n)
        chance += own
        left += own / count
    effects = one.class_effects()
    if effects is None:
        classes, trials, ways = 0.0, float(means.var(ddof=1)), 1.0
    else:
        classes, trials = effects.components(means)
        ways = effects.ways
    found = Variances(by_seed, max(0.0, classes), max(0.0, trials - left), chance, ways)
    return found, means
