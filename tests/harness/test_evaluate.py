"""`lazybench.evaluate` judges any callable; `check` says what is wrong with an agent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lazybench
from lazybench.errors import ContractError, OutputUnavailable, RecordConflict, UsageError
from lazybench.harness.check import check_agent, check_env

PLAYERS = Path(__file__).with_name("players.py")


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
        (nearest, {"name": " "}, UsageError, "name must say who is judged"),
        (nearest, {"limit": 0}, UsageError, "limit must be at least 1"),
        (
            lambda o, m=None: nearest(o),
            {},
            ContractError,
            r"returns \(action, memory\), got Tensor",
        ),
        (lambda o: nearest(o)[1:], {}, ContractError, r"shape \[8, 75\].*got \[8, 74\]"),
        (lambda o: nearest(o) + 9, {}, ContractError, r"labels must lie in \[0, 5\)"),
        (lambda o: nearest(o).float(), {}, ContractError, "labels must be integers"),
    ],
)
def test_bad_policies_are_told_what_is_wrong(policy, options, error, words):
    settings = {"name": "mine", "budget": "smoke", "limit": 8, **options}
    with pytest.raises(error, match=words):
        lazybench.evaluate(policy, "glyphs-5way-1shot", **settings)


def test_a_store_that_cannot_be_written_is_told_before_judging(tmp_path):
    (tmp_path / "file").write_text("")

    def never(observation):
        raise AssertionError("judged although the result can't be kept")

    with pytest.raises(OutputUnavailable, match="can't write to"):
        lazybench.evaluate(
            never, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path / "file" / "s"
        )


@pytest.mark.parametrize("agent", ["chance", "nearest_pixel", "reptile", "lazy_maml"])
def test_builtin_agents_keep_the_contract(agent):
    findings = check_agent(agent, "sinusoid-5shot")
    assert [(f.name, f.detail) for f in findings if not f.ok] == []
    assert [f.name for f in findings] == ["makes", "init", "update", "policy"]


def test_an_agent_with_a_loop_of_its_own_is_checked_as_such():
    findings = check_agent(f"{PLAYERS}:Whole", "sinusoid-5shot")
    assert [(f.name, f.ok) for f in findings] == [("makes", True), ("fit", True), ("policy", True)]


def test_builtin_environments_keep_the_contract():
    for env in ("sinusoid-5shot", "glyphs-5way-1shot"):
        assert [(f.name, f.detail) for f in check_env(env) if not f.ok] == []


class Careless:
    """Breaks one clause of the contract."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def init(self, env, rng):
        return {"w": torch.zeros(1)}

    def plan(self, task):
        return lazybench.Plan(updates=1)

    def update(self, state, batch, rng):
        if self.fault == "global":
            torch.rand(1)
        if self.fault == "state":
            state["w"] += 1
        if self.fault == "batch":
            batch["support_x"] += 1
        if self.fault == "random":
            return {"w": torch.tensor(float(next(_COUNTER)))}, {}
        return {"w": state["w"] + 1}, {}

    def policy(self, state):
        return lambda o, m=None: (torch.zeros_like(o["query_y"]), m)


_COUNTER = iter(range(100))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("global", "draws from torch's global generator"),
        ("state", "update changes the state it was given"),
        ("batch", "update changes its batch"),
        ("random", "update gives another state for the same rng"),
        ("", None),
    ],
)
def test_check_names_the_clause_that_is_broken(fault, words, tmp_path):
    lazybench.register_agent(
        lazybench.AgentSpec("careless", ("fewshot",), f"{__name__}:Careless", {"fault": fault})
    )
    try:
        findings = check_agent("careless", "sinusoid-5shot")
    finally:
        from lazybench.registry import AGENTS

        AGENTS.forget("careless")
    broken = [finding.detail for finding in findings if not finding.ok]
    assert (words is None) == (not broken), broken
    if words is not None:
        assert words in broken[0]


def test_a_torch_module_of_one_argument_is_a_policy():
    class Zeros(torch.nn.Module):
        def forward(self, observation):
            return torch.zeros_like(observation["query_y"])

    record = lazybench.evaluate(Zeros(), "sinusoid-5shot", name="zeros", limit=2)
    assert record.metrics["mse"].n == 2
