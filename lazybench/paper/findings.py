"""What records say of a claim: differences with intervals, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lazybench.boards.build import FEWEST_SEEDS, tables
from lazybench.boards.group import Group, factor, groups, newest, whole_runs
from lazybench.paper.claims import WITHDRAWN, Claim, Contrast, Expected, Side
from lazybench.records.fields import Reported
from lazybench.records.schema import Record
from lazybench.stats import LEVEL, Difference, Estimate, adjusted

Verdict = Literal["confirmed", "refuted", "undecided"]
Stated = Literal["confirmed", "withdrawn", "undecided"]

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
        verdict: what the interval says, on this contrast alone; no verdict on the claim.
        keys: the first 12 digits of the records' keys.
        reported: the same difference of the numbers that the paper prints for this environment,
            also positive where left is better; None where it prints none.
        budget: of the records.
        alike_p: where the claim says "alike", p of the bounds: of a difference of more than
            `ALIKE` where the mean is within, of less where it is beyond.
    """

    left: str
    right: str
    place: str
    difference: Difference
    seeds: int
    verdict: Verdict
    keys: tuple[str, ...]
    reported: float | None = None
    budget: str = ""
    alike_p: float | None = None

    @property
    def p(self) -> float:
        """Two-sided p of what the verdict says; NaN where a single trial tells nothing."""
        return self.difference.p if self.alike_p is None else self.alike_p

    @property
    def holds_reported(self) -> bool:
        """Whether the interval holds the paper's difference; False where that isn't printed."""
        _, lo, hi, _ = self.difference
        return self.reported is not None and lo <= self.reported <= hi


def findings(
    claim: Claim, records: Sequence[Record], reported: Iterable[Reported] = ()
) -> list[Finding]:
    """Return what the records say of a claim's contrasts, one by one and board by board.

    One that is decided on some of many boards may be so by chance: findings are decided after
    correction for their number.

    Args:
        claim: what the paper says.
        records: any records.
        reported: numbers of the paper, put beside the findings.
    """
    papers = list(reported)
    boards = [(table[0], groups(table)) for table in tables(whole_runs(records))]
    boards.sort(key=lambda board: (board[0].env.id, board[0].budget))
    found: list[Finding] = []
    for contrast in claim.contrasts:
        gains = [
            (first, *gain)
            for first, rows in boards
            if _ends(first.env.id, contrast.envs + contrast.against)
            and (gain := _gain(contrast, first, rows, papers)) is not None
        ]
        if not contrast.against:
            found += [gain for _, gain, _ in gains]
            continue
        found += [
            _apart(contrast, (more, of_more), (less, of_less))
            for one, more, of_more in gains
            for other, less, of_less in gains
            if _ends(one.env.id, contrast.envs)
            and _ends(other.env.id, contrast.against)
            and (one.data.name, one.budget) == (other.data.name, other.budget)
        ]
    return corrected(found)


def corrected(found: Sequence[Finding]) -> list[Finding]:
    """Return findings, undecided where p isn't below 5 % after correction for their number."""
    told = [each for each in found if each.seeds >= FEWEST_SEEDS and each.p >= 0]
    chances = adjusted([each.p for each in told])
    weak = {id(each) for each, p in zip(told, chances, strict=True) if p >= 1 - LEVEL}
    weak |= {id(each) for each in found if math.isnan(each.p)}
    return [replace(each, verdict="undecided") if id(each) in weak else each for each in found]


def verdict(found: Sequence[Finding]) -> Verdict:
    """Return what findings' intervals come to: all that are decided must agree."""
    decided = {finding.verdict for finding in found} - {"undecided"}
    return decided.pop() if len(decided) == 1 else "undecided"


def stated(found: Sequence[Finding]) -> Stated:
    """Return the verdict on a claim that stands: what findings come to, or that it is withdrawn."""
    told = verdict(found)
    if told == "undecided":
        return told
    cheap = any(each.budget in WITHDRAWN for each in found if each.verdict == told)
    return "withdrawn" if told == "refuted" or cheap else told


def verdict_text(found: Sequence[Finding]) -> str:
    """Return `stated`, with how many of the findings it rests on where that isn't all."""
    told = stated(found)
    return f"{told}{_of(found)}" if told == "confirmed" else told


INTERVALS: Mapping[Verdict, str] = {
    "confirmed": "as claimed",
    "refuted": "against it",
    "undecided": "undecided",
}
"""What pages say of an interval alone."""


def intervals_text(found: Sequence[Finding]) -> str:
    """Return what intervals say, with how many of them where that isn't all."""
    return f"{INTERVALS[verdict(found)]}{_of(found)}"


def _of(found: Sequence[Finding]) -> str:
    told = verdict(found)
    count = sum(finding.verdict == told for finding in found)
    whole = told == "undecided" or count == len(found)
    return "" if whole else f" ({count} of {len(found)})"


def _ends(env: str, endings: Sequence[str]) -> bool:
    return any(env == ending or env.endswith(ending) for ending in endings)


def _gain(
    contrast: Contrast, first: Record, rows: Sequence[Group], papers: Sequence[Reported]
) -> tuple[Finding, Estimate] | None:
    left, right = _row(contrast.left, rows), _row(contrast.right, rows)
    if left is None or right is None:
        return None
    found, estimate = left.less(right, contrast.column), left.estimate(right, contrast.column)
    if found is None or estimate is None:
        return None
    sign = factor(first) * (1 if first.env.better == "higher" else -1)
    sign = -1.0 if contrast.column else sign
    mean, lo, hi, p = found
    ends = sorted((sign * lo, sign * hi))
    difference = Difference(sign * mean, ends[0], ends[1], p)
    seeds = min(len(side.scored) for side in (left, right))
    estimate = estimate.scaled(sign)
    gain = Finding(
        contrast.left.name,
        contrast.right.name,
        f"{first.env.id}, {first.budget}",
        difference,
        seeds,
        _decided(contrast.expected, difference) if seeds >= FEWEST_SEEDS else "undecided",
        tuple(record.key12 for side in (left, right) for record in side.scored),
        _reported(contrast, first, papers),
        first.budget,
        _alike_p(contrast, estimate),
    )
    return gain, estimate


def _alike_p(contrast: Contrast, estimate: Estimate) -> float | None:
    """The p that goes with "alike"; None where a claim says something else.

    Two one-sided tests (TOST). `Choice:` each at 2.5 %, so that it is the 95 % interval that lies
    within the bounds where p is below 5 %.

    Reference: D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), 657-680.
    """
    if contrast.expected != "alike":
        return None
    return estimate.p(math.copysign(ALIKE, estimate.mean))


def _reported(contrast: Contrast, first: Record, papers: Sequence[Reported]) -> float | None:
    """The paper's difference on an environment, where it prints both sides in one measure."""
    ours = (first.env.metric, 1.0 if first.env.better == "higher" else -1.0)
    for metric, sign in (_PRINTED.get(contrast.column, ours), _ERROR):
        left, right = (
            _printed(side, first.env.id, metric, papers) for side in (contrast.left, contrast.right)
        )
        if left is not None and right is not None:
            return sign * (left - right)
    return None


_PRINTED = {"queries": ("success_queries", -1.0)}
"""What papers print in place of a column of the trials, and its sign."""

_ERROR = ("top1_error_pct", -1.0)
"""What they print of long tails; over a balanced test set, balanced accuracy less 100."""


def _printed(side: Side, env: str, metric: str, papers: Sequence[Reported]) -> float | None:
    """What the paper prints of a side; where it doesn't tell the batch norm, that is the side's."""
    wanted = (env, metric, side.agent, dict(side.settings))
    for row in papers:
        told = (row.env, row.metric, row.agent, row.settings)
        if told == wanted and row.batch_norm in (None, side.norm) and row.value is not None:
            return row.value
    return None


def _apart(
    contrast: Contrast, one: tuple[Finding, Estimate], other: tuple[Finding, Estimate]
) -> Finding:
    """The difference of two differences, whose trials have nothing to do with each other."""
    (more, of_more), (less, of_less) = one, other
    estimate = of_more.less(of_less)
    mean, half = estimate.mean, estimate.parts.half(LEVEL)
    difference = Difference(mean, mean - half, mean + half, estimate.p())
    seeds = min(more.seeds, less.seeds)
    told = _decided(contrast.expected, difference) if seeds >= FEWEST_SEEDS else "undecided"
    place = f"{more.place} less {less.place}"
    keys = more.keys + less.keys
    printed = None
    if more.reported is not None and less.reported is not None:
        printed = more.reported - less.reported
    sides, alike = (more.left, more.right), _alike_p(contrast, estimate)
    return Finding(*sides, place, difference, seeds, told, keys, printed, more.budget, alike)


def _decided(expected: Expected, difference: Difference) -> Verdict:
    """What an interval says: the wider it is around the same mean, the less.

    "Alike" takes one that lies within the bounds, and its contrary one that lies beyond.
    """
    _, lo, hi, _ = difference
    if expected == "alike":
        if lo >= -ALIKE and hi <= ALIKE:
            return "confirmed"
        return "refuted" if lo > ALIKE or hi < -ALIKE else "undecided"
    if lo > 0:
        return "confirmed"
    return "refuted" if hi < 0 else "undecided"


def _row(side: Side, rows: Sequence[Group]) -> Group | None:
    """The row of a side, of its agent's newest version."""
    return newest([group for group in rows if group.scored], side.agent, side.settings, side.norm)
