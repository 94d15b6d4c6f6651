"""Sine waves by their formula, judged by the squared error."""

from __future__ import annotations

import numpy as np
import pytest

from lazybench import seeding
from lazybench.envs.datasets.sinusoid import open_sinusoid
from lazybench.envs.fewshot.env import FewShotEnv, FewShotVectorEnv
from lazybench.errors import ContractError


def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares b, c of y = b sin x + c cos x."""
    found: np.ndarray = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], axis=1), y, rcond=None)[0]
    return found


def test_waves_follow_the_formula() -> None:
    x, y = open_sinusoid().draw(seeding.mix("waves", np.arange(400)), 10)
    assert x.dtype == y.dtype == np.float32
    assert x.shape == y.shape == (400, 10, 1)
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() < 5
    amplitude, phase = [], []
    for points, values in zip(x[..., 0].astype(float), y[..., 0].astype(float), strict=True):
        # a sin(x - p) = a cos p sin x - a sin p cos x, with a > 0 and p in [0, pi].
        b, c = fit(points, values)
        np.testing.assert_allclose(b * np.sin(points) + c * np.cos(points), values, atol=1e-5)
        amplitude.append(np.hypot(b, c))
        phase.append(np.arctan2(-c, b))
    assert 0.1 <= min(amplitude) < 0.2
    assert 4.9 < max(amplitude) <= 5
    assert 0 <= min(phase) < 0.05
    assert np.pi - 0.05 < max(phase) <= np.pi
    assert abs(np.mean(amplitude) - 2.55) < 0.3
    assert abs(np.mean(phase) - np.pi / 2) < 0.2


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_wave_can_be_solved_from_its_support(split: str) -> None:
    env = FewShotEnv(data="sinusoid", way=1, shot=5, split=split)
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    shown = observation["query_y"]
    assert shown.any() == (split == "train")
    b, c = fit(observation["support_x"][:, 0], observation["support_y"][:, 0])
    x = observation["query_x"]
    right = (b * np.sin(x) + c * np.cos(x)).astype(np.float32)
    _, reward, done, _, info = env.step(right)
    assert done
    assert -1e-6 < reward <= 0
    env.reset(seed=3)
    _, reward, _, _, info = env.step(right + np.float32(0.5))
    assert reward == pytest.approx(-0.25, rel=1e-4)
    assert info["mse"] == -reward
    assert "accuracy" not in info


def test_blocks_are_evaluated_row_by_row() -> None:
    envs = FewShotVectorEnv(2, data="sinusoid", way=1, shot=5, split="train")
    observation, _ = envs.reset(seed=0)
    off = observation["query_y"] + np.array([0.0, 2.0], np.float32)[:, None, None]
    _, rewards, _, _, info = envs.step(off)
    np.testing.assert_allclose(rewards, [0, -4], atol=1e-5)
    np.testing.assert_allclose(info["mse"], -rewards)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(15), r"shape \[15, 1\] .*got \[15\]"),
        (np.full((15, 1), np.nan), "finite numbers, got inf or nan"),
        (np.zeros((15, 1), np.complex64), "finite numbers, got dtype complex64"),
    ],
)
def test_wrong_predictions_are_named(action: np.ndarray, message: str) -> None:
    env = FewShotEnv(data="sinusoid", way=1, shot=5)
    env.reset(seed=0)
    with pytest.raises(ContractError, match=message):
        env.step(action)
