"""Prototypical networks: nearest class mean in a learned embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lazybench import learning
from lazybench.agent import Observation, Plan
from lazybench.agents.fewshot.adapt import select_row
from lazybench.agents.fewshot.presets import protonet_preset
from lazybench.errors import Diverged, UsageError
from lazybench.nets import Net, Stats, backbone
from lazybench.parallel import map_tasks
from lazybench.params import Params, detached, finite, leaves, mean
from lazybench.rng import Rng
from lazybench.specs import EnvSpec
from lazybench.task import TaskShape


class ProtoNetConfig(BaseModel):
    """Settings of ProtoNet."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = "auto"
    lr: float = Field(1e-3, gt=0)
    anneal: Literal["none", "linear"] = "linear"
    iterations: int = Field(1000, ge=0)
    meta_batch: int = Field(1, ge=1)
    train_shots: int = Field(0, ge=0)
    train_queries: int = Field(5, ge=1)
    validate_every: int = Field(0, ge=0)
    batch_norm: Literal["transductive", "inductive"] = "transductive"


class ProtoNet:
    """Embeds instances so that the mean of a class's support is nearest to its queries.

    Reference: Snell et al. 2017, algorithm 1 (squared Euclidean distance). `Choice:` training tasks
    have the test's way, not a higher one.
    """

    families = ("fewshot",)
    Config = ProtoNetConfig

    def __init__(self, config: ProtoNetConfig) -> None:
        """Set up the outer optimiser."""
        self.config = config
        self.outer = learning.outer_adam(config.lr)

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings for an environment and budget."""
        return protonet_preset(env, budget)

    def plan(self, task: TaskShape) -> Plan:
        """Return how many episodes to train on.

        Raises:
            UsageError: tasks without classes.
        """
        _need_classes(task)
        config = self.config
        return Plan(
            updates=config.iterations,
            meta_batch=config.meta_batch,
            env={"shots": config.train_shots or task.shot, "queries": config.train_queries},
            validate_every=config.validate_every,
        )

    def init(self, env: Any, rng: Rng) -> dict[str, Any]:
        """Return a fresh embedding.

        Raises:
            UsageError: tasks without classes, or a network that can't take these instances.
        """
        _need_classes(env.task)
        theta = backbone(self.config.backbone, env.task).init(rng.at("theta").torch())
        theta = {name: value for name, value in theta.items() if not name.startswith("head")}
        outer = self.outer.init(theta)
        return {"theta": theta, "outer": outer, "step": 0, "task": env.task.fields()}

    def update(
        self, state: dict[str, Any], batch: Observation, rng: Rng
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Take one Adam step on a meta-batch of episodes.

        Raises:
            Diverged: a parameter isn't finite afterwards.
        """
        task = TaskShape(**state["task"])
        net = backbone(self.config.backbone, task)
        theta: Params = state["theta"]
        tasks = len(batch["support_x"])

        def run(index: int) -> tuple[Params, float]:
            row, point = select_row(batch, index), leaves(theta)
            x = torch.cat([net.prepare(row["support_x"]), net.prepare(row["query_x"])])
            embedded = net.features(point, x)
            rows = len(row["support_x"])
            logits = _logits(embedded[:rows], row["support_y"], embedded[rows:], task.way)
            loss = F.cross_entropy(logits, row["query_y"])
            grads = torch.autograd.grad(loss, list(point.values()))
            return dict(zip(point, grads, strict=True)), float(loss.detach())

        results = map_tasks(run, range(tasks))
        meta = mean([gradient for gradient, _ in results])
        factor = learning.annealed(self.config.anneal, state["step"], self.config.iterations)
        with torch.no_grad():
            theta, outer = self.outer.update(theta, state["outer"], meta, factor)
        if not finite(theta):
            raise Diverged(f"a parameter isn't finite after meta-iteration {state['step'] + 1}")
        images = tasks * (batch["support_x"].shape[1] + batch["query_x"].shape[1])
        logs = {
            "loss": sum(loss for _, loss in results) / tasks,
            "inner_steps": 0.0,
            "image_gradients": float(images),
        }
        return {**state, "theta": theta, "outer": outer, "step": state["step"] + 1}, logs

    def policy(self, state: dict[str, Any]) -> _Prototypes:
        """Return the nearest-prototype policy."""
        task = TaskShape(**state["task"])
        net = backbone(self.config.backbone, task)
        return _Prototypes(net, task.way, detached(state["theta"]), self.config.batch_norm)


class _Prototypes:
    vectorized = True

    def __init__(self, net: Net, way: int, theta: Params, batch_norm: str) -> None:
        self._net, self._way, self._theta, self._batch_norm = net, way, theta, batch_norm

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        rows = range(len(observation["support_x"]))
        answers = map_tasks(lambda row: self._answer(select_row(observation, row)), rows)
        return torch.stack(answers), None

    def _answer(self, row: dict[str, Tensor]) -> Tensor:
        net = self._net
        x, query = net.prepare(row["support_x"]), net.prepare(row["query_x"])
        with torch.no_grad():
            if self._batch_norm == "transductive":
                embedded = net.features(self._theta, torch.cat([x, query]))
                support, query = embedded[: len(x)], embedded[len(x) :]
            else:
                stats: Stats = net.statistics(self._theta, x)
                support = net.features(self._theta, x, stats)
                query = net.features(self._theta, query, stats)
            return _logits(support, row["support_y"], query, self._way).argmax(1)


def _logits(support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
    """Negative squared distances to the class means, `[queries, way]`."""
    members = F.one_hot(labels, way).to(support.dtype)
    means = (members.T @ support) / members.sum(0)[:, None]
    return -torch.cdist(query, means).square()


def _need_classes(task: TaskShape) -> None:
    if task.target != "class":
        raise UsageError(
            "protonet classifies: it needs tasks with classes, got real-valued targets; "
            "choose an environment with ways (lazybench list envs)"
        )
