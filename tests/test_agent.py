"""The contract of agents: defaults, classes that don't inherit it, former names of hooks."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest

import lazybench
from lazybench.agent import (
    FORMER,
    HOOKS,
    Agent,
    Network,
    Plan,
    adapted,
    check_contract,
    contract,
    is_vectorized,
)
from lazybench.errors import ContractError
from lazybench.registry import AGENTS
from lazybench.seeding import Rng
from lazybench.user_code import load

ENV = "sinusoid-5shot"


class Least:
    """An agent by its methods alone."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def init(self, env: Any, rng: Any) -> Any:
        return {"shift": self.shift}

    def policy(self, state: Any) -> Any:
        return lambda observation, memory=None: (observation["query_y"] * 0 + state["shift"], None)


class Whole(Least):
    """An agent with every hook under its former name."""

    families = ("fewshot", "longtail")
    name = "whole"
    JUDGED = ("shift",)
    SHARDED = True

    @staticmethod
    def settle(given: Any, find: Any) -> Any:
        return {"shift": 2.0, **given}

    def plan(self, task: Any) -> Plan:
        return Plan(updates=3)

    def update(self, state: Any, batch: Any, rng: Any) -> Any:
        return state, {}

    def network(self, task: Any) -> Network:
        return Network("linear", 4)

    def warm(self, state: Any, weights: Any) -> Any:
        return {**state, **weights}

    def transfer(self, state: Any, task: Any) -> Any:
        return {**state, "task": task}

    def diagnostics(self, state: Any) -> Any:
        return {"shift": self.shift}


def test_every_hook_has_a_documented_default() -> None:
    assert all(hook in vars(Agent) for hook in HOOKS)
    assert set(FORMER.values()) <= set(HOOKS)
    agent = Agent()
    assert (agent.plan(None), agent.describe_network(None), agent.diagnostics({})) == (
        None,
        None,
        {},
    )
    assert agent.resolve_settings({"a": 1}, lambda key: None) == {"a": 1}
    assert agent.preset("any", None, "smoke") == {}  # type: ignore[arg-type]
    ways = (agent.learns, agent.has_own_loop, agent.can_load_weights, agent.can_transfer)
    assert not any(way() for way in ways)
    for hook in HOOKS:
        found = inspect.getattr_static(Agent, hook)
        function = found.__func__ if isinstance(found, staticmethod) else found
        assert function.__doc__ if callable(function) else f"{hook}:" in (Agent.__doc__ or ""), hook


def test_all_built_in_agents_inherit_the_contract() -> None:
    for spec in AGENTS.specs():
        factory = load(spec.target)
        if spec.origin == "lazybench":
            assert issubclass(factory, Agent), spec.id
            assert contract(factory) is factory
            assert factory.learns() or factory.has_own_loop() or not spec.trains, spec.id


def test_a_class_that_does_not_inherit_it_is_an_agent_with_the_defaults() -> None:
    agent = adapted(Least(1.5))
    check_contract(agent, "least")
    state = agent.init(None, Rng(0))
    assert state == {"shift": 1.5}
    assert agent.policy(state)({"query_y": 0.0}) == (1.5, None)
    assert (agent.families, agent.name, agent.plan(None)) == (("fewshot",), "", None)
    assert not agent.learns()
    # What the user is given is the class's own object.
    assert type(lazybench.make_agent(Least, ENV, shift=2.0)) is Least


def heir() -> Any:
    own = {**vars(Least), **vars(Whole)}
    return type("Heir", (Agent,), {k: own[k] for k in own if k not in ("__dict__", "__weakref__")})


@pytest.mark.parametrize("inherits", [False, True])
def test_former_names_of_hooks_are_taken_with_a_warning(inherits: bool) -> None:
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        kind = contract(heir() if inherits else Whole)
        agent = adapted(kind(3.0) if inherits else Whole(3.0))  # type: ignore[call-arg]
    reported = {str(each.message).partition(" of agent")[0]: each.category for each in noted}
    assert reported == dict.fromkeys(FORMER, DeprecationWarning)
    assert (kind.EVAL_ONLY, kind.SHARDED, kind.families) == (("shift",), True, Whole.families)
    assert kind.resolve_settings({}, lambda key: None) == {"shift": 2.0}
    assert all(way() for way in (kind.learns, kind.can_load_weights, kind.can_transfer))
    assert agent.describe_network(None) == Network("linear", 4)
    assert agent.load_weights({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert agent.transfer({}, 7) == {"task": 7}
    assert (agent.diagnostics({}), agent.plan(None)) == ({"shift": 3.0}, Plan(updates=3))


def test_methods_that_go_together_are_asked_of_every_agent() -> None:
    class Mute(Agent):
        def init(self, env: Any, rng: Any) -> Any:
            return {}

    class Half(Mute):
        def policy(self, state: Any) -> Any:
            return None

        def plan(self, task: Any) -> Plan:
            return Plan(1)

    class Loop(Agent):
        def fit(self, env: Any, budget: str, rng: Any) -> Any:
            return None

    check_contract(Loop(), "loop")
    with pytest.raises(ContractError, match="has no method 'policy'"):
        check_contract(Mute(), "mute")
    with pytest.raises(ContractError, match="only one of the methods plan"):
        check_contract(Half(), "half")


def test_a_function_says_that_it_takes_whole_blocks() -> None:
    def answer(observation: Any, memory: Any = None) -> Any:
        return observation, memory

    assert not is_vectorized(answer)
    answer.vectorized = True  # type: ignore[attr-defined]
    assert is_vectorized(answer)
