"""Scratch arrays lie on disk without a name, and in memory where they can't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lazybench.data.cache import scratch


def test_scratch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("LAZYBENCH_CACHE", str(root))
    place = scratch((3, 4), np.uint8)
    assert isinstance(place, np.memmap)
    place[1] = 7
    assert place.sum() == 28
    assert list(root.iterdir()) == []
    assert scratch((0, 4), np.uint8).shape == (0, 4)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "file" / "cache"))
    unwritable = scratch((2,), np.uint8)
    assert unwritable.tolist() == [0, 0]
    assert not isinstance(unwritable, np.memmap)
