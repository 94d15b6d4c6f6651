"""Classifiers on frozen features that answer each query independently, many tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench.agent import Needs
from lazybench.agents.fewshot.features import (
    Centre,
    FeatureAgent,
    FeatureConfig,
    class_means,
    squared_distances,
)


class SimpleShotConfig(FeatureConfig):
    """Settings of SimpleShot, on top of those of every agent on features.

    Attributes:
        unit_centroids: divide the centroids by their norm, so that the nearest one is the one with
            the highest cosine. `Choice:` off, as the paper has it; at one shot it changes nothing.
    """

    centre: Centre = "train"
    unit_centroids: bool = False


class SimpleShot(FeatureAgent):
    """Nearest class mean of features that are centred and normalised (CL2N).

    Reference: Wang et al. 2019, "SimpleShot", section 3.
    """

    Config = SimpleShotConfig
    config: SimpleShotConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return negative squared distances to the centroids."""
        centroids = class_means(support, members)
        if self.config.unit_centroids:
            centroids = F.normalize(centroids, dim=2)
        return -squared_distances(query, centroids)


class KnnConfig(FeatureConfig):
    """Settings of k nearest neighbours, on top of those of every agent on features.

    Attributes:
        neighbours: support instances that vote; all of them where there are fewer.
        votes: `equal`, or weighted by the `softmax` of the cosine over `temperature`. Among equal
            sums the class of the lower label wins.
        temperature: of the weighted votes.
    """

    neighbours: int = Field(5, ge=1)
    votes: Literal["softmax", "equal"] = "softmax"
    temperature: float = Field(0.07, gt=0)


class Knn(FeatureAgent):
    """Votes of the nearest support instances by cosine.

    Reference: Cover & Hart 1967; Wu et al. 2018, section 3.4, for votes weighted by the
    exponential of the cosine over a temperature of .07.
    """

    Config = KnnConfig
    NEEDS: ClassVar[Needs] = {
        **FeatureAgent.NEEDS,
        "temperature": {"votes": ("softmax",)},
    }
    config: KnnConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return logarithms of the votes' shares."""
        config = self.config
        cosines = F.normalize(query, dim=2) @ F.normalize(support, dim=2).mT
        nearest, places = cosines.topk(min(config.neighbours, support.shape[1]), dim=2)
        weights = (
            (nearest / config.temperature).softmax(2)
            if config.votes == "softmax"
            else torch.full_like(nearest, 1 / nearest.shape[2])
        )
        votes = torch.zeros_like(cosines).scatter(2, places, weights) @ members
        return votes.clamp_min(torch.finfo(votes.dtype).tiny).log()


class RidgeConfig(FeatureConfig):
    """Settings of ridge regression, on top of those of every agent on features.

    Attributes:
        penalty: lambda, the weight of the squared norm of the coefficients.
    """

    penalty: float = Field(1.0, gt=0)


class Ridge(FeatureAgent):
    """Ridge regression of the one-hot labels in closed form, with an offset that isn't penalised.

    The system has as many rows as the support set, whatever the width of the features.

    Reference: Hoerl & Kennard 1970, by the identity (X'X + cI)^-1 X' = X'(XX' + cI)^-1.
    """

    Config = RidgeConfig
    config: RidgeConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return the predicted one-hot labels."""
        mean, base = support.mean(1, keepdim=True), members.mean(1, keepdim=True)
        x = support - mean
        system = x @ x.mT + self.config.penalty * torch.eye(
            x.shape[1], dtype=x.dtype, device=x.device
        )
        weights: Tensor = x.mT @ torch.linalg.solve(system, members - base)
        return (query - mean) @ weights + base


class LogisticRegressionConfig(FeatureConfig):
    """Settings of logistic regression, on top of those of every agent on features.

    Attributes:
        strength: weight C of the summed cross-entropy against half the squared norm of the weights;
            offsets aren't penalised.
        test_steps: L-BFGS steps at most.
        tolerance: a task is done where no entry of its gradient is larger.
    """

    strength: float = Field(1.0, gt=0)
    test_steps: int = Field(100, ge=1)
    tolerance: float = Field(1e-4, gt=0)


class LogisticRegression(FeatureAgent):
    """Multinomial logistic regression on the support set by L-BFGS.

    Reference: Tian et al. 2020, "Rethinking few-shot image classification", section 3: logistic
    regression on normalised features. `Choice:` C = 1, as in their code; no augmented copies of the
    support images.
    """

    Config = LogisticRegressionConfig
    config: LogisticRegressionConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return logits."""
        config = self.config
        # Line searches compare values that differ by less than float32 holds.
        exact = support.dtype if support.device.type == "mps" else torch.float64
        x, rows = in_span(support.to(exact), query.to(exact))
        weights, offset = fit_logistic(
            x, members.to(exact), config.strength, config.test_steps, config.tolerance
        )
        return (rows @ weights.mT + offset[:, None]).to(query.dtype)


def in_span(support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in coordinates of the support sets' span, `[R, S, s]` and `[R, Q, s]`.

    Weights of least norm lie in that span, so nothing that they are multiplied with is lost. Where
    the features are no wider than the support set they stay as they are.
    """
    if support.shape[2] <= support.shape[1]:
        return support, query
    basis, triangle = torch.linalg.qr(support.mT)
    return triangle.mT, query @ basis


def fit_logistic(
    x: Tensor, members: Tensor, strength: float, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Return weights `[R, way, d]` and offsets `[R, way]` that minimise each task's objective.

    That is strength * (summed cross-entropy) + half the squared norm of the weights. All tasks
    descend in parallel by L-BFGS, each with its own curvature and step size; one that is done
    stays where it is, so no task depends on the others.

    Args:
        x: `[R, S, d]`.
        members: one-hot labels, `[R, S, way]`.
        strength: weight of the cross-entropy.
        iterations: steps at most.
        tolerance: a task is done where no entry of its gradient is larger.

    Reference: Nocedal & Wright 2006, algorithms 3.1 and 7.4, with 10 pairs.
    """
    tasks, width, way = len(x), x.shape[2], members.shape[2]
    inputs = torch.cat([x, x.new_ones(tasks, x.shape[1], 1)], dim=2)
    penalised = torch.ones(width + 1, dtype=x.dtype, device=x.device)
    penalised[width] = 0

    def value_and_gradient(point: Tensor) -> tuple[Tensor, Tensor]:
        shaped = point.view(tasks, way, width + 1)
        logs = (inputs @ shaped.mT).log_softmax(2)
        held = shaped * penalised
        value = -strength * (logs * members).sum((1, 2)) + held.square().sum((1, 2)) / 2
        gradient = strength * (logs.exp() - members).mT @ inputs + held
        return value, gradient.flatten(1)

    point = lbfgs(value_and_gradient, x.new_zeros(tasks, way * (width + 1)), iterations, tolerance)
    shaped = point.view(tasks, way, width + 1)
    return shaped[..., :width], shaped[..., width]


Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a point of each task, `[R, p]`, to its value `[R]` and gradient `[R, p]`."""

_PAIRS, _HALVINGS, _DECREASE = 10, 30, 1e-4


def lbfgs(objective: Objective, start: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Return a point of least value for each task, `[R, p]`; the tasks don't depend on each other.

    Args:
        objective: convex; each task's value depends on its own point alone.
        start: `[R, p]`.
        iterations: steps at most.
        tolerance: a task is done where no entry of its gradient is larger, or no step along its
            direction lowers the value.
    """
    point = start
    value, gradient = objective(point)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = 1 / gradient.norm(dim=1).clamp_min(1)
    live = gradient.abs().amax(1) > tolerance
    for _ in range(iterations):
        if not live.any():
            break
        direction = -_curved(gradient, pairs, scale)
        slope = (direction * gradient).sum(1)
        step = live.to(point.dtype)
        for _ in range(_HALVINGS):
            tried = point + step[:, None] * direction
            reached, there = objective(tried)
            lower = reached <= value + _DECREASE * step * slope
            if bool((lower | ~live).all()):
                break
            step = torch.where(lower, step, step / 2)
        live &= lower
        moved = torch.where(live[:, None], tried - point, torch.zeros_like(point))
        turned = torch.where(live[:, None], there - gradient, torch.zeros_like(point))
        curvature = (moved * turned).sum(1)
        bent = curvature > 0
        weight = torch.where(bent, 1 / curvature, torch.zeros_like(curvature))
        pairs = [*pairs, (moved, turned, weight)][-_PAIRS:]
        scale = torch.where(bent, curvature / turned.square().sum(1), scale)
        point, gradient = point + moved, gradient + turned
        value = torch.where(live, reached, value)
        live &= gradient.abs().amax(1) > tolerance
    return point


def _curved(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """The gradient times the inverse Hessian that the pairs of steps and turns give."""
    result, taken = gradient, []
    for moved, turned, weight in reversed(pairs):
        share = weight * (moved * result).sum(1)
        taken.append(share)
        result = result - share[:, None] * turned
    result = scale[:, None] * result
    for (moved, turned, weight), share in zip(pairs, reversed(taken), strict=True):
        back = weight * (turned * result).sum(1)
        result = result + (share - back)[:, None] * moved
    return result
