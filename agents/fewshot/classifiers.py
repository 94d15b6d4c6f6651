"""Last layers that are trained by descent: on all train classes, or on one task's support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.fewshot.heads import cosine
from lazybench.agents.fewshot.weights import HEAD
from lazybench.nets import NORM_EPS
from lazybench.nets.net import head as linear_layer
from lazybench.params import Params

_WEIGHT, _BIAS = f"{HEAD}weight", f"{HEAD}bias"


class Classifier(NamedTuple):
    """A last layer as pure functions.

    Attributes:
        init: `(width, classes, generator)` to fresh random parameters.
        start: `(support [S, d], members [S, way])` to parameters for a task, without randomness;
            members are one-hot labels.
        logits: `(params, features [n, d])` to `[n, classes]`.
    """

    init: Callable[[int, int, torch.Generator], Params]
    start: Callable[[Tensor, Tensor], Params]
    logits: Callable[[Params, Tensor], Tensor]


def linear() -> Classifier:
    """Return weights and an offset a class; they start a task at zero."""

    def start(support: Tensor, members: Tensor) -> Params:
        classes = members.shape[1]
        return {
            _WEIGHT: support.new_zeros(classes, support.shape[1]),
            _BIAS: support.new_zeros(classes),
        }

    def logits(params: Params, features: Tensor) -> Tensor:
        return F.linear(features, params[_WEIGHT], params[_BIAS])

    return Classifier(linear_layer, start, logits)


def by_cosine(temperature: float) -> Classifier:
    """Return cosines to a weight vector a class, which starts a task at the class's mean.

    `Choice:` the length of a class's weights means nothing, as the paper has it; its code learns a
    factor for each class as well.

    Args:
        temperature: what the cosines are divided by.

    Reference: Chen et al. 2019, section 3.2 (Baseline++).
    """

    def init(width: int, classes: int, generator: torch.Generator) -> Params:
        return {_WEIGHT: linear_layer(width, classes, generator)[_WEIGHT]}

    def start(support: Tensor, members: Tensor) -> Params:
        return {_WEIGHT: (members.T @ support) / members.sum(0)[:, None]}

    def logits(params: Params, features: Tensor) -> Tensor:
        return cosine(features, params[_WEIGHT]) / temperature

    return Classifier(init, start, logits)


def standardised(features: Tensor, like: Tensor | None = None) -> Tensor:
    """Return features less the mean and by the deviation of those of `like` (their own if None)."""
    variance, mean = torch.var_mean(features if like is None else like, dim=0, correction=0)
    return (features - mean) * (variance + NORM_EPS).rsqrt()
