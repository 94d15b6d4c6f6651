"""What the doctor found, and what it could do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lazybench import locks

State = Literal["ok", "warn", "bad"]

QUARANTINE = "quarantine"
"""Folder below the one that was repaired, for what was put aside."""

FRESH_S = 3600.0
"""A temporary file that was written within so many seconds may be at work still."""


@dataclass(frozen=True)
class Repair:
    """What `--repair` does about a finding.

    Attributes:
        kind: `move` puts the path into quarantine; `cut` keeps the first `keep` bytes of the file
            and a copy of all of it in quarantine; `boards` makes the boards of the store anew.
        root: the folder that the quarantine lies in.
        path: what is moved or cut; the store for `boards`.
        keep: bytes that stay, of `cut`.
    """

    kind: Literal["move", "cut", "boards"]
    root: Path
    path: Path
    keep: int = 0

    @property
    def text(self) -> str:
        """What would be done, in a few words."""
        if self.kind == "move":
            return "--repair moves it into quarantine"
        if self.kind == "cut":
            return f"--repair keeps its first {self.keep} bytes, and a copy of all in quarantine"
        return "--repair makes the boards anew, and keeps copies in quarantine"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: installation, data, cache, store, runs or plug-ins.
        subject: what was looked at.
        state: `ok`; `warn` for what works all the same; `bad` for what doesn't, or isn't what it
            says.
        detail: one line on what was found.
        advice: what to do; empty where nothing needs to be done.
        repair: what `--repair` does about it; None for nothing.
    """

    area: str
    subject: str
    state: State
    detail: str
    advice: str = ""
    repair: Repair | None = None


def leftovers(area: str, root: Path, found: Iterator[Path]) -> Iterator[Finding]:
    """Yield what killed processes left behind, an hour ago or more."""
    for path in sorted(found):
        if path.is_relative_to(root / QUARANTINE):
            continue
        try:
            age_s = time.time() - os.lstat(path).st_mtime
        except OSError:
            continue
        if age_s > FRESH_S:
            yield Finding(
                area,
                str(path),
                "warn",
                f"left by a process that was killed {age_s / 3600:.0f} h ago",
                "nothing reads it",
                Repair("move", root, path),
            )


def may_be_held(lock: Path) -> bool:
    """Whether some process holds a lock file now; one that can't be opened is left alone, too."""
    try:
        return locks.is_held(lock)
    except OSError:
        return True
