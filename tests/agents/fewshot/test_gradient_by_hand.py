"""Updates of the gradient agents against their papers' steps, written out weight by weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.learning import LossFn, adam, sgd, student
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.seeding import Rng


def mlp(params: Params, x: Tensor) -> Tensor:
    for layer in ("layer1", "layer2"):
        x = torch.relu(x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"])
    return x @ params["head.weight"].T + params["head.bias"]


@pytest.mark.parametrize(("order", "more"), [(1, {}), (2, {}), (2, {"inner": "replayed"})])
def test_maml_and_fomaml_by_hand(
    order: int, more: dict[str, Any], graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(
        "maml" if order == 2 else "fomaml",
        tasks.sine,
        inner_lr=0.03,
        outer_rule="sgd",
        outer_lr=0.5,
        anneal="none",
        **more,
    )
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 3))
    got, logs = agent.update(state, batch, Rng(0))

    total = {name: torch.zeros_like(value) for name, value in state["theta"].items()}
    losses = []
    for row in range(3):
        x, y, query_x, query_y = (part[row] for part in batch.values())
        anchor = {name: v.clone().requires_grad_() for name, v in state["theta"].items()}
        phi = anchor
        for step in range(3):
            loss = (mlp(phi, x) - y).square().mean()
            losses += [float(loss.detach())] if step == 2 else []
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=order == 2)
            phi = {n: v - 0.03 * g for (n, v), g in zip(phi.items(), grads, strict=True)}
        valid = (mlp(phi, query_x) - query_y).square().mean()
        for name, grad in zip(
            total, torch.autograd.grad(valid, list(anchor.values())), strict=True
        ):
            total[name] += grad
    expected = {name: value - 0.5 * total[name] / 3 for name, value in state["theta"].items()}
    torch.testing.assert_close(got["theta"], expected, rtol=1e-10, atol=1e-10)
    assert logs["loss"] == pytest.approx(sum(losses) / 3, rel=1e-10)


@pytest.mark.parametrize("algorithm", ["maml", "fomaml"])
def test_norms_held_in_the_inner_loop_learn_through_all_of_it(
    algorithm: str, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    """With `adapt_norm` off, norms stay put inside and move with the whole meta-gradient."""
    agent = make_agent(
        algorithm,
        tasks.maps,
        backbone="conv4-32",
        adapt_norm=False,
        inner_steps=2,
        inner_lr=0.05,
        outer_rule="sgd",
        outer_lr=1.0,
        anneal="none",
    )
    state, batch = start(agent, tasks.maps, double=True), graph.doubled(draw(tasks.maps, 1))
    net = backbone("conv4-32", tasks.maps)
    x, query_x = (net.prepare(batch[name][0]) for name in ("support_x", "query_x"))
    got, _ = agent.update(state, batch, Rng(0))

    anchor = {name: v.clone().requires_grad_() for name, v in state["theta"].items()}
    phi = anchor
    for _ in range(2):
        moving = [name for name in phi if not name.startswith("norm")]
        loss = F.mse_loss(net(phi, x), batch["support_y"][0])
        grads = torch.autograd.grad(
            loss, [phi[name] for name in moving], create_graph=algorithm == "maml"
        )
        phi = {**phi, **{n: phi[n] - 0.05 * g for n, g in zip(moving, grads, strict=True)}}
    if algorithm == "fomaml":
        anchor = phi = {name: v.detach().requires_grad_() for name, v in phi.items()}
    meta = torch.autograd.grad(
        F.mse_loss(net(phi, query_x), batch["query_y"][0]), list(anchor.values())
    )
    for (name, value), grad in zip(state["theta"].items(), meta, strict=True):
        torch.testing.assert_close(got["theta"][name], value - grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("inner_rule", ["sgd", "adam"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_reptile_by_hand(
    inner_rule: str, reduce: str, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    agent = make_agent(
        "reptile",
        tasks.sine,
        inner_rule=inner_rule,
        inner_lr=0.02,
        outer_lr=0.25,
        reduce=reduce,
        iterations=4,
        anneal="linear",
    )
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 2))
    state["step"] = 1
    got, _ = agent.update(state, batch, Rng(0))
    rule = sgd(0.02) if inner_rule == "sgd" else adam(0.02)

    def on(x: Tensor, y: Tensor) -> LossFn:
        return lambda params: (mlp(params, x) - y).square().mean()

    losses = [on(x, y) for x, y in zip(batch["support_x"], batch["support_y"], strict=True)]
    trails = [student(state["theta"], [loss] * 3, rule=rule) for loss in losses]
    factor = 0.25 * 0.75 * (0.5 if reduce == "mean" else 1.0)
    for name, value in state["theta"].items():
        moved = sum((trail.end[name] - value for trail in trails), torch.zeros(()))
        torch.testing.assert_close(
            got["theta"][name], value + factor * moved, rtol=1e-11, atol=1e-12
        )
    # What Adam carries into the next meta-iteration is the mean of what the tasks left.
    assert bool(got["inner"]) == (inner_rule == "adam")
    for name, value in got["inner"].items():
        expected = (trails[0].state[name] + trails[1].state[name]) / 2
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    if inner_rule == "adam":
        assert float(got["inner"]["step"]) == 3.0


def test_inner_state_can_be_reset(tasks: Any, draw: Any, make_agent: Any, start: Any) -> None:
    agent = make_agent("reptile", tasks.sine, inner_state="reset")
    state = start(agent, tasks.sine)
    assert state["inner"] == {}
    after, _ = agent.update(state, draw(tasks.sine, 2), Rng(0))
    assert after["inner"] == {}


@pytest.mark.parametrize("gamma", [0.75, 0.9])
def test_matched_reptile_is_lazy_reptile_with_one_gamma(
    gamma: float, graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any
) -> None:
    lazily = make_agent("lazy_reptile", tasks.sine, gammas=(gamma,), outer_lr=2.0, inner_batch=3)
    matched = make_agent(
        "reptile_matched", tasks.sine, outer_lr=2.0, matched_leap=1 - gamma, inner_batch=3
    )
    one, two = (start(agent, tasks.sine, double=True) for agent in (lazily, matched))
    torch.testing.assert_close(one["theta"], two["theta"], rtol=0, atol=0)
    for step in range(3):
        batch = graph.doubled(draw(tasks.sine, 2, seed=step))
        one, _ = lazily.update(one, batch, Rng(0).at("update", step))
        two, _ = matched.update(two, batch, Rng(0).at("update", step))
    torch.testing.assert_close(one["theta"], two["theta"], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(one["inner"], two["inner"], rtol=1e-10, atol=1e-12)


def test_lazy_maml_by_hand(graph: Any, tasks: Any, draw: Any, make_agent: Any, start: Any) -> None:
    gammas = (0.1, 0.5, 0.9)
    agent = make_agent(
        "lazy_maml",
        tasks.sine,
        gammas=gammas,
        hull=2,
        inner_lr=0.05,
        outer_rule="sgd",
        outer_lr=1.0,
        anneal="none",
    )
    state, batch = start(agent, tasks.sine, double=True), graph.doubled(draw(tasks.sine, 4))
    got, _ = agent.update(state, batch, Rng(0))
    chosen, total = [0, 0, 0], {n: torch.zeros_like(v) for n, v in state["theta"].items()}
    for row in range(4):
        x, y, query_x, query_y = (part[row] for part in batch.values())

        def train(params: Params, x: Tensor = x, y: Tensor = y) -> Tensor:
            return (mlp(params, x) - y).square().mean()

        older, newer = student(state["theta"], [train] * 3, rule=sgd(0.05), keep=2).last
        best: Any = None
        for index, gamma in enumerate(gammas):
            for alpha in (0.0, 0.5, 1.0):
                leap = {
                    n: (gamma * v + (1 - gamma) * (alpha * older[n] + (1 - alpha) * newer[n]))
                    .clone()
                    .requires_grad_()
                    for n, v in state["theta"].items()
                }
                loss = (mlp(leap, query_x) - query_y).square().mean()
                if best is None or float(loss.detach()) < best[0]:
                    grads = torch.autograd.grad(loss, list(leap.values()))
                    best = (float(loss.detach()), index, gamma, grads)
        chosen[best[1]] += 1
        for name, grad in zip(total, best[3], strict=True):
            total[name] += best[2] * grad / 4
    for name, value in state["theta"].items():
        torch.testing.assert_close(got["theta"][name], value - total[name], rtol=1e-10, atol=1e-11)
    assert got["gamma"].tolist() == chosen
