"""Agents on tasks of any size: those that can answer them do as on the task alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lazybench.envs.fewshot.env import FewShotVectorEnv
from lazybench.errors import ContractError, UsageError
from lazybench.runner.callbacks import SILENT
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import make, resolve_env
from lazybench.runner.signals import Signals
from lazybench.runner.train import Training, fit
from lazybench.tasks import PADDING

SPEC = resolve_env("glyphs-anyway")[0]
NET = {"backbone": "conv4-32"}
ANSWERING: dict[str, dict[str, Any]] = {
    "nearest_pixel": {},
    "finetune": {**NET, "test_steps": 3},
    "protonet": {**NET, "iterations": 8},
    "matching_net": {**NET, "iterations": 2},
    "relation_net": {**NET, "iterations": 2},
    "r2d2": {**NET, "iterations": 2},
    "baseline_finetune": {**NET, "iterations": 2, "test_steps": 3},
    "simple_shot": {},
    "logistic_regression": {},
    "tim": {"solver": "adm", "test_steps": 5},
    "pt_map": {},
}


def trained(agent: str, **settings: Any) -> Any:
    made = make(agent, SPEC, "smoke", settings)
    progress = fit(Training(made.instance, SPEC, "smoke", 0, "cpu", None), SILENT, Signals())
    return made.instance, progress.state


@pytest.mark.parametrize("agent", ANSWERING)
def test_answers_are_those_of_the_task_without_padding(agent: str) -> None:
    """Whatever the rows that fill a task up hold, real rows have the same answers."""
    kind, state = trained(agent, **ANSWERING[agent])
    block, _ = open_env(SPEC, 3, "val").reset(options={"trials": np.arange(3)})
    answers, _ = kind.policy(state)(block)
    assert answers.shape == block["query_y"].shape
    noisy = dict(block)
    for part in ("support", "query"):
        x = block[f"{part}_x"].clone()
        x[block[f"{part}_y"] == PADDING] = 77
        noisy[f"{part}_x"] = x
    again, _ = kind.policy(state)(noisy)
    for row in range(3):
        real = block["query_y"][row] != PADDING
        way = int(block["support_y"][row].max()) + 1
        assert int(real.sum()) == 5 * way
        assert torch.equal(answers[row][real], again[row][real])
        assert int(answers[row][real].max()) < way


@pytest.mark.parametrize("agent", ["maml", "anil", "reptile", "lazy_maml"])
def test_a_last_layer_of_fixed_size_is_refused(agent: str) -> None:
    made = make(agent, SPEC, "smoke", {})
    with pytest.raises(UsageError, match="have from 2 to 20 ways; choose one that compares"):
        made.instance.plan(open_env(SPEC, 1, "val").task)


def test_only_real_rows_are_scored() -> None:
    env = FewShotVectorEnv(4, **SPEC.kwargs, split="train")
    block, _ = env.reset(seed=0)
    right = np.array(block["query_y"])
    _, rewards, _, _, _ = env.step(np.where(right == PADDING, 3, right))
    assert rewards.tolist() == [1.0] * 4
    block, _ = env.reset()
    answers = np.array(block["query_y"])
    for row in answers:
        row[:2] = (row[:2] + 1) % (row.max() + 1)
    _, rewards, _, _, _ = env.step(answers)
    expected = [1 - 2 / (row != PADDING).sum() for row in np.array(block["query_y"])]
    assert rewards.tolist() == pytest.approx(expected)
    block, _ = env.reset()
    with pytest.raises(ContractError, match="labels must"):
        env.step(np.where(np.array(block["query_y"]) == PADDING, 0, 20))


def test_protonet_learns_uneven_tasks() -> None:
    """It beats raw pixels by more than 3 standard errors on validation tasks."""
    scores = {}
    for agent, settings in (("nearest_pixel", {}), ("protonet", {**NET, "iterations": 40})):
        kind, state = trained(agent, **settings)
        env = open_env(SPEC, 30, "val")
        block, _ = env.reset(options={"trials": np.arange(30)})
        _, scores[agent], _, _, _ = env.step(kind.policy(state)(block)[0])
    difference = scores["protonet"] - scores["nearest_pixel"]
    assert difference.mean() > 3 * difference.std(ddof=1) / np.sqrt(30)


def test_finetune_with_carried_moments_answers_tasks_of_any_size() -> None:
    """Adam's moments of the last layer are cut to the task's ways, like its weights."""
    settings = {**NET, "test_steps": 2, "inner_rule": "adam", "inner_state": "carry"}
    kind, state = trained("finetune", **settings)
    block, _ = open_env(SPEC, 2, "val").reset(options={"trials": np.arange(2)})
    answers, _ = kind.policy(state)(block)
    assert answers.shape == block["query_y"].shape


def test_finetune_chooses_gamma_on_tasks_of_any_size() -> None:
    kind, state = trained("finetune", **NET, test_steps=2, test_leap=True)
    block, _ = open_env(SPEC, 2, "val").reset(options={"trials": np.arange(2)})
    answers, _ = kind.policy(state)(block)
    assert answers.shape == block["query_y"].shape
