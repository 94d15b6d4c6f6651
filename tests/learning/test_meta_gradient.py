"""Meta-gradients against `higher`, an unrolled inner loop, exact inverses and finite identities."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench import learning
from lazybench.learning import (
    Leap,
    LossFn,
    annealed,
    fomaml_gradient,
    greedy,
    implicit_gradient,
    lazy,
    maml_gradient,
    outer_adam,
    outer_sgd,
    reptile_gradient,
    sgd,
    student,
    unrolled,
)
from lazybench.nets import Conv4
from lazybench.nets.params import Params, leaves
from lazybench.tasks import TaskShape

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
    assert gap > 1e-3, "the oracle must separate second order from first"


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


def replayed(
    theta: Params, losses: list[learning.LossFn], valid: learning.LossFn, lr: float
) -> learning.MetaGradient:
    rule = learning.sgd(lr)
    trail = learning.student(theta, losses, rule=rule, keep=len(losses) + 1)
    return learning.replayed_gradient(theta, trail, losses, valid, lr=lr)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_it_is_the_unrolled_gradient(steps: int) -> None:
    net = Conv4(TaskShape(3, 2, 2, (1, 16, 16), "uint8"), filters=4, second_order=True)
    draw = torch.Generator().manual_seed(0)
    theta = {name: value.double() for name, value in net.init(draw).items()}
    x, y = torch.rand(12, 1, 16, 16, generator=draw, dtype=torch.float64), torch.arange(12) % 3

    def loss(rows: slice) -> learning.LossFn:
        return lambda params: F.cross_entropy(net(params, x[rows]), y[rows])

    losses = [loss(slice(step, step + 6)) for step in range(steps)]
    valid = loss(slice(6, 12))
    anchor = {name: value.clone().requires_grad_() for name, value in theta.items()}
    trail = learning.unrolled(anchor, losses, lr=0.3)
    leap = learning.greedy()(anchor, trail, lambda params: ())
    expected = learning.maml_gradient(anchor, leap, valid)
    got = replayed(theta, losses, valid, 0.3)
    assert got.loss == pytest.approx(expected.loss, abs=1e-12)
    for name, grad in expected.params.items():
        torch.testing.assert_close(got.params[name], grad, rtol=1e-9, atol=1e-11)


def test_parameters_without_curvature_pass_through() -> None:
    theta: Params = {
        "used": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "idle": torch.tensor([3.0], dtype=torch.float64),
    }
    steps: list[learning.LossFn] = [
        lambda params: params["used"].sum(),
        lambda params: params["used"].square().sum(),
    ]
    got = replayed(theta, steps, lambda p: p["used"].sum() * p["idle"].sum(), 0.1)
    # phi_2 = (theta - 0.1) * 0.8: the derivative by `used` is 0.8 * idle.
    assert got.params["used"].tolist() == pytest.approx([2.4, 2.4])
    assert got.params["idle"].tolist() == pytest.approx([0.8 * 2.8])


def test_a_trail_with_too_few_checkpoints_is_refused() -> None:
    theta = {"w": torch.ones(1)}
    losses: list[learning.LossFn] = [lambda params: params["w"].sum()] * 2
    trail = learning.student(theta, losses, rule=learning.sgd(0.1))
    with pytest.raises(ValueError, match="needs phi_0 to phi_2, got 1 checkpoints"):
        learning.replayed_gradient(theta, trail, losses, losses[0], lr=0.1)


SHAPES: dict[str, tuple[int, ...]] = {"w": (2, 3), "b": (4,)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(params: Params) -> Tensor:
    return torch.cat([value.reshape(-1) for value in params.values()])


def split(vector: Tensor, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Params:
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = torch.split(vector, sizes)
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def quadratic(matrix: Tensor, optimum: Tensor) -> Callable[[Params], Tensor]:
    """.5 (phi - optimum)' matrix (phi - optimum)."""

    def loss(phi: Params) -> Tensor:
        gap = flat(phi) - optimum
        return (gap * (matrix @ gap)).sum() * 0.5

    return loss


def dense_iterate(matrix: Tensor, target: Tensor, steps: int) -> Tensor:
    """The minimiser of .5 x'Ax - b'x over the Krylov space of that many dimensions."""
    space = torch.stack([torch.linalg.matrix_power(matrix, k) @ target for k in range(steps)], 1)
    basis: Tensor = torch.linalg.qr(space)[0]
    within: Tensor = torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ target)
    return basis @ within


@pytest.fixture
def spd() -> Tensor:
    root = draw(10, 10, seed=1)
    return root @ root.T / 10


@pytest.mark.parametrize(("lam", "damping"), [(1.0, 0.0), (0.5, 2.0), (0.0, 0.3)])
def test_enough_steps_reach_the_exact_inverse(spd: Tensor, lam: float, damping: float) -> None:
    valid = draw(10, seed=2)
    got = implicit_gradient(
        split(draw(10, seed=3)),
        split(valid),
        quadratic(spd, draw(10, seed=4)),
        lam=lam,
        steps=12,
        damping=damping,
    )
    system = torch.eye(10, dtype=torch.float64) + spd / (lam + damping)
    torch.testing.assert_close(flat(got), torch.linalg.solve(system, valid), rtol=0, atol=1e-9)
    assert {name: value.shape for name, value in got.items()} == SHAPES
    assert not any(value.requires_grad for value in got.values())


def test_it_is_the_gradient_through_the_exact_solution(spd: Tensor) -> None:
    """For a quadratic the inner problem's solution is a linear solve, differentiable in theta."""
    lam, optimum = 0.7, draw(10, seed=4)
    theta = draw(10, seed=5).requires_grad_()
    identity = torch.eye(10, dtype=torch.float64)
    phi = torch.linalg.solve(spd + lam * identity, spd @ optimum + lam * theta)
    (expected,) = torch.autograd.grad((phi - 1).pow(4).sum(), theta)
    valid = 4 * (phi.detach() - 1) ** 3
    loss = quadratic(spd, optimum)
    got = implicit_gradient(split(phi.detach()), split(valid), loss, lam=lam, steps=15)
    torch.testing.assert_close(flat(got), expected, rtol=0, atol=1e-8)


NET: dict[str, tuple[int, ...]] = {"0.weight": (4, 2), "0.bias": (4,), "1.weight": (3, 4)}


def net_loss(params: Params) -> Tensor:
    x, y = draw(9, 2, seed=6), torch.arange(9) % 3
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
    return F.cross_entropy(F.linear(hidden, params["1.weight"]), y)


def net_system(end: Tensor, weight: float) -> Tensor:
    hessian: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda vector: net_loss(split(vector, NET)), end
    )
    system = torch.eye(len(end), dtype=torch.float64) + hessian / weight
    assert float(torch.linalg.eigvalsh(system)[0]) > 0, "the oracles are for definite systems"
    return system


def test_a_small_nets_exact_hessian() -> None:
    end, valid = draw(24, seed=7), draw(24, seed=8)
    got = implicit_gradient(
        split(end, NET), split(valid, NET), net_loss, lam=1.5, steps=40, damping=0.1
    )
    expected = torch.linalg.solve(net_system(end, 1.6), valid)
    torch.testing.assert_close(flat(got), expected, rtol=0, atol=1e-9)
    assert float((expected - valid).norm()) > 0.1, "the curvature must matter"


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_fewer_steps_are_conjugate_gradients_iterates(steps: int) -> None:
    end, valid = draw(24, seed=7), draw(24, seed=8)
    got = implicit_gradient(split(end, NET), split(valid, NET), net_loss, lam=1.5, steps=steps)
    system = net_system(end, 1.5)
    torch.testing.assert_close(flat(got), dense_iterate(system, valid, steps), rtol=0, atol=1e-9)
    assert float((system @ flat(got) - valid).norm()) > 1e-6, "the oracle must meet early iterates"


def test_one_graph_serves_every_product() -> None:
    end, calls = split(draw(24, seed=7), NET), list[bool]()

    def counted(params: Params) -> Tensor:
        calls.append(all(value.requires_grad for value in params.values()))
        return net_loss(params)

    with torch.no_grad():
        implicit_gradient(end, end, counted, lam=1.0, steps=5)
    assert calls == [True]
    assert not any(value.requires_grad for value in end.values())


def test_parameters_without_curvature_keep_their_gradient(spd: Tensor) -> None:
    """One that the loss doesn't use, and one that it is linear in."""
    end = {"used": draw(10), "unused": draw(2), "linear": draw(3)}
    valid = {"linear": draw(3, seed=11), "used": draw(10, seed=9), "unused": draw(2, seed=10)}

    def loss(params: Params) -> Tensor:
        bent = quadratic(spd, torch.ones(10).double())({"used": params["used"]})
        return bent + params["linear"].sum()

    got = implicit_gradient(end, valid, loss, lam=1.0, steps=14)
    system = torch.eye(10, dtype=torch.float64) + spd
    torch.testing.assert_close(got["used"], torch.linalg.solve(system, valid["used"]))
    torch.testing.assert_close(got["unused"], valid["unused"])
    torch.testing.assert_close(got["linear"], valid["linear"])
    flat_loss = implicit_gradient(end, valid, lambda p: p["linear"].sum(), lam=1.0, steps=3)
    torch.testing.assert_close(flat_loss, {name: valid[name] for name in end}, rtol=0, atol=0)


def test_negative_curvature_at_once_gives_the_first_order_gradient() -> None:
    valid = split(draw(10, seed=2))
    bowl_down = quadratic(-3 * torch.eye(10).double(), torch.zeros(10).double())
    got = implicit_gradient(split(draw(10)), valid, bowl_down, lam=1.0, steps=5)
    torch.testing.assert_close(got, valid, rtol=0, atol=0)


def test_negative_curvature_later_keeps_the_iterate_before_it() -> None:
    # I + H has eigenvalues 4 and -1; the first direction (2, 1) has curvature 15, the next below 0.
    matrix = torch.diag(torch.tensor([3.0, -2.0], dtype=torch.float64))
    valid = {"x": torch.tensor([2.0, 1.0], dtype=torch.float64)}
    loss = quadratic(matrix, torch.zeros(2).double())
    got = implicit_gradient({"x": draw(2)}, valid, loss, lam=1.0, steps=5)
    torch.testing.assert_close(got["x"], valid["x"] * 5 / 15, rtol=0, atol=1e-15)


def test_a_zero_gradient_stays_zero_and_nan_is_passed_on(spd: Tensor) -> None:
    loss, end = quadratic(spd, torch.zeros(10).double()), split(draw(10))
    zero = {name: torch.zeros_like(value) for name, value in end.items()}
    torch.testing.assert_close(
        implicit_gradient(end, zero, loss, lam=1.0, steps=3), zero, rtol=0, atol=0
    )
    broken = {**zero, "b": torch.full((4,), torch.nan).double()}
    got = implicit_gradient(end, broken, loss, lam=1.0, steps=3)
    assert bool(torch.isnan(got["b"]).all())


def test_more_steps_than_the_rounding_allows_do_no_harm(spd: Tensor) -> None:
    end = {name: value.float() for name, value in split(draw(10)).items()}
    loss = quadratic(spd.float(), torch.zeros(10))
    got = implicit_gradient(end, end, loss, lam=1.0, steps=100)
    expected = torch.linalg.solve(torch.eye(10) + spd.float(), flat(end))
    torch.testing.assert_close(flat(got), expected, rtol=1e-5, atol=1e-5)
    assert got["w"].dtype == torch.float32


@pytest.mark.parametrize(("lam", "damping"), [(0.0, 0.0), (-1.0, 0.5), (1.0, float("nan"))])
def test_weights_that_leave_nothing_to_divide_by_are_refused(lam: float, damping: float) -> None:
    message = f"lam + damping must be above 0 and finite, got {lam} + {damping}"
    with pytest.raises(ValueError, match=re.escape(message)):
        implicit_gradient({}, {}, flat, lam=lam, steps=1, damping=damping)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1 conjugate-gradient step, got 0"):
        implicit_gradient({}, {}, flat, lam=1.0, steps=0)
