"""The folders follow their variables and are absolute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lazybench.data.folders import cache_root, data_root

BOTH = [(data_root, "LAZYBENCH_DATA"), (cache_root, "LAZYBENCH_CACHE")]


@pytest.mark.parametrize(("root", "variable"), BOTH)
def test_variable_wins_and_is_made_absolute(
    root: Callable[[], Path], variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "here")
    assert root() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/there")
    assert root() == tmp_path / "there"


@pytest.mark.parametrize(("root", "variable"), BOTH)
def test_empty_variable_counts_as_unset(
    root: Callable[[], Path], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    default = root()
    assert default.is_absolute()
    assert "lazybench" in default.parts
    monkeypatch.setenv(variable, " ")
    assert root() == default
