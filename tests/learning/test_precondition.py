"""Preconditioners against Kronecker products, hand-written loops, and numerical derivatives."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.learning import Preconditioner, curvature, elementwise
from lazybench.nets.params import Params, leaves
from lazybench.seeding import Rng

SHAPES: dict[str, tuple[int, ...]] = {
    "conv.weight": (3, 2, 2, 3),
    "norm.bias": (3,),
    "head.weight": (2, 4),
}
LR = 0.3
MAKERS: dict[str, Callable[[], Preconditioner]] = {
    "elementwise": lambda: elementwise(LR),
    "curvature": lambda: curvature(LR),
    "diagonal": lambda: curvature(LR, vectors="diagonal"),
}


def draw(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def drawn_like(params: Params, seed: int) -> Params:
    return draw(seed, {name: tuple(value.shape) for name, value in params.items()})


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_step_is_plain_descent_to_the_bit(maker: str, dtype: torch.dtype) -> None:
    rule = MAKERS[maker]()
    grads = {name: value.to(dtype) for name, value in draw(0).items()}
    meta = rule.init(grads)
    got = rule.apply(meta, grads)
    torch.testing.assert_close(got, {n: LR * g for n, g in grads.items()}, rtol=0, atol=0)
    assert all(value.dtype == dtype and not value.requires_grad for value in meta.values())


def test_names_and_shapes_of_the_meta_parameters() -> None:
    def shapes(meta: Params) -> dict[str, list[int]]:
        return {name: list(value.shape) for name, value in meta.items()}

    params = draw(0)
    assert shapes(elementwise(LR).init(params)) == {
        "rate.conv.weight": [3, 2, 2, 3],
        "rate.norm.bias": [3],
        "rate.head.weight": [2, 4],
    }
    full = {
        "curve.out.conv.weight": [3, 3],
        "curve.in.conv.weight": [2, 2],
        "curve.field.conv.weight": [6, 6],
        "curve.out.norm.bias": [3, 3],
        "curve.out.head.weight": [2, 2],
        "curve.in.head.weight": [4, 4],
    }
    assert shapes(curvature(LR).init(params)) == full
    diagonal = curvature(LR, vectors="diagonal").init(params)
    assert shapes(diagonal) == {**full, "curve.out.norm.bias": [3]}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_curvature_is_a_kronecker_product_on_the_flattened_gradient(layout: Any) -> None:
    rule, grads = curvature(LR), draw(1)
    meta = drawn_like(rule.init(grads), 2)
    grads["conv.weight"] = grads["conv.weight"].to(memory_format=layout)
    got = rule.apply(meta, grads)
    for name, grad in grads.items():
        whole = torch.ones(1, 1, dtype=torch.float64)
        for axis in ("out", "in", "field"):
            if f"curve.{axis}.{name}" in meta:
                whole = torch.kron(whole, meta[f"curve.{axis}.{name}"])
        expected = LR * (whole @ grad.reshape(-1)).view(grad.shape)
        torch.testing.assert_close(got[name], expected, rtol=0, atol=1e-12)


def test_a_diagonal_on_vectors_leaves_the_other_weights_alone() -> None:
    full, thin, grads = curvature(LR), curvature(LR, vectors="diagonal"), draw(1)
    meta = drawn_like(full.init(grads), 2)
    entries = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    meta["curve.out.norm.bias"] = torch.diag(entries)
    expected = full.apply(meta, grads)
    got = thin.apply({**meta, "curve.out.norm.bias": entries}, grads)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)


def test_the_direction_has_the_layout_of_channels_last_weights() -> None:
    weight = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    rule = curvature(LR)
    got = rule.apply(rule.init({"w": weight}), {"w": weight})["w"]
    assert got.stride() == weight.stride()
    rates = elementwise(LR)
    assert rates.init({"w": weight})["rate.w"].stride() == weight.stride()


@pytest.mark.parametrize("maker", MAKERS)
def test_first_and_second_derivatives(maker: str) -> None:
    rule = MAKERS[maker]()
    grads = draw(3)
    meta = drawn_like(rule.init(grads), 4)
    names = [*meta, *grads]

    def outputs(*entries: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, entries, strict=True))
        found = rule.apply({n: given[n] for n in meta}, {n: given[n] for n in grads})
        return tuple(found.values())

    points = [value.requires_grad_() for value in (*meta.values(), *grads.values())]
    assert torch.autograd.gradcheck(outputs, points)
    assert torch.autograd.gradgradcheck(outputs, points)


X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
NET: dict[str, tuple[int, ...]] = {"0.weight": (4, 1), "0.bias": (4,), "1.weight": (1, 4)}


def loss_on(params: Params, rows: slice) -> Tensor:
    hidden = torch.tanh(F.linear(X[rows], params["0.weight"], params["0.bias"]))
    return F.mse_loss(F.linear(hidden, params["1.weight"]), torch.sin(2 * X[rows]))


def by_hand(kind: str, meta: Params, name: str, grad: Tensor) -> Tensor:
    if kind == "elementwise":
        return meta[f"rate.{name}"] * grad
    turned: Tensor = torch.tensordot(meta[f"curve.out.{name}"], grad, dims=([1], [0]))
    if grad.dim() == 2:
        turned = torch.tensordot(turned, meta[f"curve.in.{name}"], dims=([1], [1]))
    return turned * LR


@pytest.mark.parametrize("kind", ["elementwise", "curvature"])
def test_meta_gradients_through_three_steps_are_a_double_backwards(kind: str) -> None:
    rule, theta = MAKERS[kind](), leaves(draw(5, NET))
    start = rule.init(theta)
    noise = drawn_like(start, 6)
    meta = leaves({name: value + 0.1 * noise[name] for name, value in start.items()})

    def end(step: Callable[[Params], Params]) -> Params:
        phi = theta
        for _ in range(3):
            grads = torch.autograd.grad(
                loss_on(phi, slice(0, None, 2)), list(phi.values()), create_graph=True
            )
            direction = step(dict(zip(phi, grads, strict=True)))
            phi = {name: value - direction[name] for name, value in phi.items()}
        return phi

    ends = (
        end(lambda grads: rule.apply(meta, grads)),
        end(lambda grads: {n: by_hand(kind, meta, n, g) for n, g in grads.items()}),
    )
    wanted = [*theta.values(), *meta.values()]
    ours, theirs = (torch.autograd.grad(loss_on(phi, slice(1, None, 2)), wanted) for phi in ends)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert all(float(grad.abs().max()) > 1e-6 for grad in ours), "every meta-parameter must matter"


@pytest.mark.parametrize("maker", MAKERS)
def test_part_of_the_parameters_and_no_graph(maker: str) -> None:
    rule, params = MAKERS[maker](), draw(7)
    meta = leaves(drawn_like(rule.init(params), 8))
    grads = leaves({"head.weight": params["head.weight"]})
    with torch.no_grad():
        before = grads["head.weight"].clone()
        got = rule.apply(meta, grads)
        assert list(got) == ["head.weight"]
        assert not got["head.weight"].requires_grad
        torch.testing.assert_close(got["head.weight"], rule.apply(meta, params)["head.weight"])
        torch._foreach_neg_(list(got.values()))
        assert torch.equal(grads["head.weight"], before)
    assert rule.apply(meta, grads)["head.weight"].requires_grad


def test_drawn_rates_are_uniform_and_repeat_with_the_seed() -> None:
    params = {"w": torch.zeros(200, 100), "b": torch.zeros(200, dtype=torch.float64)}
    rule = elementwise(LR, within=(0.005, 0.1), rng=Rng(3))
    meta = rule.init(params)
    rates = meta["rate.w"]
    assert 0.005 <= float(rates.min()) < 0.006
    assert 0.099 < float(rates.max()) <= 0.1
    assert float(rates.mean()) == pytest.approx(0.0525, abs=0.001)
    assert meta["rate.b"].dtype == torch.float64
    torch.testing.assert_close(rule.init(params), meta, rtol=0, atol=0)
    fewer = rule.init({"b": params["b"]})
    torch.testing.assert_close(fewer["rate.b"], meta["rate.b"], rtol=0, atol=0)
    other = elementwise(LR, within=(0.005, 0.1), rng=Rng(4)).init(params)
    assert not torch.equal(other["rate.w"], rates)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_step_sizes_must_be_positive(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be above 0"):
        elementwise(lr)
    with pytest.raises(ValueError, match="lr must be above 0"):
        curvature(lr)


@pytest.mark.parametrize("within", [(0.1, 0.005), (0.0, 0.1), (0.1, float("inf"))])
def test_intervals_must_be_positive(within: tuple[float, float]) -> None:
    message = f"within must be an interval of positive numbers, got {within}"
    with pytest.raises(ValueError, match=re.escape(message)):
        elementwise(LR, within=within, rng=Rng(0))


def test_a_draw_needs_a_stream() -> None:
    with pytest.raises(ValueError, match="within draws step sizes and needs rng; got None"):
        elementwise(LR, within=(0.005, 0.1))


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_shapes_without_a_curvature_are_refused(shape: tuple[int, ...]) -> None:
    message = re.escape(f"[out, in, h, w], got odd of shape {list(shape)}")
    with pytest.raises(ValueError, match=message):
        curvature(LR).init({"odd": torch.zeros(shape)})


def test_other_words_for_vectors_are_refused() -> None:
    wrong: Any = "scalar"
    with pytest.raises(ValueError, match="vectors must be matrix or diagonal, got 'scalar'"):
        curvature(LR, vectors=wrong)
