"""The implicit gradient against exact inverses, dense iterates and a differentiable solution."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.learning import implicit_gradient
from lazybench.nets.params import Params

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
