"""The made-up store that the costs of large stores are measured on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lazybench.boards import build
from lazybench.records import Store

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_made_up_records_are_sound_and_the_same_each_time(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import store_scale
    del sys.modules["store_scale"]
    store_scale.TRIALS, store_scale._ANSWERS_KEPT = 50, 1
    for name in ("one", "two"):
        store_scale.fill(tmp_path / name, 12)
    found = Store(tmp_path / "one").records()
    assert (len(found), found.skipped) == (12, [])
    assert [record.key for record in found] == [r.key for r in Store(tmp_path / "two").records()]
    (board,) = build(found)
    assert [len(row.seeds) for row in board.ranked] == [4, 4, 4]
