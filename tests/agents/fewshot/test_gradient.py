"""Updates of the gradient agents: pure, deterministic, counted; settings checked."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lazybench.agents.fewshot.presets import ALGORITHMS
from lazybench.agents.fewshot.settings import GradientConfig
from lazybench.errors import UsageError
from lazybench.nets import MLP
from lazybench.runtime import threads as parallel
from lazybench.seeding import Rng

LEARNERS = tuple(name for name in ALGORITHMS if name != "finetune")
LAZY = tuple(name for name in LEARNERS if name.startswith("lazy_"))


def same(left: Any, right: Any) -> None:
    """Trees of equal shape whose tensors are equal to the bit and whose other leaves are equal."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        left, right = list(left.values()), list(right.values())
    if isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, two in zip(left, right, strict=True):
            same(one, two)
    elif isinstance(left, Tensor):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)
    else:
        assert left == right


@pytest.mark.parametrize("algorithm", LEARNERS)
@pytest.mark.parametrize("kind", ["sine", "blobs"])
def test_one_update_is_pure_and_deterministic(
    algorithm: str, kind: str, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    task = getattr(tasks, kind)
    fair = {"fairness": "theil"} if (algorithm, kind) == ("taml", "sine") else {}
    agent = make_agent(algorithm, task, inner_batch=2, backbone="mlp", **fair)
    batch, state = draw(task, 2), start(agent, task)
    held_batch, held_state = copy.deepcopy(batch), copy.deepcopy(state)
    globals_before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    first, logs = agent.update(state, batch, Rng(0).at("update", 0))
    assert torch.equal(torch.get_rng_state(), globals_before[0])
    assert (repr(np.random.get_state()), random.getstate()) == globals_before[1:]
    same(batch, held_batch)
    same(state, held_state)

    again, logs_again = agent.update(state, batch, Rng(0).at("update", 0))
    same(again, first)
    assert logs == logs_again
    other, _ = agent.update(state, batch, Rng(0).at("update", 1))
    assert any(not torch.equal(other["theta"][n], v) for n, v in first["theta"].items())

    assert first["step"] == 1
    assert list(first["theta"]) == list(state["theta"])
    for name, value in first["theta"].items():
        assert torch.isfinite(value).all()
        assert not value.requires_grad
        assert value.stride() == state["theta"][name].stride()
    assert any(not torch.equal(first["theta"][n], v) for n, v in state["theta"].items())
    assert logs["inner_steps"] == 6
    config = agent.config
    support, query = batch["support_x"].shape[1], batch["query_x"].shape[1]
    images = 3 * 2 + (query if config.meta_gradient != "reptile" else 0)
    if algorithm in ("anil", "lazy_anil", "mr_maml"):
        images = support + query
    images += (support if fair else query) if algorithm == "taml" else 0
    assert logs["image_gradients"] == 2 * images


@pytest.mark.parametrize("algorithm", ["maml", "lazy_reptile"])
def test_conv4_updates_have_the_same_bits_on_any_number_of_threads(
    algorithm: str, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(algorithm, tasks.blobs, backbone="conv4-32", inner_batch=4)
    state, batch = start(agent, tasks.blobs), draw(tasks.blobs, 3)
    chosen, found = list(parallel._chosen), []
    try:
        for threads in (1, 2):
            parallel.set_threads(threads)
            found.append(agent.update(state, batch, Rng(3))[0])
    finally:
        parallel._chosen[:] = chosen
    same(found[1], found[0])


def test_the_histogram_counts_tasks(tasks: Any, draw: Any, make_agent: Any, start: Any) -> None:
    agent = make_agent("lazy_reptile", tasks.blobs, backbone="mlp")
    state = start(agent, tasks.blobs)
    assert agent.diagnostics(state) == {}
    for step in range(3):
        state, _ = agent.update(state, draw(tasks.blobs, 2, seed=step), Rng(step))
        assert int(state["gamma"].sum()) == 2 * (step + 1)
    state["gamma"] = torch.tensor([1, 0, 2, 0, 5])
    assert agent.diagnostics(state) == {
        "gamma_histogram": {"0.75": 1, "0.8": 0, "0.85": 2, "0.9": 0, "0.95": 5},
        "gamma_edge_share": 0.75,
        "mean_leap": pytest.approx(1 - (0.75 + 1.7 + 4.75) / 8),
    }
    greedy = make_agent("reptile", tasks.blobs, backbone="mlp")
    after, _ = greedy.update(start(greedy, tasks.blobs), draw(tasks.blobs, 2), Rng(0))
    assert greedy.diagnostics(after) == {}


def test_a_state_read_back_with_lists_goes_on(
    tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent("lazy_reptile", tasks.sine)
    state, batch = start(agent, tasks.sine), draw(tasks.sine, 2)
    fields = {n: list(v) if isinstance(v, tuple) else v for n, v in state["task"].items()}
    expected, _ = agent.update(state, batch, Rng(0))
    got, _ = agent.update({**state, "task": fields}, batch, Rng(0))
    same(got["theta"], expected["theta"])


def test_the_plan_asks_for_what_the_settings_say(tasks: Any, make_agent: Any) -> None:
    agent = make_agent("lazy_reptile", tasks.blobs, train_shots=7, iterations=9, validate_every=4)
    plan = agent.plan(tasks.blobs)
    assert (plan.updates, plan.meta_batch, plan.validate_every) == (9, 2, 4)
    assert plan.env == {"shots": 7, "queries": 1}
    assert make_agent("maml", tasks.blobs).plan(tasks.blobs).env["shots"] == tasks.blobs.shot


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gammas": ()}, "each gamma must lie in"),
        ({"gammas": (0.5, 1.5)}, "each gamma must lie in"),
        ({"inner": "unrolled", "inner_rule": "adam"}, "inner=unrolled needs inner_rule=sgd"),
        ({"hull": 5, "inner_steps": 3}, "hull must be at most inner_steps \\+ 1 = 4, got 5"),
        ({"inner_lr": 0.0}, "inner_lr"),
        ({"meta_gradient": "maml"}, "maml needs inner=unrolled or teacher=lazy"),
        ({"meta_gradient": "none", "image_gradients": 5}, "none learns nothing"),
        ({"rates": "elementwise"}, "learned rates need"),
        (
            {"rates": "elementwise", "teacher": "lazy", "inner": "unrolled"}
            | {"meta_gradient": "maml"},
            "learned rates with teacher=lazy need inner=student",
        ),
        ({"rate_range": (0.1, 0.2)}, "rate_range needs rates=elementwise"),
        ({"meta_gradient": "implicit"}, "implicit needs inner=student"),
        ({"fairness": "theil"}, "fairness needs"),
        ({"regulariser": "kl", "meta_gradient": "fomaml"}, "kl needs adapts=head"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientConfig(**settings)


@pytest.mark.parametrize("algorithm", LAZY)
def test_three_checkpoints_in_the_hull(
    algorithm: str, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(algorithm, tasks.blobs, backbone="mlp", hull=3, inner_lr=0.05)
    state, batch = start(agent, tasks.blobs), draw(tasks.blobs, 2)
    after, _ = agent.update(state, batch, Rng(0))
    assert int(after["gamma"].sum()) == 2
    assert any(not torch.equal(after["theta"][n], v) for n, v in state["theta"].items())
    # A hull of one point, phi_k, is the teacher with one checkpoint.
    last = make_agent(algorithm, tasks.blobs, backbone="mlp", hull=3, hull_step=1.0, inner_lr=1e-9)
    alone = make_agent(algorithm, tasks.blobs, backbone="mlp", inner_lr=1e-9)
    states = [start(agent, tasks.blobs) for agent in (last, alone)]
    three, one = (
        agent.update(begun, batch, Rng(0))[0]
        for agent, begun in zip((last, alone), states, strict=True)
    )
    torch.testing.assert_close(three["theta"], one["theta"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("algorithm", ["maml", "meta_sgd", "mr_maml", "lazy_reptile"])
def test_hooks_of_the_contract(
    algorithm: str, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(algorithm, tasks.blobs, backbone="mlp")
    state = start(agent, tasks.blobs)
    assert agent.EVAL_ONLY == ("batch_norm", "test_steps", "test_batch", "test_prox", "test_leap")
    trained = agent.describe_network(tasks.blobs)
    assert trained.name == "mlp-40-40"
    assert trained.parameters == 256 * 40 + 40 + 40 * 40 + 40 + 40 * 3 + 3

    other = start(agent, tasks.blobs, seed=1)
    loaded = agent.load_weights(state, other["theta"])
    same(loaded["theta"], other["theta"])
    same({**loaded, "theta": None}, {**state, "theta": None})

    longer = replace(tasks.blobs, shot=4, query=1)
    moved = agent.transfer(state, longer)
    answers, _ = agent.policy(moved)(draw(longer, 2))
    assert answers.shape == (2, 3)
    with pytest.raises(UsageError, match="way 3"):
        agent.transfer(state, replace(tasks.blobs, way=4))


def test_entropy_needs_classes(tasks: Any, make_agent: Any) -> None:
    with pytest.raises(UsageError, match="fairness=entropy needs tasks with classes"):
        make_agent("taml", tasks.blobs, fairness="entropy").plan(tasks.sine)


def test_no_body_is_passed_twice_where_the_head_adapts(
    tasks: Any, draw: Any, make_agent: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    body = MLP.features

    def counted(self: MLP, params: Any, x: Tensor, stats: Any = None) -> Tensor:
        seen.append(len(x))
        return body(self, params, x, stats)

    monkeypatch.setattr(MLP, "features", counted)
    for algorithm in ("anil", "lazy_anil", "mr_maml"):
        seen.clear()
        agent = make_agent(algorithm, tasks.blobs, backbone="mlp", inner_batch=2)
        agent.update(start(agent, tasks.blobs), draw(tasks.blobs, 1), Rng(0))
        assert seen == [6, 6], algorithm
