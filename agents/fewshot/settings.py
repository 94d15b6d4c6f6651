"""Settings that all agents on few-shot episodes share: budget, meta-batch, validations."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lazybench.agent import Plan
from lazybench.errors import UsageError
from lazybench.nets import Net, Passes, backbone
from lazybench.nets.pretrained import MOST_SIZE
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
