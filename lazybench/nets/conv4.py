"""The few-shot network of four convolutional modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.fused import conv_norm_pool
from lazybench.nets.net import (
    NORM_EPS,
    Moments,
    Stats,
    batch_norm,
    channels_last,
    glorot,
    head,
    moments,
    scaled,
)
from lazybench.params import Params
from lazybench.precision import at_precision, precision
from lazybench.task import TaskShape


class Conv4:
    """Four modules of 3x3 convolution, batch norm, ReLU and 2x2 max-pool, then a linear layer.

    Padding 1 and floor pooling: 28 px give 1x1, 84 px 5x5 positions of `filters` features.
    Parameters: `conv{i}.weight [filters, in, 3, 3]`, `norm{i}.weight|bias [filters]`,
    `head.weight|bias`.

    The convolutions have no bias: the batch norm that follows takes any constant away again, so the
    function is the same and each step saves one pass over the largest arrays. Pooling comes before
    the ReLU: both are monotone, so the order doesn't matter to the result, and a quarter of the
    entries is left to clamp.

    On a CPU each module runs as `lazybench.fused` has it, with gradients of first and second order
    in a few passes; with given statistics, on other devices and in bfloat16 the layers do.

    Reference: Finn et al. 2017, section 5.2; the lazy paper, A.2.
    """

    def __init__(self, task: TaskShape, *, filters: int = 64) -> None:
        """Fix the architecture for tasks of one shape.

        Args:
            task: shape of the tasks.
            filters: filters of each convolution.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        if len(task.instance) != 3 or min(task.instance[1:]) < 16:
            raise UsageError(
                f"conv4 needs images of shape [channels, >=16, >=16], got {list(task.instance)}; "
                "choose another network with --set backbone=mlp"
            )
        self.name = f"conv4-{filters}"
        self.filters = filters
        self.channels, height, width = task.instance
        self.width = filters * (height // 16) * (width // 16)
        self.outputs = task.outputs

    def init(self, generator: torch.Generator) -> Params:
        """Return Glorot-uniform weights, unit norm scales and zero offsets."""
        params: Params = {}
        inputs = self.channels
        for layer in range(1, 5):
            weight = glorot((self.filters, inputs, 3, 3), 9 * inputs, 9 * self.filters, generator)
            params[f"conv{layer}.weight"] = weight.to(memory_format=torch.channels_last)
            params[f"norm{layer}.weight"] = torch.ones(self.filters)
            params[f"norm{layer}.bias"] = torch.zeros(self.filters)
            inputs = self.filters
        return params | head(self.width, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 images in [0, 1], channels last."""
        return channels_last(scaled(x))

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`."""
        return F.linear(self.features(params, x, stats), params["head.weight"], params["head.bias"])

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, filters * positions]`."""
        x = channels_last(x)
        written_out = stats is None and x.device.type == "cpu" and precision() != "bf16"
        for layer in range(1, 5):
            if written_out:
                weight = params[f"conv{layer}.weight"]
                x = conv_norm_pool(x, weight, *_affine(params, layer), NORM_EPS)
            else:
                given = stats[layer - 1] if stats is not None else None
                x = _norm_pool(params, layer, _convolve(params, layer, x), given)
        return x.flatten(1)

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`."""
        x = channels_last(x)
        found: list[Moments] = []
        for layer in range(1, 5):
            x = _convolve(params, layer, x)
            found.append(moments(x))
            x = _norm_pool(params, layer, x, found[-1])
        return tuple(found)


def _convolve(params: Params, layer: int, x: Tensor) -> Tensor:
    return F.conv2d(x, params[f"conv{layer}.weight"], padding=1)


def _norm_pool(params: Params, layer: int, x: Tensor, given: Moments | None) -> Tensor:
    x = batch_norm(x, *_affine(params, layer), given, NORM_EPS)
    return F.relu_(F.max_pool2d(x, 2))


def _affine(params: Params, layer: int) -> tuple[Tensor, Tensor]:
    return params[f"norm{layer}.weight"], params[f"norm{layer}.bias"]
