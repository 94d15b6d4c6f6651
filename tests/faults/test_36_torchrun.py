"""Row 36: a rank killed under torchrun; the group goes on from the checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lazybench.records import Record, Store

MORTAL = f"{Path(__file__).with_name('mortal.py')}:Mortal"

pytestmark = pytest.mark.slow


def whole_run(folder: Path, *flags: str, **surroundings: str) -> tuple[Record, str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *flags]
    settings = ("iterations=6", "meta_batch=2", "validate_every=2", "backbone=conv4-32")
    words = ["--agent", MORTAL, "--env", "glyphs-5way-1shot", "--budget", "smoke", "--limit", "10"]
    words += [word for pair in settings for word in ("--set", pair)]
    words += ["--threads", "1", "--out", str(folder / "store"), "--runs", str(folder / "runs")]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", "-m", "lazybench", "run", *words],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", **surroundings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (record,) = Store(folder / "store").records()
    return record, done.stderr


def test_a_killed_rank_is_restarted_and_the_record_is_the_uninterrupted_one(tmp_path: Path) -> None:
    cut, reported = whole_run(tmp_path / "cut", "--max-restarts", "1", LAZYBENCH_TEST_KILL_RANK="1")
    assert "resuming from the checkpoint at meta-iteration 4" in reported
    whole, _ = whole_run(tmp_path / "whole")
    assert cut.world_size == whole.world_size == 2
    assert cut.comparable() == whole.comparable()
