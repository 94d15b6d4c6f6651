"""The cache of prepared arrays: entries that are whole, and nothing left of killed builders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from lazybench.data.cache import MANIFEST, damage
from lazybench.data.folders import CACHE_VARIABLE, cache_root
from lazybench.doctor.findings import Finding, Repair, leftovers, may_be_held

AREA = "cache"


def examine_cache(*, deep: bool) -> Iterator[Finding]:
    """Yield what was found; with `deep`, every file is hashed, else its size is looked at."""
    root = cache_root()
    if not root.is_dir():
        yield Finding(AREA, str(root), "ok", "nothing was prepared yet")
        return
    if not os.access(root, os.W_OK):
        yield Finding(
            AREA,
            str(root),
            "warn",
            "can't be written, so each process prepares data anew",
            f"set {CACHE_VARIABLE} to a folder that can be written",
        )
    entries = [path for path in sorted(root.iterdir()) if path.is_dir() and _is_entry(path)]
    sound = 0
    for entry in entries:
        why = damage(entry, whole=deep)
        if not why:
            sound += 1
        elif not may_be_held(entry.with_name(f"{entry.name}.lock")):
            yield Finding(
                AREA,
                str(entry),
                "bad",
                why,
                "it is prepared anew where it is missing",
                Repair("move", root, entry),
            )
    how = "by sha256" if deep else "by the sizes of their files"
    yield Finding(AREA, str(root), "ok", f"{sound} of {len(entries)} entries whole, {how}")
    temporary = chain(root.glob("*.tmp-*"), root.glob(".tmp-*"))
    yield from leftovers(AREA, root, temporary)


def _is_entry(path: Path) -> bool:
    """Whether `prepared` made it; trained targets and what users keep lie here, too."""
    lock = path.with_name(f"{path.name}.lock")
    return ".tmp-" not in path.name and (lock.exists() or (path / MANIFEST).exists())
