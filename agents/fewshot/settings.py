"""What all agents that train on few-shot episodes have in common: settings, budgets, cadence."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from lazybench.agent import Plan
from lazybench.errors import UsageError
from lazybench.specs import EnvSpec
from lazybench.task import TaskShape


class EpisodicConfig(BaseModel):
    """Settings of any agent that is trained on meta-batches of tasks.

    Attributes:
        backbone: network; `auto` is conv4 as the paper has it, or an MLP for vectors.
        anneal: outer step constant, or falling linearly to 0.
        meta_batch: tasks in a meta-iteration.
        train_shots: support instances of a class in training; 0 takes the environment's.
        train_queries: query instances of a class in training.
        iterations: meta-iterations; 0 takes as many as `image_gradients` pays for.
        image_gradients: the training budget where `iterations` is 0: images passed forward and
            backward once. So settings that change the work of a meta-iteration keep the budget.
        validations: validations in a training, evenly spread, the last one at its end.
        validate_every: meta-iterations between validations; 0 spreads `validations` of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = "auto"
    anneal: Literal["none", "linear"] = "linear"
    meta_batch: int = Field(4, ge=1)
    train_shots: int = Field(0, ge=0)
    train_queries: int = Field(1, ge=1)
    iterations: int = Field(0, ge=0)
    image_gradients: int = Field(0, ge=0)
    validations: int = Field(1, ge=1)
    validate_every: int = Field(0, ge=0)

    def updates(self, images: int) -> int:
        """Return the number of meta-iterations when each task costs `images` image-gradients."""
        if self.iterations or not self.image_gradients:
            return self.iterations
        return max(1, self.image_gradients // (self.meta_batch * max(images, 1)))

    def plan(self, task: TaskShape, images: int, **env: Any) -> Plan:
        """Return how to train on tasks of a shape when each costs `images` image-gradients.

        Args:
            task: shape of the tasks that the agent is judged on.
            images: image-gradients of one task.
            env: further arguments of the training environment.

        Raises:
            UsageError: a single meta-iteration costs more than the whole budget.
        """
        updates = self.updates(images)
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


class _Size(NamedTuple):
    """Budget of a group of environments."""

    image_gradients: int
    validations: int


_SMALL = {5: _Size(200_000, 3), 20: _Size(180_000, 2)}
_SMALL_84_PX = _Size(100_000, 2)
_SMOKE = _Size(3_000, 1)
_OF_84_PX = ("miniimagenet", "tieredimagenet")


def spending(env: EnvSpec, budget: str) -> dict[str, int]:
    """Return the settings that give every agent on `env` the same training budget.

    Empty at `paper`, where each agent's own paper says how long it trains.
    """
    if budget == "paper":
        return {}
    way = int(env.kwargs.get("way", 1))
    size = _SMALL_84_PX if env.data in _OF_84_PX else _SMALL[5 if way < 20 else 20]
    size = _SMOKE if budget == "smoke" else size
    return {"image_gradients": size.image_gradients, "validations": size.validations}
