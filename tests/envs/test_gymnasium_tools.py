"""Gymnasium's own wrappers and vector environments around one-step episodes, in each reset mode."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TransformReward

ID = "lazybench:lazybench/sinusoid-5shot-v1"
ZEROS = np.zeros((2, 15, 1), np.float32)


def make(**settings: Any) -> Any:
    return gymnasium.make(ID, **settings)


def test_single_wrappers() -> None:
    env = TransformReward(RecordEpisodeStatistics(make()), lambda reward: 10 * reward)
    env.reset(seed=3)
    _, reward, terminated, _, info = env.step(ZEROS[0])
    assert terminated
    assert reward == pytest.approx(10 * info["episode"]["r"])
    assert info["episode"]["l"] == 1
    flat, _ = FlattenObservation(make()).reset(seed=3)
    assert flat.ndim == 1


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_same_step_gives_a_trial_at_every_step(kind: Any) -> None:
    envs = kind([make, make], autoreset_mode=AutoresetMode.SAME_STEP)
    first, info = envs.reset(seed=[0, 100])
    assert info["trial"].tolist() == [0, 100]
    trials = []
    for _ in range(3):
        shown, reward, done, _, info = envs.step(ZEROS)
        assert done.all()
        assert (reward < 0).all(), "judged"
        # The observation is the next trial's; the one that was evaluated is kept next to it.
        trials.append(info["trial"].tolist())
    assert trials == [[1, 101], [2, 102], [3, 103]]
    assert info["final_info"]["trial"].tolist() == [2, 102]
    assert not np.array_equal(first["query_x"], shown["query_x"])
    envs.close()


def test_next_step_spends_every_other_step_on_a_reset() -> None:
    envs = SyncVectorEnv([make, make], autoreset_mode=AutoresetMode.NEXT_STEP)
    envs.reset(seed=[0, 100])
    rewards = [envs.step(ZEROS)[1].tolist() for _ in range(4)]
    assert [reward == [0.0, 0.0] for reward in rewards] == [False, True, False, True]


def test_disabled_resets_the_given_rows() -> None:
    envs = SyncVectorEnv([make, make], autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=[0, 100])
    _, _, done, _, _ = envs.step(ZEROS)
    _, info = envs.reset(options={"reset_mask": done})
    assert info["trial"].tolist() == [1, 101]


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync", "async"])
def test_make_vec_in_each_mode(mode: str) -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode)
    observation, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observation)
    _, reward, done, _, _ = envs.step(ZEROS)
    assert reward.shape == (2,)
    assert done.all()
    envs.close()


def test_vector_wrappers_around_the_native_form() -> None:
    envs = gymnasium.make_vec(ID, num_envs=2)
    counted = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    scaled = gymnasium.wrappers.vector.TransformReward(counted, lambda reward: -reward)
    scaled.reset(seed=0)
    _, reward, done, _, info = scaled.step(ZEROS)
    np.testing.assert_allclose(reward, -info["episode"]["r"])
    # Finished rows are free no-ops until they are reset.
    _, again, _, _, _ = scaled.step(ZEROS)
    assert again.tolist() == [0.0, 0.0]
    _, info = scaled.reset(options={"reset_mask": done})
    assert info["trial"].tolist() == [2, 3]


def test_rows_of_one_seed_overlap_and_seeds_apart_do_not() -> None:
    """Gymnasium gives row i seed + i, so automatic resets open trials that the next row has had."""
    envs = SyncVectorEnv([partial(make)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    _, _, _, _, info = envs.step(ZEROS)
    assert info["trial"].tolist() == [1, 2]
