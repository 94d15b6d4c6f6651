"""Policies at meta-test: plain fine-tuning, batch statistics by protocol, rows that don't mix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.fewshot.episode import Episode
from lazybench.agents.fewshot.gradient import _last_held_out
from lazybench.learning import LossFn, adam, batches, sgd, student
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.seeding import Rng


@pytest.mark.parametrize("kind", ["sine", "blobs", "maps"])
@pytest.mark.parametrize("batch_norm", ["transductive", "inductive", "inductive_joined"])
def test_rows_of_a_block_are_answered_as_if_alone(
    kind: str, batch_norm: str, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    task = getattr(tasks, kind)
    agent = make_agent("reptile", task, batch_norm=batch_norm, test_batch=3, backbone="auto")
    state, block = start(agent, task), draw(task, 3)
    held = {name: value.clone() for name, value in state["theta"].items()}
    policy = agent.policy(state)
    assert policy.vectorized
    together, memory = policy(block)
    assert memory is None
    for row in range(3):
        alone, _ = policy({name: part[row : row + 1] for name, part in block.items()})
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=0)
    assert together.shape == block["query_y"].shape
    assert together.dtype == block["query_y"].dtype
    torch.testing.assert_close(state["theta"], held, rtol=0, atol=0)


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml"])
@pytest.mark.parametrize("test_batch", [0, 3])
def test_fine_tuning_by_hand(
    algorithm: str, test_batch: int, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(algorithm, tasks.sine, test_steps=6, test_batch=test_batch, inner_lr=0.02)
    state, block = start(agent, tasks.sine), draw(tasks.sine, 2)
    state, _ = agent.update(state, draw(tasks.sine, 2, seed=9), Rng(0))
    got, _ = agent.policy(state)(block)
    net = backbone("mlp", tasks.sine)
    for row in range(2):
        x, y = block["support_x"][row], block["support_y"][row]
        picks = batches(5, test_batch, 6, Rng(0, ("test",)).torch())

        def on(x: Tensor, y: Tensor) -> LossFn:
            return lambda params: F.mse_loss(net(params, x), y)

        trail = student(
            state["theta"],
            [on(x[pick], y[pick]) for pick in picks],
            rule=adam(0.02) if algorithm == "reptile" else sgd(0.02),
            state=state["inner"] or None,
        )
        expected = net(trail.end, block["query_x"][row])
        torch.testing.assert_close(got[row], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("test_batch", [0, 3])
def test_no_steps_answer_with_theta(
    test_batch: int, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent("reptile", tasks.sine, test_steps=0, test_batch=test_batch)
    state, block = start(agent, tasks.sine), draw(tasks.sine, 1)
    got, _ = agent.policy(state)(block)
    expected = backbone("mlp", tasks.sine)(state["theta"], block["query_x"][0])
    torch.testing.assert_close(got[0], expected, rtol=0, atol=0)


def test_batch_statistics_by_hand(tasks: Any, draw: Any, make_agent: Any, start: Any) -> None:
    block = draw(tasks.maps, 1)
    net = backbone("conv4-32", tasks.maps)
    x, query = net.prepare(block["support_x"][0]), net.prepare(block["query_x"][0])
    answers: dict[str, Any] = {}
    for mode in ("transductive", "inductive", "inductive_joined"):
        agent = make_agent(
            "reptile", tasks.maps, backbone="conv4-32", batch_norm=mode, test_steps=0
        )
        state = start(agent, tasks.maps)
        answers[mode] = agent.policy(state)(block)[0][0]
    theta = state["theta"]
    torch.testing.assert_close(answers["transductive"], net(theta, query), rtol=0, atol=1e-5)
    joined = [net(theta, torch.cat([x, row[None]]))[-1] for row in query]
    torch.testing.assert_close(answers["inductive_joined"], torch.stack(joined), rtol=0, atol=1e-5)
    # The support's statistics alone: each query row's answer is the one that it gets by itself.
    alone = [net(theta, row[None], net.statistics(theta, x)) for row in query]
    torch.testing.assert_close(answers["inductive"], torch.cat(alone), rtol=0, atol=1e-5)
    modes = list(answers.values())
    for left, right in zip(modes, modes[1:] + modes[:1], strict=True):
        assert float((left - right).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("mode", "shared"), [("transductive", True), ("inductive", False), ("inductive_joined", False)]
)
def test_only_transductive_answers_depend_on_the_other_queries(
    mode: str, shared: bool, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent("reptile", tasks.maps, backbone="conv4-32", batch_norm=mode)
    policy, block = agent.policy(start(agent, tasks.maps)), draw(tasks.maps, 1)
    changed = {**block, "query_x": block["query_x"].clone()}
    changed["query_x"][:, 1:] = 255 - changed["query_x"][:, 1:]
    gap = (policy(block)[0][0, 0] - policy(changed)[0][0, 0]).abs().max()
    assert bool(gap > 1e-5) == shared


@pytest.mark.parametrize("adapt_norm", [True, False])
def test_norms_are_adapted_as_in_training(
    adapt_norm: bool, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(
        "fomaml", tasks.maps, backbone="conv4-32", adapt_norm=adapt_norm, inner_lr=0.1
    )
    state, block = start(agent, tasks.maps), draw(tasks.maps, 1)
    got, _ = agent.policy(state)(block)
    net = backbone("conv4-32", tasks.maps)
    x, y = net.prepare(block["support_x"][0]), block["support_y"][0]
    held = {} if adapt_norm else {n: v for n, v in state["theta"].items() if n.startswith("norm")}
    phi = student(
        state["theta"], [lambda p: F.mse_loss(net(p | held, x), y)] * 3, rule=sgd(0.1)
    ).end
    expected = net(phi, net.prepare(block["query_x"][0]))
    torch.testing.assert_close(got[0], expected, rtol=0, atol=1e-5)
    assert torch.equal(phi["norm1.weight"], state["theta"]["norm1.weight"]) != adapt_norm


@pytest.mark.parametrize("leap_on", ["theta", "phi"])
def test_the_leap_at_test_holds_out_the_last_shot(
    leap_on: str, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(
        "lazy_reptile",
        tasks.sine,
        test_leap=True,
        gammas=(0.1, 0.3, 0.8),
        inner_lr=0.05,
        inner_state="reset",
        leap_on=leap_on,
        test_batch=0,
    )
    state, block = start(agent, tasks.sine), draw(tasks.sine, 4)
    got, _ = agent.policy(state)(block)
    net, theta = backbone("mlp", tasks.sine), state["theta"]
    for row in range(4):
        x, y = block["support_x"][row], block["support_y"][row]

        def train(params: Params, x: Any = x[:4], y: Any = y[:4]) -> Any:
            return F.mse_loss(net(params, x), y)

        phi = student(theta, [train] * 3, rule=adam(0.05)).end
        leaps = []
        for gamma in (0.1, 0.3, 0.8):
            weight = gamma if leap_on == "theta" else 1 - gamma
            leap = {n: weight * v + (1 - weight) * phi[n] for n, v in theta.items()}
            leaps.append((float(F.mse_loss(net(leap, x[4:]), y[4:])), leap))
        best = min(leaps, key=lambda pair: pair[0])[1]
        expected = net(best, block["query_x"][row])
        torch.testing.assert_close(got[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "held"),
    [
        ([0, 0, 0, 1, 1, 1], [2, 5]),
        ([0, 1, 1, 2, 2, 2], [2, 5]),
        ([1, 0, 1, 0], [2, 3]),
        ([0, 0], [1]),
    ],
)
def test_the_last_row_of_each_class_with_two_is_held_out(
    labels: list[int], held: list[int]
) -> None:
    kept, chosen = _last_held_out(labels)
    assert chosen.tolist() == held
    assert sorted([*kept.tolist(), *held]) == [*range(len(labels))]
    assert {labels[row] for row in kept.tolist()} == set(labels), "no class is left out"


def test_where_no_class_has_two_rows_all_are_adapted_on_and_choose() -> None:
    assert [part.tolist() for part in _last_held_out([2, 0, 1])] == [[0, 1, 2]] * 2


def test_losses_of_many_steps_hold_no_copies_of_the_rows(tasks: Any) -> None:
    """Memory doesn't grow with the number of steps: rows are taken when a loss is computed."""
    taken = []

    class Rows(list[float]):
        def __getitem__(self, at: Any) -> Any:
            taken.append(at)
            return torch.zeros(len(at), 1)

    theta = backbone("mlp", tasks.sine).init(torch.Generator())
    episode = Episode(backbone("mlp", tasks.sine), tasks.sine, theta)
    rows: Any = Rows([0.0] * 5)
    losses = episode.steps(rows, rows, [torch.arange(2)] * 1_000)
    assert not taken
    losses[0](episode.moving)
    assert len(taken) == 2
