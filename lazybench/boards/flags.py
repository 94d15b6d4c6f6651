"""Warnings on rows and comparisons: `below baseline`, `still rising`, and mixed processors.

Boards, `lazybench compare` and the rule for verdicts take each definition from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazybench.boards.group import (
    TRANSDUCTIVE,
    Group,
    batch_norm,
    bounded,
    is_own,
    is_usable,
    newest,
)
from lazybench.records.schema import Record
from lazybench.stats import LEVEL

BASELINES: Mapping[str, tuple[str, ...]] = {
    "fewshot": ("finetune", "nearest_pixel"),
    "longtail": ("cross_entropy",),
    "attack": ("coordinate", "meta_attack_untrained"),
}
"""Baselines that a learner must beat, by family; `chance` is below them."""

BELOW_BASELINE, STILL_RISING = "below baseline", "still rising"
ZERO_MAP = "a map of zeros"
"""The baseline of attackers that predict gradient maps: its squared error is 1."""

RISE = 1.0
"""Points of validation score that a curve gains over its last half where it is still rising.

`Choice:` one, within which two agents count as alike. Where the score is no fraction, it is 5 % of
the mean over that half.
"""

BETWEEN_PROCESSORS = 3.7
"""Points by which runs with the same settings on two processors were seen to differ."""

ON_VALIDATION = "LT+dev"
"""The track whose training sees the validation images with their labels."""

_HELD_OUT = "held_out_mse"


@dataclass(frozen=True)
class Against:
    """A row against the baselines of its board.

    Attributes:
        missing: baselines without a row.
        not_above: baselines that the row isn't above.
    """

    missing: tuple[str, ...]
    not_above: tuple[str, ...]


def against_baselines(group: Group, rows: Sequence[Group]) -> Against:
    """Return which baselines a row isn't above, and which its board lacks.

    A row is above a baseline where the paired 95 % interval of their difference lies above 0. In
    attacks the difference is in queries per image, and success must not lie significantly lower;
    an attacker that predicts gradient maps must also have a smaller error than a map of zeros.
    Baselines are rows without settings of their own, with the row's batch norm where there is such
    a row, else with the other one.

    Args:
        group: a row with a score.
        rows: all rows of its board.
    """
    first = group.records[0]
    missing, below = [], []
    for name in BASELINES.get(first.env.family, ()):
        if name == first.agent.id:
            continue
        baseline = _baseline(name, group, rows)
        if baseline is None:
            missing.append(name)
        elif not _is_above(group, baseline):
            below.append(name)
    errors = [record.diagnostics.get(_HELD_OUT) for record in group.scored]
    known = [bounded(error) for error in errors if isinstance(error, int | float)]
    if known and not sum(known) / len(known) < 1:
        below.append(ZERO_MAP)
    return Against(tuple(missing), tuple(below))


def _baseline(name: str, group: Group, rows: Sequence[Group]) -> Group | None:
    firsts = ((row, row.records[0]) for row in rows if row.scored)
    same = [row for row, first in firsts if is_own(first) and not first.limited]
    norm = batch_norm(group.records[0]) or TRANSDUCTIVE
    same_norm = newest(same, name, {}, norm)
    return same_norm or newest(same, name, {}, TRANSDUCTIVE)


def _is_above(group: Group, baseline: Group) -> bool:
    """Whether the paired interval lies above 0; False if the sides can't be paired."""
    first = group.records[0]
    better = 1 if first.env.better == "higher" else -1
    lo, hi = _interval(group, baseline, "", better)
    if first.env.family != "attack":
        return lo > 0
    return _interval(group, baseline, "queries", -1)[0] > 0 and not hi < 0


def _interval(group: Group, other: Group, column: str, sign: int) -> tuple[float, float]:
    """The 95 % interval of a paired difference, positive where the first is better."""
    estimate = group.estimate(other, column)
    if estimate is None:
        return -float("inf"), float("inf")
    mean, half = sign * estimate.mean, estimate.parts.half(LEVEL)
    return mean - half, mean + half


def is_baseline(record: Record) -> bool:
    """Return whether a record is of a baseline of its family, or of chance."""
    return record.agent.id in (*BASELINES.get(record.env.family, ()), "chance")


def rise(group: Group) -> float | None:
    """Return how much the validation score gains over the last half of training.

    In points, positive where the score gets better: the slope of the line through the last half of
    the validations, at least two, times the steps between the first and the last of them; the mean
    over the seeds. None if no seed has two validations, or if training saw the labels of the
    validation images (track `LT+dev`).
    """
    gains = [gain for record in group.scored if (gain := _gain(record)) is not None]
    return sum(gains) / len(gains) if gains else None


def _gain(record: Record) -> float | None:
    import numpy as np

    count = len(record.curve)
    if count < 2 or record.track == ON_VALIDATION:
        return None
    last = record.curve[-max(2, -(-count // 2)) :]
    points: list[tuple[Any, Any]] = [(point.get("step"), point.get("val")) for point in last]
    if not all(isinstance(each, int | float) for point in points for each in point):
        return None
    steps, values = np.array([[bounded(each) for each in point] for point in points]).T
    if not is_usable(values) or not is_usable(steps) or steps[0] == steps[-1]:
        return None
    slope = float(np.polyfit(steps - steps[0], values, 1)[0])
    # Attackers are validated on gradient maps, by squared errors in units of the maps' variance.
    of_maps = record.env.family == "attack"
    better = "lower" if of_maps else record.env.better
    scale = 100.0
    if record.env.unit != "fraction" and not of_maps:
        level = abs(float(values.mean()))
        scale = RISE / (0.05 * level) if level else 0.0
    return scale * slope * float(steps[-1] - steps[0]) * (1 if better == "higher" else -1)


def is_still_rising(group: Group) -> bool:
    """Return whether the validation score gains more than `RISE` over the last half of training.

    A curve that is flat because the learning rate falls to 0 isn't rising; that says nothing about
    longer training.
    """
    gain = rise(group)
    return gain is not None and gain > RISE


def flags(group: Group, rows: Sequence[Group]) -> tuple[str, ...]:
    """Return the flags of a row: `below baseline`, `still rising`, both or none.

    Args:
        group: a row with a score.
        rows: all rows of its board.
    """
    first = group.records[0]
    below = not is_baseline(first) and not first.limited
    marks = [BELOW_BASELINE] if below and against_baselines(group, rows).not_above else []
    return (*marks, STILL_RISING) if is_still_rising(group) else tuple(marks)


def processor(record: Record) -> str:
    """Return the name of what computed a record: its GPU, else its processor."""
    return record.machine.gpu or record.machine.processor


def mixed_processors(left: Group, right: Group) -> tuple[str, ...]:
    """Return the processors of two sides where they were compared across processors; else none.

    Sides with the same seeds are paired by seed, so each pair must be of one processor; other sides
    must be of one processor altogether.
    """
    sides = [[(record.seed, processor(record)) for record in side.scored] for side in (left, right)]
    names = sorted({name for side in sides for _, name in side})
    paired = [seed for seed, _ in sides[0]] == [seed for seed, _ in sides[1]]
    mixed = sides[0] != sides[1] if paired else len(names) > 1
    return tuple(names) if mixed else ()
