"""ResNet-12 against a plain torch module with the same weights, and its published size."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import NORM_EPS, ResNet12, backbone, count_parameters
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape

WIDTHS = (3, 4, 5, 6)


class Block(nn.Module):
    """As the papers draw it: leaky ReLU, then pool."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for layer, (fan, edge) in {
            "1": (inputs, 3),
            "2": (width, 3),
            "3": (width, 3),
            "skip": (inputs, 1),
        }.items():
            self.convs[layer] = nn.Conv2d(fan, width, edge, padding=edge // 2, bias=False)
            self.norms[layer] = nn.BatchNorm2d(width, eps=NORM_EPS, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in ("1", "2"):
            out = nn.functional.leaky_relu(self.norms[layer](self.convs[layer](out)), 0.1)
        out = self.norms["3"](self.convs["3"](out)) + self.norms["skip"](self.convs["skip"](x))
        return nn.functional.max_pool2d(nn.functional.leaky_relu(out, 0.1), 2)


class Reference(nn.Module):
    def __init__(self, net: ResNet12, params: Params) -> None:
        super().__init__()
        inputs = (net.channels, *net.widths[:-1])
        self.blocks = nn.ModuleList(
            Block(fan, width) for fan, width in zip(inputs, net.widths, strict=True)
        )
        self.head = nn.Linear(net.width, net.outputs)
        self.double()
        with torch.no_grad():
            for ours, theirs in self.pairs():
                theirs.copy_(params[ours])

    def pairs(self) -> list[tuple[str, nn.Parameter]]:
        named = dict(self.named_parameters())
        found = []
        for path, value in named.items():
            match = re.fullmatch(r"blocks\.(\d)\.(conv|norm)s\.(\w+)\.(\w+)", path)
            name = path
            if match:
                name = f"{match[2]}{int(match[1]) + 1}.{match[3]}.{match[4]}"
            found.append((name, value))
        return found

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net(images: Callable[..., TaskShape]) -> ResNet12:
    return ResNet12(images(18, 3), widths=WIDTHS)


@pytest.mark.parametrize("channels", [1, 3])
def test_values_and_gradients_are_those_of_the_module(channels, images, drawn, exact, doubled):
    task = images(18, channels)
    net = ResNet12(task, widths=WIDTHS)
    params = {name: value.requires_grad_() for name, value in doubled(net).items()}
    x, labels = exact(drawn(task, 6)), torch.arange(6) % 5
    model = Reference(net, params)
    ours, theirs = net(params, net.prepare(x)), model(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    loss = nn.functional.cross_entropy(ours, labels)
    grads = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
    nn.functional.cross_entropy(theirs, labels).backward()
    pairs = model.pairs()
    assert {name for name, _ in pairs} == set(params)
    for name, value in pairs:
        torch.testing.assert_close(grads[name], value.grad, rtol=1e-8, atol=1e-10)


def test_statistics_are_those_of_each_norms_input(net, images, drawn, exact, doubled):
    params, x = doubled(net), exact(drawn(images(18, 3), 6))
    model, seen = Reference(net, params), []
    for block in model.blocks:
        for layer in ("1", "2", "3", "skip"):
            block.norms[layer].register_forward_hook(lambda m, i, o: seen.append(i[0]))
    model(x)
    for (mean, variance), inputs in zip(net.statistics(params, net.prepare(x)), seen, strict=True):
        torch.testing.assert_close(mean, inputs.mean((0, 2, 3)), rtol=1e-10, atol=1e-12)
        expected = inputs.var((0, 2, 3), correction=0)
        torch.testing.assert_close(variance, expected, rtol=1e-10, atol=1e-12)


def test_statistics_handed_in_take_the_batchs_place(net, images, drawn, exact, doubled):
    params = doubled(net)
    x, other = (net.prepare(exact(drawn(images(18, 3), 6, seed))) for seed in (0, 1))
    stats = net.statistics(params, x)
    torch.testing.assert_close(net(params, x, stats), net(params, x), rtol=1e-9, atol=1e-9)
    together = net(params, other, stats)
    alone = torch.cat([net(params, row[None], stats) for row in other])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert float((together - net(params, other)).abs().max()) > 1e-3


def test_it_can_be_differentiated_twice(images, drawn, exact, doubled):
    task = images(16, way=2)
    net = ResNet12(task, widths=(2, 2, 2, 2))
    x = net.prepare(exact(drawn(task, 3)))
    names, values = zip(*doubled(net).items(), strict=True)
    for value in values:
        value.requires_grad_()

    def loss(*entries: Tensor) -> Tensor:
        out = net(dict(zip(names, entries, strict=True)), x)
        return nn.functional.cross_entropy(out, torch.tensor([0, 1, 0]))

    assert torch.autograd.gradgradcheck(loss, values, fast_mode=True, atol=1e-4)


def test_it_has_the_published_size(images):
    """12.42 million without the head, as papers that train it on colour images say."""
    net = backbone("resnet12", images(16, 3))
    body = count_parameters(net) - 641 * 5
    assert body == 12_424_320
    assert isinstance(net, ResNet12)
    assert net.width == 640


def test_weights_are_he_normal(net):
    params = ResNet12(TaskShape(5, 1, 1, (3, 16, 16), "uint8"), widths=(64, 32, 16, 8)).init(
        torch.Generator().manual_seed(0)
    )
    assert float(params["conv1.2.weight"].std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert float(params["conv2.skip.weight"].std()) == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    assert {float(v.mean()) for n, v in params.items() if re.match(r"norm.*weight", n)} == {1.0}


@pytest.mark.parametrize("instance", [(4,), (1, 15, 28), (28, 28)])
def test_it_refuses_what_is_no_image(instance):
    message = f"resnet12 needs images of shape [channels, >=16, >=16], got {list(instance)}"
    with pytest.raises(UsageError, match=re.escape(message)):
        ResNet12(TaskShape(5, 1, 1, instance, "float32"))
