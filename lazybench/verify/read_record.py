"""Finds and reads record files, and checks their format and key; findings of all checks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lazybench.errors import StoreError, UnknownName, UsageError
from lazybench.files import read_file, read_stored
from lazybench.findings import Finding, refuted
from lazybench.records import Record, Store, make_key
from lazybench.records.store import MOST_RECORD_BYTES

Verdict = Literal["reproduced", "consistent", "not reproducible here", "refuted"]


@dataclass(frozen=True)
class Verification:
    """Findings of `verify` on one record, and the verdict that follows.

    Attributes:
        path: the file.
        key: the record's key; '' if the file isn't a record.
        agent: agent id, '' if the file isn't a record.
        env: environment id, '' if the file isn't a record.
        findings: all checks, in order, by name: file, key, environment, data, trials, settings,
            answers, numbers, network, updates, counters, checkpoint, scores, drift.
        trials: number of trials that were evaluated again.
        exact: whether scores must be equal; False if they may differ by a tolerance.
        equal: whether all trials that were evaluated again are equal to the last bit.
        finds: the smallest share of forged trials that a sample of this size detects with a
            probability of 95 %; None if no trial was evaluated again, or if a forged one can't be
            distinguished from rounding on another platform.
        seed: seed of the sample of trials; None if none was drawn.
        unchecked: parts of the record that no check covers.
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
        """The verdict over all checks.

        `reproduced`: trials that were evaluated again are equal to the last bit. `consistent`: they
        differ by no more than another platform explains. `not reproducible here`: none could be
        evaluated again, or they are inconclusive. `refuted`: a check failed.
        """
        if refuted(self.findings):
            return "refuted"
        shown = any(each.name == "scores" and each.ok for each in self.findings)
        if not (self.trials and shown):
            return "not reproducible here"
        return "reproduced" if self.equal else "consistent"

    @property
    def verified(self) -> bool:
        """Whether the record was reproduced, or is consistent with the evaluation here."""
        return self.verdict in ("reproduced", "consistent")


_KEY = re.compile(r"[0-9a-f]{6,64}")
_KEY12 = 12


def find_record(name: str, out: Path) -> Path:
    """The file of a record, given by its path or by the first digits of its key.

    Args:
        name: a path, or 6 to 64 hex digits.
        out: the store.

    Raises:
        UnknownName: neither a file nor a key in the store.
        UsageError: the digits match several records.
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
            raise UsageError(f"key '{name}' is ambiguous: records {keys}; give more digits")
        if found:
            return found[0]
    raise UnknownName(
        f"no record '{name}': it isn't a file, and no key in {out} begins with it (at least 6 "
        "digits); see the column of keys in: lazybench leaderboard --env ENV"
    )


def read_record(path: Path) -> tuple[Record | None, list[Finding]]:
    """The record of a file (None if it isn't valid), and whether file and key are valid.

    Raises:
        StoreError: the file can't be read.
    """
    data = read_stored(path, MOST_RECORD_BYTES)
    try:
        record = Record.from_json(data)
    except StoreError as error:
        return None, [Finding("file", False, str(error))]
    findings = [Finding("file", True, f"a valid record of schema {record.schema_version}")]
    expected = make_key(record.identity())
    if expected == record.key:
        detail = f"{record.key12} matches the record's environment, data, agent and settings"
        return record, [*findings, Finding("key", True, detail)]
    detail = (
        f"the record's key is {record.key12}, but its environment, data, agent and settings give "
        f"{expected[:_KEY12]}: one of them was changed after the run"
    )
    return record, [*findings, Finding("key", False, detail)]
