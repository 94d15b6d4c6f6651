"""The first module on patches against the four layers it replaces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench import learning
from lazybench.nets import NORM_EPS, Conv4
from lazybench.nets.fused import images, patch_norm_pool, patches
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape

FILTERS = 6


def fused(cut: Tensor, params: Sequence[Tensor]) -> Tensor:
    weight, scale, offset = params
    return patch_norm_pool(cut, weight, scale, offset, NORM_EPS)


def layers(x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    out = F.conv2d(x, weight, padding=1)
    out = F.batch_norm(out, None, None, scale, offset, training=True, eps=NORM_EPS)
    return F.max_pool2d(F.relu(out), 2)


def inputs(
    height: int, width: int, *, ties: bool, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, list[Tensor]]:
    draw = torch.Generator().manual_seed(height * width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=dtype)

    x, weight = normal(5, 1, height, width), normal(FILTERS, 1, 3, 3)
    if ties:
        # Whole numbers add up without rounding: different patches tie, not only empty ones.
        x, weight = (x > 0.8).to(dtype), weight.sign()
        x[:, :, : height // 2] = 0
    scale = normal(FILTERS)
    scale[0], scale[1] = -scale[0].abs(), scale[1].abs()
    return x, [value.requires_grad_() for value in (weight, scale, normal(FILTERS))]


def gap(one: Tensor, other: Tensor) -> float:
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max() / other.abs().max().clamp_min(1.0))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 20), (6, 4)])
def test_value_and_gradients_are_those_of_the_layers(height: int, width: int, ties: bool) -> None:
    x, params = inputs(height, width, ties=ties)
    expected, got = layers(x, *params), fused(patches(x), params)
    assert gap(got, expected) < 1e-10
    grad = torch.randn(expected.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    pairs = zip(
        torch.autograd.grad(got, params, grad),
        torch.autograd.grad(expected, params, grad),
        strict=True,
    )
    assert max(gap(*pair) for pair in pairs) < 1e-10


def test_float32_is_as_close_to_float64_as_the_layers_are() -> None:
    x, params = inputs(28, 28, ties=False)
    exact = layers(x, *params)
    single = [value.detach().float().requires_grad_() for value in params]
    got = fused(patches(x.float()), single)
    assert gap(got.double(), exact) < 1e-5
    grads = torch.autograd.grad(got.sum(), single)
    for grad, wanted in zip(grads, torch.autograd.grad(exact.sum(), params), strict=True):
        assert gap(grad.double(), wanted) < 1e-4


def test_channels_without_spread_stay_finite() -> None:
    _, params = inputs(6, 4, ties=False)
    out = fused(patches(torch.zeros(3, 1, 6, 4, dtype=torch.float64)), params)
    grads = torch.autograd.grad(out.sum(), params)
    assert torch.allclose(out, params[2].relu()[:, None, None].expand_as(out))
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def test_gradients_match_numbers_and_are_laid_out_as_the_weights() -> None:
    x, params = inputs(6, 4, ties=False)
    cut = patches(x)
    assert torch.autograd.gradcheck(lambda *p: fused(cut, p), params)
    weight = params[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    out = patch_norm_pool(cut, weight, params[1], params[2], NORM_EPS)
    (grad,) = torch.autograd.grad(out.sum(), weight)
    assert grad.stride() == weight.stride()


def test_patches_hold_the_images_and_refuse_what_they_cannot() -> None:
    x, _ = inputs(16, 20, ties=False)
    assert torch.equal(images(patches(x)), x)
    for shape in ((2, 3, 8, 8), (2, 1, 7, 8), (2, 1, 8, 7)):
        with pytest.raises(ValueError, match="one-channel images of even size"):
            patches(torch.zeros(shape))


def model(height: int) -> tuple[Conv4, Params, Tensor, Tensor]:
    net = Conv4(TaskShape(5, 2, 1, (1, height, height), "uint8"), filters=8)
    theta = net.init(torch.Generator().manual_seed(0))
    theta = {name: value.double().requires_grad_() for name, value in theta.items()}
    with torch.no_grad():
        theta["norm1.weight"][::3] *= -1
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(10, 1, height, height, generator=draw, dtype=torch.float64)
    return net, theta, x, torch.arange(10) % 5


def test_second_order_gradients_are_exact() -> None:
    net, theta, x, y = model(28)

    def meta_gradient(prepared: Tensor) -> tuple[Tensor, ...]:
        def loss(params: Params) -> Tensor:
            return F.cross_entropy(net(params, prepared), y)

        trail = learning.unrolled(theta, [loss] * 2, lr=0.1, order=2)
        return torch.autograd.grad(loss(trail.end), list(theta.values()))

    prepared = net.prepare(x)
    assert prepared.dim() == 5
    for got, wanted in zip(meta_gradient(prepared), meta_gradient(x), strict=True):
        assert gap(got, wanted) < 1e-10


@pytest.mark.parametrize("height", [28, 21])
def test_prepared_and_plain_images_give_the_same_net(height: int) -> None:
    net, theta, x, _ = model(height)
    prepared = net.prepare(x)
    assert gap(net(theta, prepared), net(theta, x)) < 1e-10
    with torch.no_grad():
        stats, plain = net.statistics(theta, prepared), net.statistics(theta, x)
    for got, wanted in zip(stats, plain, strict=True):
        assert gap(got[0], wanted[0]) < 1e-10
        assert gap(got[1], wanted[1]) < 1e-10
    assert gap(net(theta, prepared, stats), net(theta, prepared)) < 1e-10
    assert gap(net(theta, prepared[3:5], stats), net(theta, prepared)[3:5]) < 1e-10
