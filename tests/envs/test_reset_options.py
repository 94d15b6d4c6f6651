"""An option of a reset that nothing reads is refused, and the message names those that are."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import lazybench
from lazybench.errors import UsageError

ATTACK = "glyphs-net4-untargeted"
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


@pytest.mark.parametrize(("name", "split"), [("glyphs-5way-1shot", "test"), (ATTACK, "val")])
def test_a_list_of_seeds_has_the_trial_of_each_row(name: str, split: Any) -> None:
    env = lazybench.make_env(name, num_envs=3, split=split)
    _, info = env.reset(seed=[7, 0, 3])
    assert info["trial"].tolist() == [7, 0, 3]
    _, info = env.reset()
    assert info["trial"].tolist() == [8, 9, 10]
    for wrong in ([1, 2], [1, 2, -1], [1, 2, 0.5]):
        with pytest.raises(UsageError, match=r"for each of 3 rows|numbered from 0"):
            env.reset(seed=wrong)
    for wrong in (2**63, 2**64, True):
        with pytest.raises(UsageError, match="seed must be a whole number of at least 0"):
            env.reset(seed=wrong)


def test_all_rows_of_a_training_block_share_a_stream() -> None:
    env = lazybench.make_env("glyphs-5way-1shot", num_envs=2, split="train")
    with pytest.raises(UsageError, match="a stream, which all rows share: give one seed"):
        env.reset(seed=[1, 2])


@pytest.mark.parametrize("num_envs", [None, 2])
def test_settings_that_an_id_says_have_its_values(num_envs: Any) -> None:
    """They were taken silently, and the tasks had other ways than their name."""
    make = partial(lazybench.make_env, num_envs=num_envs)
    make("glyphs-5way-1shot", way=5, shots=2, split="val")
    # An agent's plan may ask for other ways in training.
    make("glyphs-5way-1shot", way=7, shots=2, split="train")
    for name, setting, says in (
        ("glyphs-5way-1shot", {"way": 3}, "has way=5, got way=3; tasks that differ in it have ids"),
        ("glyphs-5way-1shot", {"noniid": True}, "has noniid=False, got noniid=True"),
        (ATTACK, {"norm": "linf"}, "has norm=l2, got norm='linf'"),
        ("glyphs-5way-1shot", {"shotz": 3}, r"no setting 'shotz'\. Did you mean: shots\? Settings"),
        (ATTACK, {"num_env": 3}, "no setting 'num_env'"),
    ):
        with pytest.raises(UsageError, match=says):
            make(name, **setting)
    make(ATTACK, query_budget=7)
