"""An option of a reset that nothing reads is refused, and the message names those that are."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import lazybench
from lazybench.errors import UsageError

BLOCK, ONE = "trials, reset_mask", "trial"


@pytest.mark.parametrize(
    ("name", "settings", "allowed"),
    [
        ("glyphs-5way-1shot", {"num_envs": 2}, BLOCK),
        ("glyphs-5way-1shot", {"split": "train"}, ONE),
        ("sinusoid-5shot", {"num_envs": 2, "split": "val"}, BLOCK),
        ("glyphs-lt-100", {"split": "train"}, "trials"),
        ("glyphs-lt-100", {"split": "val"}, "none"),
        ("glyphs-lt-100", {}, "none"),
        ("glyphs-net4-untargeted", {"num_envs": 2}, BLOCK),
        ("glyphs-net4-untargeted", {"num_envs": 2, "split": "val"}, BLOCK),
        ("glyphs-net4-untargeted-label", {}, ONE),
    ],
)
def test_unknown_options_are_refused(name: str, settings: Any, allowed: str) -> None:
    env = lazybench.make_env(name, **settings)
    env.reset(seed=0)
    for wrong in ("trails", "seed", 3):
        with pytest.raises(UsageError, match=f"has no option {wrong!r}.*Options: {allowed}$"):
            env.reset(options={wrong: 1})
    with pytest.raises(UsageError, match="options of a reset must be a dict, got list"):
        env.reset(options=["trials"])
    for none in ({}, None):
        env.reset(options=none)


def test_taken_tasks_and_near_names() -> None:
    x, y = np.zeros((2, 4, 3), np.float32), np.arange(4)[None].repeat(2, 0) % 2
    env = lazybench.from_torchmeta([{"train": (x, y), "test": (x, y)}])
    with pytest.raises(UsageError, match=r"no option 'trial'\. Did you mean: trials\?"):
        env.reset(options={"trial": 0})


def test_gymnasiums_own_options_pass() -> None:
    def make() -> Any:
        return gymnasium.make("lazybench:lazybench/sinusoid-5shot-v1")

    envs = SyncVectorEnv([make, make], autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=[0, 9])
    _, info = envs.reset(options={"reset_mask": np.array([True, False]), "trial": 5})
    assert info["trial"].tolist()[0] == 5
    with pytest.raises(UsageError, match="no option 'trials'"):
        envs.reset(options={"reset_mask": np.array([True, True]), "trials": [1, 2]})
