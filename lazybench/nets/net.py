"""The interface of networks (pure functions of their parameters), common layers, and MLPs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.nets.params import Params
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape

Moments = tuple[Tensor, Tensor]
"""Mean and (biased) variance, `[channels]` each, of a normalisation layer's input."""

Stats = tuple[Moments, ...]
"""Moments of every normalisation layer in order."""

Pick = Callable[[Tensor], Moments | None]
"""From the inputs of a batch norm to the moments it should use; None for those of the inputs."""

NORM_EPS = 1e-3
"""Added to the variance in batch norm.

`Choice:` 1e-3, the default of the frameworks that MAML's and Reptile's code was written in.
"""


@runtime_checkable
class Net(Protocol):
    """A network as a pure function.

    Names of parameters say which part they belong to: `head.` begins those of the last layer,
    `norm` those of batch norm, and anything else the rest of the body.
    """

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
    """Return uint8 images as float32 in [0, 1], and anything else unchanged."""
    return x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x


def moments(x: Tensor) -> Moments:
    """Return mean and (biased) variance of each channel of `[n, channels, ...]`, at least float32.

    bfloat16 is too coarse to hold a mean that is subtracted again.
    """
    wide = x.float() if x.dtype == torch.bfloat16 else x
    variance, mean = torch.var_mean(wide, dim=[0, *range(2, x.dim())], correction=0)
    return mean, variance


def in_turn(stats: Stats | None) -> Pick:
    """Return a function that gives batch norms the given moments in order, or those of their input.

    It is for one pass through the network.
    """
    if stats is None:
        return batch_moments
    given = iter(stats)
    return lambda inputs: next(given)


def batch_moments(inputs: Tensor) -> None:
    """Return None: the moments of the batch itself."""


def measured(run: Callable[[Pick], object]) -> Stats:
    """Return the moments of each batch norm's input, in the order in which `run` comes to them."""
    by_layer: list[Moments] = []

    def measure(inputs: Tensor) -> Moments:
        by_layer.append(moments(inputs))
        return by_layer[-1]

    run(measure)
    return tuple(by_layer)


def batch_norm(
    x: Tensor, scale: Tensor | None, offset: Tensor | None, given: Moments | None, eps: float
) -> Tensor:
    """Return `x` normalised by its moments or by given ones, then scaled and shifted."""
    mean, variance = given if given is not None else (None, None)
    return F.batch_norm(x, mean, variance, scale, offset, training=given is None, eps=eps)


def channels_last(x: Tensor) -> Tensor:
    """Return images `[n, channels, h, w]` whose strides say channels last.

    One channel is channels last whatever its strides say, but operators go by the strides.
    """
    if x.shape[1] == 1:
        return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def glorot(shape: tuple[int, ...], fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """Return weights uniform on +-sqrt(6 / (fan_in + fan_out)).

    Reference: Glorot and Bengio 2010, eq. (16).
    """
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)


def head_outputs(params: Params, features: Tensor, target_shape: tuple[int, ...] = ()) -> Tensor:
    """Return the last layer's output for features `[n, d]`: logits `[n, way]`, or predictions.

    Args:
        params: hold `head.weight|bias`.
        features: the inputs of the last layer.
        target_shape: shape of one prediction; () for logits.
    """
    out = F.linear(features, params["head.weight"], params["head.bias"])
    return out.view(-1, *target_shape) if target_shape else out


def head(inputs: int, outputs: int, generator: torch.Generator) -> Params:
    """Return a fresh last layer: Glorot-uniform weights and zero offsets."""
    return {
        "head.weight": glorot((outputs, inputs), inputs, outputs, generator),
        "head.bias": torch.zeros(outputs),
    }


def need_images(task: TaskShape, name: str) -> None:
    """Check that instances are images of at least 16x16, which network `name` needs.

    Raises:
        UsageError: they aren't.
    """
    if len(task.instance) != 3 or min(task.instance[1:]) < 16:
        raise UsageError(
            f"{name} needs images of shape [channels, >=16, >=16], got {list(task.instance)}; "
            "choose another network with --set backbone=mlp"
        )


class MLP:
    """Fully connected layers with ReLU: 40-40 for regression, as Finn et al. have it.

    Parameters: `layer{i}.weight|bias`, `head.weight|bias`. Images are flattened and scaled to
    [0, 1].

    Without a hidden layer it is `linear`: a head on standardised inputs, for features of networks
    trained elsewhere. `Choice:` each instance is shifted to mean 0 and scaled to variance
    1, so that no answer depends on the other rows; instances of a single number stay as they are.
    """

    def __init__(self, task: TaskShape, *, hidden: tuple[int, ...] = (40, 40)) -> None:
        """Fix the architecture for tasks of one shape; no width of `hidden` gives `linear`."""
        self.name = "-".join(("mlp", *map(str, hidden))) if hidden else "linear"
        self.hidden = hidden
        self.inputs = math.prod(task.instance)
        self.outputs = task.outputs
        self._target_shape = task.target_shape

    def init(self, generator: torch.Generator) -> Params:
        """Return Glorot-uniform weights and zero offsets."""
        params: Params = {}
        inputs = self.inputs
        for layer, width in enumerate(self.hidden, 1):
            params[f"layer{layer}.weight"] = glorot((width, inputs), inputs, width, generator)
            params[f"layer{layer}.bias"] = torch.zeros(width)
            inputs = width
        return params | head(inputs, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 vectors `[n, d]`."""
        x = scaled(x).flatten(1)
        return x if self.hidden or self.inputs == 1 else F.layer_norm(x, (self.inputs,))

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        return head_outputs(params, self.features(params, x, stats), self._target_shape)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return the last hidden layer."""
        for layer in range(1, len(self.hidden) + 1):
            x = F.relu(F.linear(x, params[f"layer{layer}.weight"], params[f"layer{layer}.bias"]))
        return x

    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return nothing: there is no normalisation layer."""
        return ()
