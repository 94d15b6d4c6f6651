"""The encoder-decoder against the published table of layers, written out with torch's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import backbone, count_parameters
from lazybench.nets.attacker import EncoderDecoder
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape

# In, out, kernel, stride, padding, as the released code has them for 28 and 32 px.
GREY = (
    (1, 16, 3, 1, 1),
    (16, 32, 4, 2, 1),
    (32, 64, 4, 2, 1),
    (64, 64, 4, 2, 1),
    (64, 32, 3, 2, 0),
    (32, 16, 4, 2, 1),
    (16, 8, 4, 2, 1),
    (8, 1, 3, 1, 1),
)
COLOUR = (
    (3, 32, 3, 1, 1),
    (32, 64, 4, 2, 1),
    (64, 128, 4, 2, 1),
    (128, 256, 4, 2, 1),
    (256, 128, 4, 2, 1),
    (128, 64, 4, 2, 1),
    (64, 32, 4, 2, 1),
    (32, 3, 3, 1, 1),
)


def shape(*instance: int) -> TaskShape:
    return TaskShape(1, 4, 4, instance, "float32", "array", instance)


def published(table: tuple[Any, ...], params: Params) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (inputs, outputs, kernel, stride, padding) in enumerate(table):
        kind = nn.Conv2d if index < 4 else nn.ConvTranspose2d
        layers.append(kind(inputs, outputs, kernel, stride, padding))
        if index < len(table) - 1:
            layers += [nn.ReLU(), nn.BatchNorm2d(outputs)]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for own, value in zip(net.parameters(), params.values(), strict=True):
            own.copy_(value)
    return net.train()


@pytest.mark.parametrize(("instance", "table"), [((1, 28, 28), GREY), ((3, 32, 32), COLOUR)])
@pytest.mark.parametrize("images", [1, 3])
def test_equals_the_published_layers(
    instance: tuple[int, ...], table: tuple[Any, ...], images: int
) -> None:
    net = EncoderDecoder(shape(*instance))
    params = net.init(torch.Generator().manual_seed(0))
    params = {name: value.double() + 0.01 for name, value in params.items()}
    x = torch.rand((images, *instance), generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(net(params, x), published(table, params)(x))


def test_counts_the_published_parameters_without_running_averages() -> None:
    # 136,545 numbers in the released checkpoint, of which 464 are moving means and variances.
    assert count_parameters(EncoderDecoder(shape(1, 28, 28))) == 136_545 - 464


@pytest.mark.parametrize("instance", [(1, 16, 16), (3, 33, 45), (2, 17, 30)])
def test_maps_have_the_size_of_the_images(instance: tuple[int, ...]) -> None:
    net = EncoderDecoder(shape(*instance))
    params = net.init(torch.Generator().manual_seed(0))
    x = torch.rand(2, *instance)
    maps = net(params, x)
    assert maps.shape == x.shape
    assert bool(maps.isfinite().all())


def test_statistics_of_one_image_make_another_see_through_its_norms() -> None:
    net = EncoderDecoder(shape(1, 16, 16))
    params = net.init(torch.Generator().manual_seed(0))
    params = {name: value.double() for name, value in params.items()}
    x = torch.rand(2, 1, 16, 16).double()
    stats = net.statistics(params, x)
    assert len(stats) == 7
    torch.testing.assert_close(net(params, x, stats), net(params, x))
    one: Tensor = net(params, x[:1], stats)
    assert not torch.allclose(one, net(params, x[:1]))


def test_is_found_by_its_target_and_refuses_what_has_no_maps() -> None:
    name = "lazybench.nets.attacker:EncoderDecoder"
    assert backbone(name, shape(1, 28, 28)).name == name
    for task in (
        TaskShape(5, 1, 1, (1, 28, 28), "uint8"),
        shape(1, 15, 15),
        TaskShape(1, 1, 1, (1, 28, 28), "float32", "array", (10,)),
    ):
        with pytest.raises(UsageError, match="encoder-decoder needs images"):
            backbone(name, task)
