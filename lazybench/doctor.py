"""Checks of the installation, plug-ins, data, cache, store and runs, and their repairs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lazybench.boards.render import COMMAND
from lazybench.boards.write import Checked, checked, write
from lazybench.data.cache import MANIFEST, damage
from lazybench.data.folders import CACHE_VARIABLE, DataStatus, cache_root, data_root, status, verify
from lazybench.data.importing.catalogue import ORIGIN
from lazybench.errors import LazybenchError, OutputUnavailable, StoreError
from lazybench.files import MOST_LINES_BYTES, file_digest, read_file, sound_bytes
from lazybench.findings import Finding, Repair, refuted
from lazybench.records import Store, write_bytes
from lazybench.registry import AGENTS, DATASETS, ENVS
from lazybench.runtime import locks

QUARANTINE = "quarantine"
"""Folder below the repaired one that holds quarantined files."""

FRESH_S = 3600.0
"""Temporary files younger than this may still be in use."""


def leftovers(root: Path, found: Iterator[Path]) -> Iterator[Finding]:
    """Yield files that killed processes left behind, an hour ago or more."""
    for path in sorted(found):
        if path.is_relative_to(root / QUARANTINE):
            continue
        try:
            age_s = time.time() - os.lstat(path).st_mtime
        except OSError:
            continue
        if age_s > FRESH_S:
            yield Finding(
                str(path),
                None,
                f"left by a process that was killed {age_s / 3600:.0f} h ago",
                "nothing reads it",
                Repair("move", root, path),
            )


def may_be_held(lock: Path) -> bool:
    """Whether a process may hold a lock file now; True if the file can't be opened."""
    try:
        return locks.is_held(lock)
    except OSError:
        return True


def examine_plug_ins() -> Iterator[Finding]:
    """Yield findings on plug-ins that fail at import or use a name that is taken."""
    others = 0
    # Data sets are counted here, too; imported ones are reported with the data.
    for registry in (ENVS, AGENTS, DATASETS):
        specs = registry.specs()
        others += sum(spec.origin not in ("lazybench", "imported") for spec in specs)
        if registry is DATASETS:
            continue
        for name, why in registry.broken.items():
            fix = "update, repair or uninstall the package that it comes from"
            yield Finding(name, False, why, fix)
    yield Finding("others", True, f"{others} entries of other packages load")


def examine_data(*, deep: bool) -> Iterator[Finding]:
    """Yield findings on data sets; `deep` reads all content, as `lazybench data verify` does."""
    specs = DATASETS.specs()
    probes = {spec.id: spec.probe for spec in specs}
    origins = {spec.id: spec.origin for spec in specs}
    missing = 0
    for each in status():
        there = any((data_root() / probe).exists() for probe in probes[each.name])
        if each.installed:
            yield _whole(each, deep=deep)
        elif there:
            # The folder of a published set may be shared with another, so it needn't be damage.
            ok = None if origins[each.name] != ORIGIN else False
            fix = f"see: lazybench show {each.name}"
            yield Finding(each.name, ok, each.detail, fix)
        else:
            missing += 1
    for name, why in DATASETS.broken.items():
        yield Finding(name, False, why, "import it again, or: lazybench data forget NAME")
    if missing:
        detail = f"{missing} data sets aren't installed; all are optional"
        yield Finding("others", True, detail, "lazybench list data")


def _whole(looked: DataStatus, *, deep: bool) -> Finding:
    if not deep:
        return Finding(looked.name, True, looked.detail)
    try:
        found = verify(looked.name)
    except LazybenchError as error:
        return Finding(looked.name, False, str(error), "download or import it again")
    if found.verified is False:
        return Finding(found.name, False, found.detail, "download or import it again")
    return Finding(found.name, True, found.detail)


def examine_cache(*, deep: bool) -> Iterator[Finding]:
    """Yield findings on the cache; `deep` hashes every file, else only sizes are compared."""
    root = cache_root()
    if not root.is_dir():
        yield Finding(str(root), True, "nothing has been prepared yet")
        return
    if not os.access(root, os.W_OK):
        yield Finding(
            str(root),
            None,
            "can't be written, so each process prepares data again",
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
                str(entry),
                False,
                why,
                "it is prepared again when it is missing",
                Repair("move", root, entry),
            )
    how = "by sha256" if deep else "by file size"
    yield Finding(str(root), True, f"{sound} of {len(entries)} entries intact, {how}")
    temporary = chain(root.glob("*.tmp-*"), root.glob(".tmp-*"))
    yield from leftovers(root, temporary)


def _is_entry(path: Path) -> bool:
    """Whether `prepared` made it; the folder also holds trained targets and users' files."""
    lock = path.with_name(f"{path.name}.lock")
    return ".tmp-" not in path.name and (lock.exists() or (path / MANIFEST).exists())


_SAME = "the same command resumes from the last intact checkpoint"


def examine_runs(runs: Path) -> Iterator[Finding]:
    """Yield findings on the folder of runs; active runs aren't checked."""
    if not runs.is_dir():
        yield Finding(str(runs), True, "nothing has been run yet")
        return
    folders = [path for path in sorted(runs.iterdir()) if _is_run(path)]
    at_work = [path for path in folders if may_be_held(path / "lock")]
    sound = 0
    for folder in folders:
        if folder in at_work:
            continue
        found = list(_run(runs, folder))
        yield from found
        sound += all(each.ok for each in found)
    busy = f", {len(at_work)} active and not checked" if at_work else ""
    yield Finding(str(runs), True, f"{sound} of {len(folders)} runs are intact{busy}")


def _is_run(path: Path) -> bool:
    marks = ("config.json", "ckpt", "lock")
    return path.is_dir() and any((path / mark).exists() for mark in marks)


def _run(runs: Path, folder: Path) -> Iterator[Finding]:
    for path in (folder / "config.json", *sorted(folder.glob("done*.json"))):
        if path.exists() and (why := _unreadable(path)):
            repair = Repair("move", runs, path)
            yield Finding(str(path), False, why, "the same command writes it again", repair)
    for step in sorted(folder.glob("ckpt/step-*")):
        if why := _unsound(step):
            repair = Repair("move", runs, step)
            yield Finding(str(step), False, why, _SAME, repair)
    for path in sorted(folder.glob("*.jsonl")):
        yield from _log(runs, path)
    yield from leftovers(runs, folder.rglob(".tmp-*"))


def _log(runs: Path, path: Path) -> Iterator[Finding]:
    try:
        keep, size = sound_bytes(path)
    except StoreError as error:
        yield Finding(str(path), False, str(error), "make it readable")
        return
    if keep == size:
        return
    data = read_file(path, MOST_LINES_BYTES)[keep:]
    if b"\n" not in data.rstrip(b"\n"):
        detail = f"its last line is incomplete, {size - keep} bytes"
        yield Finding(str(path), None, detail, "the next run removes it")
        return
    line = read_file(path, MOST_LINES_BYTES)[:keep].count(b"\n") + 1
    detail = f"line {line} doesn't match its checksum, and more lines follow it"
    yield Finding(str(path), False, detail, _SAME, Repair("cut", runs, path, keep))


def _unreadable(path: Path) -> str:
    try:
        found: Any = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        return f"can't be read: {error}"
    return "" if isinstance(found, dict) else "wasn't written by a run"


def _unsound(step: Path) -> str:
    """What is wrong with a checkpoint, by the sizes and hashes in its manifest."""
    try:
        manifest: Any = json.loads(read_file(step / "manifest.json"))
        wanted = {str(name): str(facts["sha256"]) for name, facts in manifest.items()}
        for name, sha256 in wanted.items():
            if file_digest(step / Path(name).name) != sha256:
                return f"{name} doesn't match its sha256"
    except FileNotFoundError as error:
        return f"incomplete: {Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its manifest can't be read ({type(error).__name__})"
    return "" if wanted else "its manifest names no file"


def examine_store(out: Path) -> Iterator[Finding]:
    """Yield findings on the store at `out`."""
    if not out.is_dir():
        yield Finding(str(out), True, "no record has been stored yet")
        return
    store = Store(out)
    found: Checked | None = None
    why = ""
    if (out / "boards").is_dir():
        try:
            found = checked(store)
        except StoreError as error:
            why = str(error)
    number, skipped = (found.n_records, found.skipped) if found is not None else _read(store)
    for path, reason in skipped:
        yield Finding(
            str(path),
            False,
            reason,
            "download it from where it was published, or run it again",
            Repair("move", out, path),
        )
    yield Finding(str(out), True, f"{number} records are intact and in place")
    if why:
        yield Finding(str(out / "boards"), False, why, "repair or remove that file")
    if found is not None:
        yield from _boards(store, found.differences, damaged=bool(skipped))
    yield from leftovers(out, out.rglob(".tmp-*"))


def _read(store: Store) -> tuple[int, list[tuple[Path, str]]]:
    """Number of intact records, and the other files, each with the reason."""
    number, left_out = 0, []
    for folder in store.folders():
        records = store.records_in(folder)
        number += len(records)
        left_out += [(skip.path, skip.reason) for skip in records.skipped]
    return number, left_out


def _boards(store: Store, differences: list[str], *, damaged: bool) -> Iterator[Finding]:
    subject = str(store.root / "boards")
    if not differences:
        yield Finding(subject, True, "each board agrees with the records")
        return
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    # Boards must not be regenerated while a record is missing.
    repair = None if damaged else Repair("boards", store.root, store.root)
    advice = f"{COMMAND} --out {shlex.quote(str(store.root))}"
    yield Finding(subject, False, f"{differences[0]}{more}", advice, repair)


PACKAGE = "lazybench"
TORCH_S = 120.0

_AGAIN = "install lazybench again: pip install -c constraints.txt ."
_TRY = """
import torch
x = torch.ones(3, 3, requires_grad=True)
(x @ x).sum().backward()
assert x.grad is not None and float(x.grad.sum()) == 54
print(torch.__version__, "with CUDA" if torch.cuda.is_available() else "on the CPU")
"""


def examine_installation(*, deep: bool) -> Iterator[Finding]:
    """Yield findings on the installation; `deep` runs torch in a separate process."""
    try:
        held = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        yield Finding(
            PACKAGE,
            None,
            "runs from its source folder, not installed: versions can't be compared",
            "pip install -c constraints.txt -e .",
        )
    else:
        yield from _versions(held)
        yield from _files(held)
    yield from _embedded(deep=deep)
    if deep:
        yield _torch()


def _versions(held: metadata.Distribution) -> Iterator[Finding]:
    wanted, python = held.metadata["Requires-Python"], platform.python_version()
    if wanted and python not in SpecifierSet(wanted, prereleases=True):
        advice = f"make an environment with Python {wanted}"
        yield Finding("python", False, f"{python}, lazybench needs {wanted}", advice)
    else:
        yield Finding("python", True, python)
    for text in held.requires or ():
        requirement = Requirement(text)
        optional = requirement.marker is not None
        if optional and "extra" not in str(requirement.marker):
            continue
        yield from _package(requirement, optional=optional)


def _package(requirement: Requirement, *, optional: bool) -> Iterator[Finding]:
    name, wanted = requirement.name, requirement.specifier
    fix = f"pip install '{name}{wanted}'"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        if not optional:
            yield Finding(name, False, f"not installed, lazybench needs {wanted}", fix)
        return
    if wanted.contains(found, prereleases=True):
        yield Finding(name, True, found)
    else:
        ok = None if optional else False
        yield Finding(name, ok, f"{found}, lazybench needs {wanted}", fix)


def _files(held: metadata.Distribution) -> Iterator[Finding]:
    """Findings on the package's files, compared with the hashes that its installer recorded."""
    hashed = [file for file in held.files or () if file.hash is not None]
    own = [file for file in hashed if file.parts[0] == PACKAGE]
    wrong = []
    for file in own:
        try:
            content = Path(str(file.locate())).read_bytes()
        except OSError:
            wrong.append(f"{file} is missing")
            continue
        recorded = file.hash
        if recorded is None or recorded.mode not in hashlib.algorithms_guaranteed:
            continue
        digest = hashlib.new(recorded.mode, content).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != recorded.value:
            wrong.append(f"{file} was changed")
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield Finding("files", False, f"{wrong[0]}{more}", _AGAIN)
    elif own:
        yield Finding("files", True, f"{len(own)} files as they were installed")


def _read_glyphs() -> None:
    from lazybench.envs.datasets.glyphs import read_frozen

    read_frozen()


def _read_networks() -> None:
    from lazybench.envs.targets.nets import embedded_nets

    embedded_nets()


def _embedded(*, deep: bool) -> Iterator[Finding]:
    """Findings on the included images and, with `deep`, on the included networks (needs torch)."""
    readers = {"glyphs": _read_glyphs} | ({"networks": _read_networks} if deep else {})
    for subject, read in readers.items():
        try:
            read()
        except (LazybenchError, ImportError) as error:
            yield Finding(f"embedded {subject}", False, str(error), _AGAIN)
        else:
            yield Finding(f"embedded {subject}", True, "its sha256 is the published one")


def _torch() -> Finding:
    fix = "install torch again, for this machine: see pytorch.org/get-started"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY],
            capture_output=True,
            text=True,
            timeout=TORCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("torch computes", False, f"no answer within {TORCH_S:g} s", fix)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return Finding("torch computes", False, last, fix)
    return Finding("torch computes", True, done.stdout.strip())


@dataclass(frozen=True)
class Examined:
    """The findings of all areas.

    Attributes:
        findings: all findings, in the order of the checks.
    """

    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether no finding is bad."""
        return not refuted(self.findings)

    @property
    def repairable(self) -> tuple[Finding, ...]:
        """The findings that `repair` can repair."""
        return tuple(finding for finding in self.findings if finding.repair is not None)


def examine(out: Path, runs: Path, *, deep: bool = False) -> Examined:
    """Return all findings on this installation, data, store and runs; changes nothing.

    Args:
        out: the store of records.
        runs: folder of working state.
        deep: read and hash all data, and compute with torch; minutes, if data sets are large.
    """
    areas = {
        "installation": examine_installation(deep=deep),
        "plug-ins": examine_plug_ins(),
        "data": examine_data(deep=deep),
        "cache": examine_cache(deep=deep),
        "store": examine_store(out),
        "runs": examine_runs(runs),
    }
    return Examined(
        tuple(replace(each, area=area) for area, found in areas.items() for each in found)
    )


@dataclass
class Quarantine:
    """Folders `quarantine/<date and time>/` below each root, made when something goes into them.

    Attributes:
        name: date and time of this repair, UTC.
    """

    name: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))

    def place(self, root: Path, path: Path) -> Path:
        """Return where to move `path`: its place below `root`, with a number if that is taken."""
        below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        wanted = root / QUARANTINE / self.name / below
        found, number = wanted, 1
        while os.path.lexists(found):
            number += 1
            found = wanted.with_name(f"{wanted.name}.{number}")
        found.parent.mkdir(parents=True, exist_ok=True)
        return found


def move(path: Path, root: Path, quarantine: Quarantine) -> Path:
    """Move a file or folder below `root` to its quarantine, and return its new place.

    Raises:
        OSError: it can't be moved.
    """
    place = quarantine.place(root, path)
    shutil.move(path, place)
    return place


def repair(findings: Iterable[Finding], quarantine: Quarantine | None = None) -> list[str]:
    """Repair what can be repaired, and return a line for each repair.

    Raises:
        OutputUnavailable: something can't be moved or written; earlier repairs are kept.
    """
    kept = quarantine or Quarantine()
    lines = []
    for finding in findings:
        if finding.repair is not None:
            try:
                lines.append(_done(finding.repair, kept))
            except OSError as error:
                raise OutputUnavailable(
                    f"{finding.name} can't be repaired ({error.strerror or error}); make it "
                    "writable and try again"
                ) from error
    return lines


def _done(repair: Repair, quarantine: Quarantine) -> str:
    path = repair.path
    if repair.kind == "move":
        return f"{path}: moved to {move(path, repair.root, quarantine)}"
    if repair.kind == "cut":
        place = quarantine.place(repair.root, path)
        shutil.copy2(path, place)
        write_bytes(path, path.read_bytes()[: repair.keep])
        return f"{path}: cut to its first {repair.keep} bytes; a complete copy is in {place}"
    return _repair_boards(repair, quarantine)


def _repair_boards(repair: Repair, quarantine: Quarantine) -> str:
    store = Store(repair.path)
    places = [*(store.root / "boards").glob("*.*"), store.root / "README.md"]
    before = {path: path.read_bytes() for path in sorted(places) if path.is_file()}
    write(store, rebuild=True)
    changed = 0
    for path, content in before.items():
        if not path.exists() or path.read_bytes() != content:
            write_bytes(quarantine.place(repair.root, path), content)
            changed += 1
    where = repair.root / QUARANTINE / quarantine.name
    return f"{store.root / 'boards'}: regenerated; {changed} former files are in {where}"


__all__ = ["Examined", "Finding", "Quarantine", "Repair", "examine", "move", "repair"]
