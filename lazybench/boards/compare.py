"""Compares two rows of a board on the trials that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from lazybench.stats import Difference, Summary, over_seeds
from lazybench.tables import text_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEY_DIGITS = 6


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
        records: of one environment, data content, protocol and budget.
        left: a row's name as boards show it, an agent id with a single row, or the first
            digits of a record's key.
        right: the other row, in the same form.
        norm: batch norm of the rows; None takes the transductive one where a name has
            several rows.

    Raises:
        UnknownName: no such row.
        UsageError: a name that several rows share, or sides that faced different trials.
    """
    rows = groups(records)
    sides = [select(rows, name, norm) for name in (left, right)]
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


def comparison_columns(found: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the names of the columns of a comparison's table, and the cells of both sides."""
    head: tuple[str, ...] = (
        "row",
        f"{found.metric} {found.unit}",
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
        for side in (found.left, found.right)
    ]
    return head, rows


def difference_text(found: Comparison) -> str:
    """Return one line: the difference with its intervals and p, and which score is better."""
    mean, lo, hi, p = found.difference
    over_classes = found.left.over_classes is not None
    interval = "95 % interval over classes" if over_classes else "95 % interval"
    _, low, high, p_trials = found.over_trials
    alone = f"; over trials alone {low:+.2f} to {high:+.2f}, p = {p_trials:.2g}"
    return (
        f"{found.left.name} - {found.right.name}: {mean:+.2f} {found.unit} "
        f"({interval} {lo:+.2f} to {hi:+.2f}, p = {p:.2g}{alone if over_classes else ''}); "
        f"{found.better} is better"
    )


def comparison_text(found: Comparison, *, columns: int | None = None) -> str:
    """Return a comparison as text: a table of both sides, their difference and notes.

    Args:
        found: the comparison.
        columns: width of the terminal; None if lines may be of any length.
    """
    table = text_table(*comparison_columns(found), columns=columns)
    return "\n".join([table, difference_text(found), *filter(None, [found.note])])


def _difference(left: Group, right: Group, *, over_classes: bool) -> Difference:
    found = difference(left, right, over_classes=over_classes)
    if found is None:
        raise UsageError(
            f"a paired difference needs the same trials on both sides; {left.name} was evaluated "
            f"on {left.scored[0].trials.n}, {right.name} on {right.scored[0].trials.n}"
        )
    return found


def _side(group: Group, scores: list[NDArray[Any]], rows: Sequence[Group]) -> Side:
    import numpy as np

    keys = tuple(record.key12 for record in group.scored)
    # In the trials' own unit, which shows whether they are hits.
    found, first = over_seeds(scores), group.records[0]
    scale = factor(first)
    summary = found._replace(
        mean=found.mean * scale,
        lo=end_of(found.lo, first),
        hi=end_of(found.hi, first),
        seed_std=found.seed_std * scale,
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


def select(rows: Sequence[Group], name: str, norm: str | None) -> Group:
    """Return the row of a name, agent or key.

    Args:
        rows: of one board.
        name: a row's name, an agent id with a single row, or the first digits of a record's key.
        norm: batch norm of the row; None takes the transductive one where a name has several.

    Raises:
        UnknownName: no such row.
        UsageError: a name that several rows share.
    """
    if norm is not None:
        rows = [group for group in rows if batch_norm(group.records[0]) in (None, norm)]
    named = [group for group in rows if group.scored and group.name == name]
    named = named or [
        group
        for group in rows
        if group.scored
        and (
            group.records[0].agent.id == name
            or (
                len(name) >= _KEY_DIGITS
                and any(record.key.startswith(name) for record in group.records)
            )
        )
    ]
    names = [group.name for group in rows if group.scored]
    if not named:
        listed = ", ".join(names) or "none"
        raise UnknownName(f"no row '{name}' with a score.{nearest(name, names)} Rows: {listed}")
    if len(named) > 1 and norm is None:
        named = [g for g in named if batch_norm(g.records[0]) == TRANSDUCTIVE] or named
    if len(named) > 1:
        listed = "; ".join(f"{group.name} ({group.scored[0].key12})" for group in named)
        raise UsageError(f"'{name}' names {len(named)} rows; give a row's name or key: {listed}")
    return named[0]
