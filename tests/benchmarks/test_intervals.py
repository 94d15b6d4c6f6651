"""Worlds with classes and halved records, on few draws: the shares are those of the full runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lazybench.boards.group import groups
from lazybench.records import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def intervals(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("benchmarks/intervals.py")


def test_only_intervals_over_classes_hold_the_mean_over_all(intervals: ModuleType) -> None:
    over_trials, over_classes = intervals.world(200, 5, 20, 0.25, 100)
    assert over_trials < 50
    assert over_classes > 88


def test_halves_of_made_up_classes_agree(intervals: ModuleType) -> None:
    rng = np.random.default_rng(0)
    members = np.stack([rng.permutation(60)[:5] for _ in range(200)])
    scores = rng.normal(0, 0.2, 60)[members] + rng.normal(0, 0.1, members.shape)
    over_trials, over_classes = intervals.halves(members, scores, 60)
    assert over_trials < 70
    assert over_classes > 85


def test_answers_of_stored_records_have_their_scores_class_by_class(intervals: ModuleType) -> None:
    records = Store(ROOT / "leaderboards").records(env="cifarfs-5way-1shot", agent="protonet")
    group = groups(records)[0]
    found = intervals.by_class(group)
    assert found is not None
    members, scores = found
    assert members.shape == scores.shape == (600, 5)
    means = np.mean([record.trials.scores_array() for record in group.scored], axis=0)
    assert scores.mean(axis=1) == pytest.approx(means, abs=1e-5)
