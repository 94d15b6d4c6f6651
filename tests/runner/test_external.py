"""`lazybench.evaluate` judges any callable."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

import lazybench
from lazybench.agent import Plan
from lazybench.errors import ContractError, OutputUnavailable, RecordConflict, UsageError
from lazybench.runner.evaluate import Evaluation, evaluate_block, evaluate_blocks, open_training
from lazybench.runner.request import resolve_env


def nearest(observation):
    x, q = (observation[name].flatten(1).float() for name in ("support_x", "query_x"))
    return observation["support_y"][torch.cdist(q, x).argmin(1)]


def test_a_callable_faces_the_same_trials_as_the_agent(tmp_path):
    mine = lazybench.evaluate(
        nearest, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path
    )
    theirs = lazybench.run(
        "nearest_pixel", "glyphs-5way-1shot", budget="smoke", out=tmp_path, runs=tmp_path / "runs"
    )
    assert mine.trials.scores_array().tolist() == theirs.trials.scores_array().tolist()
    assert mine.agent.trained_by == "external"
    assert len(lazybench.load_records(out=tmp_path)) == 2


def test_the_same_name_with_other_scores_is_refused(tmp_path):
    lazybench.evaluate(nearest, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path)
    with pytest.raises(RecordConflict):
        lazybench.evaluate(
            lambda observation: torch.zeros(75, dtype=torch.int64),
            "glyphs-5way-1shot",
            name="mine",
            budget="smoke",
            out=tmp_path,
        )


@pytest.mark.parametrize(
    ("policy", "options", "error", "words"),
    [
        (3, {}, ContractError, "a policy is called with an observation, got int"),
        (nearest, {"name": " "}, UsageError, "name must say who is evaluated"),
        (nearest, {"limit": 0}, UsageError, "limit must be at least 1"),
        (
            lambda o, m=None: nearest(o),
            {},
            ContractError,
            r"return \(action, memory\), got Tensor",
        ),
        (lambda o: nearest(o)[1:], {}, ContractError, r"shape \[75\] for a trial.*got \[74\]"),
        (lambda o: nearest(o) + 9, {}, ContractError, r"labels must lie in \[0, 5\)"),
        (lambda o: nearest(o).float(), {}, ContractError, "labels must be integers"),
    ],
)
def test_bad_policies_are_refused_with_what_is_wrong(policy, options, error, words):
    settings = {"name": "mine", "budget": "smoke", "limit": 8, **options}
    with pytest.raises(error, match=words):
        lazybench.evaluate(policy, "glyphs-5way-1shot", **settings)


def test_a_store_that_cannot_be_written_is_reported_before_evaluation(tmp_path):
    (tmp_path / "file").write_text("")

    def never(observation):
        raise AssertionError("judged although the result can't be kept")

    with pytest.raises(OutputUnavailable, match="can't write to"):
        lazybench.evaluate(
            never, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path / "file" / "s"
        )


def test_a_torch_module_of_one_argument_is_a_policy():
    class Zeros(torch.nn.Module):
        def forward(self, observation):
            return torch.zeros_like(observation["query_y"])

    record = lazybench.evaluate(Zeros(), "sinusoid-5shot", name="zeros", limit=2)
    assert record.metrics["mse"].n == 2


class Uneven(gymnasium.vector.VectorEnv):
    """Rows end after 1, 2 and 3 steps, and tell something of every row at every step."""

    num_envs = 3
    single_action_space = gymnasium.spaces.Discrete(100)

    def __init__(self, masked):
        self.masked, self.at = masked, 0

    def reset(self, *, seed=None, options=None):
        self.at = 0
        self.trials = np.asarray(options["trials"])
        return {"x": torch.zeros(3)}, {}

    def step(self, action):
        self.at += 1
        info = {"score": self.trials + self.at / 10, "extra": np.full(3, float(self.at))}
        done = self.at >= np.array([1, 2, 3])
        if self.masked == "always":
            # As an environment does whose finished rows begin another trial by themselves.
            info |= {f"_{name}": np.ones(3, np.bool_) for name in ("score", "extra")}
        elif self.masked == "early":
            # The last row reports nothing in its last step; what it returned before stays.
            info |= {f"_{name}": np.full(3, self.at < 3) for name in ("score", "extra")}
        return {"x": torch.zeros(3)}, np.zeros(3), done, np.zeros(3, np.bool_), info


def counting(observation, memory):
    step = (memory or 0) + 1
    return torch.full((3,), step), step


counting.vectorized = True


@pytest.mark.parametrize(("masked", "last"), [("no", 3), ("always", 3), ("early", 2)])
def test_a_finished_trial_keeps_its_score_and_answer(masked, last):
    block = evaluate_block(Uneven(masked), counting, "score", np.array([10, 20, 30]), ("extra",))
    assert block.scores.tolist() == [10.1, 20.2, 30 + last / 10]
    assert block.columns["extra"].tolist() == [1, 2, last]
    assert block.answers.tolist() == [1, 2, 3]


def test_trials_past_the_last_are_thrown_away():
    blocks = list(evaluate_blocks(Uneven("always"), counting, "score", 4, columns=("extra",)))
    assert [block.first for block in blocks] == [0, 3]
    assert [block.scores.tolist() for block in blocks] == [[0.1, 1.2, 2.3], [3.1]]
    assert [len(block.answers) for block in blocks] == [3, 1]
    assert [block.columns["extra"].tolist() for block in blocks] == [[1, 2, 3], [1]]


def test_the_headline_metric_is_what_the_environment_reports():
    scores = np.array([0.0, 1.0])
    assert Evaluation(0, scores, scores, 0.0, 0.0, {"accuracy": 0.9}).score("accuracy") == 0.9
    assert Evaluation(0, scores, scores, 0.0, 0.0).score("accuracy") == 0.5


@pytest.mark.parametrize("name", ["split", "backend", "device", "num_envs", "render_mode", "shot"])
def test_a_plan_sets_nothing_of_what_is_evaluated(name):
    spec = resolve_env("glyphs-5way-1shot")[0]
    with pytest.raises(ContractError, match=f"plan can't set '{name}'"):
        open_training(spec, Plan(updates=1, env={name: "test"}))


class TakesAny:
    """An environment of somebody else, whose settings go to another one."""

    def __init__(self, num_envs, **settings):
        self.settings = settings


def test_a_plan_sets_only_what_an_environment_takes():
    spec = resolve_env("glyphs-5way-1shot")[0]
    with pytest.raises(ContractError, match=r"no setting 'querys'.+mean: queries\?.+takes way, "):
        open_training(spec, Plan(updates=1, env={"querys": 5}))
    loose = replace(spec, vector_target=f"{__name__}:TakesAny")
    assert open_training(loose, Plan(updates=1, env={"querys": 5})).settings["querys"] == 5


def test_a_plan_may_train_on_more_ways_but_not_in_the_memorisation_trap():
    spec = resolve_env("glyphs-5way-1shot")[0]
    assert open_training(spec, Plan(updates=1, env={"way": 7})).task.way == 7
    trap = resolve_env("glyphs-5way-1shot-noniid")[0]
    with pytest.raises(ContractError, match="plan can't set 'way'"):
        open_training(trap, Plan(updates=1, env={"way": 7}))
