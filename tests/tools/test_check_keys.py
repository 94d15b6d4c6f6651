"""The published records keep their keys, and the tool that says so sees a key that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lazybench.records import Record, Store, make_key

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tools/check_keys.py")


@pytest.fixture(scope="module")
def published() -> list[Record]:
    return list(Store(ROOT / "leaderboards").records())


def test_keys_of_published_records_are_what_they_were(
    tool: ModuleType, published: list[Record]
) -> None:
    found = tool.check(published)
    assert not found.faults
    assert found.counts.total() == len(published)
    resolved = found.counts["resolved"] + found.counts["resolved; data absent"]
    assert resolved > len(published) // 2
    assert set(found.counts) <= {
        "resolved",
        "resolved; data absent",
        "of an older version",
        "of imported data",
        "evaluated elsewhere",
    }


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"config": {"iterations": 7}}, "config.iterations: 7 is now"),
        ({"network": {"source_sha256": "ab" * 32}}, "network_source: abab"),
    ],
)
def test_a_key_that_changes_is_seen(
    tool: ModuleType, published: list[Record], change: dict[str, Any], seen: str
) -> None:
    trained = [r for r in published if r.data.name == "glyphs" and r.network is not None]
    learned = [r for r in trained if "iterations" in r.config]
    # Of a version that is still the newest.
    record = next(r for r in learned if tool.check([r]).counts["resolved"])
    reported = record.model_dump(mode="json", by_alias=True)
    for name, value in change.items():
        reported[name] = reported[name] | value if isinstance(value, dict) else value
    other = Record.model_validate(reported)
    keyed = other.model_copy(update={"key": make_key(other.identity())})
    assert seen in tool.check([keyed]).faults[0]
    assert "its own fields make another key" in tool.check([other]).faults[0]
