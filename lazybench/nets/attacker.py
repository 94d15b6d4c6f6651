"""The encoder-decoder of meta-attack: from images to maps of a classifier's gradient."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.nets.net import Pick, Stats, batch_norm, in_turn, measured, scaled
from lazybench.nets.params import Params
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape

NORM_EPS = 1e-5
"""Added to the variance, as the authors' framework does by default."""

_GREY = (16, 32, 64, 64, 32, 16, 8)
_COLOUR = (32, 64, 128, 256, 128, 64, 32)
_SMALLEST_PX = 16
_ENCODER, _LAST = 4, 8


class EncoderDecoder:
    """Four convolutions down to an eighth of the size, four transposed ones back up.

    Parameters: `conv{1..4}`, `up{5..7}` and `head`, each `.weight|bias`; `norm{1..7}.weight|bias`.
    Each layer but the last is followed by a ReLU and batch norm. The norm always uses the
    statistics of its input: those of a batch in meta-training, and those of the one image in an
    attack, where it is instance norm.

    A grey image of 28 px takes 136,081 parameters in filters of 16, 32, 64, 64 and 32, 16, 8; in
    colour there are 32, 64, 128, 256 and 128, 64, 32. Kernels are 3 wide where the size stays and 4
    with a stride of 2, except on the way up to an odd size, where they are 3 wide without padding.
    `Choice:` that rule carries the two published networks, for 28 and 32 px, over to any size.

    Reference: Du et al. 2020 (Query-efficient meta attack), section 4.1 and released code.
    """

    def __init__(self, task: TaskShape) -> None:
        """Fix the architecture for images of one shape.

        Raises:
            UsageError: instances that aren't images of at least 16x16, or targets that aren't maps
                of their shape.
        """
        shape = task.instance
        if len(shape) != 3 or min(shape[1:]) < _SMALLEST_PX or task.target_shape != shape:
            raise UsageError(
                "an encoder-decoder needs images of shape [channels, >=16, >=16] and targets of "
                f"the same shape, got {list(shape)} and {list(task.target_shape)}"
            )
        self.name = "encoder-decoder"
        self.channels = shape[0]
        self.filters = _GREY if self.channels == 1 else _COLOUR
        # Heights and widths on the way up, one for each layer that doubles them.
        self._sizes = [tuple(edge >> halved for edge in shape[1:]) for halved in (2, 1, 0)]

    def init(self, generator: torch.Generator) -> Params:
        """Return Kaiming-normal weights, unit norm scales and zero offsets.

        Reference: He et al. 2015, eq. (10), with a fan of the weight's second axis.
        """
        params: Params = {}
        widths = (self.channels, *self.filters, self.channels)
        for layer in range(1, _LAST + 1):
            name, (inputs, outputs) = _name(layer), widths[layer - 1 : layer + 1]
            axes = (outputs, inputs) if layer <= _ENCODER else (inputs, outputs)
            shape = (*axes, *self._kernel(layer))
            deviation = math.sqrt(2.0 / math.prod(shape[1:]))
            params[f"{name}.weight"] = torch.randn(shape, generator=generator).mul_(deviation)
            params[f"{name}.bias"] = torch.zeros(outputs)
            if layer < _LAST:
                params[f"norm{layer}.weight"] = torch.ones(outputs)
                params[f"norm{layer}.bias"] = torch.zeros(outputs)
        return params

    def prepare(self, x: Tensor) -> Tensor:
        """Return images as numbers in [0, 1]."""
        return scaled(x)

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return maps `[n, channels, height, width]`."""
        return self._apply(params, self._body(params, x, in_turn(stats)), _LAST)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return the inputs of the last layer, flattened."""
        return self._body(params, x, in_turn(stats)).flatten(1)

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm's input on `x`."""
        return measured(lambda pick: self._body(params, x, pick))

    def _body(self, params: Params, x: Tensor, pick: Pick) -> Tensor:
        for layer in range(1, _LAST):
            x = F.relu(self._apply(params, x, layer))
            scale, offset = params[f"norm{layer}.weight"], params[f"norm{layer}.bias"]
            x = batch_norm(x, scale, offset, pick(x), NORM_EPS)
        return x

    def _apply(self, params: Params, x: Tensor, layer: int) -> Tensor:
        weight, bias = params[f"{_name(layer)}.weight"], params[f"{_name(layer)}.bias"]
        if layer <= _ENCODER:
            return F.conv2d(x, weight, bias, stride=1 if layer == 1 else 2, padding=1)
        # A kernel of 4, or of 3 where the size stays, is padded; one of 3 that doubles isn't.
        doubles = layer < _LAST
        padding = [0 if doubles and edge == 3 else 1 for edge in self._kernel(layer)]
        return F.conv_transpose2d(x, weight, bias, stride=2 if doubles else 1, padding=padding)

    def _kernel(self, layer: int) -> tuple[int, ...]:
        if layer in (1, _LAST):
            return (3, 3)
        if layer <= _ENCODER:
            return (4, 4)
        return tuple(3 if edge % 2 else 4 for edge in self._sizes[layer - _ENCODER - 1])


def _name(layer: int) -> str:
    if layer == _LAST:
        return "head"
    return f"conv{layer}" if layer <= _ENCODER else f"up{layer}"
