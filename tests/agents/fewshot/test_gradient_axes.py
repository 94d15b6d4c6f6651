"""Learned rates and a head that adapts alone, against their papers' steps on a whole graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.learning import sgd, student
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.seeding import Rng

PLAIN = {"outer_rule": "sgd", "outer_lr": 1.0, "anneal": "none"}


@pytest.mark.parametrize("algorithm", ["meta_sgd", "meta_curvature"])
def test_learned_rates_by_double_backward(
    algorithm: str, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(algorithm, tasks.sine, inner_lr=0.03, **PLAIN)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 3))
    noise = torch.Generator().manual_seed(1)
    for value in state["meta"].values():
        value += 0.01 * torch.randn(value.shape, generator=noise, dtype=value.dtype)
    got, _ = agent.update(state, batch, Rng(0))
    anchor, loss = graph.on_leaves({**state["theta"], **state["meta"]}), graph.sine_loss

    def step(phi: Params, grads: Params) -> Params:
        if algorithm == "meta_sgd":
            return {n: phi[n] - anchor[f"rate.{n}"] * g for n, g in grads.items()}
        fresh = {}
        for name, grad in grads.items():
            turned = torch.einsum("ab,b...->a...", anchor[f"curve.out.{name}"], grad)
            if grad.dim() == 2:
                turned = torch.einsum("cd,ad->ac", anchor[f"curve.in.{name}"], turned)
            fresh[name] = phi[name] - 0.03 * turned
        return fresh

    def task_loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        theta = {name: anchor[name] for name in state["theta"]}
        return loss(graph.explicit(theta, 3, lambda p: loss(p, x, y), step), query_x, query_y)

    graph.close(graph.moved_by(state, got), graph.mean_gradient(batch, anchor, task_loss))


def test_meta_sgd_against_function_transforms(
    graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    """A second oracle: torch.func's own nested gradients."""
    agent = make_agent("meta_sgd", tasks.sine, inner_lr=0.02, inner_steps=2, **PLAIN)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 1))
    got, _ = agent.update(state, batch, Rng(0))
    loss = graph.sine_loss
    x, y, query_x, query_y = (part[0] for part in batch.values())

    def whole(theta: Params, rates: Params) -> Tensor:
        for _ in range(2):
            grads = torch.func.grad(loss)(theta, x, y)
            theta = {n: v - rates[f"rate.{n}"] * grads[n] for n, v in theta.items()}
        return loss(theta, query_x, query_y)

    by_theta, by_rates = torch.func.grad(whole, argnums=(0, 1))(state["theta"], state["meta"])
    graph.close(graph.moved_by(state, got), {**by_theta, **by_rates})


@pytest.mark.parametrize("order", [1, 2])
def test_anil_by_a_whole_graph(
    order: int, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    first = {"meta_gradient": "fomaml", "inner": "student"} if order == 1 else {}
    agent = make_agent("anil", tasks.maps, backbone="conv4-32", inner_lr=0.05, **first, **PLAIN)
    state, batch = start(agent, tasks.maps, double=True), graph.doubled(draw(tasks.maps, 2))
    got, logs = agent.update(state, batch, Rng(0))
    net = backbone("conv4-32", tasks.maps, second_order=True)
    anchor = graph.on_leaves(state["theta"])

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(net(params, net.prepare(x)), y)

    def step(phi: Params, grads: Params) -> Params:
        fixed = (lambda g: g.detach()) if order == 1 else (lambda g: g)
        return {n: phi[n] - 0.05 * fixed(g) for n, g in grads.items() if n.startswith("head")}

    def task_loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        return loss(graph.explicit(anchor, 3, lambda p: loss(p, x, y), step), query_x, query_y)

    graph.close(graph.moved_by(state, got), graph.mean_gradient(batch, anchor, task_loss))
    assert logs["image_gradients"] == 2 * (4 + 3)


def test_lazy_anil_by_hand(graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any) -> None:
    gammas = (0.1, 0.5, 0.9)
    agent = make_agent("lazy_anil", tasks.maps, backbone="conv4-32", gammas=gammas, **PLAIN)
    state, batch = start(agent, tasks.maps, double=True), graph.doubled(draw(tasks.maps, 2))
    got, _ = agent.update(state, batch, Rng(0))
    net, anchor = backbone("conv4-32", tasks.maps), graph.on_leaves(state["theta"])
    heads = {name: value for name, value in anchor.items() if name.startswith("head")}

    def task_loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        features = net.features(state["theta"], net.prepare(x))

        def train(head: Params) -> Tensor:
            return F.mse_loss(F.linear(features, head["head.weight"], head["head.bias"]), y)

        end = student(heads, [train] * 3, rule=sgd(agent.config.inner_lr)).end
        # Above gamma * head + (1 - gamma) * constant the body has its whole gradient.
        losses = [
            F.mse_loss(
                net(
                    {**anchor, **{n: gamma * v + (1 - gamma) * end[n] for n, v in heads.items()}},
                    net.prepare(query_x),
                ),
                query_y,
            )
            for gamma in gammas
        ]
        return min(losses, key=lambda loss: float(loss.detach()))

    graph.close(graph.moved_by(state, got), graph.mean_gradient(batch, anchor, task_loss))


@pytest.mark.parametrize("hull", [1, 2])
@pytest.mark.parametrize("leap_on", ["theta", "phi"])
def test_lazy_meta_sgd_by_hand(
    hull: int, leap_on: str, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    gammas = (0.2, 0.7)
    settings = {"gammas": gammas, "hull": hull, "leap_on": leap_on, "inner_lr": 0.05, **PLAIN}
    agent = make_agent("lazy_meta_sgd", tasks.sine, **settings)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 3))
    got, _ = agent.update(state, batch, Rng(0))
    anchor, loss = graph.on_leaves({**state["theta"], **state["meta"]}), graph.sine_loss

    def task_loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        phi, total, hulls = dict(state["theta"]), None, []
        for step in range(3):
            grads = torch.func.grad(loss)(phi, x, y)
            total = {n: g if total is None else total[n] + g for n, g in grads.items()}
            phi = {n: v - state["meta"][f"rate.{n}"] * grads[n] for n, v in phi.items()}
            if step >= 3 - hull:
                # The gradients are constants, so the rates alone are on a graph.
                hulls.append({n: state["theta"][n] - anchor[f"rate.{n}"] * total[n] for n in total})
        losses = []
        for gamma in gammas:
            weight = gamma if leap_on == "theta" else 1 - gamma
            for newest in (1.0, 0.5, 0.0)[: 1 if hull == 1 else 3]:
                region = {n: newest * v + (1 - newest) * hulls[0][n] for n, v in hulls[-1].items()}
                leap = {n: weight * anchor[n] + (1 - weight) * v for n, v in region.items()}
                losses.append(loss(leap, query_x, query_y))
        return min(losses, key=lambda loss: float(loss.detach()))

    graph.close(graph.moved_by(state, got), graph.mean_gradient(batch, anchor, task_loss))


def test_learned_rates_without_a_graph_keep_their_first_order_gradient(
    graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    first = {"inner": "student", "meta_gradient": "fomaml"}
    agent = make_agent("meta_sgd", tasks.sine, inner_lr=0.05, **first, **PLAIN)
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 2))
    got, _ = agent.update(state, batch, Rng(0))
    anchor, loss = graph.on_leaves({**state["theta"], **state["meta"]}), graph.sine_loss

    def step(phi: Params, grads: Params) -> Params:
        return {n: phi[n] - anchor[f"rate.{n}"] * g.detach() for n, g in grads.items()}

    def task_loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        theta = {name: anchor[name] for name in state["theta"]}
        return loss(graph.explicit(theta, 3, lambda p: loss(p, x, y), step), query_x, query_y)

    graph.close(graph.moved_by(state, got), graph.mean_gradient(batch, anchor, task_loss))
