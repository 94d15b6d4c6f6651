"""Heads: pure functions from an embedded support set and embedded queries to outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.net import glorot
from lazybench.nets.params import Params

Metric = Literal["euclidean", "cosine"]

LEAST_NORM = 1e-5
"""Shorter features are divided by this in a cosine, so that a dead embedding has a gradient."""


class Head(NamedTuple):
    """A learner that is trained on a support set in closed form.

    Attributes:
        init: fresh parameters for features of a width, all named `head.…`; {} where it has none.
        outputs: `(params, support [S, d], targets [S, t], query [Q, d]) -> [Q, t]`, differentiable
            in all of them. Targets are rows of the unit matrix for classes, or real values; outputs
            are logits, or predictions. No loop over rows, and any number of classes.
        regresses: whether it can serve real-valued targets.
    """

    init: Callable[[int, torch.Generator], Params]
    outputs: Callable[[Params, Tensor, Tensor, Tensor], Tensor]
    regresses: bool = False


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of each row of `left [n, d]` and each of `right [m, d]`, `[n, m]`."""
    units = [F.normalize(rows, dim=1, eps=LEAST_NORM) for rows in (left, right)]
    return units[0] @ units[1].T


def prototypes(metric: Metric = "euclidean", temperature: float = 1.0) -> Head:
    """Return ProtoNet's head: the nearest class mean.

    Args:
        metric: negative squared distance, or cosine.
        temperature: what the similarity is divided by.

    Reference: Snell et al. 2017, algorithm 1.
    """

    def outputs(params: Params, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        means = (targets.T @ support) / targets.sum(0)[:, None]
        return _similarity(metric, query, means) / temperature

    return Head(_nothing, outputs)


def matching(metric: Metric = "cosine", temperature: float = 1.0) -> Head:
    """Return the Matching Network's head: attention over the support set.

    The outputs are log-probabilities: the logarithm of the attention that each class gets. The
    paper's temperature is 1, at which even a perfect match among many ways gets little attention; a
    lower one lets it have nearly all.

    `Choice:` without full-context embeddings (the paper's LSTMs over the support set, FCE): the
    embedding of an instance doesn't depend on the others.

    Args:
        metric: what is attended by.
        temperature: what the similarity is divided by.

    Reference: Vinyals et al. 2016, eq. (1) and section 2.1.1.
    """

    def outputs(params: Params, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        attention = (_similarity(metric, query, support) / temperature).softmax(1)
        # A class without any attention would have the loss infinity.
        return (attention @ targets).clamp_min(torch.finfo(query.dtype).tiny).log()

    return Head(_nothing, outputs)


def relation(hidden: tuple[int, ...] = (64, 64)) -> Head:
    """Return the Relation Network's head: a learned similarity of class and query.

    Its outputs are relation scores before the sigmoid. A class is the sum of its support features,
    as in the paper; concatenated with the query's they pass through fully connected layers.

    `Choice:` features are vectors here, so the paper's two convolutional modules of 64 filters
    become two fully connected layers of 64 units; on 28x28 images conv4's maps are 1x1, where a 3x3
    convolution with padding is a fully connected layer anyway. The 8 units that follow there are
    left out by default. Features and hidden layers are normalised by layer, where the paper has
    batch norm, so that an answer doesn't depend on the other pairs.

    Args:
        hidden: widths of the hidden layers.

    Reference: Sung et al. 2018, eq. (1) and section 3.4.
    """
    layers = range(1, len(hidden) + 2)

    def init(width: int, generator: torch.Generator) -> Params:
        params: Params = {}
        for layer, (inputs, units) in zip(
            layers, zip((2 * width, *hidden), (*hidden, 1), strict=True), strict=True
        ):
            weight = glorot((units, inputs), inputs, units, generator)
            params[f"head.relation{layer}.weight"] = weight
            params[f"head.relation{layer}.bias"] = torch.zeros(units)
        return params

    def outputs(params: Params, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        # The first layer is linear, so the pairs needn't be written out before it.
        of_class, of_query = params["head.relation1.weight"].chunk(2, dim=1)
        classes = _standardised(targets.T @ support) @ of_class.T + params["head.relation1.bias"]
        x = (_standardised(query) @ of_query.T)[:, None] + classes[None]
        for layer in layers[1:]:
            weight, bias = (params[f"head.relation{layer}.{part}"] for part in ("weight", "bias"))
            x = F.linear(F.relu(_standardised(x)), weight, bias)
        return x.squeeze(-1)

    return Head(init, outputs)


def ridge(lam: float = 1.0, scale: float = 1.0) -> Head:
    """Return R2-D2's head: ridge regression on the targets, solved in closed form.

    W = X^T (X X^T + lambda I)^-1 Y, with a column of ones in X for the offset; the system has as
    many rows as the support set or the features, whichever is less. The outputs are
    `scale * W x + bias`. lambda (as its logarithm, so that it stays positive), scale and bias are
    learned.

    Args:
        lam: lambda at the start.
        scale: the scale at the start.

    Reference: Bertinetto et al. 2019, eq. (5)-(7).
    """

    def init(width: int, generator: torch.Generator) -> Params:
        return {
            "head.ridge.log_lambda": torch.tensor(math.log(lam)),
            "head.ridge.scale": torch.tensor(scale),
            "head.ridge.bias": torch.zeros(()),
        }

    def outputs(params: Params, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        weights = solve_ridge(_with_ones(support), targets, params["head.ridge.log_lambda"].exp())
        predicted = _with_ones(query) @ weights
        return params["head.ridge.scale"] * predicted + params["head.ridge.bias"]

    return Head(init, outputs, regresses=True)


def solve_ridge(x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Return the W that minimises |x W - y|^2 + lam |W|^2, `[d, t]`, differentiable.

    Args:
        x: `[n, d]`.
        y: `[n, t]`.
        lam: scalar above 0.
    """
    rows, width = x.shape
    eye = torch.eye(min(rows, width), dtype=x.dtype, device=x.device)
    if rows <= width:
        solved: Tensor = x.T @ torch.linalg.solve(x @ x.T + lam * eye, y)
    else:
        solved = torch.linalg.solve(x.T @ x + lam * eye, x.T @ y)
    return solved


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _standardised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _similarity(metric: Metric, left: Tensor, right: Tensor) -> Tensor:
    return cosine(left, right) if metric == "cosine" else -torch.cdist(left, right).square()


def _nothing(width: int, generator: torch.Generator) -> Params:
    return {}
