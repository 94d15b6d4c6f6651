"""Networks against torch's own modules: values, gradients, sizes, batch statistics."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import MLP, NORM_EPS, Conv4, Net, backbone
from lazybench.params import Params
from lazybench.task import TaskShape


def images(side: int, channels: int = 1, way: int = 5) -> TaskShape:
    return TaskShape(way, 1, 1, (channels, side, side), "uint8")


def drawn(task: TaskShape, rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (rows, *task.instance), generator=generator, dtype=torch.uint8)


def exact(x: Tensor) -> Tensor:
    """The images in [0, 1] as float64, which `prepare` leaves in that precision."""
    return x.double() / 255


def doubled(net: Net, seed: int = 0) -> Params:
    """Float64 parameters with scales and offsets off their starting values."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value.double()
        + (0.2 * torch.randn(value.shape, generator=generator) if value.ndim == 1 else 0.0)
        for name, value in net.init(generator).items()
    }


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
def test_conv4_is_the_textbook_network(side: int, channels: int) -> None:
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


def test_conv4_in_single_precision_stays_near() -> None:
    task = images(28)
    net = Conv4(task, filters=8)
    params = net.init(torch.Generator().manual_seed(1))
    x = drawn(task, 5)
    wide = {name: value.double() for name, value in params.items()}
    expected = net(wide, net.prepare(exact(x)))
    torch.testing.assert_close(net(params, net.prepare(x)).double(), expected, rtol=0, atol=1e-4)


def test_conv4_can_be_differentiated_twice() -> None:
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
def test_feature_sizes(side: int, channels: int, filters: int, features: int) -> None:
    task = images(side, channels, way=7)
    net = Conv4(task, filters=filters)
    params = net.init(torch.Generator().manual_seed(0))
    x = net.prepare(drawn(task, 2))
    assert net.features(params, x).shape == (2, features)
    assert net(params, x).shape == (2, 7)
    assert net.width == features
    expected = 9 * filters * (channels + 3 * filters) + 8 * filters + (features + 1) * 7
    assert sum(value.numel() for value in params.values()) == expected


def test_statistics_are_those_of_each_norms_input() -> None:
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


def test_statistics_handed_in_take_the_batchs_place() -> None:
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
    # The same through torch's module, told to use these statistics.
    model = reference(net, params)
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    for norm, (mean, variance) in zip(norms, stats, strict=True):
        norm.running_mean, norm.running_var = mean.detach(), variance.detach()
    torch.testing.assert_close(
        model.eval()(exact(drawn(task, 6, 1))), together, rtol=1e-9, atol=1e-9
    )


def test_images_are_scaled_and_left_alone() -> None:
    task = images(28, 3)
    x = drawn(task, 3)
    before = x.clone()
    for net in (Conv4(task), MLP(task)):
        got = net.prepare(x)
        assert got.dtype == torch.float32
        expected = (before.float() / 255).reshape(got.shape)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
        assert torch.equal(x, before)


def test_mlp_is_torchs() -> None:
    task = TaskShape(1, 5, 5, (3,), "float32", "array", (2, 2))
    net = MLP(task, hidden=(7, 6))
    params = doubled(net)
    model = nn.Sequential(
        nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)
    ).double()
    model.load_state_dict(
        {
            f"{index}.{kind}": params[f"{layer}.{kind}"]
            for index, layer in ((0, "layer1"), (2, "layer2"), (4, "head"))
            for kind in ("weight", "bias")
        }
    )
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    got = net(params, net.prepare(x))
    assert got.shape == (5, 2, 2)
    torch.testing.assert_close(got, model(x).view(5, 2, 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.features(params, x), model[:4](x), rtol=1e-12, atol=1e-12)
    assert net.statistics(params, x) == ()


@pytest.mark.parametrize("make", [lambda: Conv4(images(28)), lambda: MLP(images(28))])
def test_init_is_a_function_of_its_generator(make: type[Conv4]) -> None:
    net = make()  # type: ignore[call-arg]
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


def test_unknown_backbones_are_refused() -> None:
    with pytest.raises(UsageError, match=re.escape("got 'conv4-63'. Did you mean: conv4-6")):
        backbone("conv4-63", images(28))


@pytest.mark.parametrize("instance", [(4,), (1, 15, 28), (28, 28)])
def test_conv4_refuses_what_is_no_image(instance: tuple[int, ...]) -> None:
    message = f"conv4 needs images of shape [channels, >=16, >=16], got {list(instance)}"
    with pytest.raises(UsageError, match=re.escape(message)):
        Conv4(TaskShape(5, 1, 1, instance, "float32"))
