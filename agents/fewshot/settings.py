"""Settings of the agents on few-shot episodes: what all share, and those of gradient-based agents.

Each gradient-based agent is one choice of `GradientConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lazybench.agent import Plan
from lazybench.arguments import MOST_SIZE
from lazybench.errors import UsageError
from lazybench.learning import GAMMAS
from lazybench.nets import Net, Passes, backbone
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape


class EpisodicConfig(BaseModel):
    """Settings of any agent that is trained on meta-batches of tasks.

    Attributes:
        backbone: network; `auto` is conv4 as the paper has it, or an MLP for vectors.
        frozen: keep the weights of a pre-trained backbone, or of a module of one's own, as they
            are; only what the agent adds to it is trained.
        norm: batch norm of such a module takes the statistics of the `batch`, or the averages that
            it was trained with, `running`.
        dropout: of such a module: `on` in the agent's updates, or `off` everywhere.
        size: edge in pixels that a pre-trained backbone resizes images to; 0 takes its own.
        anneal: outer step constant, or falling linearly to 0.
        meta_batch: tasks in a meta-iteration.
        train_shots: support instances of a class in training; 0 takes the environment's.
        train_queries: query instances of a class in training.
        train_ways: classes in a training task; 0 takes the environment's. Only for agents that
            answer by comparison, whose network has no last layer of a fixed size.
        iterations: meta-iterations; 0 takes as many as `image_gradients` pays for.
        image_gradients: the training budget where `iterations` is 0: images passed forward and
            backward once. So settings that change the work of a meta-iteration keep the budget.
        validations: validations in a training, evenly spread, the last one at its end.
        validate_every: meta-iterations between validations; 0 spreads `validations` of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    FREE_WAYS: ClassVar[bool] = False
    """Whether `train_ways` may differ from the environment's ways."""
    LATER: ClassVar[tuple[str, ...]] = ("train_ways", "frozen", "norm", "dropout", "size")
    """Settings that older records don't have: at their defaults they are left out of the dump, so
    that those records keep their keys."""
    REPLACES: ClassVar[Mapping[str, tuple[str, ...]]] = {"image_gradients": ("iterations",)}
    """A run's own image-gradients replace the preset's `iterations`, which would go on for days."""

    backbone: str = "auto"
    frozen: bool = False
    norm: Literal["batch", "running"] = "batch"
    dropout: Literal["on", "off"] = "on"
    size: int = Field(0, ge=0, le=MOST_SIZE)
    anneal: Literal["none", "linear"] = "linear"
    meta_batch: int = Field(4, ge=1)
    train_shots: int = Field(0, ge=0)
    train_queries: int = Field(1, ge=1)
    train_ways: int = Field(0, ge=0)
    iterations: int = Field(0, ge=0)
    image_gradients: int = Field(0, ge=0)
    validations: int = Field(1, ge=1)
    validate_every: int = Field(0, ge=0)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        kept: dict[str, Any] = dump(self)
        for name in self.LATER:
            if name in kept and getattr(self, name) == fields[name].default:
                del kept[name]
        return kept

    @model_validator(mode="after")
    def _check_ways(self) -> EpisodicConfig:
        if self.train_ways and not self.FREE_WAYS:
            raise ValueError(
                "train_ways is for agents that answer by comparison (protonet, matching_net, "
                f"relation_net, r2d2): this network's last layer has a fixed size; got "
                f"train_ways={self.train_ways}, leave it out"
            )
        if self.train_ways == 1:
            raise ValueError("train_ways must be 0 (the environment's ways) or at least 2, got 1")
        return self

    def network(self, task: TaskShape, *, second_order: bool = False) -> Net:
        """Return the network that the settings name, for tasks of a shape.

        Raises:
            UsageError: no such network, or one that can't take these instances or settings.
        """
        passes = Passes(self.frozen, self.norm, self.dropout, self.size)
        return backbone(self.backbone, task, second_order=second_order, passes=passes)

    def updates(self, images: int) -> int:
        """Return the number of meta-iterations when each task costs `images` image-gradients."""
        if self.iterations or not self.image_gradients:
            return self.iterations
        return max(1, self.image_gradients // (self.meta_batch * max(images, 1)))

    def plan(self, task: TaskShape, images: int, **env: Any) -> Plan:
        """Return how to train on tasks of a shape when each costs `images` image-gradients.

        Args:
            task: shape of the tasks that the agent is evaluated on.
            images: image-gradients of one task.
            env: further arguments of the training environment.

        Raises:
            UsageError: a single meta-iteration costs more than the whole budget.
        """
        updates = self.updates(images)
        if self.train_ways:
            env = {"way": self.train_ways, **env}
        spent = self.meta_batch * images
        if not self.iterations and self.image_gradients and spent > self.image_gradients:
            raise UsageError(
                f"one meta-iteration would cost {spent:,} image-gradients ({self.meta_batch:,} "
                f"tasks of {images:,}), the budget is {self.image_gradients:,}; make it smaller, "
                "or set iterations"
            )
        return Plan(
            updates=updates,
            meta_batch=self.meta_batch,
            env={"shots": self.shots(task), "queries": self.train_queries, **env},
            # Rounded up, so that no validation falls right before the last one.
            validate_every=self.validate_every or -(-updates // self.validations),
        )

    def shots(self, task: TaskShape) -> int:
        """Return the support instances of a class in training."""
        return self.train_shots or task.shot

    def ways(self, task: TaskShape) -> int:
        """Return the classes in a training task."""
        return self.train_ways or task.way


class _Size(NamedTuple):
    """Budget of a group of environments."""

    image_gradients: int
    validations: int


_SMALL = {5: _Size(200_000, 3), 20: _Size(180_000, 2)}
_SMALL_84_PX = _Size(100_000, 2)
_MEDIUM = _Size(3_000_000, 10)
_MEDIUM_84_PX = _Size(1_000_000, 10)
_SMOKE = _Size(3_000, 1)
_OF_84_PX = ("miniimagenet", "tieredimagenet")


def spending(env: EnvSpec, budget: str) -> dict[str, int]:
    """Return the settings that give every agent on `env` the same training budget.

    Empty at `paper`, where each agent's paper says how long it trains.
    """
    if budget == "paper":
        return {}
    way = int(env.kwargs.get("way", 1))
    large = env.data in _OF_84_PX
    if budget == "smoke":
        size = _SMOKE
    elif budget == "medium":
        size = _MEDIUM_84_PX if large else _MEDIUM
    else:
        size = _SMALL_84_PX if large else _SMALL[5 if way < 20 else 20]
    return {"image_gradients": size.image_gradients, "validations": size.validations}


class GradientConfig(EpisodicConfig):
    """Settings of a gradient-based meta-learner, on top of those of `EpisodicConfig`.

    Attributes:
        inner: `student` (no graph), `unrolled` (the whole inner loop on the graph), or `replayed`
            (MAML's gradient as unrolled has it, from Hessian-vector products at each step: memory
            is flat but for a parameter set a step, and each step passes forward and back twice).
        teacher: `greedy` (phi_k) or `lazy` (the best leap on the task's validation rows).
        meta_gradient: how a task moves theta; `none` for a baseline that learns nothing before
            the test.
        adapts: `all` weights or the `head` (last layer) alone. With the head alone, the body's
            features are computed once a task, support and queries each as one batch.
        rates: how an inner gradient becomes a step. `fixed` takes `inner_lr`; `elementwise`
            (Meta-SGD) and `curvature` (Meta-Curvature) are meta-learned and start from it. Without
            a graph of the inner loop, rates learn from phi_k = theta - rates * (sum of the inner
            gradients), the gradients as constants. `Choice:` the lazy teacher's checkpoints are
            constants, which would leave rates without any gradient; this keeps their first-order
            one at flat memory.
        rate_range: elementwise rates start from a uniform draw in it instead, as in their paper.
        prox: lambda of the proximal term lambda / 2 * |phi - theta|^2 of the inner loss. `Choice:`
            in every inner step, as iMAML's equation (3) has it; its authors' code pulls back to
            theta once, after the inner loop.
        cg_steps: steps of conjugate gradient in the implicit meta-gradient.
        damping: added to lambda in the implicit meta-gradient.
        fairness: how a meta-batch's tasks are kept from being favoured (TAML): `entropy` of the
            answers to the query rows, high before and low after adapting, or an inequality of the
            tasks' losses at theta on their support sets.
        fairness_weight: weight of the fairness term relative to the validation loss.
        regulariser: `kl` draws the body's weights from N(theta, std) for each task and adds
            `beta` times their divergence from N(0, I) to the loss (MR-MAML on weights). `Choice:`
            each task has one draw for support and query, where the authors' code draws once for
            the support sets of a meta-batch and once for the queries; scales and offsets aren't
            drawn; at meta-test the mean is taken.
        beta: weight of the divergence of `regulariser`, in nats.
        std: initial standard deviation of the body's weights.
        inner_rule: plain gradient descent, or Adam with beta1 = 0 (Reptile's).
        inner_lr: inner step size on the mean loss.
        inner_steps: inner steps in training, the paper's k.
        inner_batch: support rows in an inner step; 0 takes all.
        inner_state: `carry` keeps Adam's second moments between meta-iterations. `Choice:` every
            task of a meta-iteration starts from the carried state and the next one is their mean,
            so that tasks can run in parallel and their order doesn't matter.
        adapt_norm: whether batch norm's scales and offsets are adapted in the inner loop.
        gammas: grid of gamma, the anchor's weight, ascending so that ties keep the smaller one.
        hull: b, checkpoints in the hull.
        hull_step: step of the simplex grid of the hull's weights.
        leap_on: what gamma weighs (`Choice:` theta, eq. 4).
        outer_rule: `sgd` or `adam` on the meta-gradient.
        outer_lr: outer step size, the paper's beta.
        matched_leap: the outer step is `outer_lr` times this: the mean leap of a lazy training for
            a control that takes the same steps without its search.
        clip: entries of the meta-gradient are clamped to +-clip (Adam only).
        reduce: `mean` or literal `sum` over tasks. `Choice:` mean; the sum is 20 times as long.
        test_steps: inner steps at meta-test.
        test_batch: support rows in an inner step at meta-test; 0 takes all.
        test_prox: `prox` at meta-test; None takes the training's.
        batch_norm: `transductive` (statistics of the query batch), `inductive` (of the support
            set), or `inductive_joined` (each query joined with the support, Reptile's way).
        test_leap: take the lazy leap at test on a held-out part of the support.
    """

    inner: Literal["student", "unrolled", "replayed"] = "student"
    teacher: Literal["greedy", "lazy"] = "greedy"
    meta_gradient: Literal["maml", "fomaml", "reptile", "implicit", "none"] = "reptile"
    adapts: Literal["all", "head"] = "all"
    rates: Literal["fixed", "elementwise", "curvature"] = "fixed"
    rate_range: tuple[float, float] | None = None
    prox: float = Field(0.0, ge=0)
    cg_steps: int = Field(5, ge=1)
    damping: float = Field(1.0, ge=0)
    fairness: Literal[
        "none",
        "entropy",
        "theil",
        "gini",
        "atkinson",
        "generalized_entropy",
        "variance_of_logs",
    ] = "none"
    fairness_weight: float = Field(0.1, ge=0)
    regulariser: Literal["none", "kl"] = "none"
    beta: float = Field(1e-4, ge=0)
    std: float = Field(1e-2, gt=0)
    inner_rule: Literal["sgd", "adam"] = "sgd"
    inner_lr: float = Field(0.01, gt=0)
    inner_steps: int = Field(5, ge=0)
    inner_batch: int = Field(0, ge=0)
    inner_state: Literal["carry", "reset"] = "carry"
    adapt_norm: bool = True
    gammas: tuple[float, ...] = GAMMAS
    hull: int = Field(1, ge=1)
    hull_step: float = Field(0.5, gt=0, le=1)
    leap_on: Literal["theta", "phi"] = "theta"
    outer_rule: Literal["sgd", "adam"] = "sgd"
    outer_lr: float = Field(1.0, gt=0)
    matched_leap: float = Field(1.0, gt=0, le=1)
    clip: float | None = Field(None, gt=0)
    reduce: Literal["mean", "sum"] = "mean"
    test_steps: int = Field(20, ge=0)
    test_batch: int = Field(0, ge=0)
    test_prox: float | None = Field(None, ge=0)
    batch_norm: Literal["transductive", "inductive", "inductive_joined"] = "transductive"
    test_leap: bool = False

    @field_validator("gammas")
    @classmethod
    def _check_gammas(cls, gammas: tuple[float, ...]) -> tuple[float, ...]:
        if not gammas or not all(0.0 <= gamma <= 1.0 for gamma in gammas):
            raise ValueError(f"each gamma must lie in [0, 1] and there must be one, got {gammas}")
        return gammas

    @model_validator(mode="after")
    def _check_whole(self) -> GradientConfig:
        if self.hull > self.inner_steps + 1:
            raise ValueError(
                f"hull must be at most inner_steps + 1 = {self.inner_steps + 1}, got {self.hull}"
            )
        for rule, broken in self._rules():
            if broken:
                raise ValueError(rule)
        return self

    def _rules(self) -> tuple[tuple[str, bool], ...]:
        """What goes together, each with whether these settings break it."""
        validates = self.meta_gradient in ("maml", "fomaml", "implicit")
        whole = self.adapts == "all" and self.adapt_norm
        return (
            (
                "inner=unrolled needs inner_rule=sgd and hull=1",
                self.inner == "unrolled" and (self.inner_rule != "sgd" or self.hull != 1),
            ),
            (
                "meta_gradient=none learns nothing, so it needs image_gradients=0",
                self.meta_gradient == "none" and self.image_gradients > 0,
            ),
            (
                "meta_gradient=maml needs inner=unrolled or teacher=lazy",
                self.meta_gradient == "maml"
                and (self.inner, self.teacher) == ("student", "greedy"),
            ),
            (
                "inner=replayed is MAML's plain inner loop: it needs inner_rule=sgd, hull=1, "
                "teacher=greedy, meta_gradient=maml, adapts=all, adapt_norm=true, rates=fixed, "
                "prox=0, fairness=none and regulariser=none",
                self.inner == "replayed"
                and not (
                    (self.inner_rule, self.hull, self.teacher) == ("sgd", 1, "greedy")
                    and (self.meta_gradient, self.rates) == ("maml", "fixed")
                    and (self.fairness, self.regulariser) == ("none", "none")
                    and whole
                    and not self.prox
                ),
            ),
            (
                "learned rates need inner_rule=sgd and meta_gradient=maml, or fomaml with "
                "inner=student",
                self.rates != "fixed"
                and (
                    self.inner_rule != "sgd"
                    or (self.meta_gradient, self.inner)
                    not in (("maml", "unrolled"), ("maml", "student"), ("fomaml", "student"))
                ),
            ),
            (
                "learned rates with teacher=lazy need inner=student, as in lazy_meta_sgd: the leap "
                "gives an unrolled inner loop no gradient",
                self.rates != "fixed" and (self.teacher, self.inner) == ("lazy", "unrolled"),
            ),
            (
                "rate_range needs rates=elementwise and two rising numbers above 0",
                self.rate_range is not None
                and not (
                    self.rates == "elementwise" and 0 < self.rate_range[0] <= self.rate_range[1]
                ),
            ),
            (
                "meta_gradient=implicit needs inner=student, teacher=greedy, prox above 0, "
                "adapts=all and adapt_norm=true",
                self.meta_gradient == "implicit"
                and not (
                    self.inner == "student" and self.teacher == "greedy" and self.prox and whole
                ),
            ),
            (
                "fairness needs meta_gradient=maml, fomaml or implicit",
                self.fairness != "none" and not validates,
            ),
            (
                "regulariser=kl needs adapts=head and meta_gradient=maml or fomaml",
                self.regulariser != "none" and (self.adapts != "head" or not validates),
            ),
        )

    def images(self, task: TaskShape) -> int:
        """Return the image-gradients that training spends on one task of `task`'s shape."""
        return self.cost(task.way * self.shots(task), task.way * self.train_queries)

    def cost(self, support: int, query: int) -> int:
        """Return the image-gradients of a training task with so many support and query rows.

        Support rows count once for each inner step that passes through the whole network (once in
        all where the head alone adapts), query rows once for the outer loss. Second-order passes
        aren't counted: neither those through an unrolled or a replayed inner loop, nor the products
        of an implicit meta-gradient with the Hessian. TAML's entropy at theta takes the query rows
        once more, its inequalities the support rows.
        """
        unfair = {"none": 0, "entropy": query}.get(self.fairness, support)
        if self.adapts == "head":
            return support + query + unfair
        images = self.inner_steps * min(self.inner_batch or support, support)
        if self.meta_gradient != "reptile":
            images += query
        return images + unfair
