"""The wide residual network of 18 layers that attacks on CIFAR-10 are measured on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.nets.net import Pick, Stats, batch_norm, head_outputs, in_turn, measured, scaled
from lazybench.nets.params import Params
from lazybench.nets.resnet_cifar import CIFAR_EPS, he_normal
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape

WIDTHS = (64, 128, 256, 512)
_BLOCKS = 2


class ResNet18:
    """A 3x3 convolution, four stages of two residual blocks, global average pooling, a head.

    Stages have 64, 128, 256 and 512 filters; the first block of each but the first halves the image
    and has a shortcut of a 1x1 convolution with batch norm (option B). No first pooling: images of
    32x32 keep their size in the first stage. 11,173,962 parameters at 10 classes.

    Parameters: `conv0.weight`, `conv{stage}.{block}.{1|2|3}.weight`, `norm…weight|bias` alike (3 is
    the shortcut), `head.weight|bias`.

    Reference: He et al. 2016, with the widths of the first table and the input layer of its CIFAR
        experiments, as attacks on CIFAR-10 use it.
    """

    name = "resnet18"

    def __init__(self, task: TaskShape) -> None:
        """Fix the architecture for tasks of one shape.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        if len(task.instance) != 3 or min(task.instance[1:]) < 16:
            raise UsageError(
                f"{self.name} needs images of shape [channels, >=16, >=16], got "
                f"{list(task.instance)}; choose another network"
            )
        self.channels, self.outputs = task.instance[0], task.outputs
        self.width = WIDTHS[-1]
        self._target_shape = task.target_shape

    def init(self, generator: torch.Generator) -> Params:
        """Return He-normal weights by inputs, unit norm scales and zero offsets."""
        params: Params = {}

        def layer(name: str, inputs: int, width: int, kernel: int) -> None:
            shape = (width, inputs, kernel, kernel)
            params[f"conv{name}.weight"] = he_normal(shape, generator)
            params[f"norm{name}.weight"] = torch.ones(width)
            params[f"norm{name}.bias"] = torch.zeros(width)

        layer("0", self.channels, WIDTHS[0], 3)
        inputs = WIDTHS[0]
        for stage, width in enumerate(WIDTHS, 1):
            for block in range(1, _BLOCKS + 1):
                layer(f"{stage}.{block}.1", inputs, width, 3)
                layer(f"{stage}.{block}.2", width, width, 3)
                if inputs != width:
                    layer(f"{stage}.{block}.3", inputs, width, 1)
                inputs = width
        params["head.weight"] = he_normal((self.outputs, self.width), generator)
        params["head.bias"] = torch.zeros(self.outputs)
        return params

    def prepare(self, x: Tensor) -> Tensor:
        """Return images in [0, 1]; the first batch norm does the rest."""
        return scaled(x)

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        return head_outputs(params, self.features(params, x, stats), self._target_shape)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, 512]`."""
        return self._body(params, x, in_turn(stats))

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`."""
        return measured(lambda pick: self._body(params, x, pick))

    def _body(self, params: Params, x: Tensor, pick: Pick) -> Tensor:
        def convolve(x: Tensor, name: str, stride: int = 1) -> Tensor:
            weight = params[f"conv{name}.weight"]
            x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
            scale, offset = params[f"norm{name}.weight"], params[f"norm{name}.bias"]
            return batch_norm(x, scale, offset, pick(x), CIFAR_EPS)

        x = F.relu(convolve(x, "0"))
        for stage in range(1, len(WIDTHS) + 1):
            for block in range(1, _BLOCKS + 1):
                halves = stage > 1 and block == 1
                stride = 2 if halves else 1
                out = F.relu(convolve(x, f"{stage}.{block}.1", stride))
                out = convolve(out, f"{stage}.{block}.2")
                x = F.relu(out + (convolve(x, f"{stage}.{block}.3", stride) if halves else x))
        return x.mean((2, 3))
