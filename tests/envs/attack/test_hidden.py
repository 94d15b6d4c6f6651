"""Nothing that an attacker is handed leads to the network or its weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from lazybench.envs.attack.env import AttackEnv, AttackVectorEnv
from lazybench.errors import ContractError
from lazybench.tasks import Queries

WEIGHTS = np.array([0.0, 50.0, 100.0])


@pytest.fixture(scope="module")
def walk(script: Callable[[str], ModuleType]) -> ModuleType:
    """The walk over attributes, items and closures that all environments are looked at with."""
    return script("tests/envs/test_hidden_answers.py")


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_no_network_is_in_reach(scripted: SimpleNamespace, walk: ModuleType, backend: Any) -> None:
    settings = {"target": f"{scripted.file}:net", "images": scripted.images, "backend": backend}
    env: Any = AttackVectorEnv(2, eps=1.0, **settings)
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    held = [env.reset(seed=0), env.task, env.spec]
    rows = torch.full((2, 1, 2, 2), 0.9)
    held.append(env.step(Queries(rows, torch.tensor([0, 1]))))
    assert walk.leaks(WEIGHTS, wrapped, env.box, *held) == []
    single = AttackEnv(**settings)
    held = [single.reset(seed=0), single.task]
    assert walk.leaks(WEIGHTS, single, single.box, *held) == []
    assert walk.leaks(WEIGHTS, torch.nn.Linear(1, 3)) != [], "the walk finds what is there"


def test_an_error_of_the_target_leads_nowhere(scripted: SimpleNamespace, walk: ModuleType) -> None:
    env = AttackVectorEnv(1, target=f"{scripted.file}:raising", images=scripted.images, eps=1.0)
    env.reset(seed=0)
    with pytest.raises(ContractError) as caught:
        env.step(Queries(torch.ones(1, 1, 2, 2), torch.tensor([0])))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_environments_cannot_be_pickled(scripted: SimpleNamespace) -> None:
    env = AttackVectorEnv(1, target=f"{scripted.file}:make", images=scripted.images)
    env.reset(seed=0)
    with pytest.raises(ContractError, match="can't be pickled or copied"):
        pickle.dumps(env)
