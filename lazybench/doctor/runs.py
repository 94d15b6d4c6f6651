"""The folders of runs: readable, with checkpoints that verify and logs that are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lazybench.doctor.findings import Finding, Repair, leftovers, may_be_held
from lazybench.errors import StoreError
from lazybench.files import open_file, read_file
from lazybench.records.atomic import MOST_LINES_BYTES, sound_bytes

AREA = "runs"
_SAME = "the same command goes on from what is sound"


def examine_runs(runs: Path) -> Iterator[Finding]:
    """Yield what was found in the folder of runs; runs at work are left alone."""
    if not runs.is_dir():
        yield Finding(AREA, str(runs), "ok", "nothing was run yet")
        return
    folders = [path for path in sorted(runs.iterdir()) if _is_run(path)]
    at_work = [path for path in folders if may_be_held(path / "lock")]
    sound = 0
    for folder in folders:
        if folder in at_work:
            continue
        found = list(_run(runs, folder))
        yield from found
        sound += all(each.state == "ok" for each in found)
    busy = f", {len(at_work)} at work and not looked at" if at_work else ""
    yield Finding(AREA, str(runs), "ok", f"{sound} of {len(folders)} runs are sound{busy}")


def _is_run(path: Path) -> bool:
    marks = ("config.json", "ckpt", "lock")
    return path.is_dir() and any((path / mark).exists() for mark in marks)


def _run(runs: Path, folder: Path) -> Iterator[Finding]:
    for path in (folder / "config.json", *sorted(folder.glob("done*.json"))):
        if path.exists() and (why := _unreadable(path)):
            repair = Repair("move", runs, path)
            yield Finding(AREA, str(path), "bad", why, "the same command writes it anew", repair)
    for step in sorted(folder.glob("ckpt/step-*")):
        if why := _unsound(step):
            repair = Repair("move", runs, step)
            yield Finding(AREA, str(step), "bad", why, _SAME, repair)
    for path in sorted(folder.glob("*.jsonl")):
        yield from _log(runs, path)
    yield from leftovers(AREA, runs, folder.rglob(".tmp-*"))


def _log(runs: Path, path: Path) -> Iterator[Finding]:
    try:
        keep, size = sound_bytes(path)
    except StoreError as error:
        yield Finding(AREA, str(path), "bad", str(error), "make it readable")
        return
    if keep == size:
        return
    data = read_file(path, MOST_LINES_BYTES)[keep:]
    if b"\n" not in data.rstrip(b"\n"):
        detail = f"its last line is torn, {size - keep} bytes"
        yield Finding(AREA, str(path), "warn", detail, "the next run cuts it off by itself")
        return
    line = read_file(path, MOST_LINES_BYTES)[:keep].count(b"\n") + 1
    detail = f"line {line} doesn't fit its checksum, others come after it"
    yield Finding(AREA, str(path), "bad", detail, _SAME, Repair("cut", runs, path, keep))


def _unreadable(path: Path) -> str:
    try:
        found: Any = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        return f"can't be read: {error}"
    return "" if isinstance(found, dict) else "isn't what a run writes"


def _unsound(step: Path) -> str:
    """What is wrong with a checkpoint, by the sizes and hashes that were written with it."""
    try:
        manifest: Any = json.loads(read_file(step / "manifest.json"))
        wanted = {str(name): str(facts["sha256"]) for name, facts in manifest.items()}
        for name, sha256 in wanted.items():
            with open_file(step / Path(name).name, None) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return f"{name} doesn't match its sha256"
    except FileNotFoundError as error:
        return f"incomplete: {Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its manifest can't be read ({type(error).__name__})"
    return "" if wanted else "its manifest names no file"
