"""The result of a check, of a contract, a record or an installation, and what repairs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Repair:
    """What `lazybench doctor --repair` does about a finding.

    Attributes:
        kind: `move` puts the path into quarantine; `cut` keeps the first `keep` bytes of the file
            and a copy of all of it in quarantine; `boards` regenerates the boards of the store.
        root: the folder that holds the quarantine.
        path: what is moved or cut; the store for `boards`.
        keep: bytes that stay, of `cut`.
    """

    kind: Literal["move", "cut", "boards"]
    root: Path
    path: Path
    keep: int = 0

    @property
    def text(self) -> str:
        """Description of the repair, in a few words."""
        if self.kind == "move":
            return "--repair moves it into quarantine"
        if self.kind == "cut":
            return f"--repair keeps its first {self.keep} bytes, and a copy of all in quarantine"
        return "--repair regenerates the boards, and keeps copies in quarantine"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: what was checked.
        ok: whether it holds; None where nothing could be checked, or where what is wrong does no
            harm.
        detail: one line on the result; where it doesn't hold, on what differs.
        advice: what to do; empty where nothing needs to be done.
        repair: what `lazybench doctor --repair` does about it; None for nothing.
        area: the part of an installation that was checked; empty elsewhere.
    """

    name: str
    ok: bool | None
    detail: str
    advice: str = ""
    repair: Repair | None = None
    area: str = ""

    def facts(self) -> dict[str, str | bool | None]:
        """Return name, result and detail as JSON values."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


def refuted(findings: Iterable[Finding]) -> bool:
    """Return whether a check failed."""
    return any(finding.ok is False for finding in findings)
