"""What checking a record came to: one finding a check, and a verdict over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was looked at: file, key, environment, trials, settings, answers, numbers,
            network, checkpoint, scores.
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
        seed: what the sample of trials was drawn with; None where none was drawn.
    """

    path: Path
    key: str
    agent: str
    env: str
    findings: tuple[Finding, ...]
    trials: int = 0
    exact: bool = False
    seed: int | None = None

    @property
    def verified(self) -> bool:
        """Whether nothing that was looked at speaks against the record."""
        return all(finding.ok is not False for finding in self.findings)


def refuted(findings: list[Finding]) -> bool:
    """Return whether a check failed."""
    return any(finding.ok is False for finding in findings)
