"""Settings of every agent on long-tailed streams; each agent is one choice of them. Presets.

The preset `paper` has the schedule that meta-weighting papers share: ResNet-32 at 32x32, 160 epochs
and then 40. `medium` has the same network and images for 32 epochs and then 8. `small` keeps the
proportions with ResNet-8 at 16x16, 24 epochs and then 6. `smoke` is for seconds, never ranked.

`Choice:` the published drops, to 1/100 and 1/10,000 of the step size, belong to 40 late epochs. In
6 they would end the training: `small` and `medium` drop to 1/10 and 1/100. At `small` the steps of
the second stage then add up to about as much (320 * .01 against 2,120 * .001), and drw on
cifar100-lt-100 validates at 29.0 %, against 23.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lazybench.learning import GAMMAS, LookAhead, Products, lazy
from lazybench.specs import EnvSpec
from lazybench.tasks import LongTailTask

Sampler = Literal["instance", "class", "sqrt"]


_MOST = 1_000_000


class LongTailConfig(BaseModel):
    """Settings of a classifier on a long-tailed stream; meta-learners add to them.

    A training has two stages; `late` is the share of the updates at which the second begins.

    Attributes:
        backbone: network, such as `resnet8` or `resnet32`.
        side: pixels that images are averaged down to; 0 leaves them as they are.
        pad: pixels of reflection that training images are padded by, then cropped back.
        flip: whether half of the training images are mirrored.
        batch: images in a mini-batch of the stream.
        epochs: passes over the training images, both stages together.
        lr: step size.
        momentum: momentum of stochastic gradient descent.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: of all parameters, added to the gradient.
        drops: `(share, factor)`, ascending: from that share of the updates on, the step size is
            `lr * factor`.
        warmup_epochs: passes in which the step size rises linearly to `lr`.
        late: share of the updates at which the second stage begins; 1 is never.
        loss: `cross_entropy`; `logit_adjust` (log priors times `adjust_tau` on the logits) or
            `balanced_softmax` (log counts), which agree at `adjust_tau` 1; `ldam` (cosines less a
            margin a class); `sade` (the sum over three linear heads on one body: cross-entropy,
            balanced softmax, and log priors less `inverse_tau` times those in reverse order).
        adjust_tau: temperature of the log priors in `logit_adjust`.
        margin: the rarest class's in `ldam`.
        cosine_scale: what the cosines are multiplied by in `ldam`.
        inverse_tau: temperature of the reversed log priors in `sade`.
        expert_weights: weights of the three heads' logits in the answers of `sade`.
        mixup: alpha of the Beta distribution that a mini-batch's share is drawn from; its images
            are mixed with those of a random order of it, and so are the losses of their labels. 0
            mixes nothing.
        mixed: the stages that `mixup` acts in: `always`, or the `early` one alone.
        class_weights: weights of the classes' losses: `none`, or `effective_number`.
        beta: of the effective number; towards 1 it is the plain inverse of the counts.
        weighted: the stages that the class weights hold in: `always`, or the `late` one alone.
        reduction: weighted losses are summed and divided by the `batch`'s rows, or by the sum of
            their `weights`. `Choice:` batch, so that rare classes' larger weights aren't taken
            away again; at imbalance 100 the other is a step five times as long.
        sampler: how the stream draws images: `instance` (each once in a pass), `class` (all classes
            alike) or `sqrt` (by the root of the counts).
        late_sampler: sampler of the second stage; None keeps the first one's.
        late_trains: what the second stage moves: `all`, or the `head` above a frozen body, or a
            `fresh_head`. A frozen body keeps its running statistics.
        dev: what the dev set is for: `none`, all of the second stage's mini-batches (`late`), or
            images added to each mini-batch, as many as their share of all (`joined`).
        posthoc: what is done to the trained network's answers: `none`, `logit_adjust` (less
            `posthoc_tau` times the log priors) or `tau_norm` (the head's rows divided by
            `posthoc_tau` powers of their norms, without offsets).
        posthoc_tau: temperature of `posthoc`.
        validations: validations in a training, evenly spread, the last one at its end; they draw
            the curve, and the last state is taken whatever they say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    LATER: ClassVar[tuple[str, ...]] = ("inverse_tau", "expert_weights", "mixup", "mixed")

    # Whether gradients are differentiated again.
    second_order: ClassVar[bool] = False

    backbone: str = "resnet32"
    side: int = Field(0, ge=0)
    pad: int = Field(4, ge=0)
    flip: bool = True
    batch: int = Field(100, ge=2, le=_MOST)
    epochs: float = Field(200, gt=0, le=_MOST)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    drops: tuple[tuple[float, float], ...] = ((0.8, 1e-2), (0.9, 1e-4))
    warmup_epochs: float = Field(0, ge=0, le=_MOST)
    late: float = Field(0.8, ge=0, le=1)
    loss: Literal["cross_entropy", "logit_adjust", "balanced_softmax", "ldam", "sade"] = (
        "cross_entropy"
    )
    adjust_tau: float = Field(1.0, ge=0)
    margin: float = Field(0.5, ge=0)
    cosine_scale: float = Field(30.0, gt=0)
    inverse_tau: float = Field(2.0, ge=0)
    expert_weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    mixup: float = Field(0.0, ge=0)
    mixed: Literal["always", "early"] = "always"
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

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        kept: dict[str, Any] = dump(self)
        for name in self.LATER:
            if getattr(self, name) == fields[name].default:
                del kept[name]
        return kept

    @model_validator(mode="after")
    def _check_head(self) -> LongTailConfig:
        if self.loss in ("ldam", "sade") and self.posthoc == "tau_norm":
            have = "has cosines instead" if self.loss == "ldam" else "has three of them"
            raise ValueError(f"posthoc=tau_norm scales a linear head; loss={self.loss} {have}")
        if min(self.expert_weights) < 0 or not sum(self.expert_weights):
            raise ValueError(
                "expert_weights needs three numbers of at least 0, not all of them 0, got "
                f"{self.expert_weights}"
            )
        return self

    def mixes(self, *, late: bool) -> bool:
        """True where a mini-batch of this stage is mixed."""
        return self.mixup > 0 and not (late and self.mixed == "early")

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
            on the validation loss, normalised; `sampler`: how often the mini-batch's images are
            drawn when it is drawn again, each class at a rate that is learned on the validation
            loss.
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
        net_lr: step size of `net_rule`.
        sampler_temperature: of the relaxed draws of `sampler`, which give the rates' slopes.
    """

    LATER: ClassVar[tuple[str, ...]] = (*LongTailConfig.LATER, "sampler_temperature")

    second_order: ClassVar[bool] = True

    weighting: Literal["two_component", "l2rw", "meta_weight_net", "sampler"] = "two_component"
    teacher: Literal["greedy", "lazy"] = "greedy"
    inner_steps: int = Field(0, ge=0)
    inner: Literal["student", "unrolled"] = "student"
    gammas: tuple[float, ...] = tuple(reversed(GAMMAS))
    strength: Literal["released", "scaled"] = "released"
    tau: float = Field(0.01, ge=0)
    rho: float = Field(0.3, ge=0)
    virtual: Literal["sum", "mean"] = "sum"
    clip: bool = False
    dev_batch: int = Field(100, ge=2, le=_MOST)
    products: Products = "jvp"
    net_hidden: int = Field(100, ge=1)
    net_rule: Literal["adam", "sgd"] = "adam"
    net_lr: float = Field(1e-3, gt=0)
    sampler_temperature: float = Field(1.0, gt=0)

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
                "weighting=l2rw, meta_weight_net and sampler look one virtual step ahead: they "
                "need teacher=greedy, inner_steps=0, class_weights=none and reduction=batch",
                self.weighting != "two_component"
                and (self.teacher, self.inner_steps, self.class_weights, self.reduction)
                != ("greedy", 0, "none", "batch"),
            ),
            (
                "a meta-weighting agent splits its dev images itself: it needs dev=none and "
                "late_trains=all",
                (self.dev, self.late_trains) != ("none", "all"),
            ),
            ("a meta-weighting agent doesn't mix images: it needs mixup=0", self.mixup > 0),
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
        # l2rw has weights of 0, if the virtual step has no backward pass.
        virtual = 1 / 3 if self.weighting == "l2rw" else 1.0
        return virtual + self.inner_steps + candidates + valid + 1.0 + 1.0


_DEFERRED = {"class_weights": "effective_number", "weighted": "late"}

_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "cross_entropy": {},
    "class_balanced": {"class_weights": "effective_number"},
    # A class-balanced part of the training images, seen at a small step size: drawn, not cut out.
    "class_balanced_finetune": {"late_sampler": "class"},
    "logit_adjust": {"loss": "logit_adjust"},
    "logit_adjust_posthoc": {"posthoc": "logit_adjust"},
    "balanced_softmax": {"loss": "balanced_softmax"},
    "mixup": {"mixup": 1.0},
    "sade": {"loss": "sade"},
    "drw": _DEFERRED,
    "ldam_drw": {"loss": "ldam", **_DEFERRED},
    # The body's schedule ends with the first stage; the new head has a separate one.
    "crt": {
        "late_sampler": "class",
        "late_trains": "fresh_head",
        "drops": ((0.64, 1e-2), (0.72, 1e-4), (0.8, 1.0), (0.9, 0.1)),
    },
    "tau_norm": {"posthoc": "tau_norm"},
    "dev_finetune": {"dev": "late"},
    "balanced_softmax_dev": {"loss": "balanced_softmax", "dev": "joined"},
}

_BETA: Mapping[int, float] = {20: 0.99, 50: 0.9, 100: 0.9, 200: 0.9}
"""Of `class_balanced` on CIFAR-100, by imbalance: the best of four on validation images.

docs/presets.md has the searches. Cui et al. (section 5), too, choose it for each imbalance, and
find smaller values best there than on CIFAR-10. `Choice:` other imbalances take the value of the
nearest one, other data the authors' .9999, the setting's default."""


def stream_preset(env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings that every agent on a long-tailed stream has at a budget.

    `Choice:` drawn characters aren't mirrored: another character may be what comes out. Features
    (`glyphs@effnet-lite0`) are vectors, which have a linear classifier and no augmentation.
    """
    settings = _images_preset(env, budget)
    return settings | _FEATURES if "@" in env.data else settings


_FEATURES: dict[str, Any] = {"backbone": "linear", "side": 0, "pad": 0, "flip": False}


def _images_preset(env: EnvSpec, budget: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"flip": not env.data.startswith(("glyphs", "omniglot"))}
    if budget == "paper":
        return settings | {"backbone": "resnet32", "epochs": 200}
    drops = ((0.8, 0.1), (0.9, 0.01))
    if budget == "medium":
        return settings | {"backbone": "resnet32", "epochs": 40, "drops": drops, "validations": 10}
    settings |= {"backbone": "resnet8", "side": 16, "epochs": 30, "drops": drops}
    if budget == "smoke":
        settings |= {"backbone": "resnet8-8", "epochs": 2, "validations": 1}
    return settings


def classifier_preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    settings = {**stream_preset(env, budget), **_AGENTS[algorithm]}
    if algorithm == "class_balanced":
        imbalance = env.kwargs.get("imbalance")
        # Features (`cifar100@effnet-lite0`) have the counts of their images.
        if env.data.partition("@")[0] == "cifar100" and isinstance(imbalance, int | float):
            settings["beta"] = _BETA[min(_BETA, key=lambda each: abs(each - imbalance))]
    if algorithm == "mixup" and budget != "paper":
        # Zhang et al. (2018, section 3.1) find that large alpha underfits, as short trainings do.
        settings["mixup"] = 0.2
    if settings.get("loss") == "ldam":
        # Its code's first 5 of 200 epochs: steps of cosines times 30 are too long at the start.
        settings["warmup_epochs"] = settings["epochs"] / 40
    return settings


_META_PRESETS_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "two_component": _DEFERRED,
    "lazy_two_component": {**_DEFERRED, "teacher": "lazy", "inner_steps": 5},
    "l2rw": {"weighting": "l2rw"},
    "meta_weight_net": {"weighting": "meta_weight_net"},
    "balms": {"weighting": "sampler", "loss": "balanced_softmax", "net_lr": 1e-2},
}


def meta_preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    settings = {**stream_preset(env, budget), **_META_PRESETS_AGENTS[algorithm]}
    if budget == "paper" and algorithm in ("l2rw", "meta_weight_net"):
        settings["late"] = 0.0
    if budget == "smoke":
        settings["dev_batch"] = 20
    return settings
