"""Meta-gradients against `higher`, a double backward of our own, and finite identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.learning import (
    Leap,
    LossFn,
    annealed,
    fomaml_gradient,
    greedy,
    lazy,
    maml_gradient,
    outer_adam,
    outer_sgd,
    reptile_gradient,
    sgd,
    student,
    unrolled,
)
from lazybench.nets.params import Params, leaves

X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
LR, STEPS = 0.1, 3


def no_score(params: Params) -> tuple[float, ...]:
    return (0.0,)


def mlp(params: Params, x: Tensor) -> Tensor:
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
    return F.linear(hidden, params["2.weight"], params["2.bias"])


def train_loss(params: Params) -> Tensor:
    return F.mse_loss(mlp(params, X[::2]), torch.sin(2 * X[::2]))


def valid_loss(params: Params) -> Tensor:
    return F.mse_loss(mlp(params, X[1::2]), torch.sin(2 * X[1::2]))


@pytest.fixture
def theta() -> Params:
    generator = torch.Generator().manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {
        "0.weight": (5, 1),
        "0.bias": (5,),
        "2.weight": (1, 5),
        "2.bias": (1,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def second_order(theta: Params, steps: int = STEPS) -> dict[str, Tensor]:
    """MAML's gradient by a double backward written out here, weight by weight."""
    start = [value.clone().requires_grad_() for value in theta.values()]
    phi = start
    for _ in range(steps):
        grads = torch.autograd.grad(
            train_loss(dict(zip(theta, phi, strict=True))), phi, create_graph=True
        )
        phi = [value - LR * grad for value, grad in zip(phi, grads, strict=True)]
    loss = valid_loss(dict(zip(theta, phi, strict=True)))
    return dict(zip(theta, torch.autograd.grad(loss, start), strict=True))


def test_greedy_on_an_unrolled_trail_is_second_order_maml(theta: Params) -> None:
    anchor = leaves(theta)
    trail = unrolled(anchor, [train_loss] * STEPS, lr=LR)
    got = maml_gradient(anchor, greedy()(anchor, trail, no_score), valid_loss)
    expected = second_order(theta)
    torch.testing.assert_close(got.params, expected, rtol=0, atol=1e-10)
    assert got.loss == pytest.approx(float(valid_loss(trail.end).detach()), abs=1e-12)
    first = unrolled(anchor, [train_loss] * STEPS, lr=LR, order=1)
    other = maml_gradient(anchor, greedy()(anchor, first, no_score), valid_loss)
    gap = max(float((other.params[n] - g).abs().max()) for n, g in expected.items())
    assert gap > 1e-3, "the oracle must tell second order from first"


def test_greedy_on_an_unrolled_trail_agrees_with_higher(theta: Params) -> None:
    higher = pytest.importorskip("higher")
    module = torch.nn.Sequential(
        torch.nn.Linear(1, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)
    ).double()
    module.load_state_dict(theta)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (model, inner):
        for _ in range(STEPS):
            inner.step(F.mse_loss(model(X[::2]), torch.sin(2 * X[::2])))
        loss = F.mse_loss(model(X[1::2]), torch.sin(2 * X[1::2]))
        grads = torch.autograd.grad(loss, list(module.parameters()))
    theirs = dict(zip([name for name, _ in module.named_parameters()], grads, strict=True))
    anchor = leaves(theta)
    trail = unrolled(anchor, [train_loss] * STEPS, lr=LR)
    ours = maml_gradient(anchor, greedy()(anchor, trail, no_score), valid_loss)
    torch.testing.assert_close(ours.params, theirs, rtol=0, atol=1e-10)


def test_first_order_is_the_gradient_at_the_leap(theta: Params) -> None:
    trail = student(theta, [train_loss] * STEPS, rule=sgd(LR))
    leap = greedy()(theta, trail, no_score)
    got = fomaml_gradient(theta, leap, valid_loss)
    point = {name: value.clone().requires_grad_() for name, value in trail.end.items()}
    expected = torch.autograd.grad(valid_loss(point), list(point.values()))
    torch.testing.assert_close(got.params, dict(zip(theta, expected, strict=True)), rtol=0, atol=0)
    # The same through a graph whose inner gradients are constants.
    anchor = leaves(theta)
    first = unrolled(anchor, [train_loss] * STEPS, lr=LR, order=1)
    other = maml_gradient(anchor, greedy()(anchor, first, no_score), valid_loss)
    torch.testing.assert_close(got.params, other.params, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.25, 0.8])
def test_lazy_mamls_gradient_is_gamma_times_the_gradient_at_the_leap(
    theta: Params, gamma: float
) -> None:
    anchor = leaves(theta)
    trail = student(theta, [train_loss] * STEPS, rule=sgd(LR), keep=2)
    teacher = lazy(gammas=(gamma,), alphas=((0.5, 0.5),))
    leap = teacher(anchor, trail, no_score)
    got = maml_gradient(anchor, leap, valid_loss)
    at_leap = fomaml_gradient(theta, leap, valid_loss)
    expected = {name: gamma * grad for name, grad in at_leap.params.items()}
    torch.testing.assert_close(got.params, expected, rtol=0, atol=1e-14)
    assert got.loss == at_leap.loss
    assert max(float(grad.abs().max()) for grad in expected.values()) > 1e-3


@pytest.mark.parametrize("gamma", [0.0, 0.75, 0.9])
def test_lazy_reptiles_direction_is_reptiles_scaled(quadratic: Any, gamma: float) -> None:
    trail = student(quadratic.theta, [quadratic] * 4, rule=sgd(0.1))
    plain = reptile_gradient(quadratic.theta, greedy()(quadratic.theta, trail, no_score))
    lazily = reptile_gradient(
        quadratic.theta, lazy(gammas=(gamma,))(leaves(quadratic.theta), trail, no_score)
    )
    after = quadratic.after(4, 0.1)
    for name, direction in plain.params.items():
        by_hand = quadratic.theta[name] - after[name]
        torch.testing.assert_close(direction, by_hand, rtol=0, atol=1e-12)
        torch.testing.assert_close(lazily.params[name], (1 - gamma) * by_hand, rtol=0, atol=1e-12)
        assert not lazily.params[name].requires_grad
    assert math.isnan(lazily.loss)


@pytest.mark.parametrize("gradient", [maml_gradient, fomaml_gradient])
def test_parameters_without_a_part_in_the_loss_get_zeros(
    gradient: Callable[[Params, Leap, LossFn], object], quadratic: Any
) -> None:
    anchor = leaves(quadratic.theta)
    leap = Leap(anchor, 1.0, (1.0,), (), 0)
    got = gradient(anchor, leap, lambda params: params["b"].sum())
    assert torch.equal(got.params["w"], torch.zeros(2, 3, dtype=torch.float64))  # type: ignore[attr-defined]


def test_outer_sgd_steps_against_the_gradient(quadratic: Any) -> None:
    rule = outer_sgd(0.5)
    new, state = rule.update(quadratic.theta, rule.init(quadratic.theta), quadratic.optimum, 0.1)
    for name, value in quadratic.theta.items():
        torch.testing.assert_close(
            new[name], value - 0.05 * quadratic.optimum[name], rtol=0, atol=1e-15
        )
    assert state == {}


@pytest.mark.parametrize("clip", [None, 0.3])
def test_outer_adam_is_torchs_adam(
    make_quadratic: Callable[[int], Any], clip: float | None
) -> None:
    task = make_quadratic(0)
    rule = outer_adam(0.02, beta1=0.8, beta2=0.95, eps=1e-4, clip=clip)
    theta, state = task.theta, rule.init(task.theta)
    weights = {name: torch.nn.Parameter(v.clone()) for name, v in theta.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=0.02, betas=(0.8, 0.95), eps=1e-4)
    for step in range(6):
        gradient = make_quadratic(10 + step).theta
        factor = 1 - step / 6
        theta, state = rule.update(theta, state, gradient, factor)
        for name, weight in weights.items():
            grad = gradient[name]
            weight.grad = grad if clip is None else grad.clamp(-clip, clip)
        optimizer.param_groups[0]["lr"] = 0.02 * factor
        optimizer.step()
        torch.testing.assert_close(
            theta, {n: w.detach() for n, w in weights.items()}, rtol=0, atol=1e-12
        )


def test_outer_updates_are_pure(quadratic: Any) -> None:
    rule = outer_adam(0.1)
    state = rule.init(quadratic.theta)
    theta = {name: value.clone() for name, value in quadratic.theta.items()}
    first = rule.update(theta, state, quadratic.optimum, 1.0)
    second = rule.update(theta, state, quadratic.optimum, 1.0)
    torch.testing.assert_close(theta, quadratic.theta, rtol=0, atol=0)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert float(state["step"]) == 0.0


def test_annealing() -> None:
    assert [annealed("linear", step, 4) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert annealed("none", 3, 4) == 1
    assert annealed("linear", 3, 0) == 1


def test_outer_steps_are_annealed_and_gradients_clipped_on_both_sides(quadratic: Any) -> None:
    theta = quadratic.theta
    gradient = {name: torch.full_like(value, -5.0) for name, value in theta.items()}
    for rule in (outer_adam(0.1, clip=0.3), outer_sgd(0.1)):
        whole, _ = rule.update(theta, rule.init(theta), gradient, 1.0)
        quarter, state = rule.update(theta, rule.init(theta), gradient, 0.25)
        for name, value in theta.items():
            moved = whole[name] - value
            torch.testing.assert_close(quarter[name] - value, moved / 4, rtol=0, atol=1e-12)
            assert bool((moved > 0).all())
    rule = outer_adam(0.1, beta1=0.9, clip=0.3)
    state = rule.update(theta, rule.init(theta), gradient, 1.0)[1]
    for name, value in theta.items():
        torch.testing.assert_close(state[f"m.{name}"], torch.full_like(value, -0.03))


def test_annealing_ends_at_0_and_stays_there() -> None:
    assert [annealed("linear", step, 4) for step in (0, 1, 4, 6)] == [1.0, 0.75, 0.0, 0.0]
    assert annealed("none", 6, 4) == annealed("linear", 6, 0) == 1.0


def test_weights_that_the_loss_reaches_past_the_leap_have_their_own_gradient(
    quadratic: Any,
) -> None:
    theta = leaves(quadratic.theta)
    adapted = {"w": theta["w"].detach() - 1.0}
    leap = Leap(adapted, 0.0, (1.0,), (), 0)

    def valid(params: Params) -> Tensor:
        return params["w"].square().sum() + 3 * theta["b"].sum() + theta["w"].sum()

    found = fomaml_gradient(theta, leap, valid).params
    torch.testing.assert_close(found["b"], torch.full_like(theta["b"], 3.0))
    torch.testing.assert_close(found["w"], 2 * adapted["w"] + 1.0)
