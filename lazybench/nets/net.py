"""What every network is: a pure function of its parameters."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from lazybench.params import Params

Stats = tuple[tuple[Tensor, Tensor], ...]
"""Mean and variance, `[channels]` each, of every normalisation layer in order."""

NORM_EPS = 1e-3
"""Added to the variance in batch norm. `Choice:` 1e-3, the default of the frameworks that MAML's
and Reptile's published code was written in."""


class Net(Protocol):
    """A network as a pure function."""

    name: str

    def init(self, generator: torch.Generator) -> Params:
        """Return fresh parameters."""
        ...

    def prepare(self, x: Tensor) -> Tensor:
        """Return instances as the net wants them (float32, normalised); call it once for a task."""
        ...

    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return outputs `[n, outputs]` for prepared instances `[n, *instance]`."""
        ...

    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return the inputs of the last layer, `[n, d]`."""
        ...

    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return the batch statistics of every normalisation layer on `x`."""
        ...


def scaled(x: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1], and anything else as it is."""
    return x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x


def glorot(shape: tuple[int, ...], fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """Return weights uniform on +-sqrt(6 / (fan_in + fan_out)).

    Reference: Glorot and Bengio 2010, eq. (16).
    """
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)


def head(inputs: int, outputs: int, generator: torch.Generator) -> Params:
    """Return a fresh last layer: Glorot-uniform weights and zero offsets."""
    return {
        "head.weight": glorot((outputs, inputs), inputs, outputs, generator),
        "head.bias": torch.zeros(outputs),
    }
