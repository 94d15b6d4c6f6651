"""Records as files: found by path or by key, and what their own text says about them."""

from __future__ import annotations

import re
from pathlib import Path

from lazybench.errors import StoreError, UnknownName, UsageError
from lazybench.files import read_file
from lazybench.records import Record, Store, make_key
from lazybench.records.store import MOST_RECORD_BYTES
from lazybench.verify.findings import Finding

_KEY = re.compile(r"[0-9a-f]{6,64}")
_KEY12 = 12


def find_record(name: str, out: Path) -> Path:
    """Return the file of a record: `name` itself, or the one in a store whose key begins so.

    Args:
        name: a path, or 6 to 64 hex digits.
        out: the store.

    Raises:
        UnknownName: neither a file nor a key in the store.
        UsageError: the digits fit several records.
    """
    path = Path(name)
    if path.is_file():
        return path
    if _KEY.fullmatch(name):
        found = sorted(Store(out).root.glob(f"records/*/*/{name[:_KEY12]}*.json"))
        if len(name) > _KEY12:
            found = [each for each in found if f'"key": "{name}'.encode() in read_file(each)]
        if len(found) > 1:
            keys = ", ".join(each.stem for each in found)
            raise UsageError(f"key '{name}' fits several records: {keys}; give more digits")
        if found:
            return found[0]
    raise UnknownName(
        f"no record '{name}': it is no file, and no record in {out} has a key that begins so (6 "
        "digits or more); see the column of keys in: lazybench leaderboard --env ENV"
    )


def read_record(path: Path) -> tuple[Record | None, list[Finding]]:
    """Return the record of a file, None where it holds none, and whether file and key are sound.

    Raises:
        StoreError: the file can't be read.
    """
    try:
        data = read_file(path, MOST_RECORD_BYTES)
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}; check the path") from error
    try:
        record = Record.from_json(data)
    except StoreError as error:
        return None, [Finding("file", False, str(error))]
    findings = [Finding("file", True, f"a whole record of schema {record.schema_version}")]
    expected = make_key(record.identity())
    if expected == record.key:
        detail = f"{record.key12} is that of the record's environment, data, agent and settings"
        return record, [*findings, Finding("key", True, detail)]
    detail = (
        f"the record says {record.key12}, its environment, data, agent and settings give "
        f"{expected[:_KEY12]}: one of them was changed after the run"
    )
    return record, [*findings, Finding("key", False, detail)]
