"""`data embed` and `run` where weights may have seen the test classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.boards.build import build
from lazybench.data.pool import Pool
from lazybench.envs.datasets import miniimagenet
from lazybench.records import Record

EMBED = ("data", "embed", "miniimagenet", "--with", "net.py:means")
RUN = ("--agent", "protonet", "--limit", "8", "--threads", "1", "--quiet", "--json")


class StandIn:
    """Noise under the name of miniImageNet: 5 classes a split, 18 images each."""

    name, fingerprint, prep, source = "miniimagenet", "0" * 64, "1", "noise"

    def pool(self, split: str) -> Pool:
        x = np.random.default_rng(len(split)).integers(0, 256, (90, 3, 4, 4), dtype=np.uint8)
        names = tuple(f"{split}{number}" for number in range(5))
        return Pool(x, np.arange(0, 90, 18), np.full(5, 18), names, names)


@pytest.fixture(autouse=True)
def stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_averages: Callable[..., str]
) -> None:
    monkeypatch.setattr(miniimagenet, "open_miniimagenet", StandIn)
    write_averages(tmp_path, "means", 2, "imagenet-1k")


def test_weights_that_have_seen_the_test_classes_are_refused(
    lazybench: Any, tmp_path: Path
) -> None:
    refused = lazybench(*EMBED)
    assert refused.code == 2
    (line,) = refused.err.strip().splitlines()
    assert "trained on imagenet-1k, which holds the test classes of miniimagenet" in line
    assert "choose other weights or data, or add --allow-overlap" in line
    assert not list((tmp_path / "no-data").rglob("*.npy"))
    assert lazybench(*EMBED, "--weights", "laion2b_s34b_b79k").code == 0


def test_features_with_overlap_are_marked_in_each_row(lazybench: Any) -> None:
    assert lazybench(*EMBED, "--allow-overlap").code == 0
    env = "miniimagenet@means-5way-1shot"
    ran = lazybench("run", "--env", env, *RUN, "--set", "backbone=linear")
    assert ran.code == 0, ran.err
    (board,) = build([Record.from_json(ran.out)])
    (row,) = board.rows
    assert row.weights == "imagenet-1k"
    assert "overlap" in row.marks


def test_a_backbone_on_such_images_is_refused_too(lazybench: Any) -> None:
    run = ("run", "--env", "miniimagenet-5way-1shot", *RUN, "--set", "backbone=net.py:means")
    run += ("--set", "iterations=1", "--set", "frozen=true")
    refused = lazybench(*run)
    assert refused.code == 2
    assert "add --allow-overlap" in refused.err
    allowed = lazybench(*run, "--allow-overlap")
    assert allowed.code == 0, allowed.err
    assert json.loads(allowed.out)["network"]["weights"] == "imagenet-1k"
