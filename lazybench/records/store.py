"""The append-only store of records: one file per run, so two runs never write the same file."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lazybench.arguments import is_key
from lazybench.errors import LazybenchError, RecordConflict, StoreError, UsageError
from lazybench.files import canonical_json, read_file, read_stored, refuse_links, write_bytes
from lazybench.records.schema import Record, Reported, make_key
from lazybench.runtime.locks import alone, why_closed

REPORTED = Path(__file__).parent.parent / "reported"
"""Numbers of the lazy paper, shown with the records of any store."""

MOST_RECORD_BYTES = 1 << 28
"""Size limit of a record's file in bytes, equal to the unpacked size limit of its arrays."""

_SLUG_LENGTH = 40
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
# A repetition of a run with these statuses may succeed, and then replaces the record.
_LOCK = ".records.lock"
_WAIT_S = 60.0
RETRIABLE = frozenset({"failed", "oom", "timeout"})
"""Statuses of runs that the same command repeats."""


def slug(name: str) -> str:
    """A folder name for any `name`: at most 49 characters of `a-z0-9._-`.

    A changed name has 8 hex digits of its sha256 appended, so that names don't collide.
    """
    safe = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:_SLUG_LENGTH].strip(".-")
    if safe and safe == name and not _RESERVED.match(safe):
        return safe
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if _RESERVED.match(safe):
        # Windows reads the part before the first dot as a device name, whatever follows it.
        safe = safe.replace(".", "-")
    return f"{safe}-{mark}".lstrip("-")


@dataclass(frozen=True)
class Skipped:
    """A file of the store that was left out, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """One line for messages."""
        return f"{self.path}: left out: {self.reason}"


@dataclass(eq=False, repr=False)
class RecordList(list[Record]):
    """Records in a fixed order, with the files that were left out in `skipped`."""

    found: Iterable[Record] = ()
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Fills the list."""
        self.extend(self.found)

    @classmethod
    def of(cls, parts: Iterable[RecordList]) -> RecordList:
        """The records of all parts, one part after another."""
        whole = cls()
        for part in parts:
            whole.extend(part)
            whole.skipped += part.skipped
        return whole


class _ReportedFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    source: str
    table: str
    rows: list[dict[str, Any]]


class Store:
    """Records under one folder: `records/<env>-v<version>/<agent>/<key12>.json`.

    Attributes:
        root: the folder; it needn't exist before something is published.
    """

    def __init__(self, root: str | os.PathLike[str] = "leaderboards") -> None:
        """Opens the store at `root` without touching the disk."""
        self.root = Path(root)

    def path(self, record: Record) -> Path:
        """The path of `record`, whether it is stored or not."""
        env = f"{slug(record.env.id)}-v{record.env.version}"
        return self.root / "records" / env / slug(record.agent.id) / f"{record.key12}.json"

    def publish(self, record: Record) -> Path:
        """Store a record and return its path.

        A stored record with the same comparable content is kept, unless the new one is isolated
        and the stored one isn't. A record of a run that failed, or ran out of memory or time, is
        replaced by that of a repetition.

        Raises:
            RecordConflict: the store has other content with this key.
            StoreError: the key doesn't match the content, or the disk is full.
            OutputUnavailable: the folder can't be created or written to.
            Busy: another process has been replacing a record for a minute.
        """
        _verify(record)
        path = self.path(record)
        data = record.to_json().encode("ascii")
        refuse_links(self.root, path)
        try:
            return write_bytes(path, data, replace=False)
        except FileExistsError:
            stored = _load(path)
        if stored.key == record.key and stored.status in RETRIABLE:
            if record.status in RETRIABLE:
                return path
            with alone(self.root / _LOCK, f"{path} is being replaced", why_closed, _WAIT_S):
                # Another process may have replaced it since.
                stored = _load(path)
                if stored.status in RETRIABLE:
                    return write_bytes(path, data)
        difference = first_difference(stored.comparable(), record.comparable())
        if difference is None:
            # The same result, and the new record has more facts.
            more = record.isolated and not stored.isolated
            return write_bytes(path, data) if more else path
        name, old, new = difference
        advice = (
            "other answers need another name, seed or setting"
            if record.agent.trained_by == "external"
            else "a change that can affect a score needs a new version of the env or agent"
        )
        raise RecordConflict(
            f"{path} has the same key with other content: {name} is {_short(old)} there and "
            f"{_short(new)} here; records are never overwritten: {advice}"
        )

    def find(self, key: str) -> Record | None:
        """The record whose key is or begins with `key` (6 to 64 hex digits), or None.

        Raises:
            UsageError: `key` isn't hexadecimal, is too short, or matches several records.
            StoreError: the file isn't a valid record.
        """
        if not is_key(key):
            raise UsageError(
                f"a key must be 6 to 64 hex digits, got {key!r}; see 'lazybench list runs'"
            )
        fitting = [_load(path) for path in self._files(f"{key[:12]}*.json")]
        fitting = [record for record in fitting if record.key.startswith(key)]
        if len(fitting) > 1:
            keys = ", ".join(sorted(record.key for record in fitting))
            raise UsageError(f"key {key!r} is ambiguous: records {keys}; give more digits")
        return fitting[0] if fitting else None

    def records(self, env: str | None = None, agent: str | None = None) -> RecordList:
        """Return all valid records by path; `skipped` names the invalid files.

        Args:
            env: keep this env only, as `<id>` or `<id>-v<version>`; no other folder is read.
            agent: keep this agent only.
        """
        return RecordList.of(self.records_in(folder, env, agent) for folder in self.folders(env))

    def folders(self, env: str | None = None) -> list[Path]:
        """The folders of records, one for each environment and revision, by name.

        Args:
            env: the folders of this env only, as `<id>` or `<id>-v<version>`.
        """
        every = sorted(path for path in (self.root / "records").glob("*") if path.is_dir())
        return [path for path in every if env is None or _is_folder_of(path.name, env)]

    def files_in(self, folder: Path) -> list[Path]:
        """Return the paths of the record files in one of `folders`."""
        return sorted(folder.glob("*/*.json"))

    def records_in(
        self, folder: Path, env: str | None = None, agent: str | None = None
    ) -> RecordList:
        """Return the records of one of `folders`, as `records` does.

        Args:
            folder: the folder.
            env: as there.
            agent: as there.
        """
        kept: list[Record] = []
        skipped: list[Skipped] = []
        for path in self.files_in(folder):
            try:
                record = _load(path)
            except LazybenchError as error:
                skipped.append(Skipped(path, str(error)))
                continue
            if path != self.path(record):
                reason = f"its content belongs at {self.path(record)}; don't copy records"
                skipped.append(Skipped(path, reason))
            elif (env is None or env in _env_names(record)) and agent in (None, record.agent.id):
                kept.append(record)
        return RecordList(kept, skipped)

    def reported(self) -> list[Reported]:
        """All rows of the package's files and of `reported/*.json`, by file, in the file's order.

        A file of the store replaces the package's file of that name.

        Raises:
            StoreError: a file doesn't have valid reported rows; the message names it.
        """
        rows: list[Reported] = []
        files = {
            path.name: path
            for folder in (REPORTED, self.root / "reported")
            for path in folder.glob("*.json")
        }
        for _, path in sorted(files.items()):
            try:
                table = _ReportedFile.model_validate_json(read_file(path, MOST_RECORD_BYTES))
                head = {"source": table.source, "table": table.table}
                rows.extend(Reported.model_validate(head | row) for row in table.rows)
            except (OSError, ValidationError) as error:
                first = str(error).splitlines()
                raise StoreError(
                    f"{path}: not a file of reported rows: {'; '.join(first[1:3]) or first[0]}; "
                    "see leaderboards/README.md for its fields"
                ) from error
        return rows

    def _files(self, pattern: str) -> Iterator[Path]:
        return iter(sorted((self.root / "records").glob(f"*/*/{pattern}")))


def _is_folder_of(name: str, env: str) -> bool:
    """Whether a folder is the one of an env, given as `<id>` or `<id>-v<version>`."""
    bare, _, version = name.rpartition("-v")
    given, _, wanted = env.rpartition("-v")
    return bare == slug(env) or (bare, version) == (slug(given), wanted)


def _env_names(record: Record) -> tuple[str, str]:
    return record.env.id, f"{record.env.id}-v{record.env.version}"


def _verify(record: Record) -> None:
    expected = make_key(record.identity())
    if record.key != expected:
        raise StoreError(
            f"the key {record.key12}… doesn't match the record's content, which gives "
            f"{expected[:12]}…; compute the key with make_key(record.identity())"
        )


def _load(path: Path) -> Record:
    record = Record.from_json(read_stored(path, MOST_RECORD_BYTES))
    _verify(record)
    return record


def _short(value: Any) -> str:
    text = " ".join(canonical_json(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


_ABSENT = "(absent)"


def first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """`(dotted name, old, new)` of the first field that differs, in sorted order, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs: Iterable[tuple[Any, Any, Any]] = (
            (part, old.get(part, _ABSENT), new.get(part, _ABSENT)) for part in sorted({*old, *new})
        )
    elif isinstance(old, list) and isinstance(new, list):
        zipped = itertools.zip_longest(old, new, fillvalue=_ABSENT)
        pairs = ((index, left, right) for index, (left, right) in enumerate(zipped))
    else:
        same = old == new and isinstance(old, bool) == isinstance(new, bool)
        return None if same else (name, old, new)
    for part, left, right in pairs:
        difference = first_difference(left, right, f"{name}.{part}" if name else str(part))
        if difference is not None:
            return difference
    return None
