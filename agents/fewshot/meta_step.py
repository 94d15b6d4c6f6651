"""The work on one task of a meta-batch: student, teacher and meta-gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lazybench import learning
from lazybench.agent import Observation
from lazybench.agents.fewshot.episode import Episode, objective
from lazybench.agents.fewshot.settings import GradientConfig
from lazybench.learning import InnerRule, Leap, MetaGradient, Preconditioner, Teacher, Trail
from lazybench.nets.params import Params, leaves
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape

LOG_STD = "log_std."
"""Prefix of the names of the noise's meta-parameters."""


class TaskResult(NamedTuple):
    """The result of one task of a meta-batch.

    Attributes:
        gradient: its meta-gradient.
        trail: what the student left.
        leap: what the teacher chose.
        before: loss at theta on the support set and its gradient, where an inequality needs it.
    """

    gradient: MetaGradient
    trail: Trail
    leap: Leap
    before: MetaGradient | None


def preconditioner(config: GradientConfig, rng: Rng | None = None) -> Preconditioner | None:
    """Return what learned rates do to an inner gradient; None if they are fixed.

    `rng` is needed to draw the first rates from `rate_range`.
    """
    if config.rates == "elementwise":
        within = config.rate_range if rng is not None else None
        return learning.elementwise(config.inner_lr, within=within, rng=rng)
    return learning.curvature(config.inner_lr) if config.rates == "curvature" else None


def inner_rule(config: GradientConfig, meta: Params, names: Iterable[str]) -> InnerRule:
    """Return the inner update of the weights `names`, with rates from `meta` where learned."""
    rates = preconditioner(config)
    if rates is not None:
        return learning.preconditioned(lambda grads: rates.apply(meta, grads), names)
    return plain_rule(config)


def plain_rule(config: GradientConfig) -> InnerRule:
    """Return the inner update at the settings' rate."""
    if config.inner_rule == "sgd":
        return learning.sgd(config.inner_lr)
    return learning.adam(config.inner_lr)


def teacher_of(config: GradientConfig) -> Teacher:
    """Return the teacher that the settings name."""
    if config.teacher == "greedy":
        return learning.greedy()
    return learning.lazy(
        gammas=config.gammas,
        alphas=learning.simplex_grid(config.hull, config.hull_step),
        leap_on=config.leap_on,
    )


class MetaStep:
    """The work of a meta-iteration on one task, on weights that all tasks share.

    Reference: Algorithm 1, lines 6-13.
    """

    def __init__(
        self,
        config: GradientConfig,
        teacher: Teacher,
        task: TaskShape,
        theta: Params,
        meta: Params,
    ) -> None:
        """Fix the settings and where every task starts from.

        Args:
            config: the agent's settings.
            teacher: the one that they name; its grid is made once for all meta-iterations.
            task: shape of the tasks.
            theta: the meta-model's weights.
            meta: what else is meta-learned (rates, noise), by prefixed names.
        """
        self._config, self._task, self._theta, self._meta = config, task, theta, meta
        self._net = config.network(task, second_order=self._twice)
        self._goal = objective(task)
        self._teacher, self._rates = teacher, preconditioner(config)

    @property
    def _twice(self) -> bool:
        # Where the head alone adapts, nothing is differentiated twice below it.
        return self._config.inner != "student" and self._config.adapts == "all"

    def __call__(self, inner: dict[str, Tensor], row: Observation, rng: Rng) -> TaskResult:
        """Return the result of the task `row`; `inner` is the inner rule's carried state."""
        config, net = self._config, self._net
        point = leaves({**self._theta, **self._meta})
        weights = self._weights(point, rng)
        # On the graph where there is one: MAML differentiates through every forward pass.
        on_graph = config.inner == "unrolled"
        held = {name: value.detach() for name, value in weights.items()}
        support, query = self._episode(weights if on_graph else held), self._episode(weights)
        x, query_x = net.prepare(row["support_x"]), net.prepare(row["query_x"])
        y, query_y = row["support_y"], row["query_y"]
        picks = learning.batches(len(x), config.inner_batch, config.inner_steps, rng.torch())
        with torch.set_grad_enabled(on_graph):
            inputs = support.inputs(x)
        losses = support.steps(inputs, y, picks)
        trail = self._trail(support, losses, point, inner)
        with torch.set_grad_enabled(config.meta_gradient != "reptile"):
            query_inputs = query.inputs(query_x)
        leap = self._teacher(
            query.moving, trail, lambda moving: query.score(moving, query_inputs, query_y)
        )
        if trail.drift:
            leap = learning.on_rates(
                query.moving, leap, trail, self._direction(point), leap_on=config.leap_on
            )

        def valid(moving: Params) -> Tensor:
            outputs = query.outputs(moving, query_inputs)
            loss = self._goal.loss(outputs, query_y)
            if config.fairness != "entropy":
                return loss
            before = learning.entropy(query.outputs(query.moving, query_inputs))
            return loss + config.fairness_weight * (learning.entropy(outputs) - before)

        if config.inner == "replayed":
            gradient = learning.replayed_gradient(point, trail, losses, valid, lr=config.inner_lr)
        else:
            gradient = self._gradient(point, leap, valid, row)
        return TaskResult(gradient, trail, leap, self._before(point, weights, x, y))

    def _episode(self, weights: Params) -> Episode:
        config = self._config
        return Episode(
            self._net,
            self._task,
            weights,
            adapts=config.adapts,
            adapt_norm=config.adapt_norm,
            prox=config.prox,
        )

    def _weights(self, point: Params, rng: Rng) -> Params:
        """The network's weights on the graph of `point`, the noisy ones drawn for this task."""
        mean = {name: point[name] for name in self._theta}
        if self._config.regulariser == "none":
            return mean
        return learning.sample(mean, log_stds(point), rng.at("weights").torch())

    def _direction(self, meta: Params) -> learning.Direction:
        rates = self._rates
        if rates is None:
            raise ValueError("fixed rates have no meta-parameters to make a direction from")
        return lambda grads: rates.apply(meta, grads)

    def _trail(
        self,
        support: Episode,
        losses: list[learning.LossFn],
        point: Params,
        inner: dict[str, Tensor],
    ) -> Trail:
        config, learned = self._config, self._rates is not None
        if config.inner == "unrolled":
            direction = self._direction(point) if learned else None
            return learning.unrolled(
                support.moving, losses, lr=config.inner_lr, direction=direction
            )
        return learning.student(
            support.moving,
            losses,
            rule=inner_rule(config, self._meta, support.moving),
            keep=len(losses) + 1 if config.inner == "replayed" else config.hull,
            state=inner or None,
            drift=learned,
        )

    def _gradient(
        self, point: Params, leap: Leap, valid: learning.LossFn, row: Observation
    ) -> MetaGradient:
        config = self._config
        if config.meta_gradient == "reptile":
            return learning.reptile_gradient(self._theta, leap)
        # With learned rates and no graph of the inner loop the leap is on their graph.
        on_rates = self._rates is not None and config.inner == "student"
        if config.meta_gradient == "maml" or on_rates:
            return learning.maml_gradient(point, leap, valid)
        if config.meta_gradient == "fomaml":
            return learning.fomaml_gradient(point, leap, valid)
        # Products with the Hessian differentiate twice, for which the net may have another way.
        net = config.network(self._task, second_order=True)
        twice = Episode(net, self._task, self._theta)
        x, y = net.prepare(row["support_x"]), row["support_y"]

        def solve(at_leap: Params) -> Params:
            return learning.implicit_gradient(
                leap.params,
                at_leap,
                lambda moving: twice.loss(moving, x, y),
                lam=config.prox,
                steps=config.cg_steps,
                damping=config.damping,
            )

        return learning.imaml_gradient(point, leap, valid, solve)

    def _before(self, point: Params, weights: Params, x: Tensor, y: Tensor) -> MetaGradient | None:
        """Loss and gradient at theta on the support set, where the tasks' inequality counts."""
        if self._config.fairness in ("none", "entropy"):
            return None
        episode = self._episode(weights)
        loss = episode.loss(episode.moving, episode.inputs(x), y)
        grads = torch.autograd.grad(
            loss, list(point.values()), allow_unused=True, materialize_grads=True
        )
        return MetaGradient(dict(zip(point, grads, strict=True)), float(loss.detach()))


def log_stds(meta: Params) -> Params:
    """Return the noise's meta-parameters by the names of the weights that they belong to."""
    return {
        name.removeprefix(LOG_STD): value
        for name, value in meta.items()
        if name.startswith(LOG_STD)
    }
