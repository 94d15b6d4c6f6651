"""The track decides what an agent is given: no dev label on LT, and the test to nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lazybench
from lazybench.agent import EnvFacts, Plan
from lazybench.check.agent_checker import check_agent
from lazybench.errors import ContractError
from lazybench.runner.request import RunRequest
from lazybench.runner.resolve import resolve

ENV = "glyphs-lt-100"
TOLD: dict[str, Any] = {}


class Zero:
    """Answers 0."""

    def __call__(self, observation: Any, memory: Any = None) -> tuple[Any, Any]:
        return torch.zeros_like(observation["y"]), None


class Peeks:
    """Looks at all that it is given before and while it trains."""

    families = ("longtail",)

    def __init__(self, dev_batch: int = 0, asks: str = "", value: int | str = 0) -> None:
        self.env = {"batch": 300, "dev_batch": dev_batch, **({asks: value} if asks else {})}

    def plan(self, task: Any) -> Plan:
        return Plan(updates=1, env=self.env, select="last")

    def init(self, env: Any, rng: Any) -> Any:
        TOLD["init"] = env
        return {}

    def update(self, state: Any, batch: Any, rng: Any) -> Any:
        TOLD["batch"] = batch
        return state, {"loss": 0.0}

    def policy(self, state: Any) -> Any:
        return Zero()


class Fits:
    """Its own training loop over all episodes that it can have."""

    families = ("longtail",)

    def __init__(self, dev: bool = False) -> None:
        if dev:
            self.plan = lambda task: Plan(updates=0, env={"batch": 300, "dev_batch": 60})

    def fit(self, env: Any, budget: str, rng: Any) -> Any:
        seen, done, TOLD["reset"] = 0, False, env.reset(seed=0)[1]
        observation = env.reset(seed=0)[0]
        while not done:
            if observation["phase"] == 1:
                seen += int(observation["mask"].sum())
            answer = np.zeros(len(observation["y"]), np.int64)
            observation, _, terminated, truncated, info = env.step(answer)
            done = terminated or truncated
        TOLD.update(seen=seen, last=info, track=env.track)
        return Zero()


def ran(agent: Any, tmp_path: Path, **settings: Any) -> Any:
    TOLD.clear()
    return lazybench.run(
        agent, ENV, budget="smoke", out=tmp_path, runs=tmp_path / "runs", settings=settings
    )


def test_init_gets_facts_and_no_way_to_a_label(tmp_path: Path) -> None:
    assert ran(Peeks, tmp_path).track == "LT"
    facts = TOLD["init"]
    assert isinstance(facts, EnvFacts)
    assert facts.task.classes == 60
    for name in ("reset", "step", "unwrapped", "_labelled"):
        with pytest.raises(AttributeError, match=f"have no '{name}'; there are task, split"):
            getattr(facts, name)
    assert not {"dev_x", "dev_y"} & set(TOLD["batch"])
    assert ran(Peeks, tmp_path, dev_batch=60).track == "LT+dev"
    assert TOLD["batch"]["dev_y"].shape == (60,)


def test_fit_gets_training_and_validation_alone(tmp_path: Path) -> None:
    assert ran(Fits, tmp_path).track == TOLD["track"] == "LT"
    # 10 images of each class are the dev set, 30 the test.
    assert TOLD["seen"] == 600
    assert set(TOLD["last"]) == {"accuracy"}
    assert set(TOLD["reset"]) == {"class_counts", "steps"}
    assert ran(Fits, tmp_path, dev=True).track == TOLD["track"] == "LT+dev"
    assert TOLD["seen"] == 600
    assert {"dev_x", "dev_y"} < set(TOLD["reset"])
    assert TOLD["last"]["correct"].shape == (600,)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("split", "test", "can't set 'split'"),
        ("eval_split", "test", "can't set 'eval_split'"),
        ("imbalance", 1, "can't set 'imbalance'"),
        ("dev_per_class", 1, "changes which images"),
        ("subset", 5, "changes which images"),
        ("head", 150, "changes which images"),
    ],
)
def test_a_plan_cannot_choose_other_images(
    name: str, value: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=words):
        ran(Peeks, tmp_path, asks=name, value=value)


def test_a_few_shot_plan_cannot_train_on_the_test() -> None:
    request = RunRequest(agent=f"{__name__}:Tests", env="glyphs-5way-1shot", budget="smoke")
    with pytest.raises(ContractError, match=r"can't set 'split'.*glyphs-5way-1shot"):
        resolve(request)


class Tests(Peeks):
    """Asks for the test as its training."""

    __test__ = False
    families = ("fewshot",)

    def __init__(self) -> None:
        self.env = {"split": "test"}


def test_agents_are_checked_with_what_a_run_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    TOLD.clear()
    found = {each.name: each for each in check_agent(f"{__name__}:Peeks", ENV)}
    assert found["init"].ok
    assert isinstance(TOLD["init"], EnvFacts)
    check_agent(f"{__name__}:Fits", ENV)
    assert TOLD["seen"] == 600
