"""Networks as pure functions of their parameters, safe to call from many threads at once.

A net holds no weights and no buffers: `net.init(generator)` makes a parameter set, `net(params, x)`
applies it. Batch norm uses the statistics of the batch it is given, or statistics handed in
(`stats`), and never a running average.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError, nearest
from lazybench.fused import conv_norm_pool, images, patches
from lazybench.params import Params
from lazybench.task import TaskShape

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


class Conv4:
    """Four modules of 3x3 convolution, batch norm, ReLU and 2x2 max-pool, then a linear layer.

    Padding 1 and floor pooling: 28 px give 1x1, 84 px 5x5 positions of `filters` features.
    Parameters: `conv{i}.weight [filters, in, 3, 3]`, `norm{i}.weight|bias [filters]`,
    `head.weight|bias`.

    The convolutions have no bias: the batch norm that follows takes any constant away again, so the
    function is the same and each step saves one pass over the largest arrays. Pooling comes before
    the ReLU: both are monotone, so the order doesn't matter to the result, and a quarter of the
    entries is left to clamp.

    On a CPU, one-channel images of even size are prepared as patches `[n, 4, h/2, w/2, 10]`, and
    their first module, the largest by far, runs as one step (`lazybench.fused`). Images handed in
    unprepared go through the layers.

    Reference: Finn et al. 2017, section 5.2; the lazy paper, A.2.
    """

    def __init__(self, task: TaskShape, *, filters: int = 64, second_order: bool = False) -> None:
        """Fix the architecture for tasks of one shape.

        Args:
            task: shape of the tasks.
            filters: filters of each convolution.
            second_order: gradients will be differentiated again. The fused first module can do
                that, too, but recomputes its layers; then the layers themselves are faster.

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
        self._cuts = not second_order and self.channels == 1 and height % 2 == 0 and width % 2 == 0

    def init(self, generator: torch.Generator) -> Params:
        """Return Glorot-uniform weights, unit norm scales and zero offsets."""
        params: Params = {}
        inputs = self.channels
        for layer in range(1, 5):
            weight = _glorot((self.filters, inputs, 3, 3), 9 * inputs, 9 * self.filters, generator)
            params[f"conv{layer}.weight"] = weight.to(memory_format=torch.channels_last)
            params[f"norm{layer}.weight"] = torch.ones(self.filters)
            params[f"norm{layer}.bias"] = torch.zeros(self.filters)
            inputs = self.filters
        return params | _head(self.width, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 images in [0, 1], channels last, or their patches."""
        scaled = x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x
        if self._cuts and scaled.device.type == "cpu" and not scaled.requires_grad:
            return patches(scaled)
        return scaled.contiguous(memory_format=torch.channels_last)

    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`."""
        return F.linear(self.features(params, x, stats), params["head.weight"], params["head.bias"])

    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, filters * positions]`."""
        first = 1
        if x.dim() == 5 and stats is None:
            scale, offset = params["norm1.weight"], params["norm1.bias"]
            x = conv_norm_pool(x, params["conv1.weight"], scale, offset, NORM_EPS)
            first = 2
        for layer in range(first, 5):
            x = _convolve(params, layer, x)
            given = stats[layer - 1] if stats is not None else None
            x = _norm_pool(params, layer, x, given)
        return x.flatten(1)

    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`."""
        found: list[tuple[Tensor, Tensor]] = []
        for layer in range(1, 5):
            x = _convolve(params, layer, x)
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            found.append((mean, variance))
            x = _norm_pool(params, layer, x, found[-1])
        return tuple(found)


class MLP:
    """Fully connected layers with ReLU: 40-40 for regression, as Finn et al. have it.

    Parameters: `layer{i}.weight|bias`, `head.weight|bias`. Images are flattened and scaled to
    [0, 1].
    """

    def __init__(self, task: TaskShape, *, hidden: tuple[int, ...] = (40, 40)) -> None:
        """Fix the architecture for tasks of one shape."""
        self.name = "mlp-" + "-".join(map(str, hidden))
        self.hidden = hidden
        self.inputs = math.prod(task.instance)
        self.outputs = task.outputs
        self._target_shape = task.target_shape

    def init(self, generator: torch.Generator) -> Params:
        """Return Glorot-uniform weights and zero offsets."""
        params: Params = {}
        inputs = self.inputs
        for layer, width in enumerate(self.hidden, 1):
            params[f"layer{layer}.weight"] = _glorot((width, inputs), inputs, width, generator)
            params[f"layer{layer}.bias"] = torch.zeros(width)
            inputs = width
        return params | _head(inputs, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 vectors `[n, d]`."""
        scaled = x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x
        return scaled.flatten(1)

    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        out = F.linear(self.features(params, x, stats), params["head.weight"], params["head.bias"])
        return out.view(-1, *self._target_shape) if self._target_shape else out

    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return the last hidden layer."""
        for layer in range(1, len(self.hidden) + 1):
            x = F.relu(F.linear(x, params[f"layer{layer}.weight"], params[f"layer{layer}.bias"]))
        return x

    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return nothing: there is no normalisation layer."""
        return ()


BACKBONES = ("conv4-64", "conv4-32", "mlp")


def backbone(name: str, task: TaskShape, *, second_order: bool = False) -> Net:
    """Return the network of that name for tasks of one shape.

    `auto` is conv4-64 for one-channel images (Omniglot, glyphs), conv4-32 for colour, else mlp.

    Raises:
        UsageError: no such network, or one that can't take these instances.
    """
    if name == "auto":
        image = len(task.instance) == 3
        name = ("conv4-64" if task.instance[0] == 1 else "conv4-32") if image else "mlp"
    if name == "mlp":
        return MLP(task)
    if name in BACKBONES:
        return Conv4(task, filters=int(name.rpartition("-")[2]), second_order=second_order)
    raise UsageError(
        f"backbone must be auto or one of {', '.join(BACKBONES)}, got '{name}'."
        f"{nearest(name, BACKBONES)}"
    )


def _convolve(params: Params, layer: int, x: Tensor) -> Tensor:
    if x.dim() == 5:
        x = images(x)
    if x.shape[1] == 1:
        # One channel is channels last whatever its strides say, but operators go by the strides.
        x = x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return F.conv2d(x, params[f"conv{layer}.weight"], padding=1)


def _norm_pool(
    params: Params, layer: int, x: Tensor, given: tuple[Tensor, Tensor] | None
) -> Tensor:
    mean, variance = given if given is not None else (None, None)
    scale, offset = params[f"norm{layer}.weight"], params[f"norm{layer}.bias"]
    x = F.batch_norm(x, mean, variance, scale, offset, training=given is None, eps=NORM_EPS)
    return F.relu_(F.max_pool2d(x, 2))


def _head(inputs: int, outputs: int, generator: torch.Generator) -> Params:
    return {
        "head.weight": _glorot((outputs, inputs), inputs, outputs, generator),
        "head.bias": torch.zeros(outputs),
    }


def _glorot(
    shape: tuple[int, ...], fan_in: int, fan_out: int, generator: torch.Generator
) -> Tensor:
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)
