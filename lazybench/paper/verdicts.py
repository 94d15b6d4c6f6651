"""The rule for verdicts on the paper's claims: seven points, one function each.

The first six say of one result whether it can carry a verdict; each returns None if it is met,
else why it isn't, in one sentence. The seventh combines the results that met them into the verdict
on a claim.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lazybench.boards.build import FEWEST_SEEDS
from lazybench.boards.flags import ON_VALIDATION, against_baselines, is_still_rising
from lazybench.boards.group import Group, factor, score_of
from lazybench.paper.claims import (
    ALIKE,
    ERROR,
    READ_BOTH_WAYS,
    BoardGroups,
    Claim,
    Contrast,
    ContrastResult,
    Pair,
    Reading,
    Side,
    at_best_budget,
    contrast_results,
    decided,
    pair_of,
    printed,
    result_of,
    row_of,
    rows_of,
    training,
)
from lazybench.paper.searches import Search, searches_of
from lazybench.records.schema import Reported
from lazybench.stats import LEVEL, Difference, adjusted, random_effects

COMPETENT = 5.0
"""Points within which a control must be of its reported number, or of itself at more training."""
LONGER = 4.0
"""Times the training at which a control without a reported number is compared with itself."""
TWICE = 2.0
"""Times the training at which a verdict must hold as well."""
_CLOSE = 0.95
"""Share of a multiple of training that counts as the multiple, since updates are whole."""
VALIDATIONS = 9
"""The fewest validations that can show a plateau."""
MEMORISED = 10.0
"""Points that a control must lose on tasks on which a claim says that it fails."""
PUBLISHED_SEEDS = 5
"""Seeds of a verdict; with fewer, at least `FEWEST_SEEDS`, it is provisional."""
_LEAST_ERROR = 1e-6
"""Standard error, in points, of a difference without any spread."""


class Evidence(NamedTuple):
    """Inputs of the rule besides a result.

    Attributes:
        boards: all boards.
        reported: numbers of the paper.
        searches: kept searches of settings.
    """

    boards: Sequence[BoardGroups]
    reported: Sequence[Reported] = ()
    searches: Sequence[Search] = ()

    def board_of(self, env: str, like: BoardGroups) -> BoardGroups | None:
        """Return the board of another environment at the budget and on the data of one."""
        for board in self.boards:
            same = (board.first.budget, board.first.data.name) == (
                like.first.budget,
                like.first.data.name,
            )
            if same and board.first.env.id == env:
                return board
        return None


def _sides(result: ContrastResult) -> list[tuple[Side, Group, BoardGroups]]:
    return [side for pair in result.pairs for side in _sides_of(result.contrast, pair)]


def _sides_of(contrast: Contrast, pair: Pair) -> list[tuple[Side, Group, BoardGroups]]:
    """Both sides of a pair, each with its row and its board."""
    left, right = pair.boards
    return [(contrast.left, pair.left, left), (contrast.right, pair.right, right)]


def baselines(result: ContrastResult, evidence: Evidence) -> str | None:
    """Point 1: both sides are above every baseline of the board, which has a row of each.

    `finetune` must take at least as many image-gradients at test as the side.
    """
    del evidence
    sides = _sides(result)
    against = [against_baselines(group, board.rows) for _, group, board in sides]
    for (_, _, board), found in zip(sides, against, strict=True):
        if found.missing:
            return f"no `{found.missing[0]}` row on {board.place}"
    for (side, group, board), found in zip(sides, against, strict=True):
        name = side.name(result.contrast.reading)
        if found.not_above:
            return f"{name} isn't above {found.not_above[0]} on {board.place}"
        finetune = row_of(Side("finetune"), "", board)
        fewer, more = (None if each is None else _test_images(each) for each in (finetune, group))
        if fewer is not None and more is not None and fewer < more:
            return (
                f"`finetune` takes {fewer:,} image-gradients a trial on {board.place}, "
                f"{name} takes {more:,}"
            )
    return None


def _test_images(group: Group) -> int | None:
    """Image-gradients that a row takes to adapt to one test task; None if it doesn't adapt."""
    first = group.records[0]
    steps, batch = first.config.get("test_steps"), first.config.get("test_batch")
    way, shot = first.env.protocol.get("way"), first.env.protocol.get("shot")
    known = [each for each in (steps, batch, way, shot) if isinstance(each, int)]
    if len(known) < 4:
        return None
    steps, batch, way, shot = known
    return steps * min(batch or way * shot, way * shot)


def control(result: ContrastResult, evidence: Evidence) -> str | None:
    """Point 2: the control is within 5 points of its reported number.

    Where there is none, of itself at four times the training; a control without a parameter to
    train is the same at any length. `Choice:` where a claim says that the control fails on some
    tasks, this is checked on the ordinary ones.
    """
    contrast = result.contrast
    for pair in result.pairs:
        ordinary = _ordinary(result, pair, evidence)
        if ordinary.row is None:
            return ordinary.missing
        why = _incompetent(contrast.right, contrast.reading, ordinary.board, ordinary.row, evidence)
        if why is not None:
            return why
    return None


class _Ordinary(NamedTuple):
    """The control on the tasks without the trap: its board, its row, and what is missing."""

    board: BoardGroups
    row: Group | None
    missing: str


def _ordinary(result: ContrastResult, pair: Pair, evidence: Evidence) -> _Ordinary:
    contrast, first = result.contrast, pair.board.first
    if not contrast.trap:
        return _Ordinary(pair.board, pair.right, "")
    env = first.env.id.replace(contrast.trap, "")
    missing = f"no `{contrast.right.name(contrast.reading)}` row on {env} at {first.budget}"
    board = evidence.board_of(env, pair.board)
    row = None if board is None else row_of(contrast.right, contrast.reading, board)
    return _Ordinary(board or pair.board, row, missing)


def _incompetent(
    side: Side, reading: Reading, board: BoardGroups, group: Group, evidence: Evidence
) -> str | None:
    first, name, score = board.first, side.name(reading), _score(group)
    for metric in (first.env.metric, ERROR):
        paper = printed(side, first.env.id, metric, evidence.reported)
        if paper is not None:
            ours = 100 - score if metric == ERROR else score
            if abs(ours - paper) <= COMPETENT:
                return None
            return f"{name} has {ours:.1f} on {board.place}, the paper reports {paper:.1f}"
    if _has_no_parameters(group):
        return None
    base = effort(group)
    for row in _other_lengths(side, reading, board, evidence):
        more = effort(row)
        if base and more and more >= LONGER * _CLOSE * base:
            longer = _score(row)
            if abs(longer - score) <= COMPETENT:
                return None
            return f"{name} has {score:.1f} on {board.place}, and {longer:.1f} when trained longer"
    return (
        f"{name} has neither a reported number on {board.place} nor a run at {LONGER:g} times "
        "the training"
    )


def _score(group: Group) -> float:
    """The mean score of a row in the board's unit."""
    found = [score for record in group.scored if (score := score_of(record)) is not None]
    return factor(group.records[0]) * sum(found) / len(found)


def effort(group: Group) -> float | None:
    """Return the image-gradients that a row's training took, a mean over seeds."""
    costs = [record.cost.image_gradients for record in group.scored]
    known = [cost for cost in costs if cost is not None]
    return sum(known) / len(known) if len(known) == len(costs) and known else None


def _other_lengths(
    side: Side, reading: Reading, board: BoardGroups, evidence: Evidence
) -> list[Group]:
    """The rows of a side on the same tasks in its newest version, of any length of training."""
    version = max(
        (g.records[0].agent.version for g in rows_of(side, reading, board.rows)), default=0
    )
    return [
        group
        for other in evidence.boards
        if other.is_same_tasks(board)
        for group in rows_of(side, reading, other.rows)
        if group.records[0].agent.version == version
    ]


def levelled(result: ContrastResult, evidence: Evidence) -> str | None:
    """Point 3: longer training would give the same verdict.

    Each side has at least nine validations and isn't still rising. Where both sides were also
    trained at least twice or at most half as long, the verdict is the same there, and the longer
    runs have at least half the difference of the shorter ones. A curve under a learning rate that
    falls is flat in any case, and one on images that training saw says nothing, so that such sides
    need those runs. A side without a parameter to
    train, as the nearest centroid on features, has no curve.
    """
    contrast = result.contrast
    for side, group, board in _sides(result):
        if _has_no_parameters(group):
            continue
        name = side.name(contrast.reading)
        fewest = min(len(record.curve) for record in group.scored)
        if fewest < VALIDATIONS:
            times = "1 validation" if fewest == 1 else f"{fewest} validations"
            return f"{name} has only {times} on {board.place}, a plateau needs {VALIDATIONS}"
        if is_still_rising(group):
            return f"{name} is still rising at the last validations on {board.place}"
    lengths = list(_lengths(result, evidence))
    for shorter, longer in lengths:
        one, two = shorter.difference.mean, longer.difference.mean
        if shorter.verdict != longer.verdict:
            return f"the verdict changes with the length of training on {_where(result)}"
        halved = shorter.verdict != "undecided" and abs(two) < abs(one) / 2
        if halved and contrast.expected != "alike":
            return (
                f"the difference goes from {one:+.2f} to {two:+.2f} with longer training on "
                f"{_where(result)}"
            )
    silent = [(side, why) for side, group, _ in _sides(result) if (why := _silent_curve(group))]
    if silent and not lengths:
        side, why = silent[0]
        return (
            f"{side.name(contrast.reading)} {why}, and there are no runs at {TWICE:g} times or "
            f"half the training on {_where(result)}"
        )
    return None


def _silent_curve(group: Group) -> str:
    """Why a row's validation curve can't show whether training has levelled off, or nothing."""
    if group.records[0].track == ON_VALIDATION:
        return "trains on the validation images, so that its curve shows no plateau"
    if _is_annealed(group):
        return "lowers its learning rate, which flattens any curve"
    return ""


def _lengths(
    result: ContrastResult, evidence: Evidence
) -> Iterator[tuple[ContrastResult, ContrastResult]]:
    """The result with each longer or shorter one on the same tasks, the shorter one first.

    Longer runs take at least twice the training; shorter ones a half to a quarter of it, since
    still shorter ones say little. Both need enough seeds.
    """
    for longer in (True, False):
        options = [_of_length(result.contrast, pair, evidence, longer) for pair in result.pairs]
        for pairs in itertools.product(*options):
            other = result_of(result.contrast, pairs)
            yield (result, other) if longer else (other, result)


def _of_length(contrast: Contrast, pair: Pair, evidence: Evidence, longer: bool) -> list[Pair]:
    """The pairs of runs on the same tasks that are longer, or shorter, than those of a pair."""
    low, high = (TWICE * _CLOSE, math.inf) if longer else (_CLOSE / 4, 1 / (TWICE * _CLOSE))
    sides = [
        [
            group
            for group in _other_lengths(side, contrast.reading, board, evidence)
            if low <= _ratio(group, own) <= high
        ]
        for side, own, board in _sides_of(contrast, pair)
    ]
    found = [
        other
        for left, right in itertools.product(*sides)
        if _are_alike(left, right)
        and (other := pair_of(contrast, pair.boards, left, right)) is not None
    ]
    return [other for other in found if other.seeds >= FEWEST_SEEDS]


def _ratio(group: Group, other: Group) -> float:
    one, two = effort(group), effort(other)
    return one / two if one and two else 0.0


def _are_alike(left: Group, right: Group) -> bool:
    """Whether both rows are at the same budget, with the same change of its training."""
    one, two = ((row.records[0].budget, training(row)) for row in (left, right))
    return one == two


def _has_no_parameters(group: Group) -> bool:
    networks = [record.network for record in group.scored]
    return all(network is not None and network.parameters == 0 for network in networks)


def _is_annealed(group: Group) -> bool:
    config = group.records[0].config
    return config.get("anneal", "none") != "none" or bool(config.get("drops"))


def tuning(result: ContrastResult, evidence: Evidence) -> str | None:
    """Point 4: both sides were tuned alike on such tasks; a lazy side has both readings of gamma.

    A kept search counts for tasks of the same ways and shots, or for the same environment where
    there are none, if the side runs with the settings that validated best. Both sides need as many
    configurations under the same fixed settings.
    """
    contrast = result.contrast
    for pair in result.pairs:
        used = []
        for side, group, board in _sides_of(contrast, pair):
            found = searches_of(side.agent, board.first.env.id, evidence.searches)
            fitting = [search for search in found if search.is_used(side, group)]
            name = side.name(contrast.reading)
            if not found:
                return f"no search of the settings of {side.agent} for {board.place}"
            if not fitting:
                return f"{name} on {board.place} runs with settings that no search chose"
            used.append(fitting)
        alike = any(one.is_like(other) for one in used[0] for other in used[1])
        if not alike:
            counts = [max(search.trials for search in fitting) for fitting in used]
            return (
                f"{contrast.left.agent} and {contrast.right.agent} were tuned unequally for "
                f"{pair.board.place} ({counts[0]} and {counts[1]} configurations)"
            )
        why = _missing_reading(result, pair.board)
        if why is not None:
            return why
    return None


def _missing_reading(result: ContrastResult, board: BoardGroups) -> str | None:
    if not result.contrast.reading:
        return None
    readings: tuple[Reading, ...] = ("theta", "phi")
    for reading in readings:
        for side in (result.contrast.left, result.contrast.right):
            if side.agent in READ_BOTH_WAYS and row_of(side, reading, board) is None:
                return f"no `{side.name(reading)}` row on {board.place}"
    return None


def precondition(result: ContrastResult, evidence: Evidence) -> str | None:
    """Point 5: where a claim says that the control fails on some tasks, it does.

    It scores at least 10 points less there than on the tasks without the trap.
    """
    if not result.contrast.trap:
        return None
    for pair in result.pairs:
        ordinary = _ordinary(result, pair, evidence)
        if ordinary.row is None:
            return ordinary.missing
        trapped, free = _score(pair.right), _score(ordinary.row)
        if free - trapped < MEMORISED:
            name = result.contrast.right.name(result.contrast.reading)
            return (
                f"{name} has {trapped:.1f} on {pair.board.place} and {free:.1f} on "
                f"{ordinary.board.first.env.id}, which isn't {MEMORISED:g} points more"
            )
    return None


def seeds(result: ContrastResult, evidence: Evidence) -> str | None:
    """Point 6: at least three seeds a side (five for a verdict that isn't provisional).

    Each pair ran on one processor. The correction for the number of tests is made over the page.
    """
    del evidence
    if result.seeds < FEWEST_SEEDS:
        count = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"
        return f"{count} a side on {_where(result)}, at least {FEWEST_SEEDS} are needed"
    if result.processors:
        names = ", ".join(result.processors)
        return f"the sides on {_where(result)} ran on different processors ({names})"
    return None


def _where(result: ContrastResult) -> str:
    return f"{result.place} at {result.budget}"


POINTS: tuple[Callable[[ContrastResult, Evidence], str | None], ...] = (
    baselines,
    control,
    levelled,
    tuning,
    precondition,
    seeds,
)
"""The points that each result must meet, in order."""


class Failure(NamedTuple):
    """The first point that a result doesn't meet.

    Attributes:
        point: its number.
        reason: why, in one sentence.
    """

    point: int
    reason: str


def first_failure(result: ContrastResult, evidence: Evidence) -> Failure | None:
    """Return the first point that a result doesn't meet; None if it meets all six."""
    for number, point in enumerate(POINTS, 1):
        reason = point(result, evidence)
        if reason is not None:
            return Failure(number, reason)
    return None


class Mean(NamedTuple):
    """The mean over the results that met the points, under one reading of gamma.

    Attributes:
        reading: of gamma; empty if there are none.
        difference: with its 95 % interval; of a single result, its own.
        p: of the verdict.
        results: how many.
        verdict: of the mean, after correction over the page, and of the results.
    """

    reading: Reading
    difference: Difference
    p: float
    results: int
    verdict: Word


Word = Literal["confirmed", "refuted", "mixed", "undecided"]


@dataclass(frozen=True)
class Checked:
    """A result with the first point that it doesn't meet.

    Attributes:
        result: the result.
        failure: None if it meets all.
    """

    result: ContrastResult
    failure: Failure | None

    @property
    def excludes_reported(self) -> bool:
        """Whether points 1 to 5 are met and the interval doesn't hold the reported difference."""
        met = self.failure is None or self.failure.point > 5
        return met and self.result.reported is not None and not self.result.contains_reported


@dataclass(frozen=True)
class ClaimVerdict:
    """The rule's verdict on a claim.

    Attributes:
        claim: the claim.
        checked: its results at the largest budget that has any.
        means: over the results that met the points, one for each reading.
        word: the verdict; None if the claim isn't tested at this budget.
        provisional: whether a result behind it has fewer than five seeds.
        failure: the first point that fails, of the result that comes furthest; None with a verdict.
    """

    claim: Claim
    checked: tuple[Checked, ...]
    means: tuple[Mean, ...]
    word: Word | None
    provisional: bool
    failure: Failure | None

    @property
    def budget(self) -> str:
        """The budget of the results; empty if there are none."""
        return self.checked[0].result.budget if self.checked else ""

    @property
    def text(self) -> str:
        """The verdict in words."""
        if self.claim.elsewhere:
            return f"see {self.claim.elsewhere}"
        if self.word is not None:
            return f"provisional: {self.word}" if self.provisional else self.word
        if self.failure is None:
            return "not tested: no records"
        return f"{NOT_TESTED}: {self.failure.reason} (point {self.failure.point})"


NOT_TESTED = "not tested at this budget"


def verdicts(claims: Iterable[Claim], evidence: Evidence) -> list[ClaimVerdict]:
    """Return what the rule says of each claim, after one correction over all of them.

    The p-values of all results with enough seeds and of all means are one family for Benjamini and
    Hochberg's correction; where p isn't below 5 % after it, a result or mean is undecided.
    """
    checked = [
        [
            Checked(result, first_failure(result, evidence))
            for result in at_best_budget(
                contrast_results(claim, evidence.boards, evidence.reported)
            )
        ]
        for claim in claims
    ]
    drafts = [_means(claim_results) for claim_results in checked]
    tested = [each for results in checked for each in results if _is_tested(each.result)]
    several = [mean for means in drafts for mean in means if mean.results > 1]
    chances = adjusted([*(each.result.p for each in tested), *(mean.p for mean in several)])
    weak = {
        id(each) for each, p in zip([*tested, *several], chances, strict=True) if not p < 1 - LEVEL
    }
    found = []
    for claim, results, means in zip(claims, checked, drafts, strict=True):
        firm = tuple(
            replace(each, result=replace(each.result, verdict="undecided"))
            if id(each) in weak or not _is_tested(each.result)
            else each
            for each in results
        )
        combined = tuple(
            mean._replace(verdict=combine(mean, firm, undecided=id(mean) in weak)) for mean in means
        )
        found.append(_of_claim(claim, firm, combined))
    return found


def _is_tested(result: ContrastResult) -> bool:
    return result.seeds >= FEWEST_SEEDS and not math.isnan(result.p)


def _means(results: Sequence[Checked]) -> list[Mean]:
    """The mean under each reading, with the verdict of its interval alone."""
    readings = list(dict.fromkeys(each.result.contrast.reading for each in results))
    named: list[Reading] = [reading for reading in readings if reading] or readings
    found = []
    for reading in named:
        met = [each.result for each in results if each.failure is None and _is_of(each, reading)]
        if met:
            found.append(mean_of(reading, met))
    return found


def _is_of(each: Checked, reading: Reading) -> bool:
    return each.result.contrast.reading in ("", reading)


def mean_of(reading: Reading, results: Sequence[ContrastResult]) -> Mean:
    """Return the random-effects mean of results with Hartung and Knapp's interval.

    A single result is its own mean. `Choice:` results on one board count as independent.
    """
    expected = results[0].contrast.expected
    if len(results) == 1:
        difference, p = results[0].difference, results[0].p
    else:
        errors = [max(_LEAST_ERROR, each.estimate.parts.error) for each in results]
        mean = random_effects([each.difference.mean for each in results], errors)
        ends = (mean.mean - mean.half, mean.mean + mean.half)
        difference = Difference(mean.mean, *ends, mean.p())
        bound = math.copysign(ALIKE, mean.mean) if expected == "alike" else 0.0
        p = mean.p(bound)
    return Mean(reading, difference, p, len(results), decided(expected, difference))


def combine(mean: Mean, results: Sequence[Checked], *, undecided: bool) -> Word:
    """Point 7: the mean decides, unless a result contradicts it; then the verdict is `mixed`.

    Args:
        mean: over the results of a reading.
        results: all of the claim; those that met the points under that reading count.
        undecided: whether the mean isn't significant after correction.
    """
    met = [each for each in results if each.failure is None and _is_of(each, mean.reading)]
    own: Word = mean.verdict
    if mean.results == 1:
        own = met[0].result.verdict
    elif undecided:
        own = "undecided"
    said = {own, *(each.result.verdict for each in met)} - {"undecided"}
    return "mixed" if len(said) > 1 else own


def _of_claim(claim: Claim, results: tuple[Checked, ...], means: tuple[Mean, ...]) -> ClaimVerdict:
    readings = {each.result.contrast.reading for each in results} - {""}
    missing = readings - {mean.reading for mean in means}
    if not means or missing:
        open_ones = [
            each.failure
            for each in results
            if each.failure is not None and (not missing or each.result.contrast.reading in missing)
        ]
        failure = max(open_ones, key=lambda each: each.point, default=None)
        return ClaimVerdict(claim, results, means, None, False, failure)
    words = {mean.verdict for mean in means}
    word: Word = words.pop() if len(words) == 1 else "undecided"
    if words and ("mixed" in words or {"confirmed", "refuted"} <= words):
        word = "mixed"
    fewest = min(each.result.seeds for each in results if each.failure is None)
    return ClaimVerdict(claim, results, means, word, fewest < PUBLISHED_SEEDS, None)
