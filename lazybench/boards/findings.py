"""What records say of a claim: differences with intervals, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lazybench.boards.build import FEWEST_SEEDS, tables
from lazybench.boards.claims import Claim, Contrast, Expected, Side
from lazybench.boards.groups import Group, factor, groups, newest, whole_runs
from lazybench.records.schema import Record
from lazybench.stats import Difference

Verdict = Literal["confirmed", "refuted", "undecided"]

ALIKE = 1.0
"""Points within which two agents are called alike.

`Choice:` one, the half-width of most of the paper's own intervals.
"""


@dataclass(frozen=True)
class Finding:
    """What records say of one contrast in one place.

    Attributes:
        left: a side's name.
        right: the other's.
        place: environment and budget.
        difference: left less right in the board's unit, positive where left is better.
        seeds: of the side that has fewer.
        verdict: on this contrast alone.
        keys: the first 12 digits of the records' keys.
    """

    left: str
    right: str
    place: str
    difference: Difference
    seeds: int
    verdict: Verdict
    keys: tuple[str, ...]


def findings(claim: Claim, records: Sequence[Record]) -> list[Finding]:
    """Return what the records say of a claim's contrasts, one by one and board by board."""
    boards = [(table[0], groups(table)) for table in tables(whole_runs(records))]
    boards.sort(key=lambda board: (board[0].env.id, board[0].budget))
    found: list[Finding] = []
    for contrast in claim.contrasts:
        gains = [
            (first, gain)
            for first, rows in boards
            if _ends(first.env.id, contrast.envs + contrast.against)
            and (gain := _gain(contrast, first, rows)) is not None
        ]
        if not contrast.against:
            found += [gain for _, gain in gains]
            continue
        found += [
            _apart(contrast, more, less)
            for one, more in gains
            for other, less in gains
            if _ends(one.env.id, contrast.envs)
            and _ends(other.env.id, contrast.against)
            and (one.data.name, one.budget) == (other.data.name, other.budget)
        ]
    return found


def verdict(found: Sequence[Finding]) -> Verdict:
    """Return what findings come to: all that are decided must agree."""
    decided = {finding.verdict for finding in found} - {"undecided"}
    return decided.pop() if len(decided) == 1 else "undecided"


def _ends(env: str, endings: Sequence[str]) -> bool:
    return any(env == ending or env.endswith(ending) for ending in endings)


def _gain(contrast: Contrast, first: Record, rows: Sequence[Group]) -> Finding | None:
    left, right = _row(contrast.left, rows), _row(contrast.right, rows)
    if left is None or right is None:
        return None
    found = left.less(right, contrast.column)
    if found is None:
        return None
    sign = factor(first) * (1 if first.env.better == "higher" else -1)
    sign = -1.0 if contrast.column else sign
    mean, lo, hi, p = found
    ends = sorted((sign * lo, sign * hi))
    difference = Difference(sign * mean, ends[0], ends[1], p)
    return _finding(contrast, f"{first.env.id}, {first.budget}", difference, (left, right))


def _finding(
    contrast: Contrast, place: str, difference: Difference, sides: tuple[Group, Group]
) -> Finding:
    seeds = min(len(side.scored) for side in sides)
    keys = tuple(record.key12 for side in sides for record in side.scored)
    told = _decided(contrast.expected, difference) if seeds >= FEWEST_SEEDS else "undecided"
    return Finding(contrast.left.name, contrast.right.name, place, difference, seeds, told, keys)


def _apart(contrast: Contrast, more: Finding, less: Finding) -> Finding:
    """The difference of two differences, whose trials have nothing to do with each other."""
    mean = more.difference.mean - less.difference.mean
    half = math.hypot(*((each.difference.hi - each.difference.lo) / 2 for each in (more, less)))
    difference = Difference(mean, mean - half, mean + half, math.nan)
    seeds = min(more.seeds, less.seeds)
    told = _decided(contrast.expected, difference) if seeds >= FEWEST_SEEDS else "undecided"
    place = f"{more.place} less {less.place}"
    return Finding(more.left, more.right, place, difference, seeds, told, more.keys + less.keys)


def _decided(expected: Expected, difference: Difference) -> Verdict:
    _, lo, hi, _ = difference
    if expected == "alike":
        if lo >= -ALIKE and hi <= ALIKE:
            return "confirmed"
        return "refuted" if lo > 0 or hi < 0 else "undecided"
    if lo > 0:
        return "confirmed"
    return "refuted" if hi < 0 else "undecided"


def _row(side: Side, rows: Sequence[Group]) -> Group | None:
    """The row of a side, of its agent's newest version."""
    return newest([group for group in rows if group.scored], side.agent, side.settings, side.norm)
