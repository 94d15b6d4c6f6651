"""Classifiers to attack against plain torch modules with the same weights, and what freezing is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import params as algebra
from lazybench.nets.params import Params
from lazybench.nets.whitebox import CLASSIFIERS, MOMENTS, Layered, classifier

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(params: Params) -> Params:
    """In float64, everything off its starting value; variances stay above 0."""
    generator = fresh(1)
    return {
        name: value.double() + 0.1 * torch.rand(value.shape, generator=generator).double()
        for name, value in params.items()
    }


def images(shape: tuple[int, ...], rows: int = 3) -> Tensor:
    return torch.rand(rows, *shape, generator=fresh(2), dtype=torch.float64)


MODULES: dict[str, tuple[nn.Module, list[str]]] = {
    "lenet5": (
        nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        ),
        ["conv1", "conv2", "linear1", "linear2", "head"],
    ),
    "net4": (
        nn.Sequential(
            *(nn.Conv2d(1, 128, 3), nn.Tanh(), nn.MaxPool2d(2)),
            *(nn.Conv2d(128, 64, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10)),
        ),
        ["conv1", "conv2", "linear1", "head"],
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_it_is_the_module_of_the_paper(name: str) -> None:
    net = classifier(name, GREY, 10)
    params = shifted(net.init(fresh()))
    module, layers = MODULES[name]
    module = module.double()
    parts = [part for part in module if isinstance(part, nn.Conv2d | nn.Linear)]
    for part, layer in zip(parts, layers, strict=True):
        part.load_state_dict({key: params[f"{layer}.{key}"] for key in ("weight", "bias")})
    x = images(GREY)
    torch.testing.assert_close(net(params, x), module(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("lenet5", GREY, 44_426),
        ("net1", GREY, 431_080),
        ("net2", GREY, 3_382_346),
        ("net4", GREY, 281_290),
        ("net6", GREY, 312_202),
        ("resnet18", COLOUR, 11_173_962),
    ],
)
def test_sizes_are_the_published_ones(name: str, shape: tuple[int, ...], parameters: int) -> None:
    params = classifier(name, shape, 10).init(fresh())
    trained = {key: value for key, value in params.items() if not key.startswith(MOMENTS)}
    assert algebra.count(trained) == parameters


class Block(nn.Module):
    """As the paper draws it, shortcut of option B."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        stride = 1 if inputs == width else 2
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.short: nn.Module = nn.Identity()
        if inputs != width:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.short(x))


def test_resnet18_is_the_module_of_the_paper_with_frozen_moments() -> None:
    net = classifier("resnet18", (3, 16, 16), 10)
    params = shifted(net.init(fresh()))
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [Block(a, b) for a, b in pairwise(widths)]
    stem, norm = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    module = nn.Sequential(stem, norm, nn.ReLU(), *blocks, pool).double().eval()
    # Both hold their layers in the order in which they run.
    with torch.no_grad():
        weights = iter(value for key, value in params.items() if not key.startswith(MOMENTS))
        for value in module.parameters():
            value.copy_(next(weights))
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        for place, part in enumerate(norms):
            part.running_mean = params[f"{MOMENTS}{place}.mean"]
            part.running_var = params[f"{MOMENTS}{place}.variance"]
        x = images((3, 16, 16))
        torch.testing.assert_close(net(params, x), module(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_image_is_answered_alone_as_among_others(name: str) -> None:
    shape = GREY if name.startswith(("net", "lenet")) else COLOUR
    if name == "net3":
        pytest.skip("136 million multiplications an image; the same code as the others")
    net = classifier(name, shape, 10)
    x = images(shape)
    params = net.frozen(shifted(net.init(fresh())), [x])
    with torch.no_grad():
        together = net(params, x)
        assert together.shape == (3, 10)
        torch.testing.assert_close(net(params, x[1:2]), together[1:2], rtol=1e-9, atol=1e-9)


def test_frozen_moments_are_the_batches_averages() -> None:
    net = classifier("resnet8", (3, 16, 16), 10)
    params = shifted(net.init(fresh()))
    one, two = images((3, 16, 16), 8).split(4)
    with torch.no_grad():
        # On a batch of its own moments a frozen network is the network in training.
        alone = net.frozen(params, [one])
        torch.testing.assert_close(net(alone, one), net.train_pass(params, one, fresh()))
    both = net.frozen(params, [one, two])
    after = net.frozen(params, [two])
    for key in (key for key in params if key.startswith(MOMENTS)):
        torch.testing.assert_close(both[key], (alone[key] + after[key]) / 2)
    with pytest.raises(UsageError, match="got no images"):
        net.frozen(params, [])


def test_dropout_is_for_training_alone() -> None:
    net = classifier("net2", (1, 16, 16), 10)
    params = shifted(net.init(fresh()))
    x = images((1, 16, 16))
    assert torch.equal(net(params, x), net(params, x))
    first, again, other = (net.train_pass(params, x, fresh(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, net(params, x))
    plain = classifier("lenet5", GREY, 10)
    params, x = plain.init(fresh()), images(GREY).float()
    assert torch.equal(plain.train_pass(params, x, fresh()), plain(params, x))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("net5", GREY, r"no classifier 'net5'.*Did you mean: .*net"),
        ("lenet5", (1, 8, 8), "lenet5 needs larger images"),
        ("lenet5", (784,), "needs images"),
        ("resnet18", (3, 8, 8), "resnet18 needs images"),
    ],
)
def test_what_cannot_be_is_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        classifier(name, shape, 10)


def test_gradients_reach_the_images() -> None:
    net = classifier("net4", (1, 12, 12), 4)
    assert isinstance(net, Layered)
    params = shifted(net.init(fresh()))
    x = images((1, 12, 12), 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: net(params, given), (x,), fast_mode=True)
