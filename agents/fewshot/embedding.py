"""Embedding-based meta-learners: each composes an embedding and a head.

`protonet`, `matching_net`, `relation_net` and `r2d2` are settings of one agent; only their heads
(`heads`) have separate code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from lazybench import learning
from lazybench.agent import Needs, Network, Observation, Plan, TaskEnv
from lazybench.agents.fewshot import heads
from lazybench.agents.fewshot.descent import BatchNorm, Descending, bare, embed
from lazybench.agents.fewshot.episode import PerTask, Row, objective, own_shape
from lazybench.agents.fewshot.presets import embedding_preset
from lazybench.agents.fewshot.settings import EpisodicConfig
from lazybench.agents.fewshot.weights import network_description
from lazybench.errors import UsageError
from lazybench.nets.params import Params, detached
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape


class EmbeddingConfig(EpisodicConfig):
    """Settings of an embedding-based meta-learner, on top of those of every episodic agent.

    Attributes:
        head: `prototypes` (ProtoNet), `matching` (Matching Networks), `relation` (Relation
            Networks) or `ridge` (R2-D2).
        metric: similarity in prototypes and matching; `auto` is Euclidean for prototypes and cosine
            for matching, as in their papers.
        temperature: divisor of that similarity.
        relation_hidden: widths of the relation module's hidden layers.
        ridge_lambda: lambda of the ridge regression before it is learned.
        ridge_scale: the scale of its outputs before it is learned.
        loss: `cross_entropy`, or `mse` between the outputs' sigmoid and the one-hot labels
            (Relation Networks). Real-valued targets always have the squared error.
        lr: Adam's step size.
        batch_norm: `transductive` (statistics of support and queries together) or `inductive` (of
            the support set).
    """

    FREE_WAYS: ClassVar[bool] = True

    head: Literal["prototypes", "matching", "relation", "ridge"] = "prototypes"
    metric: Literal["auto", "euclidean", "cosine"] = "auto"
    temperature: float = Field(1.0, gt=0)
    relation_hidden: tuple[int, ...] = (64, 64)
    ridge_lambda: float = Field(1.0, gt=0)
    ridge_scale: float = Field(1.0, gt=0)
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    lr: float = Field(1e-3, gt=0)
    train_queries: int = Field(5, ge=1)
    batch_norm: BatchNorm = "transductive"

    @field_validator("relation_hidden")
    @classmethod
    def _check_hidden(cls, hidden: tuple[int, ...]) -> tuple[int, ...]:
        if not hidden or min(hidden) < 1:
            raise ValueError(f"needs the width of at least one hidden layer, got {hidden}")
        return hidden

    @model_validator(mode="after")
    def _check_metric(self) -> EmbeddingConfig:
        if self.metric != "auto" and self.head in ("relation", "ridge"):
            raise ValueError(
                f"metric is for head=prototypes or matching; a head of {self.head} has none, got "
                f"{self.metric}"
            )
        return self


class EmbeddingAgent(Descending):
    """Learns an embedding; a head then learns each task in closed form.

    `Choice:` training tasks have `train_ways` classes, more than a test task, as the authors of
    Prototypical Networks and of R2-D2 train; 0 takes the environment's ways.

    Reference: the heads' papers.
    """

    Config = EmbeddingConfig
    NEEDS: ClassVar[Needs] = {
        "temperature": {"head": ("prototypes", "matching")},
        "relation_hidden": {"head": ("relation",)},
        "ridge_lambda": {"head": ("ridge",)},
        "ridge_scale": {"head": ("ridge",)},
    }
    SHARDED = True
    config: EmbeddingConfig

    def __init__(self, config: EmbeddingConfig) -> None:
        """Compose the parts that the settings name."""
        self.config = config
        self.outer = learning.outer_adam(config.lr)
        self.head = _head(config)

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings of `algorithm` for an environment and budget."""
        return embedding_preset(algorithm, env, budget)

    def plan(self, task: TaskShape) -> Plan:
        """Return how many episodes to train on.

        Raises:
            UsageError: targets that the head can't serve.
        """
        self._check(task)
        plan = self.config.plan(task, self.images(task))
        # Prototypes of the features themselves (backbone=linear) have nothing to learn.
        return plan if self.describe_network(task).parameters else replace(plan, updates=0)

    def init(self, env: TaskEnv, rng: Rng) -> dict[str, Any]:
        """Return a fresh embedding and head.

        Raises:
            UsageError: targets that the head can't serve, or a network that can't take these
                instances.
        """
        self._check(env.task)
        body, width = bare(self.config.network(env.task), rng.at("theta"))
        return self.start(body | self.head.init(width, rng.at("head").torch()), env.task)

    def update(
        self, state: dict[str, Any], batch: Observation, rng: Rng
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Take one Adam step on a meta-batch of episodes.

        Raises:
            Diverged: a parameter isn't finite afterwards.
        """
        config, task = self.config, TaskShape(**state["task"])
        net = config.network(task)
        task = replace(task, way=config.ways(task))

        def loss(theta: Params, row: Row) -> Tensor:
            x, query = net.prepare(row["support_x"]), net.prepare(row["query_x"])
            support, query = embed(net, theta, x, query)
            shape = own_shape(task, row)
            outputs = self._outputs(theta, shape, support, row["support_y"], query)
            if config.loss == "mse" and task.target == "class":
                return F.mse_loss(outputs.sigmoid(), _rows(shape, row["query_y"], outputs))
            return objective(task).loss(outputs, row["query_y"])

        return self.descend(state, batch, loss)

    def policy(self, state: dict[str, Any]) -> PerTask:
        """Return the policy that embeds a task and answers by its head."""
        config, task = self.config, TaskShape(**state["task"])
        net, theta = config.network(task), detached(state["theta"])

        def answer(row: Row) -> Tensor:
            x, query = net.prepare(row["support_x"]), net.prepare(row["query_x"])
            with torch.no_grad():
                support, query = embed(net, theta, x, query, config.batch_norm)
                shape = own_shape(task, row)
                outputs = self._outputs(theta, shape, support, row["support_y"], query)
                return objective(task).answer(outputs)

        return PerTask(answer, uneven=task.uneven)

    def describe_network(self, task: TaskShape) -> Network:
        """Return the name of the embedding and how many parameters it and the head have.

        Raises:
            UsageError: a network that can't take these instances.
        """
        net = self.config.network(task)
        body, width = bare(net, Rng(0))
        held = body | self.head.init(width, Rng(0).torch())
        return network_description(net, held)

    def _outputs(
        self, theta: Params, task: TaskShape, support: Tensor, targets: Tensor, query: Tensor
    ) -> Tensor:
        outputs = self.head.outputs(theta, support, _rows(task, targets, support), query)
        return outputs.view(-1, *task.target_shape) if task.target_shape else outputs

    def _check(self, task: TaskShape) -> None:
        if task.target != "class" and not self.head.regresses:
            raise UsageError(
                f"a head of {self.config.head} classifies: it needs tasks with classes, got "
                "real-valued targets; choose an environment with ways (lazybench list envs) or "
                "--set head=ridge"
            )


def _head(config: EmbeddingConfig) -> heads.Head:
    if config.head == "prototypes":
        metric = "euclidean" if config.metric == "auto" else config.metric
        return heads.prototypes(metric, config.temperature)
    if config.head == "matching":
        metric = "cosine" if config.metric == "auto" else config.metric
        return heads.matching(metric, config.temperature)
    if config.head == "relation":
        return heads.relation(config.relation_hidden)
    return heads.ridge(config.ridge_lambda, config.ridge_scale)


def _rows(task: TaskShape, targets: Tensor, like: Tensor) -> Tensor:
    """Targets as `[n, outputs]` in the dtype of `like`: one-hot labels, or flat real values."""
    if task.target == "class":
        return F.one_hot(targets, task.way).to(like.dtype)
    return targets.flatten(1).to(like.dtype)
