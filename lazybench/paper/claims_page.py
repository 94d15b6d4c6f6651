"""The page of the paper's claims, and the note on verdicts at the head of other pages."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from lazybench.boards.build import FEWEST_SEEDS
from lazybench.boards.flags import BETWEEN_PROCESSORS, RISE
from lazybench.boards.render import page_mark
from lazybench.paper.claims import ALIKE, Claim, Verdict
from lazybench.paper.verdicts import (
    COMPETENT,
    LONGER,
    MEMORISED,
    NOT_TESTED,
    PUBLISHED_SEEDS,
    VALIDATIONS,
    Checked,
    ClaimVerdict,
    Mean,
)
from lazybench.tables import markdown_table, markdown_text

INTERVALS: Mapping[Verdict, str] = {
    "confirmed": "as claimed",
    "refuted": "against it",
    "undecided": "undecided",
}
"""Words of pages for an interval alone."""

_RULE = (
    "**Baselines.** The paired 95 % interval of both sides lies above every baseline of the board "
    "(few-shot: `finetune`, with at least the side's test compute, and `nearest_pixel`; long "
    "tails: `cross_entropy`; attacks: `coordinate`, the untrained attacker and a map of zeros). "
    "Without a row of each baseline there is no verdict.",
    f"**Control.** The control is within {COMPETENT:g} points of its reported number or, where "
    f"there is none, of itself at {LONGER:g} times the training; a control without a parameter to "
    "train is the same at any length.",
    f"**Levelled off.** Both sides have at least {VALIDATIONS} validations and gain at most "
    f"{RISE:g} point over the last half of training. With twice or half the training the verdict "
    "is the same, and the longer runs have at least half the difference. A learning rate that "
    "falls flattens any curve, and one on images that training saw says nothing: such sides need "
    "those runs. Sides without a parameter to train need no curve.",
    "**Equal tuning.** Both sides run with the settings of searches of the same size on tasks of "
    "the same ways and shots, and a lazy few-shot side has rows under both readings of gamma "
    "(`leap_on=theta` and `leap_on=phi`), for which the verdict must be the same.",
    "**Precondition.** Where a claim says that the control fails on some tasks, it scores at least "
    f"{MEMORISED:g} points less there than on ordinary ones.",
    f"**Seeds.** At least {PUBLISHED_SEEDS} seeds a side; with {FEWEST_SEEDS} or more a verdict is "
    "*provisional*. Each pair ran on one processor: the same settings on another one differ by up "
    f"to {BETWEEN_PROCESSORS} points. All tests on this page are corrected together (Benjamini "
    "and Hochberg, false discovery rate 5 %).",
    "**All boards.** The random-effects mean over the results that meet points 1 to 6 (Hartung and "
    "Knapp's interval) decides: *confirmed*, *refuted*, or *undecided* where its interval allows "
    "both. A result that contradicts it makes the claim *mixed*.",
)

_READ = (
    f"A claim without a verdict is *{NOT_TESTED}*; the first point that fails is named, of the "
    "result that comes closest. Differences are positive where the claim's side is better, in "
    "points (in queries, where the claim is about them), paired over the trials, with their 95 % "
    "intervals. Sides on pixels and on features face different trials: the difference of their "
    "means is unpaired (Welch), over other classes too where the classes of the trials are known. "
    "*Alone* says what one interval shows, whatever the points say: **as claimed** or "
    f"**against it** where it lies on one side of 0 with at least {FEWEST_SEEDS} seeds a side, "
    f'after the correction. "Alike" means within {ALIKE:g} point either way: as claimed where the '
    "interval lies within the bounds, against it where it lies wholly outside (two one-sided "
    "tests). *Reported* is the difference of the paper's numbers; *(excluded)* marks one that our "
    "interval excludes, and is said only where points 1 to 5 are met. The paper's queries are of "
    "successes alone."
)


def _head() -> str:
    points = [
        textwrap.fill(f"{number}. {text}", 100, subsequent_indent="   ", break_on_hyphens=False)
        for number, text in enumerate(_RULE, 1)
    ]
    start = (
        "`lazybench reproduce claims --page FILE` writes this page from the records. Each claim is "
        "checked at the largest budget that has records of both sides; a verdict holds at that "
        "budget and says nothing about longer training. The last claim isn't in the paper: it is "
        "about frozen features (`docs/features.md`). A verdict needs seven points:"
    )
    title = "# The lazy paper's claims, and what our records say"
    paragraphs = [title, page_mark("claims"), _filled(start), "\n".join(points), _filled(_READ)]
    return "\n\n".join(paragraphs) + "\n"


def _filled(text: str) -> str:
    return textwrap.fill(text, 100, break_on_hyphens=False)


def claims_page(found: Sequence[ClaimVerdict]) -> str:
    """Return the page.

    Args:
        found: the verdicts on the claims, in order.
    """
    rows = [
        (
            str(number),
            markdown_text(each.claim.text),
            each.claim.where or "not in it",
            each.budget,
            _verdict(each.text),
            "; ".join(mean_text(mean) for mean in each.means),
        )
        for number, each in enumerate(found, 1)
    ]
    header = ("", "claim", "in the paper", "budget", "verdict", "mean over boards")
    lines = [_head(), markdown_table(header, rows, ["right", *["left"] * 5], padded=False), ""]
    for number, each in enumerate(found, 1):
        lines += [*_section(number, each), ""]
    return "\n".join(lines)


def mean_text(mean: Mean) -> str:
    """Return a mean with its interval and the number of results behind it."""
    value, lo, hi, _ = mean.difference
    of = "1 result" if mean.results == 1 else f"{mean.results} results"
    reading = f"{mean.reading}: " if mean.reading else ""
    return f"{reading}{value:+.2f} ({lo:+.2f} to {hi:+.2f}, {of})"


def _section(number: int, found: ClaimVerdict) -> Iterator[str]:
    yield f"## {number}. {found.claim.text}"
    yield ""
    if found.claim.elsewhere:
        yield f"Measured in {found.claim.elsewhere}."
        return
    if not found.checked:
        yield f"No records of both {_both(found.claim)} where this would show."
        return
    yield f"At `{found.budget}`: {_verdict(found.text)}."
    yield ""
    header = (
        "better by",
        "95 % interval",
        "reported",
        "sides",
        "where",
        "seeds",
        "alone",
        "first point that fails",
        "records",
    )
    align = ["right", "left", "right", "left", "left", "right", "left", "left", "left"]
    yield markdown_table(header, [_cells(each) for each in found.checked], align, padded=False)


def _verdict(text: str) -> str:
    """A verdict or reason for Markdown, in which agents without a row are in backticks."""
    return markdown_text(text).replace("\\`", "`")


def _both(claim: Claim) -> str:
    sides = {f"{each.left.name()} and {each.right.name()}" for each in claim.contrasts}
    return " or ".join(sorted(sides))


def _cells(checked: Checked) -> tuple[str, ...]:
    each, failure = checked.result, checked.failure
    mean, lo, hi, _ = each.difference
    reported = "" if each.reported is None else f"{each.reported:+.2f}"
    mixed = f"{each.seeds} (mixed processors)" if each.processors else str(each.seeds)
    return (
        f"{mean:+.2f}",
        f"{lo:+.2f} to {hi:+.2f}",
        f"{reported} (excluded)" if checked.excludes_reported else reported,
        markdown_text(each.sides),
        markdown_text(each.place),
        mixed,
        INTERVALS[each.verdict],
        "" if failure is None else _verdict(f"{failure.point}: {failure.reason}"),
        ", ".join(each.keys),
    )


def verdicts_note(found: Sequence[ClaimVerdict]) -> str:
    """Return the note on verdicts at the head of other pages: how many there are, and where.

    Args:
        found: the verdicts on all claims.
    """
    by_score = [each for each in found if not each.claim.elsewhere]
    words = Counter(each.text for each in by_score if each.word is not None)
    given = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    budgets = Counter(each.budget for each in by_score if each.checked)
    at = ", ".join(f"`{name}` for {count}" for name, count in sorted(budgets.items()))
    open_ones = sum(each.word is None for each in by_score)
    verdict = given or "none has a verdict"
    rest = f"; {open_ones} {'is' if open_ones == 1 else 'are'} {NOT_TESTED}" if open_ones else ""
    ours = sum(not each.claim.where for each in by_score)
    are = "isn't" if ours == 1 else "aren't"
    own = f" ({ours} of them {are} the paper's)" if ours else ""
    lines = (
        f"**Verdicts on the claims.** Of the {len(by_score)} claims that scores answer{own}, "
        f"{verdict}{rest}.",
        f"The largest budgets with records are {at or 'none'}.",
        "A verdict needs seven points (baselines beaten, a competent control, curves that have "
        "levelled off, equal tuning, the claim's precondition, enough seeds, agreement over "
        "boards); `docs/claims.md` names the first one that fails for each claim.",
    )
    return _filled(" ".join(lines)) + "\n"
