"""The lazy paper's claims, what records say of each, and the page of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lazybench.boards.build import FEWEST_SEEDS, tables
from lazybench.boards.group import Group, factor, groups, newest, whole_runs
from lazybench.boards.render import page_mark
from lazybench.records.fields import Reported
from lazybench.records.schema import Record
from lazybench.stats import LEVEL, Difference, Estimate, adjusted
from lazybench.tables import markdown_table, markdown_text

Expected = Literal["above", "alike"]

WITHDRAWN = frozenset({"small"})
"""Budgets at which no verdict holds."""

NOTE = """\
**No verdict on the paper's claims stands at present.** `small` is far from the paper's training,
which is hundreds of times as long; some presets were wrong on tasks of 20 ways; and nothing shows
yet that the agents that are compared had learned enough for a verdict: that each beats its
baselines, that its curve has levelled off, that both sides were tuned alike. Until there is a rule
of competence that asks for this, verdicts at `small` are withdrawn, and "refuted" is withdrawn at
every budget. What is left are the differences that were measured at this budget.
"""
"""The note on verdicts at the head of pages."""


@dataclass(frozen=True)
class Side:
    """An agent in one configuration.

    Attributes:
        agent: id.
        settings: overrides of the agent's settings but batch norm.
        norm: its batch norm, where it has one.
    """

    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "transductive"

    @property
    def name(self) -> str:
        """Its name on pages."""
        parts = [f"{name}={value}" for name, value in self.settings.items()]
        parts += [self.norm] if self.norm != "transductive" else []
        return f"{self.agent} ({', '.join(parts)})" if parts else self.agent


@dataclass(frozen=True)
class Contrast:
    """A difference between two agents that a claim is about.

    Attributes:
        left: the side that the claim is about.
        right: what it is compared with.
        expected: whether the claim says that left scores above right or alike.
        envs: endings or wholes of environment ids that it is about.
        against: endings of environments on which the same difference should be smaller; where
            there are any, the difference of the differences is tested.
        column: a number of each trial that is compared in place of the score, less being better.
    """

    left: Side
    right: Side
    expected: Expected
    envs: tuple[str, ...]
    against: tuple[str, ...] = ()
    column: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: the claim in a sentence.
        where: in the paper.
        contrasts: the differences that would support it.
        elsewhere: the page that answers it where scores don't.
    """

    text: str
    where: str
    contrasts: tuple[Contrast, ...] = ()
    elsewhere: str = ""


_FIVE_WAY = ("-5way-1shot", "-5way-5shot")
# The paper's figures have 5 shots. `Choice:` 20-way 1-shot counts as many-way too.
_MANY_WAY = ("-20way-1shot", "-20way-5shot", "-30way-5shot", "-50way-5shot")
_LAZY_MAML, _LAZY_REPTILE = Side("lazy_maml"), Side("lazy_reptile")
_MAML, _REPTILE = Side("maml"), Side("reptile")
_LONG_TAIL = ("cifar100-lt-200", "cifar100-lt-100", "cifar100-lt-50", "cifar100-lt-20")
_SCALED = {"strength": "scaled"}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "A hull of three checkpoints (b = 3) does about as well as one (b = 1)",
        "Table 1",
        tuple(
            Contrast(Side(name, {"hull": 3}), Side(name), "alike", _FIVE_WAY)
            for name in ("lazy_maml", "lazy_reptile")
        ),
    ),
    Claim(
        "Lazy helps Reptile on five-way tasks",
        "Tables 1, 5 and 6",
        (Contrast(_LAZY_REPTILE, _REPTILE, "above", _FIVE_WAY),),
    ),
    Claim(
        "On five-way tasks lazy doesn't help MAML: it does about as well",
        "Tables 1 and 5",
        (Contrast(_LAZY_MAML, _MAML, "alike", _FIVE_WAY),),
    ),
    Claim(
        "With many ways, longer inner loops pay: lazy MAML is above MAML",
        "Figure 2 (left)",
        (Contrast(_LAZY_MAML, _MAML, "above", _MANY_WAY),),
    ),
    Claim(
        "With many ways, lazy Reptile is above Reptile",
        "Figure 4 (left)",
        (Contrast(_LAZY_REPTILE, _REPTILE, "above", _MANY_WAY),),
    ),
    Claim(
        "On non-i.i.d. tasks MAML learns labels by heart, and lazy MAML less so",
        "Figure 2 (right)",
        (Contrast(_LAZY_MAML, _MAML, "above", ("-20way-1shot-noniid",)),),
    ),
    Claim(
        "Memory is flat in the number of inner steps, and time doesn't explode",
        "Figure 3",
        elsewhere="docs/cost.md",
    ),
    Claim(
        "Batch statistics of the test set help (by about two points)",
        "Table 5",
        tuple(
            Contrast(Side(name), Side(name, norm="inductive"), "above", _FIVE_WAY)
            for name in ("maml", "reptile", "lazy_reptile")
        ),
    ),
    Claim(
        "Lazy Reptile's gain is larger at 5 shots than at 1",
        "Tables 1 and 5",
        (Contrast(_LAZY_REPTILE, _REPTILE, "above", ("-5way-5shot",), ("-5way-1shot",)),),
    ),
    Claim(
        "With 50 shots lazy MAML is above lazy Reptile",
        "Appendix A.6",
        (Contrast(_LAZY_MAML, _LAZY_REPTILE, "above", ("-5way-50shot",)),),
    ),
    Claim(
        "On long tails the lazy teacher gains over the greedy one",
        "Table 2",
        tuple(
            Contrast(
                Side("lazy_two_component", settings),
                Side("two_component", settings),
                "above",
                _LONG_TAIL,
            )
            for settings in ({}, _SCALED)
        ),
    ),
    Claim(
        "Lazy meta-attack succeeds with fewer queries than meta-attack",
        "Tables 3 and 7",
        (
            Contrast(
                Side("lazy_meta_attack"),
                Side("meta_attack"),
                "above",
                ("-untargeted", "-targeted"),
                column="queries",
            ),
        ),
    ),
)


Verdict = Literal["confirmed", "refuted", "undecided"]
Stated = Literal["confirmed", "withdrawn", "undecided"]

ALIKE = 1.0
"""Points within which two agents count as alike.

`Choice:` one, the half-width of most of the paper's own intervals.
"""


@dataclass(frozen=True)
class ContrastResult:
    """The result of one contrast on one board.

    Attributes:
        left: a side's name.
        right: the other's.
        place: environment and budget.
        difference: left less right in the board's unit, positive where left is better.
        seeds: of the side that has fewer.
        verdict: what the interval says of this contrast alone, not of the claim.
        keys: the first 12 digits of the records' keys.
        reported: the same difference between the numbers in the paper for this environment, also
            positive where left is better; None where the paper has none.
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
        """Two-sided p of the verdict; NaN with a single trial."""
        return self.difference.p if self.alike_p is None else self.alike_p

    @property
    def contains_reported(self) -> bool:
        """Whether the interval contains the paper's difference; False where the paper has none."""
        _, lo, hi, _ = self.difference
        return self.reported is not None and lo <= self.reported <= hi


def contrast_results(
    claim: Claim, records: Sequence[Record], reported: Iterable[Reported] = ()
) -> list[ContrastResult]:
    """Return the result of each contrast of a claim on each board.

    Of many boards some differ by chance, so results are decided after correction for their
    number.

    Args:
        claim: a claim of the paper.
        records: any records.
        reported: numbers of the paper, to compare with.
    """
    papers = list(reported)
    boards = [(table[0], groups(table)) for table in tables(whole_runs(records))]
    boards.sort(key=lambda board: (board[0].env.id, board[0].budget))
    found: list[ContrastResult] = []
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
            _difference_of_differences(contrast, (more, of_more), (less, of_less))
            for one, more, of_more in gains
            for other, less, of_less in gains
            if _ends(one.env.id, contrast.envs)
            and _ends(other.env.id, contrast.against)
            and (one.data.name, one.budget) == (other.data.name, other.budget)
        ]
    return corrected(found)


def corrected(found: Sequence[ContrastResult]) -> list[ContrastResult]:
    """Return the results, undecided where p isn't below 5 % after correction for their number."""
    tested = [each for each in found if each.seeds >= FEWEST_SEEDS and each.p >= 0]
    chances = adjusted([each.p for each in tested])
    weak = {id(each) for each, p in zip(tested, chances, strict=True) if p >= 1 - LEVEL}
    weak |= {id(each) for each in found if math.isnan(each.p)}
    return [replace(each, verdict="undecided") if id(each) in weak else each for each in found]


def verdict(found: Sequence[ContrastResult]) -> Verdict:
    """Return the verdict of several intervals: all that are decided must agree."""
    decided = {finding.verdict for finding in found} - {"undecided"}
    return decided.pop() if len(decided) == 1 else "undecided"


def stated(found: Sequence[ContrastResult]) -> Stated:
    """Return the verdict on a claim, or `withdrawn` where none is given at the budget."""
    decided = verdict(found)
    if decided == "undecided":
        return decided
    cheap = any(each.budget in WITHDRAWN for each in found if each.verdict == decided)
    return "withdrawn" if decided == "refuted" or cheap else decided


def verdict_text(found: Sequence[ContrastResult]) -> str:
    """Return `stated`, with the number of results that support it where that isn't all."""
    text = stated(found)
    return f"{text}{_of(found)}" if text == "confirmed" else text


INTERVALS: Mapping[Verdict, str] = {
    "confirmed": "as claimed",
    "refuted": "against it",
    "undecided": "undecided",
}
"""Words of pages for an interval alone."""


def intervals_text(found: Sequence[ContrastResult]) -> str:
    """Return the verdict of the intervals, with their number where that isn't all."""
    return f"{INTERVALS[verdict(found)]}{_of(found)}"


def _of(found: Sequence[ContrastResult]) -> str:
    decided = verdict(found)
    count = sum(each.verdict == decided for each in found)
    whole = decided == "undecided" or count == len(found)
    return "" if whole else f" ({count} of {len(found)})"


def _ends(env: str, endings: Sequence[str]) -> bool:
    return any(env == ending or env.endswith(ending) for ending in endings)


def _gain(
    contrast: Contrast, first: Record, rows: Sequence[Group], papers: Sequence[Reported]
) -> tuple[ContrastResult, Estimate] | None:
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
    gain = ContrastResult(
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
    """The p of "alike"; None for other claims.

    Two one-sided tests (TOST). `Choice:` each at 2.5 %, so that p is below 5 % exactly where
    the 95 % interval is within the bounds.

    Reference: D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), 657-680.
    """
    if contrast.expected != "alike":
        return None
    return estimate.p(math.copysign(ALIKE, estimate.mean))


def _reported(contrast: Contrast, first: Record, papers: Sequence[Reported]) -> float | None:
    """The paper's difference on an environment, where it has both sides in one metric."""
    ours = (first.env.metric, 1.0 if first.env.better == "higher" else -1.0)
    for metric, sign in (_PRINTED.get(contrast.column, ours), _ERROR):
        left, right = (
            _printed(side, first.env.id, metric, papers) for side in (contrast.left, contrast.right)
        )
        if left is not None and right is not None:
            return sign * (left - right)
    return None


_PRINTED = {"queries": ("success_queries", -1.0)}
"""The metric of papers for a column of the trials, and its sign."""

_ERROR = ("top1_error_pct", -1.0)
"""Their metric on long tails; on a balanced test set, 100 less balanced accuracy."""


def _printed(side: Side, env: str, metric: str, papers: Sequence[Reported]) -> float | None:
    """The paper's number of a side; an unknown batch norm counts as the side's."""
    wanted = (env, metric, side.agent, dict(side.settings))
    for row in papers:
        facts = (row.env, row.metric, row.agent, row.settings)
        if facts == wanted and row.batch_norm in (None, side.norm) and row.value is not None:
            return row.value
    return None


def _difference_of_differences(
    contrast: Contrast, one: tuple[ContrastResult, Estimate], other: tuple[ContrastResult, Estimate]
) -> ContrastResult:
    """The difference between two differences of independent trials."""
    (more, of_more), (less, of_less) = one, other
    estimate = of_more.less(of_less)
    mean, half = estimate.mean, estimate.parts.half(LEVEL)
    difference = Difference(mean, mean - half, mean + half, estimate.p())
    seeds = min(more.seeds, less.seeds)
    decided = _decided(contrast.expected, difference) if seeds >= FEWEST_SEEDS else "undecided"
    place = f"{more.place} less {less.place}"
    keys = more.keys + less.keys
    printed = None
    if more.reported is not None and less.reported is not None:
        printed = more.reported - less.reported
    sides, alike = (more.left, more.right), _alike_p(contrast, estimate)
    return ContrastResult(
        *sides, place, difference, seeds, decided, keys, printed, more.budget, alike
    )


def _decided(expected: Expected, difference: Difference) -> Verdict:
    """The verdict of an interval.

    "Alike" is confirmed by an interval within the bounds and refuted by one beyond them.
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
    """The row of a side, with its agent's newest version."""
    return newest([group for group in rows if group.scored], side.agent, side.settings, side.norm)


Found = Sequence[tuple[Claim, Sequence[ContrastResult]]]

_HEAD = f"""\
# The lazy paper's claims, and what our records say

{page_mark("claims")}

{NOTE}
`lazybench reproduce claims --page FILE` writes this page from the records. A difference is positive
where the side that the claim speaks for is better, in points (in queries, where it says so), paired
over the trials, with its 95 % interval. An interval is **as claimed** or **against it** where it
lies on one side of 0 with at least {FEWEST_SEEDS} seeds a side, also after correction for the
number of findings; where the claim says "alike", it must lie within {ALIKE:g} point either way (two
one-sided tests, corrected as well), or wholly beyond. It is **undecided** where it doesn't, where
seeds are fewer (then two trained models are compared, not two algorithms), or where findings
disagree; (n of m) says that n findings decide and the others don't. All of it holds at the budget
that is named, and says nothing about longer training. Where the paper prints both numbers of a
difference for the environment, it is in the column *reported*, and (out) says that our interval
doesn't hold it (the paper's queries are of successes alone).
"""


def claims_page(found: Found) -> str:
    """Return the page.

    Args:
        found: the claims in order, each with its results.
    """
    lines = [_HEAD, *_table(found), ""]
    for number, (claim, results) in enumerate(found, 1):
        lines += [*_section(number, claim, results), ""]
    return "\n".join(lines)


def _table(found: Found) -> list[str]:
    rows = [
        (str(number), markdown_text(claim.text), claim.where, *_verdict_cells(claim, results))
        for number, (claim, results) in enumerate(found, 1)
    ]
    header = ("", "claim", "in the paper", "verdict", "intervals")
    return [markdown_table(header, rows, ["right", *["left"] * 4], padded=False)]


def _verdict_cells(claim: Claim, results: Sequence[ContrastResult]) -> tuple[str, str]:
    if claim.elsewhere:
        return f"see {claim.elsewhere}", ""
    if not results:
        return "undecided: no records", ""
    return verdict_text(results), intervals_text(results)


def _section(number: int, claim: Claim, results: Sequence[ContrastResult]) -> Iterator[str]:
    yield f"## {number}. {claim.text}"
    yield ""
    if claim.elsewhere:
        yield f"Measured in {claim.elsewhere}."
        return
    if not results:
        sides = {f"{c.left.name} and {c.right.name}" for c in claim.contrasts}
        yield f"No records of both {' or '.join(sorted(sides))} where this would show."
        return
    header = (
        "better by",
        "95 % interval",
        "reported",
        "sides",
        "where",
        "seeds",
        "alone",
        "records",
    )
    align = ["right", "left", "right", "left", "left", "right", "left", "left"]
    yield markdown_table(header, [_cells(each) for each in results], align, padded=False)


def _cells(each: ContrastResult) -> tuple[str, ...]:
    mean, lo, hi, _ = each.difference
    contained = "" if each.reported is None or each.contains_reported else " (out)"
    return (
        f"{mean:+.2f}",
        f"{lo:+.2f} to {hi:+.2f}",
        "" if each.reported is None else f"{each.reported:+.2f}{contained}",
        markdown_text(f"{each.left} less {each.right}"),
        markdown_text(each.place),
        str(each.seeds),
        INTERVALS[each.verdict],
        ", ".join(each.keys),
    )
