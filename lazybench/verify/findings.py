"""What checking a record came to: one finding a check, and a verdict over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["reproduced", "consistent", "not reproducible here", "refuted"]


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was looked at: file, key, environment, trials, settings, answers, numbers,
            network, training, checkpoint, scores.
        ok: whether it holds; None where nothing could be said.
        detail: one line on what was found; where it doesn't hold, on what differs.
    """

    check: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        path: the file.
        key: the record's key; '' where the file holds no record.
        agent: agent id, '' likewise.
        env: environment id, '' likewise.
        findings: all checks, in the order in which they were made.
        trials: trials that were evaluated again, 0 for none.
        exact: whether equal scores were asked for; False where they may differ by a tolerance.
        equal: whether all that was evaluated again is equal to the last bit.
        finds: the smallest share of forged trials of which a sample of this size holds one with a
            chance of 95 %; None where no trial was evaluated again, or one that was forged can't
            be told from what other arithmetic does.
        seed: what the sample of trials was drawn with; None where none was drawn.
        unchecked: what of the record nothing was said about.
    """

    path: Path
    key: str
    agent: str
    env: str
    findings: tuple[Finding, ...]
    trials: int = 0
    exact: bool = False
    equal: bool = False
    finds: float | None = None
    seed: int | None = None
    unchecked: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What it comes to.

        `reproduced`: trials that were evaluated again are equal to the last bit. `consistent`: they
        are within what another platform explains. `not reproducible here`: none could be evaluated
        again, or they tell nothing. `refuted`: a check failed.
        """
        if refuted(self.findings):
            return "refuted"
        shown = any(each.check == "scores" and each.ok for each in self.findings)
        if not (self.trials and shown):
            return "not reproducible here"
        return "reproduced" if self.equal else "consistent"

    @property
    def verified(self) -> bool:
        """Whether the record was reproduced, or is consistent with what was evaluated here."""
        return self.verdict in ("reproduced", "consistent")


def refuted(findings: Iterable[Finding]) -> bool:
    """Return whether a check failed."""
    return any(finding.ok is False for finding in findings)
