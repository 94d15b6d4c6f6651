"""Agents that answer from frozen features, many tasks at once.

Features are the instances themselves (vectors, or flat pixels in [0, 1]) or the outputs of a
network that isn't trained. `classifiers` has the agents that answer each query independently,
`transductive` those that answer all queries of a task together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor

from lazybench.agent import Agent, Needs, Network, Observation, Plan, TaskEnv
from lazybench.agents.fewshot.descent import BatchNorm, bare, embed, need_classes
from lazybench.agents.fewshot.episode import real_rows, select_row
from lazybench.agents.fewshot.weights import moved, network_description, overlay
from lazybench.arguments import MOST_SIZE
from lazybench.errors import UsageError
from lazybench.nets import Net, Passes, backbone
from lazybench.nets.net import scaled
from lazybench.nets.params import Params, detached
from lazybench.runtime.threads import map_tasks
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import Answers, TaskShape

NO_NETWORK = "none"
"""The backbone of features that are the instances themselves."""

_ROWS = 8
"""Tasks in a batch of the training images that the mean is taken over."""

Centre = Literal["none", "train", "support", "task"]


class FeatureConfig(BaseModel):
    """Settings that all agents on frozen features share.

    Attributes:
        backbone: `none` for features that are the instances themselves (pixels are flattened), or
            the name of a network. Its weights come from `--init` or from its own factory; without
            either they are random.
        norm: batch norm of a pre-trained backbone, or of a module of one's own, takes the
            statistics that `batch_norm` says (`batch`), or the averages that it was trained with,
            `running`.
        size: edge in pixels that a pre-trained backbone resizes images to; 0 takes its own.
        batch_norm: statistics of the backbone's batch norm: `inductive`, of the support set alone
            (the default), or `transductive`, of support and queries together. Only for a backbone.
        centre: what is subtracted from the features: nothing; the mean over `train` classes; of the
            `support` set; or of the `task`, where support and queries each lose their own mean.
        normalise: divide the features by their Euclidean norm, after centring.
        train_images: training images that the mean of `centre=train` is taken over, from random
            training tasks. `Choice:` the authors take each image once.
        probabilities: answer with the softmax of the scores as well, so that the environment scores
            calibration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = NO_NETWORK
    norm: Literal["batch", "running"] = "batch"
    size: int = Field(0, ge=0, le=MOST_SIZE)
    batch_norm: BatchNorm | None = None
    centre: Centre = "none"
    normalise: bool = True
    train_images: int = Field(20_000, ge=1)
    probabilities: bool = False

    @model_validator(mode="before")
    @classmethod
    def _choose_batch_norm(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("backbone", NO_NETWORK) != NO_NETWORK:
            return {"batch_norm": "inductive", **given}
        for name in ("batch_norm", "norm", "size"):
            if given.get(name) not in (None, "batch", 0):
                raise ValueError(
                    f"{name} is for a network; set backbone as well, or leave {name} out"
                )
        return given

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kept: dict[str, Any] = dump(self)
        if self.batch_norm is None:
            del kept["batch_norm"]
        if not self.probabilities:
            del kept["probabilities"]
        if self.norm == "batch":
            del kept["norm"]
        if not self.size:
            del kept["size"]
        return kept

    def network(self, task: TaskShape) -> Net:
        """Return the frozen network that the settings name, for tasks of a shape.

        Raises:
            UsageError: no such network, or one that can't take these instances or settings.
        """
        return backbone(self.backbone, task, passes=Passes(norm=self.norm, size=self.size))


class FeatureAgent(Agent):
    """Base class of agents on frozen features.

    Nothing is trained; with `centre=train` the training phase takes the mean of training images.

    Attributes:
        TRANSDUCTIVE: whether an answer depends on the other queries; such rows are marked.
    """

    families = ("fewshot",)
    LATER = ("norm",)
    NEEDS: ClassVar[Needs] = {"train_images": {"centre": ("train",)}}
    Config: ClassVar[type[FeatureConfig]] = FeatureConfig
    TRANSDUCTIVE: ClassVar[bool] = False
    config: FeatureConfig

    def __init__(self, config: FeatureConfig) -> None:
        """Hold the settings."""
        self.config = config

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings for a budget: `smoke` takes the mean of fewer images."""
        return {"train_images": 500} if budget == "smoke" else {}

    def scores(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return the scores of all classes, `[R, Q, way]`; each agent defines them.

        Their softmax are probabilities.

        Args:
            support: features of the support sets, `[R, S, d]`.
            members: one-hot labels of the support sets, `[R, S, way]`.
            query: features of the queries, `[R, Q, d]`.
        """
        raise NotImplementedError

    def transformed(self, x: Tensor) -> Tensor:
        """Return raw features `[R, n, d]` as they are centred; the same ones by default."""
        return x

    def plan(self, task: TaskShape) -> Plan:
        """Return how many training batches the mean is taken over; none where it isn't needed.

        Raises:
            UsageError: tasks without classes.
        """
        need_classes(task)
        rows = _ROWS * (task.support_rows + task.query_rows)
        needed = -(-self.config.train_images // rows)
        updates = needed if self.config.centre == "train" else 0
        return Plan(updates=updates, meta_batch=_ROWS, select="last")

    def init(self, env: TaskEnv, rng: Rng) -> dict[str, Any]:
        """Return the frozen network, if any, and an empty mean.

        Raises:
            UsageError: tasks without classes, or a network that can't take these instances.
        """
        need_classes(env.task)
        theta: Params = {}
        if self.config.backbone != NO_NETWORK:
            theta, _ = bare(self.config.network(env.task), rng.at("theta"))
        return {"theta": theta, "mean": None, "images": 0, "task": env.task.fields()}

    def update(
        self, state: dict[str, Any], batch: Observation, rng: Rng
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Take the images of a block of training tasks into the mean."""
        rows = torch.cat(
            [
                part.flatten(0, 1)
                for block in self._blocks(state, batch)
                for part in self._raw(state, block)
            ]
        )
        images = state["images"] + len(rows)
        mean = torch.zeros_like(rows[0]) if state["mean"] is None else state["mean"]
        mean = mean + (rows.mean(0) - mean) * (len(rows) / images)
        return {**state, "mean": mean, "images": images}, {}

    def policy(self, state: dict[str, Any]) -> FeaturePolicy:
        """Return the policy that answers a block of tasks at once."""
        return FeaturePolicy(self, {**state, "theta": detached(state["theta"])})

    def load_weights(self, state: dict[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the first state with weights of another training in its network.

        Raises:
            UsageError: there is no network, or weights that don't fit it.
        """
        if self.config.backbone == NO_NETWORK:
            raise UsageError(
                "weights need a network to go into, got backbone=none; name theirs with "
                "--set backbone=NAME"
            )
        return {**state, "theta": overlay(state["theta"], weights)}

    def transfer(self, state: dict[str, Any], task: TaskShape) -> dict[str, Any]:
        """Return a state for tasks of another shape; any number of ways will do.

        Raises:
            UsageError: other instances or targets.
        """
        return moved(state, task, ways_free=True)

    def describe_network(self, task: TaskShape) -> Network | None:
        """Return the name and size of the frozen network; None without one.

        Raises:
            UsageError: a network that can't take these instances.
        """
        if self.config.backbone == NO_NETWORK:
            return None
        net = self.config.network(task)
        return network_description(net, bare(net, Rng(0))[0])

    def diagnostics(self, state: dict[str, Any]) -> Mapping[str, Any]:
        """Return the mark of transductive agents' rows on the boards."""
        return {"transductive": True} if self.TRANSDUCTIVE else {}

    def block_scores(self, state: dict[str, Any], batch: Observation) -> Tensor:
        """Return the scores of a block, `[R, Q, way]`.

        Classes that an uneven task lacks score -inf, and so do all but class 0 in rows it lacks.
        """
        task, queries = TaskShape(**state["task"]), batch["query_y"].shape[1]
        found = []
        for block in self._blocks(state, batch):
            support, query = self.features(state, block)
            way = int(block["support_y"].max()) + 1 if task.uneven else task.way
            members = F.one_hot(block["support_y"], way).to(support.dtype)
            scores = F.pad(
                self.scores(support, members, query), (0, task.way - way), value=-math.inf
            )
            if scores.shape[1] < queries:
                filled = scores.new_full(
                    (len(scores), queries - scores.shape[1], task.way), -math.inf
                )
                filled[..., 0] = 0
                scores = torch.cat([scores, filled], dim=1)
            found.append(scores)
        return torch.cat(found)

    def _blocks(self, state: dict[str, Any], batch: Observation) -> list[Observation]:
        """The block itself or, if tasks are uneven, each task as a separate block."""
        if not state["task"].get("uneven"):
            return [batch]
        rows = [real_rows(select_row(batch, i)) for i in range(len(batch["support_y"]))]
        return [{name: part[None] for name, part in row.items()} for row in rows]

    def features(self, state: dict[str, Any], batch: Observation) -> tuple[Tensor, Tensor]:
        """Return centred and normalised features of a block, `[R, S, d]` and `[R, Q, d]`."""
        config = self.config
        support, query = self._raw(state, batch)
        if config.centre == "train" and state["mean"] is not None:
            support, query = support - state["mean"], query - state["mean"]
        elif config.centre == "support":
            mean = support.mean(1, keepdim=True)
            support, query = support - mean, query - mean
        elif config.centre == "task":
            support, query = (part - part.mean(1, keepdim=True) for part in (support, query))
        if config.normalise:
            support, query = F.normalize(support, dim=2), F.normalize(query, dim=2)
        return support, query

    def _raw(self, state: dict[str, Any], batch: Observation) -> tuple[Tensor, Tensor]:
        """The transformed features of a block before they are centred."""
        support, query = self._embedded(state, batch)
        return self.transformed(support), self.transformed(query)

    def _embedded(self, state: dict[str, Any], batch: Observation) -> tuple[Tensor, Tensor]:
        """The network's features of a block, or its instances as vectors."""
        config = self.config
        if config.backbone == NO_NETWORK:
            return scaled(batch["support_x"]).flatten(2), scaled(batch["query_x"]).flatten(2)
        net, theta = config.network(TaskShape(**state["task"])), state["theta"]

        def one(index: int) -> tuple[Tensor, Tensor]:
            row = select_row(batch, index)
            x, query = net.prepare(row["support_x"]), net.prepare(row["query_x"])
            with torch.no_grad():
                return embed(net, theta, x, query, config.batch_norm or "inductive")

        parts = map_tasks(one, range(len(batch["support_x"])))
        return torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])


class FeaturePolicy:
    """Answers a block of tasks at once."""

    vectorized = True

    def __init__(self, agent: FeatureAgent, state: dict[str, Any]) -> None:
        """Hold the agent and its state."""
        self._agent, self._state = agent, state

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Any, Any]:
        """Return the labels of all queries, `[R, Q]`, with their probabilities if these are set."""
        scores = self._agent.block_scores(self._state, observation)
        labels = scores.argmax(2)
        if not self._agent.config.probabilities:
            return labels, None
        return Answers(labels, scores.softmax(2)), None


def class_means(support: Tensor, members: Tensor) -> Tensor:
    """Return the mean of each class's support features, `[R, way, d]`."""
    return members.mT @ support / members.sum(1)[..., None]


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return squared Euclidean distances of all pairs, `[R, n, m]`, never below 0."""
    norms = left.square().sum(2)[:, :, None] + right.square().sum(2)[:, None]
    return (norms - 2 * left @ right.mT).clamp_min(0)
