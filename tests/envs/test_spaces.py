"""Spaces cost nothing, whatever they describe, and still work as Gymnasium's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from lazybench.envs.fewshot.env import FewShotVectorEnv
from lazybench.envs.observations import broadcast_box, labels


def owned(array: np.ndarray) -> int:
    """Bytes that keep an array alive: those of its outermost base."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.nbytes


def arrays(space: spaces.Space[Any]) -> Iterator[np.ndarray]:
    if isinstance(space, spaces.Dict):
        for part in space.values():
            yield from arrays(part)
    for value in vars(space).values():
        if isinstance(value, np.ndarray):
            yield value


def test_a_large_vector_environment_has_small_spaces(register_tiny: Callable[..., str]) -> None:
    data = register_tiny(counts=[20] * 50, shape=(3, 84, 84))
    envs = FewShotVectorEnv(4, data=data, way=50, shot=5)
    held = sum(
        owned(array)
        for space in (
            envs.observation_space,
            envs.single_observation_space,
            envs.action_space,
            envs.single_action_space,
        )
        for array in arrays(space)
    )
    assert held < 1_000_000
    assert isinstance(envs.observation_space, spaces.Dict)
    assert envs.observation_space["query_x"].shape == (4, 750, 3, 84, 84)


def test_a_broadcast_box_is_a_box() -> None:
    ours = broadcast_box(0, 255, (2, 3), np.uint8)
    assert ours == spaces.Box(0, 255, (2, 3), np.uint8)
    assert ours != broadcast_box(0, 255, (2, 4), np.uint8)
    assert ours.contains(ours.sample())
    assert not ours.contains(np.zeros((2, 4), np.uint8))
    assert copy.deepcopy(ours) == ours
    wide = broadcast_box(-1e6, 1e6, (2,), np.float32)
    assert wide.contains(np.array([1e6, -3.5], np.float32))
    assert not wide.contains(np.array([2e6, 0], np.float32))


@pytest.mark.parametrize("hidden", [False, True])
def test_labels_are_a_multidiscrete(hidden: bool) -> None:
    ours = labels(3, (2, 4), hidden=hidden)
    size, start = (4, -1) if hidden else (3, 0)
    assert ours == spaces.MultiDiscrete(np.full((2, 4), size), start=np.full((2, 4), start))
    assert ours.contains(np.full((2, 4), -1)) is hidden
    assert ours.contains(np.full((2, 4), 2))
    assert not ours.contains(np.full((2, 4), 3))
    drawn = np.stack([ours.sample() for _ in range(60)])
    assert (drawn.min(), drawn.max()) == (start, 2)
    assert copy.deepcopy(ours) == ours
