"""The audit of queries: rows are counted, whatever a tool says, and the page keeps its text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from lazybench.envs.attack.adapters import as_callable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audit(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("benchmarks/audit_queries.py")


def case(audit: ModuleType, label: bool = False, together: bool = False) -> Any:
    """An attack that claims 3 queries an image and sends 5."""

    def play(env: Any, x: Tensor, label: Tensor) -> None:
        model = as_callable(env)
        assert len(x) == len(label) == (2 if together else 1)
        for _ in range(5):
            model(x)

    return audit.Case("tool", "attack", "a rule", 3, label, play, together)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("label", [False, True])
def test_rows_are_counted_whatever_the_tool_says(
    audit: ModuleType, label: bool, together: bool
) -> None:
    assert audit.count(case(audit, label, together), 2) == 5


def test_gradient_queries_of_hop_skip_jump(audit: ModuleType) -> None:
    assert audit.hop_skip_jump(4, 50, 200) == 50 + 70 + 86 + 100
    assert audit.hop_skip_jump(3, 50, 60) == 50 + 60 + 60


def test_the_page_has_the_table_the_reasons_and_its_text(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "cases", lambda: iter([case(audit), "art is skipped: no module"]))
    page = tmp_path / "audit.md"
    page.write_text(f"before\n{audit.BEGIN}old\n{audit.END}after\n")
    monkeypatch.setattr(sys, "argv", ["audit", "--images", "1", "--page", str(page)])
    for _ in range(2):
        audit.main()
    text = page.read_text()
    assert "| tool | attack | a rule | 3 | 5 | 1.67 |" in text
    assert "\nart is skipped: no module\n" in text
    assert text.startswith("before\n")
    assert text.endswith(f"{audit.END}after\n")
    assert "old" not in text
    assert text.count("| tool |") == 2, "the head and the row"


def test_a_tool_that_is_not_installed_is_skipped_with_the_reason(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("foolbox", "art", "torchattacks"):
        monkeypatch.setitem(sys.modules, package, None)
    found = list(audit.cases())
    assert [each.partition(" is skipped: ")[0] for each in found] == [
        "foolbox",
        "art",
        "torchattacks",
    ]
