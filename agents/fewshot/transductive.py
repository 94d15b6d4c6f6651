"""Classifiers on frozen features that answer all queries of a task together, many tasks at once.

They use the queries as unlabelled data, and so do better than answers one by one where the classes
of the queries are balanced (Veilleux et al. 2021 show what happens where they aren't). Boards mark
their rows as transductive.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench.agents.fewshot.features import (
    Centre,
    FeatureAgent,
    FeatureConfig,
    class_means,
    squared_distances,
)


class BdCspnConfig(FeatureConfig):
    """Settings of BD-CSPN, on top of those of every agent on features.

    Attributes:
        pseudo_labelled: Z, how many queries of each class join its prototype: those of the highest
            cosine among the queries that the class is the nearest of. `Choice:` fewer where fewer
            are predicted as the class; the paper doesn't say.
        scale: epsilon, what the cosines are multiplied by in the weights.
    """

    pseudo_labelled: int = Field(8, ge=0)
    scale: float = Field(10.0, ge=0)


class BdCspn(FeatureAgent):
    """Nearest prototype by cosine, rectified by the queries.

    Reference: Liu et al. 2020, "Prototype rectification for few-shot learning", section 3.
    """

    Config = BdCspnConfig
    TRANSDUCTIVE = True
    config: BdCspnConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return cosines times the scale."""
        config = self.config
        query = query + cross_class_shift(support, query)
        prototypes = rectified(support, members, query, config.pseudo_labelled, config.scale)
        return config.scale * _cosines(query, prototypes)


def cross_class_shift(support: Tensor, query: Tensor) -> Tensor:
    """Return what moves the queries' mean to the support sets', `[R, 1, d]`."""
    return support.mean(1, keepdim=True) - query.mean(1, keepdim=True)


def rectified(support: Tensor, members: Tensor, query: Tensor, most: int, scale: float) -> Tensor:
    """Return prototypes as weighted means of support and pseudo-labelled queries, `[R, way, d]`.

    Weights are the softmax of the scaled cosines with the class's mean, over the instances that
    count for the class.

    Args:
        support: `[R, S, d]`.
        members: one-hot labels, `[R, S, way]`.
        query: `[R, Q, d]`.
        most: pseudo-labelled queries of each class at most.
        scale: what the cosines are multiplied by.
    """
    means = class_means(support, members)
    near = _cosines(query, means)
    predicted = F.one_hot(near.argmax(2), near.shape[2]).bool()
    order = near.masked_fill(~predicted, -math.inf).argsort(dim=1, descending=True, stable=True)
    places = order.argsort(dim=1, stable=True)
    counted = torch.cat([members.bool(), predicted & (places < most)], dim=1)
    everything = torch.cat([support, query], dim=1)
    similar = scale * _cosines(everything, means)
    weights = similar.masked_fill(~counted, -math.inf).softmax(1)
    return weights.mT @ everything


_RECTIFY_SCALE = 10.0


class LaplacianShotConfig(FeatureConfig):
    """Settings of LaplacianShot, on top of those of every agent on features.

    Attributes:
        laplacian: lambda, the weight of agreement among neighbouring queries. The paper chooses it
            on validation tasks, between .1 and 1.5.
        neighbours: k, of each query; a query isn't its own neighbour. `Choice:` the graph isn't
            made symmetric, as the paper defines it.
        rectify: begin with rectified prototypes, as the paper's experiments do. `Choice:` BD-CSPN's
            at a scale of 10, all queries that are predicted as a class among them.
        test_steps: updates of the bound; `Choice:` a fixed number in place of a tolerance, so that
            all tasks of a block run alike.
    """

    centre: Centre = "train"
    laplacian: float = Field(0.7, ge=0)
    neighbours: int = Field(3, ge=1)
    rectify: bool = True
    test_steps: int = Field(20, ge=0)


class LaplacianShot(FeatureAgent):
    """Nearest prototype with agreement among neighbouring queries.

    Reference: Ziko et al. 2020, "Laplacian regularized few-shot learning", section 2 and
    algorithm 1: the energy is the assignments' squared distances to the prototypes plus lambda
    times the disagreement of neighbours, and each update minimises a bound of it.
    """

    Config = LaplacianShotConfig
    TRANSDUCTIVE = True
    config: LaplacianShotConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return logarithms of the relaxed assignments."""
        config = self.config
        prototypes = class_means(support, members)
        if config.rectify:
            query = query + cross_class_shift(support, query)
            prototypes = rectified(support, members, query, query.shape[1], _RECTIFY_SCALE)
        unary = squared_distances(query, prototypes)
        graph = neighbour_graph(query, config.neighbours)
        logits = -unary
        for _ in range(config.test_steps):
            logits = config.laplacian * graph @ logits.softmax(2) - unary
        return logits.log_softmax(2)


def neighbour_graph(query: Tensor, neighbours: int) -> Tensor:
    """Return a 1 for each of the nearest other queries of a query, else 0, `[R, Q, Q]`."""
    squared = squared_distances(query, query)
    squared.diagonal(dim1=1, dim2=2).fill_(math.inf)
    nearest = squared.topk(min(neighbours, query.shape[1] - 1), dim=2, largest=False).indices
    return torch.zeros_like(squared).scatter(2, nearest, 1.0)


class TimConfig(FeatureConfig):
    """Settings of TIM, on top of those of every agent on features.

    Attributes:
        solver: `gd`, Adam on the loss (TIM-GD), or `adm`, alternating closed-form updates
            (TIM-ADM), about ten times as fast.
        test_steps: updates; 0 takes the authors' 1,000 (gd) or 150 (adm).
        lr: Adam's step size.
        temperature: tau, the softmax is of -tau/2 times squared distances.
        support_weight: lambda, of the cross-entropy on the support set.
        conditional_weight: alpha, of the queries' conditional entropy.
        marginal_weight: of the entropy of the queries' mean prediction, which asks for balanced
            classes; 1 in the paper. TIM-ADM has it at 1.
    """

    solver: Literal["gd", "adm"] = "gd"
    test_steps: int = Field(0, ge=0)
    lr: float = Field(1e-4, gt=0)
    temperature: float = Field(15.0, gt=0)
    support_weight: float = Field(0.1, ge=0)
    conditional_weight: float = Field(0.1, ge=0)
    marginal_weight: float = Field(1.0, ge=0)


class Tim(FeatureAgent):
    """Class weights of the most mutual information between queries and their labels.

    Reference: Boudiaf et al. 2020, "Transductive information maximization", section 2: the loss is
    the cross-entropy of the support set, less the entropy of the queries' mean prediction, plus the
    queries' conditional entropy; for `adm`, proposition 1.
    """

    Config = TimConfig
    TRANSDUCTIVE = True
    config: TimConfig

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return logits, up to what is the same for all classes of a query."""
        x = torch.cat([support, query], dim=1)
        solve = self._descend if self.config.solver == "gd" else self._alternate
        weights = solve(class_means(support, members), x, members)
        return self._logits(query, weights)

    def _logits(self, x: Tensor, weights: Tensor) -> Tensor:
        """The logits without the squared norms of `x`, which no softmax depends on."""
        norms = weights.square().sum(2)[:, None] / 2
        return self.config.temperature * (x @ weights.mT - norms)

    def _descend(self, weights: Tensor, x: Tensor, members: Tensor) -> Tensor:
        """TIM-GD: Adam, whose entries don't depend on each other, on all tasks at once."""
        lr, first, second = self.config.lr, torch.zeros_like(weights), torch.zeros_like(weights)
        for step in range(1, (self.config.test_steps or 1000) + 1):
            gradient = self.gradient(weights, x, members)
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            root = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            weights = weights.addcdiv(first, root, value=-lr / (1 - 0.9**step))
        return weights

    def gradient(self, weights: Tensor, x: Tensor, members: Tensor) -> Tensor:
        """Return the gradient of each task's loss by its weights, `[R, way, d]`.

        Args:
            weights: `[R, way, d]`.
            x: support sets, then queries, `[R, S + Q, d]`.
            members: one-hot labels of the support sets, `[R, S, way]`.
        """
        config, shots = self.config, members.shape[1]
        logs = self._logits(x, weights).log_softmax(2)
        of_support = config.support_weight / shots * (logs[:, :shots].exp() - members)
        logs = logs[:, shots:]
        given = logs.exp()
        mean = given.mean(1, keepdim=True)
        # By the probabilities; then through their softmax.
        by = config.marginal_weight * mean.clamp_min(_least(mean)).log()
        by = (by - config.conditional_weight * logs) / logs.shape[1]
        of_query = given * (by - (given * by).sum(2, keepdim=True))
        both = torch.cat([of_support, of_query], dim=1)
        return config.temperature * (both.mT @ x - both.sum(1)[..., None] * weights)

    def _alternate(self, weights: Tensor, x: Tensor, members: Tensor) -> Tensor:
        """TIM-ADM: the queries' assignments, then the weights, each in closed form."""
        config, shots = self.config, members.shape[1]
        trust = config.support_weight / (1 + config.conditional_weight) / shots
        queries = x.shape[1] - shots
        for _ in range(config.test_steps or 150):
            logs = self._logits(x, weights).log_softmax(2)
            given = logs.exp()
            raised = ((1 + config.conditional_weight) * logs[:, shots:]).exp()
            share = raised / raised.sum(1, keepdim=True).clamp_min(_least(raised)).sqrt()
            share = share / share.sum(2, keepdim=True).clamp_min(_least(share))
            wanted = torch.cat([trust * members, share / queries], dim=1)
            given = torch.cat([trust * given[:, :shots], given[:, shots:] / queries], dim=1)
            above = (wanted - given).mT @ x + given.sum(1)[..., None] * weights
            weights = above / wanted.sum(1)[..., None].clamp_min(_least(above))
        return weights


class PtMapConfig(FeatureConfig):
    """Settings of PT-MAP, on top of those of every agent on features.

    Attributes:
        power: beta of the power transform; 1 leaves features as they are. `Choice:` a negative
            entry keeps its sign, where the paper's features are all positive.
        transport: lambda of the Sinkhorn algorithm, the weight of the cost against the entropy.
        pull: alpha, how far the centres move to the estimated ones; 0 takes the paper's .4 at one
            shot and .2 at more.
        test_steps: moves of the centres.
        sinkhorn: iterations of the Sinkhorn algorithm at most; a task's end where its marginals are
            within .001. `Choice:` the paper gives no bound; a thousandth of it changed no answer
            in 40 tasks.
    """

    centre: Centre = "task"
    power: float = Field(0.5, gt=0)
    transport: float = Field(10.0, gt=0)
    pull: float = Field(0.0, ge=0, le=1)
    test_steps: int = Field(20, ge=0)
    sinkhorn: int = Field(1000, ge=1)


class PtMap(FeatureAgent):
    """Class centres by optimal transport of the queries, after a power transform.

    The transport gives each class the same share of the queries.

    Reference: Hu et al. 2021, "Leveraging the feature distribution in transfer-based few-shot
    learning", section 3. `Choice:` support and queries are each centred and normalised again after
    the transform, as the authors' code does.
    """

    Config = PtMapConfig
    TRANSDUCTIVE = True
    config: PtMapConfig

    def transformed(self, x: Tensor) -> Tensor:
        """Return features after the power transform, divided by their norm."""
        raised = (x.abs() + 1e-6).pow(self.config.power)
        return F.normalize(torch.where(x < 0, -raised, raised), dim=2)

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return logarithms of the transport plan."""
        config = self.config
        counts = members.sum(1)
        pull = config.pull or (0.4 if support.shape[1] == members.shape[2] else 0.2)
        centres = class_means(support, members)
        for _ in range(config.test_steps):
            plan = self._plan(query, centres)
            total = members.mT @ support + plan.mT @ query
            estimate = total / (counts + plan.sum(1))[..., None]
            centres = centres + pull * (estimate - centres)
        plan = self._plan(query, centres)
        return plan.clamp_min(_least(plan)).log()

    def _plan(self, query: Tensor, centres: Tensor) -> Tensor:
        cost = self.config.transport * squared_distances(query, centres)
        return sinkhorn(cost, self.config.sinkhorn)


def sinkhorn(cost: Tensor, iterations: int, tolerance: float = 1e-3) -> Tensor:
    """Return transport plans `[R, Q, way]`: rows sum to 1, columns to Q / way, within `tolerance`.

    A task that is done stays as it is, so no task depends on the others.

    Args:
        cost: `[R, Q, way]`, times the weight of the cost against the entropy.
        iterations: at most.
        tolerance: of the rows' sums when the columns' are exact.
    """
    rows, way = cost.shape[1:]
    plan = (-cost).exp()
    for _ in range(iterations):
        off = (plan.sum(2) - 1).abs().amax(1) > tolerance
        if not off.any():
            break
        fresh = plan / plan.sum(2, keepdim=True).clamp_min(_least(plan))
        fresh = fresh * (rows / way / fresh.sum(1, keepdim=True).clamp_min(_least(plan)))
        plan = torch.where(off[:, None, None], fresh, plan)
    return plan


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    return F.normalize(left, dim=2) @ F.normalize(right, dim=2).mT


def _least(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).tiny)
