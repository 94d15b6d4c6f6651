"""Meta-weighting agents learn in seconds, and give weight to the examples that help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lazybench.agents.longtail import learner
from lazybench.agents.longtail.meta import MetaWeightAgent
from lazybench.agents.longtail.settings import MetaConfig
from lazybench.envs.longtail.env import LongTailEnv
from lazybench.seeding import Rng

DATA: dict[str, Any] = {"data": "glyphs", "imbalance": 20, "backend": "torch"}
SHARED: dict[str, Any] = {
    "backbone": "resnet8-8",
    "side": 16,
    "pad": 2,
    "flip": False,
    "batch": 50,
    "dev_batch": 60,
    "epochs": 1.5,
    "drops": ((0.9, 0.1),),
}
LAZY: dict[str, Any] = {"class_weights": "effective_number", "teacher": "lazy", "inner_steps": 3}

Batch = dict[str, Tensor]


class Run:
    """A training of the lazy agent, plain steps for nine tenths of it."""

    def __init__(self) -> None:
        self.agent = MetaWeightAgent(MetaConfig(**SHARED, **LAZY, weighted="late", late=0.9))
        env = LongTailEnv(**DATA)
        plan = self.agent.plan(env.task)
        self.stream = LongTailEnv(**DATA, **plan.env)
        self.stream.reset(seed=0)
        self.updates, self.state = plan.updates, self.agent.init(env, Rng(0))
        for step in range(plan.updates):
            rng = Rng(0).at("update", step)
            self.state, _ = self.agent.update(self.state, self.batch(step), rng)

    def batch(self, step: int) -> Batch:
        found, _ = self.stream.reset(options={"trials": np.array([step])})
        return {name: torch.as_tensor(part) for name, part in found.items()}


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def test_the_lazy_agent_learns_glyphs_in_seconds(run: Run) -> None:
    env, over, reward = LongTailEnv(**DATA, split="test"), False, 0.0
    policy = run.agent.policy(run.state)
    shown, _ = env.reset(seed=0)
    while not over:
        action, _ = policy(shown)
        shown, reward, over, _, _ = env.step({n: v.numpy() for n, v in action.items()})
    assert reward > 0.25, "chance is 1 in 60"


@pytest.mark.parametrize("settings", [{}, LAZY], ids=["greedy", "lazy"])
def test_examples_with_wrong_labels_get_less(run: Run, settings: dict[str, Any]) -> None:
    config = MetaConfig(**SHARED, **{**settings, "class_weights": "none"}, strength="scaled")
    agent, right, wrong = MetaWeightAgent(config), [], []
    for seed in range(4):
        draw, batch = torch.Generator().manual_seed(seed), run.batch(seed)
        turned = torch.rand(50, generator=draw) < 0.4
        y = torch.where(turned, torch.randint(60, (50,), generator=draw), batch["y"])
        now = learner.current(config, run.state)
        x = learner.prepared(config, now.net, batch["x"], Rng(seed))
        weights = agent.weigh(
            now, run.state, x, y, agent._halves(now, batch, Rng(9)), Rng(5)
        ).weights
        right.append(weights[~turned].mean())
        wrong.append(weights[turned].mean())
    assert float(sum(right)) > 1.1 * float(sum(wrong))
