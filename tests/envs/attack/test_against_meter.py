"""The environment against the plain loop over rows that attackers are tested with."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lazybench.agents.attack.lockstep import Attack, LockstepAgent, Start
from lazybench.envs.attack.env import AttackVectorEnv
from lazybench.seeding import Rng
from lazybench.tasks import Queries
from lazybench.user_code import load


@pytest.fixture(scope="module")
def meter(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tests/agents/attack/meter.py")


class Scatter(LockstepAgent):
    """Asks ragged rows at random: near and far, past budgets, for finished images, not finite."""

    def attack(self, start: Start, state: dict[str, Any]) -> Attack:
        random = np.random.default_rng(state["seed"])
        for _ in range(12):
            owner = random.integers(0, len(start.x), size=random.integers(1, 9))
            shift = random.choice([0.0, 0.02, 0.1, 0.3, 3.0, np.nan], size=len(owner))
            noise = random.normal(0, 0.05, size=(len(owner), *start.x.shape[1:]))
            rows = start.x[owner] + torch.from_numpy(noise + shift[:, None, None, None]).float()
            yield Queries(rows, torch.from_numpy(owner))


@pytest.mark.parametrize("mode", ["first", "minimise"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_environment_and_the_meter_agree(
    scripted: SimpleNamespace, meter: ModuleType, mode: Any, norm: Any, targeted: bool
) -> None:
    env = AttackVectorEnv(
        4,
        target=f"{scripted.file}:make",
        images=scripted.images,
        norm=norm,
        eps=0.3,
        query_budget=9,
        mode=mode,
        targeted=targeted,
        backend="torch",
    )
    predict = load(f"{scripted.file}:make")()
    hits = 0
    for seed in range(3):
        agent = Scatter(None)
        observation, _ = env.reset(seed=3)
        clean, goal = observation["x"], observation["goal"]
        by_hand = meter.attack(
            agent,
            env.task,
            predict,
            clean,
            observation["label"],
            goal if targeted else None,
            seed=seed,
        )
        policy, memory = agent.policy(agent.init(env, Rng(seed))), None
        result: dict[str, np.ndarray] = {}
        done = np.zeros(4, np.bool_)
        while not done.all():
            action, memory = policy(observation, memory)
            observation, _, terminated, truncated, info = env.step(action)
            for name in ("success", "queries", "success_query"):
                if name in info:
                    fresh = info[f"_{name}"]
                    result.setdefault(name, np.zeros(4))[fresh] = info[name][fresh]
            done = terminated | truncated
        assert result["queries"].tolist() == by_hand.queries
        assert result["success_query"].tolist() == by_hand.success_query
        assert result["success"].tolist() == [float(at > 0) for at in by_hand.success_query]
        hits += int(result["success"].sum())
        nearest = np.where(env.box.ledger.nearest > 0.3, np.inf, env.box.ledger.nearest)
        np.testing.assert_allclose(nearest, by_hand.best(), atol=1e-6)
        assert env.box.ledger.left.tolist() == [9 - asked for asked in by_hand.queries]
    assert hits, "else nothing was compared"
