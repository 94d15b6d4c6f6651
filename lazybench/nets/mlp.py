"""Fully connected networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.net import Stats, glorot, head, head_outputs, scaled
from lazybench.nets.params import Params
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape


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
