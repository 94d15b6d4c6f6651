"""Settings of the agents that weigh examples by a validation loss one step ahead."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.learning import GAMMAS, LookAhead, Products, lazy
from lazybench.tasks import LongTailTask

WIDE_GAMMAS: tuple[float, ...] = tuple(round(0.95 - 0.1 * step, 2) for step in range(10))
"""The grid that `gammas=wide` names: .95 to .05 by .1."""


class MetaConfig(LongTailConfig):
    """Settings of a meta-weighting agent, on top of those of every classifier on a stream.

    Meta-steps are those of the second stage, from the share `late` of the updates on; before it
    the loss is the plain one.

    Attributes:
        weighting: where an example's weight comes from. `two_component`: its class weight plus
            eps, a step down the validation loss from eps = 0; `l2rw`: the part of -eps's gradient
            above 0, at weights of 0, normalised; `meta_weight_net`: a network of its loss, trained
            on the validation loss, normalised.
        teacher: `greedy` takes the validation loss at theta(eps), `lazy` at the best leap from it.
        inner_steps: k, the student's steps from theta(0) on the same mini-batch: plain descent
            with the virtual step's size, no momentum, no weight decay.
        inner: `student` (no graph), or the ablation `unrolled`, whose gradient goes back through
            the student's steps as well (greedy teacher alone).
        gammas: grid of gamma, the anchor's weight, descending so that ties keep the largest one;
            `wide` is .95 to .05 by .1. Never 0, which would take the weights out of the gradient.
        strength: how long eps is. `released`: -tau times the gradient, as in the code of the
            two-component agent's authors; `scaled`: the gradient's direction, its mean size `rho`
            times the mean class weight.
        tau: step size of eps in `released`.
        rho: size of eps in `scaled`.
        virtual: whether the virtual and the student's steps descend on the `sum` or the `mean` of
            the weighted losses, at the step size of the stage. `Choice:` sum, as released; under
            `scaled` it decides only where the validation gradient is taken.
        clip: weights below 0 are made 0. `Choice:` off, as printed and released.
        dev_batch: dev images that give the validation gradient; a lazy teacher compares its
            candidates' accuracy on as many others.
        products: how the examples' slopes are computed (see `lazybench.learning.Examples`).
        net_hidden: hidden units of the weights' network.
        net_rule: `adam` or `sgd` on its parameters. `Choice:` adam at 1e-3, as in the authors'
            code for noisy labels, but without its weight decay of 1e-4; theirs for imbalance takes
            sgd at 1e-5, which hardly moves it.
        net_lr: step size of either.
    """

    second_order: ClassVar[bool] = True

    weighting: Literal["two_component", "l2rw", "meta_weight_net"] = "two_component"
    teacher: Literal["greedy", "lazy"] = "greedy"
    inner_steps: int = Field(0, ge=0)
    inner: Literal["student", "unrolled"] = "student"
    gammas: tuple[float, ...] = tuple(reversed(GAMMAS))
    strength: Literal["released", "scaled"] = "released"
    tau: float = Field(0.01, ge=0)
    rho: float = Field(0.3, ge=0)
    virtual: Literal["sum", "mean"] = "sum"
    clip: bool = False
    dev_batch: int = Field(100, ge=2)
    products: Products = "jvp"
    net_hidden: int = Field(100, ge=1)
    net_rule: Literal["adam", "sgd"] = "adam"
    net_lr: float = Field(1e-3, gt=0)

    @field_validator("gammas", mode="before")
    @classmethod
    def _name_grid(cls, gammas: Any) -> Any:
        return WIDE_GAMMAS if gammas == "wide" else gammas

    @field_validator("gammas")
    @classmethod
    def _check_gammas(cls, gammas: tuple[float, ...]) -> tuple[float, ...]:
        if not gammas or not all(0.0 < gamma <= 1.0 for gamma in gammas):
            raise ValueError(f"each gamma must lie in (0, 1] and there must be one, got {gammas}")
        return gammas

    @model_validator(mode="after")
    def _check_whole(self) -> MetaConfig:
        greedy = self.teacher == "greedy"
        for rule, broken in (
            (
                "a greedy teacher with inner_steps above 0 needs inner=unrolled",
                greedy and self.inner_steps > 0 and self.inner == "student",
            ),
            ("inner=unrolled needs teacher=greedy", self.inner == "unrolled" and not greedy),
            (
                "weighting=l2rw and meta_weight_net look one virtual step ahead: they need "
                "teacher=greedy, inner_steps=0, class_weights=none and reduction=batch",
                self.weighting != "two_component"
                and (self.teacher, self.inner_steps, self.class_weights, self.reduction)
                != ("greedy", 0, "none", "batch"),
            ),
            (
                "a meta-weighting agent splits its dev images itself: it needs dev=none and "
                "late_trains=all",
                (self.dev, self.late_trains) != ("none", "all"),
            ),
        ):
            if broken:
                raise ValueError(rule)
        return self

    def dev_rows(self, task: LongTailTask) -> int:
        """Return the number of dev images that an update needs, the lazy teacher's included."""
        wanted = self.dev_batch * (2 if self.teacher == "lazy" else 1)
        return min(wanted, task.dev_per_class * task.classes)

    def ahead(self, lr: float, rows: int) -> LookAhead:
        """Return how far the validation loss looks, at a step size and for so many rows."""
        # Normalised weights sum to 1: their sum is the mean already.
        mean = self.weighting == "two_component" and self.virtual == "mean"
        return LookAhead(
            lr / rows if mean else lr,
            self.inner_steps,
            lazy(gammas=self.gammas) if self.teacher == "lazy" else None,
            self.inner,
        )

    def equivalents(self, rows: int, dev: int) -> float:
        """Return what a meta-step costs in forward and backward passes of a mini-batch, F.

        A forward pass alone counts a third; so does each candidate of a lazy teacher on its half
        of the dev images. The product of all examples' slopes counts 1: a forward pass of dual
        numbers does the work of three.

        Args:
            rows: images in the mini-batch.
            dev: dev images.
        """
        lazily = self.teacher == "lazy"
        valid = (dev // 2 if lazily else dev) / rows
        candidates = len(self.gammas) * (dev - dev // 2) / rows / 3 if lazily else 0.0
        # l2rw has weights of 0, where the virtual step has no backward pass.
        virtual = 1 / 3 if self.weighting == "l2rw" else 1.0
        return virtual + self.inner_steps + candidates + valid + 1.0 + 1.0
