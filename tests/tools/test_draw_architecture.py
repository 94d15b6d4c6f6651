"""The picture and lists of docs/architecture.md: their files and functions are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tools/draw_architecture.py")


def defined(path: Path) -> set[str]:
    """Functions and classes of a module, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return names


def test_each_step_names_code_that_is_there(tool: ModuleType) -> None:
    missing = [
        f"{step.file}: {name}"
        for _, steps in tool.WALKS
        for step in steps
        for name in step.names
        if name not in defined(ROOT / step.file)
    ]
    assert missing == []


def test_the_page_has_the_lists_of_the_tool(tool: ModuleType) -> None:
    page = PAGE.read_text("utf-8")
    assert tool.with_walks(page) == page, "write them again: see the page's second paragraph"


def test_files_that_the_page_names_are_there() -> None:
    named = re.findall(r"`((?:lazybench|envs|agents|tools|tests)/[\w/]+\.py)`", PAGE.read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_picture_is_drawn(tool: ModuleType, tmp_path: Path) -> None:
    tool.main([str(tmp_path / "walks.png")])
    assert (tmp_path / "walks.png").read_bytes().startswith(b"\x89PNG")
