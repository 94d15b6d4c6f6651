"""The residual network of twelve layers that few-shot papers train."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.nets.net import (
    NORM_EPS,
    Pick,
    Stats,
    batch_norm,
    channels_last,
    head,
    head_outputs,
    in_turn,
    measured,
    scaled,
)
from lazybench.nets.params import Params
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape

_SLOPE = 0.1
_LAYERS = (1, 2, 3)


class ResNet12:
    """Four residual blocks of three 3x3 convolutions, global average pooling, a linear layer.

    Each convolution is followed by batch norm and, but for the block's last, leaky ReLU (0.1). The
    block's input joins through a 1x1 convolution with batch norm, then come leaky ReLU and 2x2
    max-pool with floor. Widths are 64, 160, 320, 640: 12.42 million parameters on colour images,
    without the head.

    Parameters: `conv{block}.{1|2|3|skip}.weight`, `norm{block}.{1|2|3|skip}.weight|bias`,
    `head.weight|bias`. Statistics are in the order 1, 2, 3, skip within a block.

    Pooling comes before the last leaky ReLU: both are monotone, so the result is the same, and a
    quarter of the entries is left.

    `Choice:` no DropBlock. It needs random numbers in the forward pass, and half of the papers that
    train this network do without.

    Reference: Oreshkin et al. 2018 (TADAM); Lee et al. 2019 (MetaOptNet), section 4.1.
    """

    def __init__(
        self, task: TaskShape, *, widths: tuple[int, int, int, int] = (64, 160, 320, 640)
    ) -> None:
        """Fix the architecture for tasks of one shape.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        if len(task.instance) != 3 or min(task.instance[1:]) < 16:
            raise UsageError(
                "resnet12 needs images of shape [channels, >=16, >=16], got "
                f"{list(task.instance)}; choose another network with --set backbone=mlp"
            )
        self.name = "resnet12"
        self.widths = widths
        self.channels = task.instance[0]
        self.width = widths[-1]
        self.outputs = task.outputs
        self._target_shape = task.target_shape

    def init(self, generator: torch.Generator) -> Params:
        """Return He-normal weights (by outputs, as MetaOptNet has it), unit scales, zero offsets.

        The head is Glorot-uniform, as in the other networks.
        """
        params: Params = {}
        inputs = self.channels
        for block, width in enumerate(self.widths, 1):
            shapes = [(width, inputs, 3, 3), (width, width, 3, 3), (width, width, 3, 3)]
            for layer, shape in zip(
                (*_LAYERS, "skip"), [*shapes, (width, inputs, 1, 1)], strict=True
            ):
                spread = (2.0 / (width * shape[2] * shape[3])) ** 0.5
                weight = torch.randn(shape, generator=generator).mul_(spread)
                params[f"conv{block}.{layer}.weight"] = channels_last(weight)
                params[f"norm{block}.{layer}.weight"] = torch.ones(width)
                params[f"norm{block}.{layer}.bias"] = torch.zeros(width)
            inputs = width
        return params | head(self.width, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 images in [0, 1], channels last."""
        return channels_last(scaled(x))

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        return head_outputs(params, self.features(params, x, stats), self._target_shape)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, 640]`."""
        return self._body(params, x, in_turn(stats))

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`."""
        return measured(lambda pick: self._body(params, x, pick))

    def _body(self, params: Params, x: Tensor, pick: Pick) -> Tensor:
        """Features, with the moments that `pick` gives for each batch norm's input."""

        def convolve(x: Tensor, name: str) -> Tensor:
            weight = params[f"conv{name}.weight"]
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
            scale, offset = params[f"norm{name}.weight"], params[f"norm{name}.bias"]
            return batch_norm(x, scale, offset, pick(x), NORM_EPS)

        x = channels_last(x)
        for block in range(1, len(self.widths) + 1):
            out = x
            for layer in _LAYERS:
                out = convolve(out, f"{block}.{layer}")
                out = F.leaky_relu_(out, _SLOPE) if layer < _LAYERS[-1] else out
            out = out + convolve(x, f"{block}.skip")
            x = F.leaky_relu_(F.max_pool2d(out, 2), _SLOPE)
        return x.mean((2, 3))
