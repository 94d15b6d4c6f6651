"""Every network by its name: what holds for all of them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.nets import MLP, Conv4, backbone, count_parameters
from lazybench.tasks import TaskShape


def test_images_are_scaled_and_left_alone(
    images: Callable[..., TaskShape], drawn: Callable[..., Tensor]
) -> None:
    task = images(28, 3)
    x = drawn(task, 3)
    before = x.clone()
    for net in (Conv4(task), MLP(task)):
        got = net.prepare(x)
        assert got.dtype == torch.float32
        expected = (before.float() / 255).reshape(got.shape)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["conv4-64", "mlp", "linear"])
def test_init_is_a_function_of_its_generator(name: str, images: Callable[..., TaskShape]) -> None:
    net = backbone(name, images(28))
    one, two, other = (net.init(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    for name, value in one.items():
        assert value.dtype == torch.float32
        if value.ndim == 1:
            assert set(value.tolist()) == {1.0 if re.match(r"norm\d\.weight", name) else 0.0}
            continue
        # Glorot: uniform on +-sqrt(6 / (fan_in + fan_out)).
        area = value[0, 0].numel()
        bound = (6 / (area * (value.shape[0] + value.shape[1]))) ** 0.5
        assert float(value.abs().max()) <= bound
        assert float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("instance", "expected"), [((1, 28, 28), "conv4-64"), ((3, 84, 84), "conv4-32"), ((4,), "mlp")]
)
def test_auto_follows_the_instances(instance: tuple[int, ...], expected: str) -> None:
    task = TaskShape(5, 1, 1, instance, "float32")
    assert backbone("auto", task).name.startswith(expected)


def test_unknown_backbones_are_refused(images: Callable[..., TaskShape]) -> None:
    with pytest.raises(UsageError, match=re.escape("got 'conv4-63'. Did you mean: conv4-6")):
        backbone("conv4-63", images(28))
    for name in ("mlp-", "mlp-0", "mlp-40-", "mlp-a"):
        with pytest.raises(UsageError, match=f"got '{name}'"):
            backbone(name, images(28))


def test_names_give_networks(images: Callable[..., TaskShape]) -> None:
    task = images(16, 3)
    for name in ("conv4-64", "conv4-32", "resnet12", "linear", "mlp-7", "mlp-256-128"):
        assert backbone(name, task).name == name
    assert backbone("mlp", task).name == "mlp-40-40"


def test_the_same_network_comes_again(images: Callable[..., TaskShape]) -> None:
    first = backbone("conv4-32", images(28))
    assert backbone("conv4-32", images(28)) is first
    assert backbone("conv4-32", images(28), second_order=True) is not first
    assert backbone("conv4-32", images(28, way=7)) is not first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", 784 * 40 + 40 + 40 * 40 + 40 + 40 * 5 + 5),
        ("linear", 784 * 5 + 5),
        ("conv4-64", 9 * 64 + 3 * 9 * 64 * 64 + 8 * 64 + 65 * 5),
    ],
)
def test_parameters_are_counted_head_included(
    name: str, expected: int, images: Callable[..., TaskShape]
) -> None:
    assert count_parameters(backbone(name, images(28))) == expected


@pytest.mark.parametrize("name", ["conv4-32", "resnet12", "mlp", "linear"])
def test_real_valued_targets_take_their_shape(name: str, drawn: Callable[..., Tensor]) -> None:
    task = TaskShape(1, 4, 3, (1, 16, 16), "uint8", "array", (2, 3))
    net = backbone(name, task)
    params = net.init(torch.Generator().manual_seed(0))
    x = net.prepare(drawn(task, 5))
    flat = net.features(params, x) @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(net(params, x), flat.reshape(5, 2, 3))
