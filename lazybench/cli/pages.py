"""Pages that `lazybench reproduce` writes from the records, and what it prints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazybench.cli import out

if TYPE_CHECKING:
    from lazybench.records import Record, Reported


def claims(records: Sequence[Record], reported: Sequence[Reported], *, json: bool) -> str:
    """Print what the records say of the paper's claims, and return the page."""
    from lazybench.boards.claims import CLAIMS, NOTE
    from lazybench.boards.claims_page import claims_page
    from lazybench.boards.findings import (
        INTERVALS,
        Finding,
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
        out.as_json(
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
        out.line(out.table(head, rows, columns=out.width()))
        out.line(f"\n{NOTE}")
    return claims_page(found)


def validity(records: Sequence[Record], *, json: bool) -> str:
    """Print how alike boards order their agents, and return the page."""
    from lazybench.boards.validity import agreements, validity_page

    found = agreements(records)
    if json:
        out.as_json([{**asdict(x), "rows": [row._asdict() for row in x.rows]} for x in found])
    else:
        rows = [(x.left, x.right, str(len(x.rows)), f"{x.tau:+.2f}", f"{x.p:.2g}") for x in found]
        out.line(out.table(("board", "board", "rows", "tau", "p"), rows, columns=out.width()))
    return validity_page(found)


def write(page: Path, name: str, text: str) -> None:
    """Write a page and say where.

    Raises:
        OutputUnavailable: a file that isn't such a page stands there, or it can't be written.
    """
    from lazybench.boards.render import page_mark
    from lazybench.records.atomic import replace_ours

    instead = "name another file with --page, or move that one away"
    mark = page_mark(name).encode()
    replace_ours(page, text.encode("utf-8"), mark=mark, instead=instead)
    out.note(f"written: {page}")
