"""Mutants: each still applies to the code, names files that are there, and is tried in a copy."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    """The script as a module."""
    return script("tools/mutants.py")


def test_every_mutant_applies(tool: ModuleType) -> None:
    assert tool.unknown_paths(tool.MUTANTS) == []
    names = [mutant.name for mutant in tool.MUTANTS]
    assert len(set(names)) == len(names)
    for mutant in tool.MUTANTS:
        text = tool.changed((ROOT / mutant.file).read_text(encoding="utf-8"), mutant)
        ast.parse(text)


@pytest.mark.parametrize("text", ["none of it", "one = 1\none = 1\n"])
def test_text_that_is_not_there_once_is_an_error(tool: ModuleType, text: str) -> None:
    mutant = tool.Mutant("m", "a.py", "one = 1", "one = 2", ())
    with pytest.raises(ValueError, match=r"found [02] times in a\.py, not once"):
        tool.changed(text, mutant)


@pytest.fixture
def small(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of one function and its test, in place of this one."""
    (tmp_path / "lazybench").mkdir()
    (tmp_path / "lazybench" / "envs").mkdir()
    (tmp_path / "lazybench" / "__init__.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "lazybench" / "envs" / "__init__.py").write_text("")
    (tmp_path / "test_twice.py").write_text(
        "from lazybench import twice\n\n\ndef test_twice():\n    assert twice(2) == 4\n"
    )
    tool.subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    return tmp_path


def test_mutants_are_killed_or_live_in_a_copy(tool: ModuleType, small: Path) -> None:
    place, tests = "lazybench/__init__.py", ("test_twice.py",)
    mutants = {
        name: tool.Mutant(name, place, old, new, tests)
        for name, old, new in (
            ("thrice", "2 * x", "3 * x"),
            ("square", "2 * x", "x * x"),
            ("gone", "4 * x", "5 * x"),
            ("broken", "return", "retrun"),
        )
    }
    before = (small / place).read_bytes()
    assert tool.sound([mutants["thrice"]]) == []
    tried = tool.try_all(list(mutants.values()), 2)
    assert [each.mutant for each in tried] == list(mutants.values())
    outcomes = [each.outcome for each in tried]
    assert outcomes[:2] == ["killed", "lived"]
    assert outcomes[2].startswith("doesn't apply: its old text is found 0 times")
    assert outcomes[3].startswith("doesn't apply: pytest ended with 2")
    assert "| thrice | lazybench/__init__.py | killed |" in tool.table(tried)
    assert (small / place).read_bytes() == before
    (small / tests[0]).write_text("def test_twice():\n    assert False\n")
    assert "test_twice.py" in tool.sound([mutants["thrice"]])[0]


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [(["killed"], 0), (["killed", "lived"], 1), (["lived", "doesn't apply: why"], 2)],
)
def test_the_exit_code_reports_what_was_found(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, outcomes: list[str], code: int
) -> None:
    mutants = tool.MUTANTS[: len(outcomes)]
    found = [tool.Tried(*pair) for pair in zip(mutants, outcomes, strict=True)]
    monkeypatch.setattr(tool, "sound", lambda chosen: [])
    monkeypatch.setattr(tool, "try_all", lambda chosen, jobs: found)
    assert tool.main([mutant.name for mutant in mutants]) == code
    monkeypatch.setattr(tool, "sound", lambda chosen: ["a test fails"])
    assert tool.main([]) == 2
    for wrong in (["no such mutant"], ["--jobs", "0"]):
        with pytest.raises(SystemExit) as caught:
            tool.main(wrong)
        assert caught.value.code == 2
