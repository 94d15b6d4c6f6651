"""Repairs: what is wrong is put aside, never deleted, and what can be made anew is made anew."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lazybench.boards.write import write
from lazybench.doctor.findings import QUARANTINE, Finding, Repair
from lazybench.errors import OutputUnavailable
from lazybench.records import Store, write_bytes


@dataclass
class Quarantine:
    """Folders `quarantine/<date and time>/` below each root, made when something goes into them.

    Attributes:
        name: date and time of this repair, UTC.
    """

    name: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))

    def place(self, root: Path, path: Path) -> Path:
        """Return where `path` goes: its place below `root`, and a number where that is taken."""
        below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        wanted = root / QUARANTINE / self.name / below
        found, number = wanted, 1
        while os.path.lexists(found):
            number += 1
            found = wanted.with_name(f"{wanted.name}.{number}")
        found.parent.mkdir(parents=True, exist_ok=True)
        return found


def repair(findings: Iterable[Finding], quarantine: Quarantine | None = None) -> list[str]:
    """Return a line for each repair that was made.

    Raises:
        OutputUnavailable: something can't be moved or written; what was done before stays done.
    """
    kept = quarantine or Quarantine()
    lines = []
    for finding in findings:
        if finding.repair is not None:
            try:
                lines.append(_done(finding.repair, kept))
            except OSError as error:
                raise OutputUnavailable(
                    f"{finding.subject} can't be repaired ({error.strerror or error}); make it "
                    "writable and try again"
                ) from error
    return lines


def _done(asked: Repair, quarantine: Quarantine) -> str:
    path = asked.path
    if asked.kind == "move":
        place = quarantine.place(asked.root, path)
        shutil.move(path, place)
        return f"{path}: moved to {place}"
    if asked.kind == "cut":
        place = quarantine.place(asked.root, path)
        shutil.copy2(path, place)
        write_bytes(path, path.read_bytes()[: asked.keep])
        return f"{path}: cut to its first {asked.keep} bytes; all of it is in {place}"
    return _boards(asked, quarantine)


def _boards(asked: Repair, quarantine: Quarantine) -> str:
    store = Store(asked.path)
    places = [*(store.root / "boards").glob("*.*"), store.root / "README.md"]
    before = {path: path.read_bytes() for path in sorted(places) if path.is_file()}
    write(store, anew=True)
    changed = 0
    for path, content in before.items():
        if not path.exists() or path.read_bytes() != content:
            write_bytes(quarantine.place(asked.root, path), content)
            changed += 1
    where = asked.root / QUARANTINE / quarantine.name
    return f"{store.root / 'boards'}: made anew; {changed} files as they were are in {where}"
