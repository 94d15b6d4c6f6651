"""Networks against torch's own modules: values, gradients, sizes, batch statistics."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import NORM_EPS, Conv4
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape


def reference(net: Conv4, params: Params) -> nn.Sequential:
    """The paper's order: convolution with a bias (zero here), batch norm, ReLU, pool."""
    layers: list[nn.Module] = []
    inputs = net.channels
    for layer in range(1, 5):
        conv = nn.Conv2d(inputs, net.filters, 3, padding=1)
        norm = nn.BatchNorm2d(net.filters, eps=NORM_EPS, track_running_stats=False)
        conv.weight = nn.Parameter(params[f"conv{layer}.weight"].clone())
        conv.bias = nn.Parameter(torch.zeros(net.filters, dtype=torch.float64))
        norm.weight = nn.Parameter(params[f"norm{layer}.weight"].clone())
        norm.bias = nn.Parameter(params[f"norm{layer}.bias"].clone())
        layers += [conv, norm, nn.ReLU(), nn.MaxPool2d(2)]
        inputs = net.filters
    head = nn.Linear(net.width, net.outputs)
    head.weight = nn.Parameter(params["head.weight"].clone())
    head.bias = nn.Parameter(params["head.bias"].clone())
    return nn.Sequential(*layers, nn.Flatten(), head)


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (37, 3)])
def test_conv4_is_the_textbook_network(
    side: int,
    channels: int,
    images: Callable[..., TaskShape],
    drawn: Callable[..., Tensor],
    exact: Callable[[Tensor], Tensor],
    doubled: Callable[..., Params],
) -> None:
    task = images(side, channels)
    net = Conv4(task, filters=8)
    params = {name: value.requires_grad_() for name, value in doubled(net).items()}
    images_in = exact(drawn(task, 6))
    model = reference(net, {name: value.detach() for name, value in params.items()})
    ours, theirs = net(params, net.prepare(images_in)), model(images_in)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)

    labels = torch.arange(6) % 5
    grads = torch.autograd.grad(nn.functional.cross_entropy(ours, labels), list(params.values()))
    got = dict(zip(params, grads, strict=True))
    nn.functional.cross_entropy(theirs, labels).backward()  # type: ignore[no-untyped-call]
    for layer in range(1, 5):
        conv, norm = model[4 * layer - 4], model[4 * layer - 3]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        assert conv.bias.grad is not None
        # A constant before batch norm has no effect, so leaving it out loses nothing.
        assert float(conv.bias.grad.abs().max()) < 1e-12
        for name, expected in (
            (f"conv{layer}.weight", conv.weight.grad),
            (f"norm{layer}.weight", norm.weight.grad),
            (f"norm{layer}.bias", norm.bias.grad),
        ):
            assert isinstance(expected, Tensor)
            torch.testing.assert_close(got[name], expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got["head.weight"], model[-1].weight.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got["head.bias"], model[-1].bias.grad, rtol=1e-9, atol=1e-10)


def test_conv4_in_single_precision_stays_near(
    images: Callable[..., TaskShape],
    drawn: Callable[..., Tensor],
    exact: Callable[[Tensor], Tensor],
) -> None:
    task = images(28)
    net = Conv4(task, filters=8)
    params = net.init(torch.Generator().manual_seed(1))
    x = drawn(task, 5)
    wide = {name: value.double() for name, value in params.items()}
    expected = net(wide, net.prepare(exact(x)))
    torch.testing.assert_close(net(params, net.prepare(x)).double(), expected, rtol=0, atol=1e-4)


def test_conv4_can_be_differentiated_twice(
    images: Callable[..., TaskShape],
    drawn: Callable[..., Tensor],
    exact: Callable[[Tensor], Tensor],
    doubled: Callable[..., Params],
) -> None:
    task = images(16, way=2)
    net = Conv4(task, filters=2)
    x = net.prepare(exact(drawn(task, 4)))
    names, values = zip(*doubled(net).items(), strict=True)
    for value in values:
        value.requires_grad_()

    def loss(*entries: Tensor) -> Tensor:
        out = net(dict(zip(names, entries, strict=True)), x)
        return nn.functional.cross_entropy(out, torch.tensor([0, 1, 0, 1]))

    assert torch.autograd.gradgradcheck(loss, values, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "channels", "filters", "features"), [(28, 1, 64, 64), (84, 3, 32, 800)]
)
def test_feature_sizes(
    side: int,
    channels: int,
    filters: int,
    features: int,
    images: Callable[..., TaskShape],
    drawn: Callable[..., Tensor],
) -> None:
    task = images(side, channels, way=7)
    net = Conv4(task, filters=filters)
    params = net.init(torch.Generator().manual_seed(0))
    x = net.prepare(drawn(task, 2))
    assert net.features(params, x).shape == (2, features)
    assert net(params, x).shape == (2, 7)
    assert net.width == features
    expected = 9 * filters * (channels + 3 * filters) + 8 * filters + (features + 1) * 7
    assert sum(value.numel() for value in params.values()) == expected


def test_statistics_are_those_of_each_norms_input(
    images: Callable[..., TaskShape],
    drawn: Callable[..., Tensor],
    exact: Callable[[Tensor], Tensor],
    doubled: Callable[..., Params],
) -> None:
    task = images(28)
    net = Conv4(task, filters=8)
    params, x = doubled(net), exact(drawn(task, 6))
    model, seen = reference(net, params), list[Tensor]()
    for norm in (module for module in model if isinstance(module, nn.BatchNorm2d)):
        norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(x)
    for (mean, variance), inputs in zip(net.statistics(params, net.prepare(x)), seen, strict=True):
        centre = inputs.mean((0, 2, 3))
        spread = (inputs - centre[:, None, None]).square().mean((0, 2, 3))
        torch.testing.assert_close(mean, centre, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(variance, spread, rtol=1e-10, atol=1e-12)


def test_statistics_handed_in_take_the_batchs_place(
    images: Callable[..., TaskShape],
    drawn: Callable[..., Tensor],
    exact: Callable[[Tensor], Tensor],
    doubled: Callable[..., Params],
) -> None:
    task = images(28)
    net = Conv4(task, filters=8)
    params = doubled(net)
    x, other = (net.prepare(exact(drawn(task, 6, seed))) for seed in (0, 1))
    stats = net.statistics(params, x)
    torch.testing.assert_close(net(params, x, stats), net(params, x), rtol=1e-9, atol=1e-9)
    together = net(params, other, stats)
    alone = torch.cat([net(params, row[None], stats) for row in other])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert float((together - net(params, other)).abs().max().detach()) > 1e-3
    # The same through torch's module, set to use these statistics.
    model = reference(net, params)
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    for norm, (mean, variance) in zip(norms, stats, strict=True):
        norm.running_mean, norm.running_var = mean.detach(), variance.detach()
    torch.testing.assert_close(
        model.eval()(exact(drawn(task, 6, 1))), together, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("instance", [(4,), (1, 15, 28), (28, 28)])
def test_conv4_refuses_what_is_no_image(instance: tuple[int, ...]) -> None:
    message = f"conv4 needs images of shape [channels, >=16, >=16], got {list(instance)}"
    with pytest.raises(UsageError, match=re.escape(message)):
        Conv4(TaskShape(5, 1, 1, instance, "float32"))
