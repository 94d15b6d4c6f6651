"""Pictures: the support set a row for each class, the query set below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lazybench.envs.fewshot.env import FewShotEnv, FewShotVectorEnv
from lazybench.envs.observations import contact_sheet
from lazybench.tasks import TaskShape


def test_tiles_are_where_they_belong() -> None:
    task = TaskShape(way=2, shot=2, query=3, instance=(1, 4, 5), dtype="uint8")
    support = np.arange(101, 105, dtype=np.uint8).repeat(20).reshape(4, 1, 4, 5)
    query = np.arange(11, 17, dtype=np.uint8).repeat(20).reshape(6, 1, 4, 5)
    sheet = contact_sheet(support, np.array([0, 0, 1, 1]), query, np.full(6, -1), task=task)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3

    def at(value: int) -> tuple[int, int]:
        rows, columns = np.nonzero((sheet == value).all(axis=2))
        assert len(rows) == 20
        return int(rows.min()), int(columns.min())

    first, second, third = at(101), at(102), at(103)
    assert first[0] == second[0] < third[0], "a row for each class"
    assert first[1] == third[1] < second[1], "a column for each shot"
    assert all(at(value)[0] > at(104)[0] for value in range(11, 17))
    assert at(11)[0] == at(13)[0] < at(14)[0]


def test_colours_stay() -> None:
    task = TaskShape(way=2, shot=1, query=1, instance=(3, 2, 2), dtype="uint8")
    support = np.zeros((2, 3, 2, 2), np.uint8)
    support[:, 0], support[:, 1] = 250, 120
    sheet = contact_sheet(support, np.arange(2), support, np.arange(2), task=task)
    assert (sheet == (250, 120, 0)).all(axis=2).sum() == 16


def test_render_needs_a_mode_and_a_trial(register_tiny: Callable[..., str]) -> None:
    data = register_tiny()
    env = FewShotEnv(data=data, render_mode="rgb_array")
    assert env.render() is None
    env.reset(seed=0)
    first = env.render()
    assert first is not None
    env.reset()
    second = env.render()
    assert second is not None
    assert first.shape == second.shape
    assert not np.array_equal(first, second)
    silent = FewShotEnv(data=data)
    silent.reset(seed=0)
    assert silent.render() is None


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_each_row_has_its_picture(register_tiny: Callable[..., str], backend: Any) -> None:
    envs = FewShotVectorEnv(2, data=register_tiny(), render_mode="rgb_array", backend=backend)
    envs.reset(seed=0)
    pictures = envs.render()
    assert pictures is not None
    assert len(pictures) == 2
    assert not np.array_equal(*pictures)


def test_points_of_a_function() -> None:
    env = FewShotEnv(data="sinusoid", way=1, shot=5, split="train", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.shape == (128, 128, 3)
    assert 1 <= (picture == (255, 220, 90)).all(axis=2).sum() <= 5
    assert (picture == (90, 110, 160)).any()


def test_hidden_points_of_a_function_are_not_drawn() -> None:
    env = FewShotEnv(data="sinusoid", way=1, shot=5, split="test", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    # Their inputs are known, their values aren't: none is off the middle line.
    rows = np.nonzero((picture == (90, 110, 160)).all(axis=2))[0]
    assert len(set(rows.tolist())) <= 1
