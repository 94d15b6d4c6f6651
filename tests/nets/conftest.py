"""Shapes, instances and parameters for the tests of networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lazybench.nets import Net
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape


@pytest.fixture
def images() -> Callable[..., TaskShape]:
    """A function to the shape of tasks on square images."""

    def make(side: int, channels: int = 1, way: int = 5) -> TaskShape:
        return TaskShape(way, 1, 1, (channels, side, side), "uint8")

    return make


@pytest.fixture
def drawn() -> Callable[..., Tensor]:
    """A function to random uint8 instances of a shape."""

    def make(task: TaskShape, rows: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(256, (rows, *task.instance), generator=generator, dtype=torch.uint8)

    return make


@pytest.fixture
def exact() -> Callable[[Tensor], Tensor]:
    """A function to images in [0, 1] as float64, which `prepare` leaves in that precision."""
    return lambda x: x.double() / 255


@pytest.fixture
def doubled() -> Callable[..., Params]:
    """A function to float64 parameters with scales and offsets off their starting values."""

    def make(net: Net, seed: int = 0) -> Params:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: value.double()
            + (0.2 * torch.randn(value.shape, generator=generator) if value.ndim == 1 else 0.0)
            for name, value in net.init(generator).items()
        }

    return make
