"""The written-out module against the four layers it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench import learning
from lazybench.nets import NORM_EPS, Conv4
from lazybench.nets.fused import conv_norm_pool, norm_pool
from lazybench.nets.params import Params
from lazybench.runtime.threads import map_tasks, set_threads, threads
from lazybench.tasks import TaskShape

FILTERS = 6
SIZES = [(1, 28, 28), (1, 7, 5), (3, 16, 20), (4, 3, 3)]

Module = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def fused(x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return conv_norm_pool(x, weight, scale, offset, NORM_EPS)


def layers(x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    out = F.conv2d(x, weight, padding=1)
    out = F.batch_norm(out, None, None, scale, offset, training=True, eps=NORM_EPS)
    return F.max_pool2d(F.relu(out), 2)


def inputs(
    channels: int, height: int, width: int, *, ties: bool = False, rows: int = 5
) -> list[Tensor]:
    draw = torch.Generator().manual_seed(height * width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    x, weight = normal(rows, channels, height, width), normal(FILTERS, channels, 3, 3)
    if ties:
        # Whole numbers add up without rounding: different patches tie, not only empty ones.
        x, weight = (x > 0.8).double(), weight.sign()
        x[:, :, : height // 2] = 0
    scale = normal(FILTERS)
    scale[0], scale[1] = -scale[0].abs(), scale[1].abs()
    return [value.requires_grad_() for value in (x, weight, scale, normal(FILTERS))]


def gap(one: Tensor, other: Tensor) -> float:
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max() / other.abs().max().clamp_min(1.0))


def like(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in tensors]


def derivatives(module: Module, values: list[Tensor], *, orders: int) -> list[Tensor]:
    """The value, then gradients of random combinations of the order before.

    The offset is left out of them: it moves no gradient but through the ReLU's mask.
    """
    ahead = [module(*values)]
    found = ahead[:]
    for order in range(1, orders + 1):
        behind = like(ahead, order)
        ahead = list(torch.autograd.grad(ahead, values[:3], behind, create_graph=order < orders))
        found += ahead
    return found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_of_three_orders_are_those_of_the_layers(
    size: tuple[int, int, int], ties: bool
) -> None:
    values = inputs(*size, ties=ties)
    got = derivatives(fused, values, orders=3)
    expected = derivatives(layers, values, orders=3)
    for one, other in zip(got, expected, strict=True):
        assert gap(one, other) < 1e-9


def test_the_offset_has_its_gradient() -> None:
    values = inputs(3, 9, 8)
    (got,) = torch.autograd.grad(fused(*values).square().sum(), values[3])
    (expected,) = torch.autograd.grad(layers(*values).square().sum(), values[3])
    assert gap(got, expected) < 1e-10


@pytest.mark.parametrize("asked", [(0,), (1,), (2, 3), (0, 2)])
def test_second_order_gradients_of_some_inputs_alone(asked: tuple[int, ...]) -> None:
    values = [value.detach() for value in inputs(2, 6, 7)]
    for index in asked:
        values[index].requires_grad_()

    def twice(module: Module) -> list[Tensor]:
        wanted = [values[index] for index in asked]
        out = module(*values)
        grads = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        return list(torch.autograd.grad(grads, wanted, like(grads, 3)))

    for one, other in zip(twice(fused), twice(layers), strict=True):
        assert gap(one, other) < 1e-10


def test_gradients_match_numbers() -> None:
    values = inputs(2, 5, 4, rows=3)
    assert torch.autograd.gradcheck(fused, values)
    assert torch.autograd.gradgradcheck(fused, values)


def test_gradients_are_laid_out_as_the_weights() -> None:
    x, weight, scale, offset = inputs(3, 8, 8)
    weight = weight.detach().to(memory_format=torch.channels_last).requires_grad_()
    x = x.detach().contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(fused(x, weight, scale, offset).sum(), weight)
    assert grad.stride() == weight.stride()


@pytest.mark.parametrize("channels", [1, 3])
def test_float32_is_as_close_to_float64_as_the_layers_are(channels: int) -> None:
    values = inputs(channels, 28, 28)
    exact = derivatives(layers, values, orders=2)
    single = [value.detach().float().requires_grad_() for value in values]
    for got, plain, wanted in zip(
        derivatives(fused, single, orders=2),
        derivatives(layers, single, orders=2),
        exact,
        strict=True,
    ):
        assert gap(got.double(), wanted) < max(3 * gap(plain.double(), wanted), 2e-5)


def test_a_mean_far_from_zero_costs_no_more_than_in_the_layers() -> None:
    draw = torch.Generator().manual_seed(0)
    u = torch.randn(50, 4, 24, 24, generator=draw, dtype=torch.float64) + 10
    scale, offset = torch.ones(4), torch.zeros(4)
    exact = F.batch_norm(u, None, None, scale.double(), offset.double(), True, eps=NORM_EPS)
    plain = F.batch_norm(u.float(), None, None, scale, offset, True, eps=NORM_EPS)
    got = norm_pool(u.float(), scale, offset, NORM_EPS)
    wanted = F.relu(F.max_pool2d(exact, 2))
    assert gap(got.double(), wanted) < 2 * gap(plain.double(), exact) + 1e-5


def test_channels_without_spread_stay_finite() -> None:
    _, weight, scale, offset = inputs(1, 6, 4)
    x = torch.zeros(3, 1, 6, 4, dtype=torch.float64)
    out = fused(x, weight, scale, offset)
    grads = torch.autograd.grad(out.sum(), (weight, scale, offset))
    assert torch.allclose(out, offset.relu()[:, None, None].expand_as(out))
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def model(height: int = 28, channels: int = 1) -> tuple[Conv4, Params, Tensor, Tensor]:
    net = Conv4(
        TaskShape(5, 2, 1, (channels, height, height), "uint8"), filters=8, second_order=True
    )
    theta = net.init(torch.Generator().manual_seed(0))
    theta = {name: value.double().requires_grad_() for name, value in theta.items()}
    with torch.no_grad():
        theta["norm1.weight"][::3] *= -1
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(10, channels, height, height, generator=draw, dtype=torch.float64)
    return net, theta, x, torch.arange(10) % 5


def by_layers(theta: Params, x: Tensor) -> Tensor:
    for layer in range(1, 5):
        scale, offset = theta[f"norm{layer}.weight"], theta[f"norm{layer}.bias"]
        x = layers(x, theta[f"conv{layer}.weight"], scale, offset)
    return F.linear(x.flatten(1), theta["head.weight"], theta["head.bias"])


@pytest.mark.parametrize(("height", "channels"), [(28, 1), (21, 1), (16, 3), (35, 3)])
def test_second_order_meta_gradients_are_exact(height: int, channels: int) -> None:
    net, theta, x, y = model(height, channels)

    def meta_gradient(outputs: Callable[[Params], Tensor]) -> tuple[Tensor, ...]:
        def loss(params: Params) -> Tensor:
            return F.cross_entropy(outputs(params), y)

        trail = learning.unrolled(theta, [loss] * 3, lr=0.1, order=2)
        return torch.autograd.grad(loss(trail.end), list(theta.values()))

    prepared = net.prepare(x)
    got = meta_gradient(lambda params: net(params, prepared))
    for one, other in zip(got, meta_gradient(lambda params: by_layers(params, x)), strict=True):
        assert gap(one, other) < 1e-9


@pytest.mark.parametrize(("height", "channels"), [(28, 1), (21, 1), (16, 3)])
def test_given_statistics_give_the_same_net(height: int, channels: int) -> None:
    net, theta, x, _ = model(height, channels)
    prepared = net.prepare(x)
    assert gap(net(theta, prepared), by_layers(theta, x)) < 1e-10
    with torch.no_grad():
        stats = net.statistics(theta, prepared)
    assert gap(net(theta, prepared, stats), net(theta, prepared)) < 1e-10
    assert gap(net(theta, prepared[3:5], stats), net(theta, prepared)[3:5]) < 1e-10


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_gives_the_same_bits_on_any_number_of_threads(order: int) -> None:
    net = Conv4(TaskShape(5, 2, 1, (1, 28, 28), "uint8"), filters=16, second_order=order == 2)
    theta = net.init(torch.Generator().manual_seed(0))
    x = net.prepare(torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(3)))
    y = torch.arange(10) % 5

    def run(task: int) -> Params:
        rows = torch.arange(10).roll(task)
        losses = [lambda params: F.cross_entropy(net(params, x[rows]), y[rows])] * 3
        if order == 1:
            return learning.student(theta, losses, rule=learning.sgd(0.1)).end
        anchor = {name: value.detach().requires_grad_() for name, value in theta.items()}
        end = learning.unrolled(anchor, losses, lr=0.1).end
        grads = torch.autograd.grad(losses[0](end), list(anchor.values()))
        return dict(zip(anchor, grads, strict=True))

    before = threads()
    try:
        ends = []
        for number in (1, 3):
            set_threads(number)
            ends.append(map_tasks(run, range(6)))
    finally:
        set_threads(before)
    for one, other in zip(*ends, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
