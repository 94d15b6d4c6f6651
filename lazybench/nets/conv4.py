"""The few-shot network of four convolutional modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.fused import conv_norm_pool, images, patch_norm_pool, patches
from lazybench.nets.net import (
    NORM_EPS,
    Moments,
    Stats,
    batch_norm,
    channels_last,
    glorot,
    head,
    head_outputs,
    moments,
    need_images,
    scaled,
)
from lazybench.nets.params import Params
from lazybench.runtime.precision import at_precision, exempt, precision
from lazybench.tasks import TaskShape

_LARGE_PX = 32
"""Width of images from which a module written out is faster at first order, too."""


class Conv4:
    """Four modules of 3x3 convolution, batch norm, ReLU and 2x2 max-pool, then a linear layer.

    Padding 1 and floor pooling: 28 px give 1x1, 84 px 5x5 positions of `filters` features.
    Parameters: `conv{i}.weight [filters, in, 3, 3]`, `norm{i}.weight|bias [filters]`,
    `head.weight|bias`.

    The convolutions have no bias: the batch norm that follows takes any constant away again, so the
    function is the same and each step saves one pass over the largest arrays. Pooling comes before
    the ReLU: both are monotone, so the order doesn't matter to the result, and a quarter of the
    entries is left to clamp.

    On a CPU, modules run written out (`lazybench.nets.fused`) where that is faster: all of them
    where gradients are differentiated again, else the large ones. For first-order gradients,
    one-channel images of even size are prepared as patches `[n, 4, h/2, w/2, 10]`
    (`lazybench.nets.fused`).

    Reference: Finn et al. 2017, section 5.2; the lazy paper, A.2.
    """

    def __init__(self, task: TaskShape, *, filters: int = 64, second_order: bool = False) -> None:
        """Fix the architecture for tasks of one shape.

        Args:
            task: shape of the tasks.
            filters: filters of each convolution.
            second_order: gradients will be differentiated again. The result is the same without;
                only the time differs.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        need_images(task, "conv4")
        self.name = f"conv4-{filters}"
        self.filters = filters
        self.channels, height, width = task.instance
        self.width = filters * (height // 16) * (width // 16)
        self.outputs = task.outputs
        self._target_shape = task.target_shape
        self._twice = second_order
        self._cuts = not second_order and self.channels == 1 and height % 2 == 0 and width % 2 == 0

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
        """Return float32 images in [0, 1], channels last, or their patches."""
        x = scaled(x)
        if self._cuts and x.device.type == "cpu" and not x.requires_grad:
            return patches(x)
        return channels_last(x)

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        return head_outputs(params, self.features(params, x, stats), self._target_shape)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, filters * positions]`."""
        first = 1
        if x.dim() == 5 and stats is None:
            with exempt(x.device):
                x = patch_norm_pool(x, *_module(params, 1), NORM_EPS)
            first = 2
        x = _as_images(x)
        written_out = stats is None and x.device.type == "cpu" and precision() != "bf16"
        for layer in range(first, 5):
            if written_out and (self._twice or x.shape[-1] >= _LARGE_PX):
                x = conv_norm_pool(x, *_module(params, layer), NORM_EPS)
            else:
                given = stats[layer - 1] if stats is not None else None
                x = _norm_pool(params, layer, _convolve(params, layer, x), given)
        return x.flatten(1)

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`."""
        x = _as_images(x)
        by_layer: list[Moments] = []
        for layer in range(1, 5):
            x = _convolve(params, layer, x)
            by_layer.append(moments(x))
            x = _norm_pool(params, layer, x, by_layer[-1])
        return tuple(by_layer)


def _convolve(params: Params, layer: int, x: Tensor) -> Tensor:
    return F.conv2d(x, params[f"conv{layer}.weight"], padding=1)


def _norm_pool(params: Params, layer: int, x: Tensor, given: Moments | None) -> Tensor:
    _, scale, offset = _module(params, layer)
    return F.relu_(F.max_pool2d(batch_norm(x, scale, offset, given, NORM_EPS), 2))


def _module(params: Params, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        params[f"conv{layer}.weight"],
        params[f"norm{layer}.weight"],
        params[f"norm{layer}.bias"],
    )


def _as_images(x: Tensor) -> Tensor:
    return channels_last(images(x) if x.dim() == 5 else x)
