"""Settings of every agent on long-tailed streams; each agent is one choice of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lazybench.tasks import LongTailTask

Sampler = Literal["instance", "class", "sqrt"]


class LongTailConfig(BaseModel):
    """Settings of a classifier on a long-tailed stream; meta-learners add to them.

    A training has two stages; `late` is the share of the updates at which the second begins.

    Attributes:
        backbone: network.
        side: pixels that images are averaged down to; 0 leaves them as they are.
        pad: pixels of reflection that training images are padded by, then cropped back.
        flip: whether half of the training images are mirrored.
        batch: images in a mini-batch of the stream.
        epochs: passes over the training images, both stages together.
        lr: step size.
        momentum: of the step.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: of all parameters, added to the gradient.
        drops: `(share, factor)`, ascending: from that share of the updates on, the step size is
            `lr * factor`.
        warmup_epochs: passes in which the step size rises linearly to `lr`.
        late: share of the updates at which the second stage begins; 1 is never.
        loss: `cross_entropy`; `logit_adjust` (log priors times `adjust_tau` on the logits) or
            `balanced_softmax` (log counts), which agree at `adjust_tau` 1; `ldam` (cosines less a
            margin a class).
        adjust_tau: of `logit_adjust`.
        margin: the rarest class's in `ldam`.
        cosine_scale: what the cosines are multiplied by in `ldam`.
        class_weights: weights of the classes' losses: `none`, or `effective_number`.
        beta: of the effective number; towards 1 it is the plain inverse of the counts.
        weighted: the stages that the class weights hold in: `always`, or the `late` one alone.
        reduction: weighted losses are summed and divided by the `batch`'s rows, or by the sum of
            their `weights`. `Choice:` batch, so that rare classes' larger weights aren't taken
            away again; at imbalance 100 the other is a step five times as long.
        sampler: how the stream draws images: `instance` (each once in a pass), `class` (all classes
            alike) or `sqrt` (by the root of the counts).
        late_sampler: of the second stage; None keeps the first one's.
        late_trains: what the second stage moves: `all`, or the `head` above a frozen body, or a
            `fresh_head`. A frozen body keeps its running statistics.
        dev: what the dev set is for: `none`, all of the second stage's mini-batches (`late`), or
            images added to each mini-batch, as many as their share of all (`joined`).
        posthoc: what is done to the trained network's answers: `none`, `logit_adjust` (less
            `posthoc_tau` times the log priors) or `tau_norm` (the head's rows divided by
            `posthoc_tau` powers of their norms, without offsets).
        posthoc_tau: of either.
        validations: validations in a training, evenly spread, the last one at its end; they draw
            the curve, and the last state is taken whatever they say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Whether gradients are differentiated again.
    second_order: ClassVar[bool] = False

    backbone: str = "resnet32"
    side: int = Field(0, ge=0)
    pad: int = Field(4, ge=0)
    flip: bool = True
    batch: int = Field(100, ge=2)
    epochs: float = Field(200, gt=0)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    drops: tuple[tuple[float, float], ...] = ((0.8, 1e-2), (0.9, 1e-4))
    warmup_epochs: float = Field(0, ge=0)
    late: float = Field(0.8, ge=0, le=1)
    loss: Literal["cross_entropy", "logit_adjust", "balanced_softmax", "ldam"] = "cross_entropy"
    adjust_tau: float = Field(1.0, ge=0)
    margin: float = Field(0.5, ge=0)
    cosine_scale: float = Field(30.0, gt=0)
    class_weights: Literal["none", "effective_number"] = "none"
    beta: float = Field(0.9999, ge=0, lt=1)
    weighted: Literal["always", "late"] = "always"
    reduction: Literal["batch", "weights"] = "batch"
    sampler: Sampler = "instance"
    late_sampler: Sampler | None = None
    late_trains: Literal["all", "head", "fresh_head"] = "all"
    dev: Literal["none", "late", "joined"] = "none"
    posthoc: Literal["none", "logit_adjust", "tau_norm"] = "none"
    posthoc_tau: float = Field(1.0, ge=0)
    validations: int = Field(5, ge=1)

    @field_validator("drops")
    @classmethod
    def _check_drops(
        cls, drops: tuple[tuple[float, float], ...]
    ) -> tuple[tuple[float, float], ...]:
        shares = [share for share, _ in drops]
        if shares != sorted(shares) or not all(0 <= s <= 1 and f > 0 for s, f in drops):
            raise ValueError(
                "needs pairs (share of the updates in [0, 1], factor above 0), shares ascending, "
                f"got {drops}"
            )
        return drops

    @model_validator(mode="after")
    def _check_head(self) -> LongTailConfig:
        if self.loss == "ldam" and self.posthoc == "tau_norm":
            raise ValueError("posthoc=tau_norm scales a linear head; loss=ldam has cosines instead")
        return self

    def updates(self, task: LongTailTask) -> int:
        """Return the number of mini-batches that the passes over the training images make."""
        return task.train_steps(self.epochs, self.batch)

    def begins(self, share: float, task: LongTailTask) -> int:
        """Return the first update of the part of training that begins at a share of it."""
        return round(share * self.updates(task))

    def is_late(self, step: int, task: LongTailTask) -> bool:
        """True from the second stage's first update on."""
        return step >= self.begins(self.late, task)

    def rate(self, step: int, task: LongTailTask) -> float:
        """Return the step size at an update."""
        factor = 1.0
        for share, then in self.drops:
            factor = then if step >= self.begins(share, task) else factor
        rising = task.train_steps(self.warmup_epochs, self.batch) if self.warmup_epochs else 1
        return self.lr * factor * min(1.0, (step + 1) / rising)

    def counts(self, task: LongTailTask) -> tuple[int, ...]:
        """Return the training images of each class, dev images included where they are joined."""
        joined = task.dev_per_class if self.dev == "joined" else 0
        return tuple(count + joined for count in task.class_counts)

    def dev_rows(self, task: LongTailTask) -> int:
        """Return the number of dev images that an update needs."""
        dev = task.dev_per_class * task.classes
        if self.dev == "none":
            return 0
        if self.dev == "late":
            return min(self.batch, dev)
        return max(1, round(self.batch * dev / task.images))

    def samplers(self) -> Sampler | Sequence[tuple[Sampler, float]]:
        """Return the stream's sampler, or the share of the updates that each one has."""
        late = self.late_sampler or self.sampler
        if late == self.sampler or self.late == 1:
            return self.sampler
        if self.late == 0:
            return late
        return [(self.sampler, self.late), (late, round(1 - self.late, 12))]
