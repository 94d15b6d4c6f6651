"""Compares two rows of a board on the trials that they share, and plans such comparisons.

A plan says how many trials, classes and seeds detect a difference of the two rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lazybench.arguments import is_key
from lazybench.boards.build import FEW_SEEDS_NOTE, FEWEST_SEEDS
from lazybench.boards.class_shift import by_class
from lazybench.boards.flags import BETWEEN_PROCESSORS, flags, mixed_processors
from lazybench.boards.group import (
    TRANSDUCTIVE,
    Group,
    batch_norm,
    difference,
    end_of,
    factor,
    groups,
)
from lazybench.errors import UnknownName, UsageError, nearest
from lazybench.records.schema import Record
from lazybench.stats import FEWEST_PAIRS, LEVEL, Difference, Summary, over_seeds
from lazybench.tables import text_table
from lazybench.user_code import files_sha256, spelled

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: the row's name.
        summary: its score in the board's unit, over seeds and trials.
        over_classes: ends of its interval over classes, too; None if they aren't known.
        by_trial: `[n]` mean over seeds of each trial's score, in the board's unit.
        by_class: of a long tail, `[classes]` mean score of each class, that with most training
            images first; None for others.
        keys: the first 12 digits of its records' keys.
        flags: `below baseline`, `still rising`, both or none.
    """

    name: str
    summary: Summary
    over_classes: tuple[float, float] | None
    by_trial: NDArray[Any]
    by_class: NDArray[Any] | None
    keys: tuple[str, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The first side less the second.

    Attributes:
        env: environment id.
        metric: name of the score.
        unit: of scores and difference; fractions are shown as `%`.
        better: `higher` or `lower`.
        left: the first side.
        right: the second side.
        difference: left less right with its 95 % interval and p, over classes where those of the
            trials are known.
        over_trials: the same over trials and seeds alone.
        note: a caution for readers, or an empty string.
        processors: the processors of records that were compared across processors; else none.
    """

    env: str
    metric: str
    unit: str
    better: str
    left: Side
    right: Side
    difference: Difference
    over_trials: Difference
    note: str
    processors: tuple[str, ...] = ()


def mixed_note(processors: Sequence[str]) -> str:
    """Return the mark of a comparison across processors; empty if there are none."""
    if not processors:
        return ""
    return (
        f"Mixed processors ({', '.join(processors)}): the same settings on another processor "
        f"differ by up to {BETWEEN_PROCESSORS} points, which the interval doesn't cover."
    )


def compare(
    records: Sequence[Record], left: str, right: str, *, norm: str | None = None
) -> Comparison:
    """Return how two rows of one board differ.

    Args:
        records: of one environment, data content, protocol and budget; those of limited runs are
            left out.
        left: a row's name as boards show it, an agent id with a single row, FILE.py:CLASS for
            the row of the file's present source, or the first digits of a record's key.
        right: the other row, in the same form.
        norm: batch norm of the rows; None takes the transductive one where a name has
            several rows.

    Raises:
        UnknownName: no such row.
        UsageError: a name that several rows share, or sides that faced different trials.
    """
    rows, sides = _sides(records, (left, right), norm)
    scores = []
    for group in sides:
        trials = group.trial_scores()
        if trials is None:
            raise UsageError(
                f"{group.name} has no score of each trial that its own score is the mean of; only "
                "rows scored trial by trial can be compared"
            )
        scores.append(trials)
    first = sides[0].records[0]
    few = min(len(side.scored) for side in sides) < FEWEST_SEEDS
    processors = mixed_processors(*sides)
    notes = [FEW_SEEDS_NOTE.replace("this table", "this")] if few else []
    notes += [mixed_note(processors)] if processors else []
    return Comparison(
        env=first.env.id,
        metric=first.env.metric,
        unit="%" if first.env.unit == "fraction" else first.env.unit,
        better=first.env.better,
        left=_side(sides[0], scores[0], rows),
        right=_side(sides[1], scores[1], rows),
        difference=_difference(*sides, over_classes=True),
        over_trials=_difference(*sides, over_classes=False),
        note="\n".join(notes),
        processors=processors,
    )


def comparison_columns(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the names of the columns of a comparison's table, and the cells of both sides."""
    head: tuple[str, ...] = (
        "row",
        f"{comparison.metric} {comparison.unit}",
        "95 % interval",
        "over classes",
        "std over seeds",
        "seeds",
        "trials",
        "flags",
        "keys",
    )
    rows: list[tuple[str, ...]] = [
        (
            side.name,
            f"{side.summary.mean:.2f}",
            f"{side.summary.lo:.2f} to {side.summary.hi:.2f}",
            "" if side.over_classes is None else "{:.2f} to {:.2f}".format(*side.over_classes),
            f"{side.summary.seed_std:.2f}" if side.summary.n_seeds > 1 else "",
            str(side.summary.n_seeds),
            str(side.summary.n_trials),
            ", ".join(side.flags),
            " ".join(side.keys),
        )
        for side in (comparison.left, comparison.right)
    ]
    return head, rows


def difference_text(comparison: Comparison) -> str:
    """Return one line: the difference with its intervals and p, and which score is better."""
    mean, lo, hi, p = comparison.difference
    over_classes = comparison.left.over_classes is not None
    interval = "95 % interval over classes" if over_classes else "95 % interval"
    _, low, high, p_trials = comparison.over_trials
    alone = f"; over trials alone {low:+.2f} to {high:+.2f}, p = {p_trials:.2g}"
    return (
        f"{comparison.left.name} - {comparison.right.name}: {mean:+.2f} {comparison.unit} "
        f"({interval} {lo:+.2f} to {hi:+.2f}, p = {p:.2g}{alone if over_classes else ''}); "
        f"{comparison.better} is better"
    )


def comparison_text(comparison: Comparison, *, columns: int | None = None) -> str:
    """Return a comparison as text: a table of both sides, their difference and notes.

    Args:
        comparison: the comparison.
        columns: width of the terminal; None if lines may be of any length.
    """
    table = text_table(*comparison_columns(comparison), columns=columns)
    return "\n".join([table, difference_text(comparison), *filter(None, [comparison.note])])


def _difference(left: Group, right: Group, *, over_classes: bool) -> Difference:
    shared = difference(left, right, over_classes=over_classes)
    if shared is None:
        raise UsageError(
            f"a paired difference needs the same trials on both sides; {left.name} was evaluated "
            f"on {left.scored[0].trials.n}, {right.name} on {right.scored[0].trials.n}"
        )
    return shared


def _side(group: Group, scores: list[NDArray[Any]], rows: Sequence[Group]) -> Side:
    import numpy as np

    keys = tuple(record.key12 for record in group.scored)
    # In the trials' own unit, which shows whether they are hits.
    in_own_unit, first = over_seeds(scores), group.records[0]
    scale = factor(first)
    summary = in_own_unit._replace(
        mean=in_own_unit.mean * scale,
        lo=end_of(in_own_unit.lo, first),
        hi=end_of(in_own_unit.hi, first),
        seed_std=in_own_unit.seed_std * scale,
    )
    effects = group.class_effects()
    wider = None if effects is None else over_seeds(scores, effects)
    over_classes = wider and (end_of(wider.lo, first), end_of(wider.hi, first))
    # Two rows of a name differ in their batch norm.
    several = sum(other.name == group.name for other in rows) > 1
    name = f"{group.name}, {batch_norm(first)}" if several else group.name
    by_trial = np.stack(scores).mean(axis=0, dtype=np.float64) * scale
    return Side(
        name, summary, over_classes, by_trial, by_class(first, by_trial), keys, flags(group, rows)
    )


def _sides(
    records: Sequence[Record], names: Sequence[str], norm: str | None
) -> tuple[list[Group], list[Group]]:
    """Return the rows of the whole runs of a board, and those of them that `names` select.

    Raises:
        UnknownName: no such row.
        UsageError: a name that several rows share, or whose runs are all limited.
    """
    rows = groups(record for record in records if not record.limited)
    limited = [record for record in records if record.limited]
    return rows, [_side_of(rows, limited, name, norm) for name in names]


def _side_of(
    rows: Sequence[Group], limited_records: Sequence[Record], name: str, norm: str | None
) -> Group:
    try:
        return select(rows, name, norm)
    except UnknownName as error:
        limited = groups(limited_records)
        try:
            first = select(limited, name, norm).records[0]
        except UnknownName:
            raise error from None
        except UsageError as several:
            raise UsageError(f"{several}; all of them are limited and aren't compared") from None
        raise UsageError(
            f"'{name}' was evaluated on {first.trials.n} trials of {first.env.id} "
            f"({first.key12}), fewer than the official ones: such rows aren't compared; run it "
            "without --limit"
        ) from None


def select(rows: Sequence[Group], name: str, norm: str | None) -> Group:
    """Return the row of a name, agent or key.

    Args:
        rows: of one board.
        name: a row's name, an agent id with a single row, FILE.py:CLASS for the row of the file's
            present source, or the first digits of a record's key.
        norm: batch norm of the row; None takes the transductive one where a name has several.

    Raises:
        UnknownName: no such row.
        UsageError: a name that several rows share, or a file whose rows are of earlier code.
    """
    if norm is not None:
        rows = [group for group in rows if batch_norm(group.records[0]) in (None, norm)]
    rows = [group for group in rows if group.scored]
    named = (
        [group for group in rows if group.name == name]
        or [group for group in rows if _is_agent(group.records[0], name)]
        or [group for group in rows if is_key(name) and _has_key(group, name)]
    )
    named = _of_present_source(named, name)
    if not named:
        names = [group.name for group in rows]
        listed = ", ".join(names) or "none"
        raise UnknownName(f"no row '{name}' with a score.{nearest(name, names)} Rows: {listed}")
    if len(named) > 1 and norm is None:
        named = [g for g in named if batch_norm(g.records[0]) == TRANSDUCTIVE] or named
    if len(named) > 1:
        listed = "; ".join(f"{group.name} ({group.scored[0].key12})" for group in named)
        raise UsageError(f"'{name}' names {len(named)} rows; give a row's name or key: {listed}")
    return named[0]


def _is_agent(record: Record, name: str) -> bool:
    """Return whether a name is a record's agent, by its id or as FILE.py:CLASS."""
    return name == record.agent.id or spelled(name) == record.agent.origin


def _has_key(group: Group, key: str) -> bool:
    return any(record.key.startswith(key) for record in group.records)


def _of_present_source(rows: list[Group], name: str) -> list[Group]:
    """Return the rows of the code that a file has now, where `name` is FILE.py:CLASS.

    Any rows where it is another name, or the file is gone.

    Raises:
        UsageError: all rows are of earlier code.
    """
    file = Path(name.rpartition(":")[0])
    if not rows or file.suffix != ".py" or not file.is_file():
        return rows
    source = files_sha256(file)
    present = [group for group in rows if group.records[0].agent.source_sha256 == source]
    if not present:
        listed = ", ".join(group.scored[0].key12 for group in rows)
        raise UsageError(
            f"'{name}' has no run with the code that {file} has now; run it, or name a row of "
            f"earlier code by its key: {listed}"
        )
    return present


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
        right_sign = float(nct.sf(bound, freedom, off))
        # The wrong sign is as good as impossible beyond, where its chance comes out as NaN.
        return right_sign + float(nct.cdf(-bound, freedom, off)) if off < _SURE else right_sign


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
    _, (one, other) = _sides(records, (left, right), norm)
    first = one.records[0]
    sources, means = _variances(one, other, factor(first))
    effects = one.class_effects()
    sizes = [len(one.scored), len(other.scored)]
    now = Size(len(means), None if effects is None else effects.classes, min(sizes))

    def enough(size: Size) -> bool:
        return sources.power(size, difference) >= power

    def grown(times: float) -> Size:
        classes = None if now.classes is None else math.ceil(now.classes * times)
        return Size(math.ceil(now.trials * times), classes, math.ceil(now.seeds * times))

    hundredths = _least(lambda k: enough(grown(k / 100)))
    ways = max(2, math.ceil(sources.ways))
    return Plan(
        env=first.env.id,
        metric=first.env.metric,
        unit="%" if first.env.unit == "fraction" else first.env.unit,
        left=one.name,
        right=other.name,
        observed=float(means.mean()),
        difference=difference,
        wanted=power,
        variances=sources,
        now=now,
        power=sources.power(now, difference),
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
    variances = Variances(by_seed, max(0.0, classes), max(0.0, trials - left), chance, ways)
    return variances, means
