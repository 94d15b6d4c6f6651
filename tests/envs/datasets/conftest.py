"""A data folder and a cache of one test's own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty data folder; what is prepared goes to a fresh cache beside it."""
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LAZYBENCH_DATA", str(folder))
    return folder
