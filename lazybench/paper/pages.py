"""The paper's claims and what the records say of them, as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazybench.boards.build import FEWEST_SEEDS
from lazybench.boards.render import page_mark
from lazybench.cli import console
from lazybench.paper.claims import NOTE, Claim
from lazybench.paper.findings import ALIKE, INTERVALS, Finding, intervals_text, verdict_text

if TYPE_CHECKING:
    from lazybench.records import Record, Reported


Found = Sequence[tuple[Claim, Sequence[Finding]]]

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
        found: the claims in order, each with what records say of it.
    """
    lines = [_HEAD, *_table(found), ""]
    for number, (claim, told) in enumerate(found, 1):
        lines += [*_section(number, claim, told), ""]
    return "\n".join(lines)


def _table(found: Found) -> Iterator[str]:
    yield "| | claim | in the paper | verdict | intervals |"
    yield "|---:|---|---|---|---|"
    for number, (claim, told) in enumerate(found, 1):
        yield f"| {number} | {claim.text} | {claim.where} | {_verdict(claim, told)} |"


def _verdict(claim: Claim, told: Sequence[Finding]) -> str:
    if claim.elsewhere:
        return f"see {claim.elsewhere} | "
    if not told:
        return "undecided: no records | "
    return f"{verdict_text(told)} | {intervals_text(told)}"


def _section(number: int, claim: Claim, told: Sequence[Finding]) -> Iterator[str]:
    yield f"## {number}. {claim.text}"
    yield ""
    if claim.elsewhere:
        yield f"Measured in {claim.elsewhere}."
        return
    if not told:
        sides = {f"{c.left.name} and {c.right.name}" for c in claim.contrasts}
        yield f"No records of both {' or '.join(sorted(sides))} where this would show."
        return
    yield "| better by | 95 % interval | reported | sides | where | seeds | alone | records |"
    yield "|---:|---|---:|---|---|---:|---|---|"
    for each in told:
        mean, lo, hi, _ = each.difference
        yield (
            f"| {mean:+.2f} | {lo:+.2f} to {hi:+.2f} | {_reported(each)} "
            f"| {each.left} less {each.right} | {each.place} | {each.seeds} "
            f"| {INTERVALS[each.verdict]} | {', '.join(each.keys)} |"
        )


def _reported(each: Finding) -> str:
    if each.reported is None:
        return ""
    return f"{each.reported:+.2f}{'' if each.holds_reported else ' (out)'}"


def claims(records: Sequence[Record], reported: Sequence[Reported], *, json: bool) -> str:
    """Print what the records say of the paper's claims, and return the page."""
    from lazybench.paper.claims import CLAIMS, NOTE

    pass
    from lazybench.paper.findings import (
        INTERVALS,
        findings,
        intervals_text,
        stated,
        verdict,
        verdict_text,
    )

    def facts(each: Finding) -> dict[str, Any]:
        told = asdict(each) | {"interval": INTERVALS[each.verdict], "p": each.p}
        return {name: value for name, value in told.items() if name not in ("verdict", "alike_p")}

    found = [(claim, findings(claim, records, reported)) for claim in CLAIMS]
    if json:
        console.as_json(
            [
                {
                    "claim": claim.text,
                    "where": claim.where,
                    "elsewhere": claim.elsewhere,
                    "verdict": stated(told),
                    "intervals": INTERVALS[verdict(told)],
                    "findings": [facts(each) for each in told],
                }
                for claim, told in found
            ]
        )
    else:
        rows = [
            (
                str(number),
                claim.text,
                claim.elsewhere or verdict_text(told),
                "" if claim.elsewhere else intervals_text(told),
                str(len(told)),
            )
            for number, (claim, told) in enumerate(found, 1)
        ]
        head = ("", "claim", "verdict", "intervals", "findings")
        console.line(console.table(head, rows, columns=console.width()))
        console.line(f"\n{NOTE}")
    return claims_page(found)


def validity(records: Sequence[Record], *, json: bool) -> str:
    """Print how alike boards order their agents, and return the page."""
    from lazybench.paper.validity import agreements, validity_page

    found = agreements(records)
    if json:
        console.as_json([{**asdict(x), "rows": [row._asdict() for row in x.rows]} for x in found])
    else:
        rows = [(x.left, x.right, str(len(x.rows)), f"{x.tau:+.2f}", f"{x.p:.2g}") for x in found]
        console.line(
            console.table(("board", "board", "rows", "tau", "p"), rows, columns=console.width())
        )
    return validity_page(found)


def write(page: Path, name: str, text: str) -> None:
    """Write a page and say where.

    Raises:
        OutputUnavailable: a file that isn't such a page stands there, or it can't be written.
    """
    from lazybench.boards.render import page_mark
    from lazybench.files import replace_ours

    instead = "name another file with --page, or move that one away"
    mark = page_mark(name).encode()
    replace_ours(page, text.encode("utf-8"), mark=mark, instead=instead)
    console.note(f"written: {page}")
