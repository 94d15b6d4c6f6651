"""Prox, implicit gradients, fairness and noisy weights, against their papers' formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.learning import entropy, inequality, sample, sgd, student
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.seeding import Rng

PLAIN = {"outer_rule": "sgd", "outer_lr": 1.0, "anneal": "none"}


@pytest.mark.parametrize("net_name", ["mlp-4", "linear"])
def test_imaml_against_the_exact_inverse(
    net_name: str, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    exact = {"prox": 19.5, "damping": 0.5, "cg_steps": 40}
    agent = make_agent("imaml", tasks.sine, backbone=net_name, inner_lr=0.01, **exact, **PLAIN)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 2))
    got, _ = agent.update(state, batch, Rng(0))
    net, theta = backbone(net_name, tasks.sine), state["theta"]
    expected = {name: torch.zeros_like(value) for name, value in theta.items()}
    for x, y, query_x, query_y in zip(*batch.values(), strict=True):

        def flat(values: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            sizes = [value.numel() for value in theta.values()]
            parts = zip(theta, values.split(sizes), strict=True)
            return F.mse_loss(net({n: p.view_as(theta[n]) for n, p in parts}, x), y)

        def prox(params: Params, x: Tensor = x, y: Tensor = y) -> Tensor:
            away = sum((v - theta[n]).square().sum() for n, v in params.items())
            return F.mse_loss(net(params, x), y) + 9.75 * away

        end = student(theta, [prox] * 3, rule=sgd(0.01)).end
        point = torch.cat([value.flatten() for value in end.values()])
        hessian = torch.autograd.functional.hessian(flat, point)
        slope = torch.autograd.functional.jacobian(partial(flat, x=query_x, y=query_y), point)
        system = torch.eye(len(point), dtype=point.dtype) + hessian / 20
        solved = torch.linalg.solve(system, slope).split([v.numel() for v in theta.values()])
        for name, part in zip(theta, solved, strict=True):
            expected[name] += part.view_as(theta[name]) / 2
    graph.close(graph.moved_by(state, got), expected)


def test_prox_reaches_its_closed_form_on_a_quadratic(
    graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    """Least squares with lambda / 2 |phi - theta|^2 has one minimum, which many steps reach."""
    agent = make_agent(
        "minibatch_prox",
        tasks.sine,
        backbone="linear",
        inner_rule="sgd",
        inner_lr=0.05,
        inner_steps=600,
        inner_batch=0,
        prox=0.7,
        outer_lr=0.25,
        anneal="none",
    )
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 2))
    got, _ = agent.update(state, batch, Rng(0))
    theta = torch.cat([state["theta"][f"head.{part}"].flatten() for part in ("weight", "bias")])
    ends = []
    for x, y in zip(batch["support_x"], batch["support_y"], strict=True):
        rows = torch.cat([x, torch.ones_like(x)], 1)
        left = 2 / len(x) * rows.T @ rows + 0.7 * torch.eye(2, dtype=x.dtype)
        ends.append(torch.linalg.solve(left, 2 / len(x) * (rows.T @ y)[:, 0] + 0.7 * theta))
    expected = theta + 0.25 * (torch.stack(ends).mean(0) - theta)
    after = torch.cat([got["theta"][f"head.{part}"].flatten() for part in ("weight", "bias")])
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-10)


def test_prox_in_second_order(
    graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent("maml", tasks.sine, inner_lr=0.03, prox=2.0, **PLAIN)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 2))
    got, _ = agent.update(state, batch, Rng(0))
    anchor, loss = graph.on_leaves(state["theta"]), graph.sine_loss

    def step(phi: Params, grads: Params) -> Params:
        return {n: phi[n] - 0.03 * (g + 2.0 * (phi[n] - anchor[n])) for n, g in grads.items()}

    def task_loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        return loss(graph.explicit(anchor, 3, lambda p: loss(p, x, y), step), query_x, query_y)

    graph.close(graph.moved_by(state, got), graph.mean_gradient(batch, anchor, task_loss))


@pytest.mark.parametrize("fairness", ["entropy", "theil", "gini", "variance_of_logs"])
@pytest.mark.parametrize("first_order", [False, True])
def test_taml_by_the_loss_of_a_whole_meta_batch(
    fairness: str, first_order: bool, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    first = {"inner": "student", "meta_gradient": "fomaml"} if first_order else {}
    settings = {"fairness": fairness, "fairness_weight": 0.3, "inner_lr": 0.1, **PLAIN, **first}
    agent = make_agent("taml", tasks.blobs, backbone="mlp", **settings)
    state, batch = start(agent, tasks.blobs, double=True), graph.doubled(draw(tasks.blobs, 3))
    got, _ = agent.update(state, batch, Rng(0))
    net, anchor = backbone("mlp", tasks.blobs), graph.on_leaves(state["theta"])
    rows = [
        (net.prepare(x), y, net.prepare(query_x), query_y)
        for x, y, query_x, query_y in zip(*batch.values(), strict=True)
    ]

    def step(phi: Params, grads: Params) -> Params:
        return {n: phi[n] - 0.1 * (g.detach() if first_order else g) for n, g in grads.items()}

    total, before = [], []
    for x, y, query_x, query_y in rows:

        def train(params: Params, x: Tensor = x, y: Tensor = y) -> Tensor:
            return F.cross_entropy(net(params, x), y)

        after = net(graph.explicit(anchor, 3, train, step), query_x)
        loss = F.cross_entropy(after, query_y)
        if fairness == "entropy":
            loss = loss + 0.3 * (entropy(after) - entropy(net(anchor, query_x)))
        total.append(loss)
        before.append(train(anchor))
    whole = torch.stack(total).mean()
    if fairness != "entropy":
        whole = whole + 0.3 * inequality(fairness)(torch.stack(before))
    found = torch.autograd.grad(whole, list(anchor.values()))
    graph.close(graph.moved_by(state, got), dict(zip(anchor, found, strict=True)))


def test_mr_maml_by_hand(graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any) -> None:
    agent = make_agent("mr_maml", tasks.sine, inner_lr=0.05, beta=0.01, std=0.2, **PLAIN)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 2))
    assert set(state["meta"]) == {"log_std.layer1.weight", "log_std.layer2.weight"}
    got, _ = agent.update(state, batch, Rng(0))
    anchor, loss = graph.on_leaves({**state["theta"], **state["meta"]}), graph.sine_loss
    mean = {name: anchor[name] for name in state["theta"]}
    log_std = {n.removeprefix("log_std."): anchor[n] for n in state["meta"]}

    def step(phi: Params, grads: Params) -> Params:
        return {n: phi[n] - 0.05 * g for n, g in grads.items() if n.startswith("head")}

    losses = []
    for index, (x, y, query_x, query_y) in enumerate(zip(*batch.values(), strict=True)):
        weights = sample(mean, log_std, Rng(0).at(index, "weights").torch())
        assert not torch.equal(weights["layer1.weight"], mean["layer1.weight"])
        assert weights["layer1.bias"] is mean["layer1.bias"]

        def train(params: Params, x: Tensor = x, y: Tensor = y) -> Tensor:
            return loss(params, x, y)

        losses.append(loss(graph.explicit(weights, 3, train, step), query_x, query_y))
    divergence = sum(
        0.5 * (mean[n].square() + (2 * s).exp() - 1 - 2 * s).sum() for n, s in log_std.items()
    )
    whole = torch.stack(losses).mean() + 0.01 * divergence
    found = torch.autograd.grad(whole, list(anchor.values()))
    graph.close(graph.moved_by(state, got), dict(zip(anchor, found, strict=True)))
