"""Budgets of training: equal work, even cadence of validations."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.agents.fewshot.settings import EpisodicConfig, spending
from lazybench.errors import UsageError
from lazybench.registry import ENVS


@pytest.mark.parametrize("validations", [1, 2, 3, 7])
@pytest.mark.parametrize("updates", [1, 2, 10, 100, 1000])
def test_validations_are_spread_evenly_and_none_is_before_the_last(
    validations: int, updates: int, tasks: Any
) -> None:
    plan = EpisodicConfig(iterations=updates, validations=validations).plan(tasks.blobs, 1)
    steps = [s for s in range(1, updates + 1) if s % plan.validate_every == 0 or s == updates]
    assert len(steps) <= validations
    gaps = [after - before for before, after in zip([0, *steps], steps, strict=False)]
    assert len(set(gaps[:-1])) <= 1
    assert len(steps) == validations or updates < validations * (validations - 1)


def test_iterations_follow_from_the_work_of_one(tasks: Any) -> None:
    config = EpisodicConfig(image_gradients=1000, meta_batch=4)
    assert config.plan(tasks.blobs, 25).updates == 10
    assert config.plan(tasks.blobs, 26).updates == 9
    with pytest.raises(UsageError, match="would cost 1,200 image-gradients"):
        config.plan(tasks.blobs, 300)
    # A value that the user sets is kept.
    assert config.model_copy(update={"iterations": 3}).plan(tasks.blobs, 25).updates == 3
    assert EpisodicConfig().plan(tasks.blobs, 25).updates == 0


def test_every_agent_spends_the_same() -> None:
    few, many = (ENVS.resolve(f"glyphs-{way}way-5shot").spec for way in (5, 20))
    assert spending(few, "small") == {"image_gradients": 200_000, "validations": 3}
    assert spending(many, "small") == {"image_gradients": 180_000, "validations": 2}
    assert spending(many, "smoke") == {"image_gradients": 3_000, "validations": 1}
    assert spending(few, "paper") == {}
