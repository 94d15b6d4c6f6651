"""The lazy paper's claims and ours, and the differences that records have for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from lazybench.boards.build import FEWEST_SEEDS, usual_tables
from lazybench.boards.flags import mixed_processors
from lazybench.boards.group import (
    TRANSDUCTIVE,
    Group,
    batch_norm,
    factor,
    groups,
    is_own,
    preferred,
    whole_runs,
)
from lazybench.records.schema import Record, Reported
from lazybench.specs import BUDGETS
from lazybench.stats import LEVEL, Difference, Estimate

Expected = Literal["above", "alike"]
Reading = Literal["", "theta", "phi"]
Verdict = Literal["confirmed", "refuted", "undecided"]

ALIKE = 1.0
"""Points within which two agents count as alike.

`Choice:` one, the half-width of most of the paper's own intervals.
"""

READ_BOTH_WAYS = frozenset({"lazy_maml", "lazy_reptile"})
"""Agents whose gamma the paper describes in two ways: claims of them are measured under both."""

READING = "leap_on"
"""The setting that says how gamma is read."""
OF_READING = frozenset({READING, "outer_lr"})
"""Settings that a row under the reading that isn't the preset's may override."""
_TRAINING = frozenset({"epochs", "image_gradients", "iterations", "validate_every", "validations"})
"""Settings that say how long training is; rows that differ in them are longer or shorter runs."""


@dataclass(frozen=True)
class Side:
    """An agent in one configuration.

    Attributes:
        agent: id.
        settings: overrides of the agent's settings but batch norm, the reading of gamma and the
            length of training.
        norm: its batch norm, where it has one.
        features: the backbone whose frozen features of the data it runs on; empty for the data.
    """

    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "transductive"
    features: str = ""

    def name(self, reading: Reading = "") -> str:
        """Its name on pages."""
        parts = [f"{name}={value}" for name, value in self.settings.items()]
        parts += [f"{READING}={reading}"] if reading and self.agent in READ_BOTH_WAYS else []
        parts += [self.norm] if self.norm != "transductive" else []
        name = f"{self.agent} ({', '.join(parts)})" if parts else self.agent
        return f"{name} on {self.features} features" if self.features else name


@dataclass(frozen=True)
class Contrast:
    """A difference between two agents that a claim is about.

    Attributes:
        left: the side that the claim is about.
        right: what it is compared with, the control.
        expected: whether the claim says that left scores above right or alike.
        envs: endings or wholes of environment ids that it is about; of a side on features, those
            of the data.
        against: endings of environments on which the same difference should be smaller; where
            there are any, the difference of the differences is tested.
        column: a number of each trial that is compared in place of the score, less being better.
        trap: the part of ids of tasks on which the claim says that the control fails; without it,
            ids name the tasks on which it works.
        reading: what gamma weighs in the lazy sides; empty if no side has two readings.
    """

    left: Side
    right: Side
    expected: Expected
    envs: tuple[str, ...]
    against: tuple[str, ...] = ()
    column: str = ""
    trap: str = ""
    reading: Reading = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or of this project.

    Attributes:
        text: the claim in a sentence.
        where: in the paper; empty for a claim of this project.
        contrasts: the differences that would support it.
        elsewhere: the page that answers it where scores don't.
    """

    text: str
    where: str
    contrasts: tuple[Contrast, ...] = ()
    elsewhere: str = ""


def both_readings(contrasts: Iterable[Contrast]) -> tuple[Contrast, ...]:
    """Return the contrasts, those with a lazy few-shot side once for each reading of gamma."""
    found: list[Contrast] = []
    for each in contrasts:
        lazy = {each.left.agent, each.right.agent} & READ_BOTH_WAYS
        readings: tuple[Reading, ...] = ("theta", "phi") if lazy else ("",)
        found += [replace(each, reading=reading) for reading in readings]
    return tuple(found)


_FIVE_WAY = ("-5way-1shot", "-5way-5shot")
# The paper's figures have 5 shots. `Choice:` 20-way 1-shot counts as many-way too.
_MANY_WAY = ("-20way-1shot", "-20way-5shot", "-30way-5shot", "-50way-5shot")
_LAZY_MAML, _LAZY_REPTILE = Side("lazy_maml"), Side("lazy_reptile")
_MAML, _REPTILE = Side("maml"), Side("reptile")
_LONG_TAIL = ("cifar100-lt-200", "cifar100-lt-100", "cifar100-lt-50", "cifar100-lt-20")
_SCALED = {"strength": "scaled"}
_PIXELS = Side("protonet")
_FEATURES = Side("protonet", {"backbone": "linear", "metric": "cosine"}, features="effnet-lite0")
"""The nearest centroid on what protonet learns from pixels, and on frozen ImageNet features."""

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "A hull of three checkpoints (b = 3) does about as well as one (b = 1)",
        "Table 1",
        both_readings(
            Contrast(Side(name, {"hull": 3}), Side(name), "alike", _FIVE_WAY)
            for name in ("lazy_maml", "lazy_reptile")
        ),
    ),
    Claim(
        "Lazy helps Reptile on five-way tasks",
        "Tables 1, 5 and 6",
        both_readings([Contrast(_LAZY_REPTILE, _REPTILE, "above", _FIVE_WAY)]),
    ),
    Claim(
        "On five-way tasks lazy doesn't help MAML: it does about as well",
        "Tables 1 and 5",
        both_readings([Contrast(_LAZY_MAML, _MAML, "alike", _FIVE_WAY)]),
    ),
    Claim(
        "With many ways, longer inner loops pay: lazy MAML is above MAML",
        "Figure 2 (left)",
        both_readings([Contrast(_LAZY_MAML, _MAML, "above", _MANY_WAY)]),
    ),
    Claim(
        "With many ways, lazy Reptile is above Reptile",
        "Figure 4 (left)",
        both_readings([Contrast(_LAZY_REPTILE, _REPTILE, "above", _MANY_WAY)]),
    ),
    Claim(
        "On non-i.i.d. tasks MAML learns labels by heart, and lazy MAML less so",
        "Figure 2 (right)",
        both_readings(
            [Contrast(_LAZY_MAML, _MAML, "above", ("-20way-1shot-noniid",), trap="-noniid")]
        ),
    ),
    Claim(
        "Memory is flat in the number of inner steps, and time doesn't explode",
        "Figure 3",
        elsewhere="docs/cost.md",
    ),
    Claim(
        "Batch statistics of the test set help (by about two points)",
        "Table 5",
        both_readings(
            Contrast(Side(name), Side(name, norm="inductive"), "above", _FIVE_WAY)
            for name in ("maml", "reptile", "lazy_reptile")
        ),
    ),
    Claim(
        "Lazy Reptile's gain is larger at 5 shots than at 1",
        "Tables 1 and 5",
        both_readings(
            [Contrast(_LAZY_REPTILE, _REPTILE, "above", ("-5way-5shot",), ("-5way-1shot",))]
        ),
    ),
    Claim(
        "With 50 shots lazy MAML is above lazy Reptile",
        "Appendix A.6",
        both_readings([Contrast(_LAZY_MAML, _LAZY_REPTILE, "above", ("-5way-50shot",))]),
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
    Claim(
        "Frozen ImageNet features are above features learned from pixels on CIFAR-FS, and below "
        "them on Omniglot",
        "",
        (
            Contrast(_FEATURES, _PIXELS, "above", ("cifarfs-5way-1shot", "cifarfs-5way-5shot")),
            Contrast(_PIXELS, _FEATURES, "above", ("omniglot-5way-1shot",)),
        ),
    ),
)


class BoardGroups(NamedTuple):
    """The rows of one board: whole runs on one environment, data, protocol and budget.

    Attributes:
        first: any record of it.
        rows: its rows.
    """

    first: Record
    rows: tuple[Group, ...]

    @property
    def place(self) -> str:
        """Environment and budget, as sentences name them."""
        return f"{self.first.env.id} at {self.first.budget}"

    def is_same_tasks(self, other: BoardGroups) -> bool:
        """Return whether another board is of the same environment and data, at any budget."""
        one, two = self.first, other.first
        return (one.env.id, one.env.version, one.data.fingerprint, one.data.prep) == (
            two.env.id,
            two.env.version,
            two.data.fingerprint,
            two.data.prep,
        )


def boards_of(records: Iterable[Record]) -> list[BoardGroups]:
    """Return the usual boards of whole runs, by environment and budget (see `usual_tables`)."""
    found = [
        BoardGroups(table[0], tuple(groups(table))) for table in usual_tables(whole_runs(records))
    ]
    return sorted(found, key=lambda board: (board.first.env.id, board.first.budget))


@dataclass(frozen=True)
class Pair:
    """Both sides of a contrast, on one board or on those of pixels and of features.

    Attributes:
        boards: the board of each side, left and right; the same one but for sides on features.
        left: the runs of the side that the claim is about.
        right: those of the control.
        difference: left less right in the board's unit, positive where left is better.
        estimate: the same with the parts of its variance.
        reported: the same difference between the numbers in the paper for this environment; None
            where the paper has none.
    """

    boards: tuple[BoardGroups, BoardGroups]
    left: Group
    right: Group
    difference: Difference
    estimate: Estimate
    reported: float | None = None

    @property
    def board(self) -> BoardGroups:
        """The board of the control."""
        return self.boards[1]

    @property
    def place(self) -> str:
        """Its environment, or that of each side."""
        return " against ".join(dict.fromkeys(board.first.env.id for board in self.boards))

    @property
    def seeds(self) -> int:
        """Seeds of the side that has fewer."""
        return min(len(self.left.scored), len(self.right.scored))


@dataclass(frozen=True)
class ContrastResult:
    """The result of one contrast on one board, or on two whose differences are subtracted.

    Attributes:
        contrast: what is compared.
        pairs: both sides on the board; on two boards for a difference of differences.
        difference: left less right, or the difference of the two differences, in the board's unit;
            positive where the claim's side is better.
        estimate: the same with the parts of its variance.
        verdict: what the interval says of this contrast alone, not of the claim.
    """

    contrast: Contrast
    pairs: tuple[Pair, ...]
    difference: Difference
    estimate: Estimate
    verdict: Verdict

    @property
    def budget(self) -> str:
        """The budget of the records."""
        return self.pairs[0].board.first.budget

    @property
    def place(self) -> str:
        """Its environment, or two of them."""
        return " less ".join(pair.place for pair in self.pairs)

    @property
    def sides(self) -> str:
        """The names of both sides."""
        names = [
            side.name(self.contrast.reading) for side in (self.contrast.left, self.contrast.right)
        ]
        return " less ".join(names)

    @property
    def seeds(self) -> int:
        """Seeds of the side that has fewest."""
        return min(pair.seeds for pair in self.pairs)

    @property
    def keys(self) -> tuple[str, ...]:
        """The first 12 digits of the records' keys."""
        sides = [side for pair in self.pairs for side in (pair.left, pair.right)]
        return tuple(record.key12 for side in sides for record in side.scored)

    @property
    def processors(self) -> tuple[str, ...]:
        """The processors of pairs that were compared across processors; else none."""
        mixed = {name for x in self.pairs for name in mixed_processors(x.left, x.right)}
        return tuple(sorted(mixed))

    @property
    def reported(self) -> float | None:
        """The paper's difference; None if it prints none."""
        found = [pair.reported for pair in self.pairs]
        if any(each is None for each in found):
            return None
        return sum(
            sign * each for sign, each in zip((1, -1), found, strict=False) if each is not None
        )

    @property
    def contains_reported(self) -> bool:
        """Whether the interval contains the paper's difference; False if the paper has none."""
        _, lo, hi, _ = self.difference
        return self.reported is not None and lo <= self.reported <= hi

    @property
    def p(self) -> float:
        """Two-sided p of the verdict; NaN with a single trial."""
        p = alike_p(self.estimate) if self.contrast.expected == "alike" else self.difference.p
        return math.nan if math.isnan(self.difference.p) else p


def contrast_results(
    claim: Claim, boards: Sequence[BoardGroups], reported: Iterable[Reported] = ()
) -> list[ContrastResult]:
    """Return the result of each contrast of a claim on each board, at every budget.

    Args:
        claim: a claim of the paper.
        boards: of any records.
        reported: numbers of the paper, to compare with.
    """
    papers = list(reported)
    found: list[ContrastResult] = []
    for contrast in claim.contrasts:
        pairs = [
            pair
            for board in boards
            if _ends(board.first.env.id, contrast.envs + contrast.against)
            and (pair := pair_on(contrast, board, boards, papers)) is not None
        ]
        if not contrast.against:
            found += [result_of(contrast, (pair,)) for pair in pairs]
            continue
        found += [
            result_of(contrast, (one, other))
            for one in pairs
            for other in pairs
            if _ends(one.board.first.env.id, contrast.envs)
            and _ends(other.board.first.env.id, contrast.against)
            and _data_and_budget(one) == _data_and_budget(other)
        ]
    return found


def _data_and_budget(pair: Pair) -> tuple[str, str]:
    first = pair.board.first
    return first.data.name, first.budget


def at_best_budget(found: Sequence[ContrastResult]) -> list[ContrastResult]:
    """Return the results at the largest budget that any of them has."""
    size = {budget: place for place, budget in enumerate(BUDGETS)}
    best = max((size.get(each.budget, -1) for each in found), default=-1)
    return [each for each in found if size.get(each.budget, -1) == best]


def result_of(contrast: Contrast, pairs: tuple[Pair, ...]) -> ContrastResult:
    """Return the result of one pair, or of the difference of two pairs on independent trials."""
    if len(pairs) == 1:
        difference, estimate = pairs[0].difference, pairs[0].estimate
    else:
        difference, estimate = _less(pairs[0].estimate, pairs[1].estimate)
    enough = min(pair.seeds for pair in pairs) >= FEWEST_SEEDS
    verdict = decided(contrast.expected, difference) if enough else "undecided"
    return ContrastResult(contrast, pairs, difference, estimate, verdict)


def decided(expected: Expected, difference: Difference) -> Verdict:
    """Return the verdict of an interval.

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


def alike_p(estimate: Estimate) -> float:
    """Return the p of "alike".

    Two one-sided tests (TOST): of a difference of more than `ALIKE` where the mean is within the
    bounds, of less where it is beyond. `Choice:` each at 2.5 %, so that p is below 5 % exactly
    where the 95 % interval is within the bounds, or wholly beyond.

    Reference: D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), 657-680.
    """
    return estimate.p(math.copysign(ALIKE, estimate.mean))


def _ends(env: str, endings: Sequence[str]) -> bool:
    return any(env == ending or env.endswith(ending) for ending in endings)


def rows_of(side: Side, reading: Reading, rows: Iterable[Group]) -> list[Group]:
    """Return the rows of a side: of its agent, settings, batch norm and reading of gamma.

    Rows of longer and shorter training are among them; `training` is empty for the others. Networks
    without batch norm are no inductive side.

    Args:
        side: an agent in one configuration.
        reading: what gamma weighs, where the agent has two readings.
        rows: of one board.
    """
    found = []
    for group in rows:
        first = group.records[0]
        ignored = {"batch_norm"} | _TRAINING
        if side.agent in READ_BOTH_WAYS and reading:
            if first.config.get(READING, "theta") != reading:
                continue
            ignored |= OF_READING if READING in first.overrides else {READING}
        settings = {name: v for name, v in first.overrides.items() if name not in ignored}
        same = (first.agent.id, settings) == (side.agent, dict(side.settings))
        same = same and is_own(first) and (batch_norm(first) or TRANSDUCTIVE) == side.norm
        if group.scored and same:
            found.append(group)
    return found


def training(group: Group) -> dict[str, Any]:
    """Return the settings by which a row trains longer or shorter than its budget says."""
    overrides = group.records[0].overrides
    return {name: value for name, value in overrides.items() if name in _TRAINING}


def row_of(side: Side, reading: Reading, board: BoardGroups) -> Group | None:
    """Return the row of a side on a board, with its agent's newest version; None without one."""
    found = [group for group in rows_of(side, reading, board.rows) if not training(group)]
    return preferred(found)


def pair_on(
    contrast: Contrast,
    board: BoardGroups,
    boards: Iterable[BoardGroups],
    papers: Sequence[Reported] = (),
) -> Pair | None:
    """Return both sides of a contrast on a board; None if one is missing.

    Args:
        contrast: what is compared.
        board: of the data itself.
        boards: all, among them those of features of the data.
        papers: reported numbers.
    """
    left_on, right_on = (_board_of(side, board, boards) for side in (contrast.left, contrast.right))
    if left_on is None or right_on is None:
        return None
    left = row_of(contrast.left, contrast.reading, left_on)
    right = row_of(contrast.right, contrast.reading, right_on)
    if left is None or right is None:
        return None
    return pair_of(contrast, (left_on, right_on), left, right, papers)


def _board_of(side: Side, board: BoardGroups, boards: Iterable[BoardGroups]) -> BoardGroups | None:
    """A board, or that of a side's features of its data at its budget; None without one."""
    if not side.features:
        return board
    first = board.first
    data = f"{first.data.name}@{side.features}"
    wanted = (data + first.env.id.removeprefix(first.data.name), data, first.budget)
    facts = ((each, each.first) for each in boards)
    same = (b for b, f in facts if (f.env.id, f.data.name, f.budget) == wanted)
    return next(same, None)


def _compared(left: Group, right: Group, column: str) -> tuple[Difference, Estimate] | None:
    """The difference of rows on different trials, whose intervals are independent."""
    one, other = left.mean_estimate(column), right.mean_estimate(column)
    if one is None or other is None:
        return None
    return _less(one, other)


def _less(one: Estimate, other: Estimate) -> tuple[Difference, Estimate]:
    """The difference of two independent estimates, with its interval and with its parts."""
    estimate = one.less(other)
    mean, half = estimate.mean, estimate.parts.half(LEVEL)
    return Difference(mean, mean - half, mean + half, estimate.p()), estimate


def pair_of(
    contrast: Contrast,
    boards: tuple[BoardGroups, BoardGroups],
    left: Group,
    right: Group,
    papers: Sequence[Reported] = (),
) -> Pair | None:
    """Return two rows as the sides of a contrast; None if they can't be compared.

    On one board they are paired over the trials. Rows on pixels and on features faced different
    trials: the difference of their means has Welch's degrees of freedom.

    Args:
        contrast: what is compared.
        boards: the board of each row.
        left: row of the side that the claim is about.
        right: row of the control.
        papers: reported numbers.
    """
    if boards[0] is boards[1]:
        found, estimate = left.less(right, contrast.column), left.estimate(right, contrast.column)
    else:
        found, estimate = _compared(left, right, contrast.column) or (None, None)
    if found is None or estimate is None:
        return None
    first = boards[1].first
    sign = factor(first) * (1 if first.env.better == "higher" else -1)
    sign = -1.0 if contrast.column else sign
    mean, lo, hi, p = found
    ends = sorted((sign * lo, sign * hi))
    difference = Difference(sign * mean, ends[0], ends[1], p)
    reported = _reported(contrast, first, papers)
    return Pair(boards, left, right, difference, estimate.scaled(sign), reported)


def _reported(contrast: Contrast, first: Record, papers: Sequence[Reported]) -> float | None:
    """The paper's difference on an environment, where it has both sides in one metric."""
    ours = (first.env.metric, 1.0 if first.env.better == "higher" else -1.0)
    for metric, sign in (_PRINTED.get(contrast.column, ours), (ERROR, -1.0)):
        left, right = (
            printed(side, first.env.id, metric, papers) for side in (contrast.left, contrast.right)
        )
        if left is not None and right is not None:
            return sign * (left - right)
    return None


_PRINTED = {"queries": ("success_queries", -1.0)}
"""The metric of papers for a column of the trials, and its sign."""

ERROR = "top1_error_pct"
"""Papers' metric on long tails; on a balanced test set, 100 less balanced accuracy."""


def printed(side: Side, env: str, metric: str, papers: Sequence[Reported]) -> float | None:
    """Return the paper's number of a side, in %; an unknown batch norm counts as the side's."""
    wanted = (env, metric, side.agent, dict(side.settings))
    for row in papers:
        facts = (row.env, row.metric, row.agent, row.settings)
        if facts == wanted and row.batch_norm in (None, side.norm) and row.value is not None:
            return row.value
    return None
