"""Algebra on parameter sets, so that an algorithm reads as its line in the paper.

A parameter set is a plain `dict[str, Tensor]`. No function changes an argument in place, except
those whose name ends in an underscore.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Params = dict[str, Tensor]


def detached(params: Params, *, requires_grad: bool = False) -> Params:
    """Return copies detached from any graph, as new leaves."""
    return {
        name: value.detach().clone().requires_grad_(requires_grad) for name, value in params.items()
    }


def leaves(params: Params) -> Params:
    """Return views off any graph that require gradients; they share memory with `params`."""
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def lerp(anchor: Params, other: Params, weight: float) -> Params:
    """Return `weight * anchor + (1 - weight) * other`, differentiable in both."""
    return {name: weight * value + (1 - weight) * other[name] for name, value in anchor.items()}


def subtract(left: Params, right: Params) -> Params:
    """Return `left - right`."""
    return {name: value - right[name] for name, value in left.items()}


def scale(params: Params, factor: float) -> Params:
    """Return `factor * params`."""
    return {name: factor * value for name, value in params.items()}


def combine(sets: Sequence[Params], weights: Sequence[float]) -> Params:
    """Return the weighted sum of parameter sets, added in the order given.

    Raises:
        ValueError: `sets` and `weights` differ in length or are empty.
    """
    if not sets or len(sets) != len(weights):
        raise ValueError(
            f"need one weight for each parameter set, got {len(sets)} sets and "
            f"{len(weights)} weights"
        )
    total = scale(sets[0], weights[0])
    for params, weight in zip(sets[1:], weights[1:], strict=True):
        total = {name: value + weight * params[name] for name, value in total.items()}
    return total


def mean(sets: Sequence[Params]) -> Params:
    """Return the average of parameter sets, added in the order given.

    Raises:
        ValueError: `sets` is empty.
    """
    return combine(sets, [1 / max(len(sets), 1)] * len(sets))


def count(params: Params) -> int:
    """Return the number of entries of a parameter set."""
    return sum(value.numel() for value in params.values())


def finite(params: Params) -> bool:
    """True when every entry is finite."""
    return all(bool(torch.isfinite(value).all()) for value in params.values())
