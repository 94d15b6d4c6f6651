"""CIFAR's residual networks against a plain torch module with the same weights, in float64."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import ResNetCifar, backbone, count_parameters
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape


class Block(nn.Module):
    """As the paper draws it, shortcut of option A."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == width else 2
        self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.stride == 2:
            some = x[:, :, ::2, ::2]
            # Twice the channels: a quarter of them is empty on each side.
            empty = torch.zeros_like(some)[:, : some.shape[1] // 2]
            x = torch.cat([empty, some, empty], dim=1)
        return F.relu(out + x)


class Reference(nn.Module):
    def __init__(self, net: ResNetCifar, params: Params) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(net.channels, net.widths[0], 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(net.widths[0])
        self.stages = nn.ModuleList()
        fan = net.widths[0]
        for width in net.widths:
            blocks = nn.ModuleList()
            for _ in range(net.blocks):
                blocks.append(Block(fan, width))
                fan = width
            self.stages.append(blocks)
        self.head = nn.Linear(fan, net.outputs)
        self.double()
        with torch.no_grad():
            for ours, theirs in self.pairs():
                theirs.copy_(params[ours])

    def pairs(self) -> list[tuple[str, nn.Parameter]]:
        found = []
        for path, value in self.named_parameters():
            match = re.fullmatch(r"stages\.(\d)\.(\d)\.(conv|norm)(\d)\.(\w+)", path)
            name = path
            if match:
                stage, block = int(match[1]) + 1, int(match[2]) + 1
                name = f"{match[3]}{stage}.{block}.{match[4]}.{match[5]}"
            found.append((name, value))
        return found

    def norms(self) -> list[nn.BatchNorm2d]:
        return [part for part in self.modules() if isinstance(part, nn.BatchNorm2d)]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.conv0((x - 0.5) / 0.25)))
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture
def net(images: Callable[..., TaskShape]) -> ResNetCifar:
    return ResNetCifar(images(18, 3), depth=8, width=4)


@pytest.mark.parametrize(("channels", "depth", "side"), [(1, 8, 17), (3, 8, 16), (3, 20, 16)])
def test_logits_gradients_and_running_averages_are_those_of_the_module(
    channels, depth, side, images, drawn, exact, doubled
):
    task = images(side, channels)
    net = ResNetCifar(task, depth=depth, width=4)
    params = {name: value.requires_grad_() for name, value in doubled(net).items()}
    x, labels = exact(drawn(task, 6)), torch.arange(6) % 5
    model = Reference(net, params)
    ours, stats = net.train_pass(params, net.prepare(x))
    theirs = model(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net(params, net.prepare(x)), theirs, rtol=1e-10, atol=1e-10)
    slopes = torch.autograd.grad(F.cross_entropy(ours, labels), list(params.values()))
    grads = dict(zip(params, slopes, strict=True))
    F.cross_entropy(theirs, labels).backward()
    pairs = model.pairs()
    assert {name for name, _ in pairs} == set(params)
    for name, value in pairs:
        torch.testing.assert_close(grads[name], value.grad, rtol=1e-8, atol=1e-10)
    # A first pass moves averages from 0 and 1 by a tenth.
    assert len(stats) == len(model.norms()) == depth - 1
    for (mean, variance), norm in zip(stats, model.norms(), strict=True):
        assert not any(part.requires_grad for part in (mean, variance))
        torch.testing.assert_close(0.1 * mean, norm.running_mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(0.9 + 0.1 * variance, norm.running_var, rtol=1e-10, atol=1e-12)


def test_given_statistics_are_a_module_in_evaluation(net, images, drawn, exact, doubled):
    params, task = doubled(net), images(18, 3)
    model = Reference(net, params)
    model(exact(drawn(task, 6, 1)))
    model.eval()
    stats = tuple((norm.running_mean, norm.running_var) for norm in model.norms())
    x = exact(drawn(task, 4))
    got = net(params, net.prepare(x), stats)
    torch.testing.assert_close(got, model(x), rtol=1e-10, atol=1e-10)
    alone = torch.cat([net(params, net.prepare(row[None]), stats) for row in x])
    torch.testing.assert_close(got, alone, rtol=1e-9, atol=1e-9)


def test_statistics_are_those_of_each_norms_input(net, images, drawn, exact, doubled):
    params, x = doubled(net), exact(drawn(images(18, 3), 6))
    model, seen = Reference(net, params), []
    for norm in model.norms():
        norm.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    model(x)
    biased = net.statistics(params, net.prepare(x))
    _, unbiased = net.train_features(params, net.prepare(x))
    for inputs, one, other in zip(seen, biased, unbiased, strict=True):
        for correction, (mean, variance) in enumerate((one, other)):
            torch.testing.assert_close(mean, inputs.mean((0, 2, 3)), rtol=1e-10, atol=1e-12)
            expected = inputs.var((0, 2, 3), correction=correction)
            torch.testing.assert_close(variance, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_it_can_be_differentiated_twice_and_forward(images, drawn, exact, doubled):
    """d/dtheta of <gradient, v> by double backward, and <gradient, v> itself by dual numbers."""
    task = images(16, way=2)
    net = ResNetCifar(task, depth=8, width=2)
    x, labels = net.prepare(exact(drawn(task, 3))), torch.tensor([0, 1, 0])
    params = doubled(net)
    names, values = zip(*params.items(), strict=True)
    generator = torch.Generator().manual_seed(1)
    along = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in params.items()}

    def loss(given: Params) -> Tensor:
        return F.cross_entropy(net(given, x), labels)

    def of_entries(*entries: Tensor) -> Tensor:
        return loss(dict(zip(names, entries, strict=True)))

    for value in values:
        value.requires_grad_()
    assert torch.autograd.gradgradcheck(of_entries, values, fast_mode=True, atol=1e-4)
    grads = torch.autograd.grad(of_entries(*values), values)
    expected = sum(float((g * along[n]).sum()) for n, g in zip(names, grads, strict=True))
    plain = {name: value.detach() for name, value in params.items()}
    _, got = torch.func.jvp(loss, (plain,), (along,))
    assert float(got) == pytest.approx(expected, rel=1e-10)


def test_initial_weights_are_he_normal(images):
    params = ResNetCifar(images(32, 3)).init(torch.Generator().manual_seed(0))
    for name, value in params.items():
        if value.ndim == 1:
            assert set(value.tolist()) == {1.0 if re.match(r"norm.*weight", name) else 0.0}
            continue
        fan = value[0].numel()
        assert float(value.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.12)
    again = ResNetCifar(images(32, 3)).init(torch.Generator().manual_seed(0))
    torch.testing.assert_close(params, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet8", 75_290), ("resnet20", 269_722), ("resnet32", 464_154)]
)
def test_sizes_at_ten_classes(name, size, images):
    """0.27 and 0.46 million, as table 6 of He et al. 2016 has them."""
    net = backbone(name, images(32, 3, way=10))
    assert net.name == name
    assert count_parameters(net) == size


def test_a_width_can_be_named(images):
    net = backbone("resnet8-8", images(16))
    assert (net.name, net.widths) == ("resnet8-8", (8, 16, 32))
    for name in ("resnet9", "resnet8-0", "resnet8-"):
        with pytest.raises(UsageError, match=f"got '{name}'"):
            backbone(name, images(16))


def test_small_images_and_vectors_are_refused(images):
    for task in (images(15), TaskShape(5, 1, 1, (16,), "float32")):
        with pytest.raises(UsageError, match="resnet8 needs images of shape"):
            backbone("resnet8", task)
