"""Searches of settings are kept as files, and the page's table is what they make."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lazybench.errors import UsageError
from lazybench.files import append_line, write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tools/keep_tuning.py")


def search(folder: Path) -> Path:
    folder.mkdir()
    settings = {"image_gradients": "300000", "lr": 0.004}
    tuning = {"cpu_s": 5.0, "image_gradients": 900_000, "trials": 3}
    found = {"agent": "protonet", "env": "glyphs-5way-1shot", "budget": "medium"}
    write_json(folder / "found.json", {**found, "settings": settings, "tuning": tuning})
    trials = [
        {"number": 1, "settings": {"lr": 0.004}, "val": 0.98, "reason": ""},
        {"number": 0, "settings": {}, "val": None, "reason": "OSError: a failure that passed"},
        {"number": 0, "settings": {}, "val": 0.97, "reason": ""},
        # Of a longer search of the same settings.
        {"number": 3, "settings": {"lr": 1e-5}, "val": 0.99, "reason": ""},
        {"number": 2, "settings": {"lr": 9.0}, "val": None, "reason": "the loss is nan"},
    ]
    for trial in trials:
        cost = {"step": 7, "cpu_s": 2.5, "image_gradients": 300_000.0}
        append_line(folder / "trials.jsonl", {"key": "0" * 64, "tried": {**trial, **cost}})
    return folder


def test_a_finished_search_is_kept_whole(tool: Any, tmp_path: Path) -> None:
    path = tool.keep(search(tmp_path / "tune-a"), tmp_path / "kept")
    assert path == tmp_path / "kept" / "glyphs-5way-1shot" / "protonet.json"
    kept = json.loads(path.read_bytes())
    assert kept["fixed"] == {"image_gradients": "300000"}
    assert [trial["number"] for trial in kept["trials"]] == [0, 1, 2]
    assert kept["preset"] == {"lr": 0.0041}
    lines = tool.table([kept]).splitlines()
    first = "| glyphs-5way-1shot | protonet | lr 0.0041 (preset) | 300,000 | 97.0 |"
    assert lines[2].startswith(first)
    assert [line.endswith("| yes |") for line in lines[2:]] == [False, True, False]
    assert "the loss is nan" in lines[4]
    further = tool.keep(search(tmp_path / "tune-c"), tmp_path / "kept", further="queries")
    assert further.name == "protonet-queries.json"
    second = {**json.loads(further.read_bytes()), "fixed": {**kept["fixed"], "decay": "0.5"}}
    # Files of earlier searches lack the preset's values.
    second["preset"] = {}
    texts = [line.split(" | ")[2] for line in tool.table([kept, second]).splitlines()[2:]]
    assert texts[:2] == ["lr 0.0041 (preset)", "lr 0.004"]
    assert texts[3:5] == ["decay 0.5 (preset at the time)", "decay 0.5, lr 0.004"]


def test_an_unfinished_search_is_refused(tool: Any, tmp_path: Path) -> None:
    (tmp_path / "tune-b").mkdir()
    with pytest.raises(UsageError, match="no finished search"):
        tool.keep(tmp_path / "tune-b", tmp_path / "kept")


def test_the_page_is_what_the_files_make(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["keep_tuning.py", "--check"])
    assert tool.main() == 0
    with pytest.raises(ValueError, match="markers"):
        tool.page("no markers", [])
