"""Does an agent or an environment keep its contract? Each finding says what to do about it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lazybench.errors import LazybenchError
from lazybench.harness import checkpoint
from lazybench.harness.environment import resolve_env, with_protocol
from lazybench.harness.judge import judge, open_env
from lazybench.harness.request import make
from lazybench.rng import Rng

_TRIALS = 8
_QUERIES = 60
"""Trials that a policy answers in a check, and queries that an attacker has for each."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, whether it holds, and what was seen or what to do."""

    name: str
    ok: bool
    detail: str


class _Broken(Exception):
    """A part of the contract that doesn't hold; the text is advice."""


def check_env(env: str) -> list[Finding]:
    """Return what holds of an environment: opening, spaces, determinism, hidden answers."""
    spec, _ = resolve_env(env)
    findings: list[Finding] = []
    opened: dict[str, Any] = {}

    def opens() -> str:
        for split in ("train", "val", "test"):
            opened[split] = open_env(spec, 2, split)
        return f"{spec.id} on {opened['test'].data['source']}"

    def same_trials() -> str:
        if spec.vector_target is None:
            return same_batches()
        first, _ = opened["test"].reset(options={"trials": np.array([3, 4])})
        second, _ = opened["test"].reset(options={"trials": np.array([4, 3])})
        for name in first:
            if not torch.equal(first[name], second[name].flip(0)):
                raise _Broken(f"{name} of a trial depends on its row; use its index alone")
        return "a trial is the same in every row and block"

    def same_batches() -> str:
        train = opened["train"]
        train.reset(seed=0)
        first, second, again = (
            train.reset(options={"trials": np.array([index])})[0] for index in (3, 4, 3)
        )
        for name in first:
            if not _equal(first[name], again[name]):
                raise _Broken(f"{name} of a batch depends on what came before; use its index alone")
        if all(_equal(first[name], second[name]) for name in first):
            raise _Broken("batches 3 and 4 are the same; draw each by its index")
        return "a batch is the same whatever came before"

    def hides() -> str:
        observation, _ = opened["test"].reset(seed=0)
        for name in ("query_y", "y"):
            answers = observation.get(name)
            if answers is not None and bool((torch.as_tensor(answers) > 0).any()):
                raise _Broken(f"{name} shows answers on test; hide them (-1, or 0 for real values)")
        return "test answers are hidden"

    def spaces_hold() -> str:
        for split in opened:
            plain = open_env(spec, 2, split, backend="numpy")
            observation, _ = plain.reset(seed=0)
            if not plain.observation_space.contains(observation):
                raise _Broken(f"an observation on {split} lies outside of observation_space")
        return "observations lie in their spaces on every split"

    for name, look in (
        ("opens", opens),
        ("trials by index", same_trials),
        ("spaces", spaces_hold),
        ("hidden answers", hides),
    ):
        findings.append(_look(name, look))
        if not findings[-1].ok and name == "opens":
            break
    return findings


def check_agent(agent: str, env: str) -> list[Finding]:
    """Return what holds of an agent: contract, determinism, state, global randomness."""
    spec, _ = resolve_env(env)
    if "query_budget" in spec.options:
        spec = with_protocol(spec, {"query_budget": _QUERIES})
    state: dict[str, Any] = {}

    def makes() -> str:
        state["made"] = make(agent, spec, "smoke", {})
        state["val"] = open_env(spec, spec.rows(_TRIALS), "val")
        return f"{state['made'].spec.id} with {len(state['made'].config)} settings"

    def starts() -> str:
        with _global_randomness():
            state["state"] = state["made"].agent.init(state["val"], Rng(0).at("init"))
        again = state["made"].agent.init(state["val"], Rng(0).at("init"))
        if checkpoint.digest(state["state"]) != checkpoint.digest(again):
            raise _Broken("init gives another state for the same rng; draw from rng alone")
        return "init is a function of rng, and its state can be saved"

    def learns() -> str:
        player = state["made"].agent
        plan = player.plan(state["val"].task) if hasattr(player, "plan") else None
        if plan is None or plan.updates == 0 or not hasattr(player, "update"):
            return "no training"
        train = open_env(spec, plan.meta_batch, "train", **plan.env)
        batch, _ = train.reset(seed=0)
        before = checkpoint.digest(state["state"]), copy.deepcopy(dict(batch))
        with _global_randomness():
            after, logs = player.update(state["state"], batch, Rng(0).at("update", 0))
        if checkpoint.digest(state["state"]) != before[0]:
            raise _Broken("update changes the state it was given; return a new one")
        if any(not _equal(batch[name], kept) for name, kept in before[1].items()):
            raise _Broken("update changes its batch; copy what you change")
        again, _ = player.update(state["state"], batch, Rng(0).at("update", 0))
        if checkpoint.digest(after) != checkpoint.digest(again):
            raise _Broken("update gives another state for the same rng; draw from rng alone")
        state["state"] = after
        shown = ", ".join(sorted(logs)) or "nothing"
        return f"update is a function of state, batch and rng; logs {shown}"

    def answers() -> str:
        made = state["made"].agent
        policy = state["policy"] if "policy" in state else made.policy(state["state"])
        env, metric = state["val"], spec.validation[0]
        if spec.val_metric is not None and not hasattr(made, "update"):
            # Validation is of what is learned, which this agent has nothing of.
            env, metric = open_env(spec, spec.rows(_TRIALS), "test"), spec.metric
        with _global_randomness():
            first = next(judge(env, policy, metric, _TRIALS))
        again = next(judge(env, policy, metric, _TRIALS))
        if not (
            np.array_equal(first.answers, again.answers)
            and np.array_equal(first.scores, again.scores)
        ):
            raise _Broken("the policy answers the same trials differently; seed it by the trial")
        shape, score = list(first.answers.shape), first.score(metric)
        return f"answers have shape {shape}; {metric} {score:.3f}"

    def fits() -> str:
        env = open_env(spec, 1, "train")
        with _global_randomness():
            state["policy"] = state["made"].agent.fit(env, "smoke", Rng(0).at("fit"))
        return "fit gives a policy; a loop of its own can't be continued"

    findings = [_look("makes", makes)]
    whole = findings[0].ok and hasattr(state["made"].agent, "fit")
    steps = [("fit", fits)] if whole else [("init", starts), ("update", learns)]
    for name, look in (*steps, ("policy", answers)):
        if findings[-1].ok:
            findings.append(_look(name, look))
    return findings


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def _look(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except (_Broken, LazybenchError) as error:
        return Finding(name, False, str(error))
    except Exception as error:
        return Finding(name, False, f"raised {type(error).__name__}: {error}")


@contextmanager
def _global_randomness() -> Iterator[None]:
    """Fail where the block draws from global random state."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    yield
    torch_now, python_now = torch.get_rng_state(), random.getstate()
    numpy_now = np.random.get_state()[1]  # type: ignore[index]
    if not torch.equal(before[0], torch_now):
        raise _Broken("draws from torch's global generator; pass generator=rng.torch()")
    if before[1] != python_now or not np.array_equal(before[2], numpy_now):
        raise _Broken("draws from global random state; use rng.numpy() or rng.torch()")
