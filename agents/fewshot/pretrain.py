"""Pre-training on all train classes; a new last layer is trained on each task's support set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench import learning
from lazybench.agent import Network, Observation, Plan, TaskEnv
from lazybench.agents.fewshot.descent import BatchNorm, Descending, bare, embed, need_classes
from lazybench.agents.fewshot.episode import PerTask, Row, own_shape
from lazybench.agents.fewshot.heads import cosine
from lazybench.agents.fewshot.presets import pretrain_preset
from lazybench.agents.fewshot.settings import EpisodicConfig
from lazybench.agents.fewshot.weights import HEAD, network_description
from lazybench.errors import UsageError
from lazybench.nets import NORM_EPS, Net
from lazybench.nets.net import head as linear_layer
from lazybench.nets.params import Params, detached
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape

_WEIGHT, _BIAS = f"{HEAD}weight", f"{HEAD}bias"


class Classifier(NamedTuple):
    """A last layer as pure functions.

    Attributes:
        init: `(width, classes, generator)` to fresh random parameters.
        start: `(support [S, d], members [S, way])` to parameters for a task, without randomness;
            members are one-hot labels.
        logits: `(params, features [n, d])` to `[n, classes]`.
    """

    init: Callable[[int, int, torch.Generator], Params]
    start: Callable[[Tensor, Tensor], Params]
    logits: Callable[[Params, Tensor], Tensor]


def linear() -> Classifier:
    """Return weights and an offset a class; they start a task at zero."""

    def start(support: Tensor, members: Tensor) -> Params:
        classes = members.shape[1]
        return {
            _WEIGHT: support.new_zeros(classes, support.shape[1]),
            _BIAS: support.new_zeros(classes),
        }

    def logits(params: Params, features: Tensor) -> Tensor:
        return F.linear(features, params[_WEIGHT], params[_BIAS])

    return Classifier(linear_layer, start, logits)


def by_cosine(temperature: float) -> Classifier:
    """Return cosines to a weight vector a class, which starts a task at the class's mean.

    `Choice:` the length of a class's weights means nothing, as the paper has it; its code learns a
    factor for each class as well.

    Args:
        temperature: what the cosines are divided by.

    Reference: Chen et al. 2019, section 3.2 (Baseline++).
    """

    def init(width: int, classes: int, generator: torch.Generator) -> Params:
        return {_WEIGHT: linear_layer(width, classes, generator)[_WEIGHT]}

    def start(support: Tensor, members: Tensor) -> Params:
        return {_WEIGHT: (members.T @ support) / members.sum(0)[:, None]}

    def logits(params: Params, features: Tensor) -> Tensor:
        return cosine(features, params[_WEIGHT]) / temperature

    return Classifier(init, start, logits)


def standardised(features: Tensor, like: Tensor | None = None) -> Tensor:
    """Return features less the mean and over the deviation of `like` (itself if None)."""
    variance, mean = torch.var_mean(features if like is None else like, dim=0, correction=0)
    return (features - mean) * (variance + NORM_EPS).rsqrt()


class PretrainConfig(EpisodicConfig):
    """Settings of pre-training, on top of those of every episodic agent.

    Attributes:
        head: classifier of the train classes, and of a task's: `linear` (Baseline) or `cosine`
            (Baseline++: cosines to a weight vector a class, without offsets).
        temperature: what the cosines are divided by. `Choice:` .1, a scale of 10, whatever the
            number of classes.
        features: what a classifier sees: the network's `plain` features, or `standardised` ones,
            less their mean and by their deviation, with the statistics that batch norm takes. Plain
            ones are all positive, on which a linear head over many classes learns slowly.
        lr: Adam's step size in pre-training.
        start: a task's new head starts at `random` weights, the same in every trial, or from its
            `support` set: zero weights if linear, the class means if cosine.
        test_lr: step size of plain gradient descent on a task's support set.
        test_steps: steps on it.
        test_batch: support rows in a step; 0 takes all.
        adapts: whether a task moves its new `head` alone or the whole network, `all`.
        batch_norm: statistics at test: `transductive` (of support and queries together) or
            `inductive` (of the support set). In pre-training: of the mini-batch.
    """

    head: Literal["linear", "cosine"] = "linear"
    temperature: float = Field(0.1, gt=0)
    features: Literal["plain", "standardised"] = "plain"
    lr: float = Field(1e-3, gt=0)
    train_shots: int = Field(1, ge=0)
    start: Literal["random", "support"] = "random"
    test_lr: float = Field(0.01, gt=0)
    test_steps: int = Field(100, ge=0)
    test_batch: int = Field(4, ge=0)
    adapts: Literal["head", "all"] = "head"
    batch_norm: BatchNorm = "transductive"


class PretrainedAgent(Descending):
    """Trains one classifier of all train classes, keeps its body, and learns a new head a task.

    A mini-batch is the rows of `meta_batch` tasks with the labels of the whole split. `Choice:` a
    new head descends without the momentum and weight decay of the paper's code.

    Reference: Chen et al. 2019, "A closer look at few-shot classification", section 3.2.
    """

    Config = PretrainConfig
    EVAL_ONLY = ("batch_norm", "start", "test_lr", "test_steps", "test_batch", "adapts")
    config: PretrainConfig

    def __init__(self, config: PretrainConfig) -> None:
        """Set up the classifier and the optimisers."""
        self.config = config
        self.outer = learning.outer_adam(config.lr)
        self.rule = learning.sgd(config.test_lr)
        self.classifier = linear() if config.head == "linear" else by_cosine(config.temperature)

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings for an environment and budget."""
        return pretrain_preset(env, budget)

    def plan(self, task: TaskShape) -> Plan:
        """Return how many mini-batches to train on: tasks with the labels of the whole split.

        Raises:
            UsageError: tasks without classes.
        """
        need_classes(task, "pre-training")
        return self.config.plan(task, self.images(task), labels="class")

    def init(self, env: TaskEnv, rng: Rng) -> dict[str, Any]:
        """Return a fresh body and a head for all train classes.

        Raises:
            UsageError: tasks without classes, an environment that doesn't say how many there are
                in training, or a network that can't take these instances.
        """
        need_classes(env.task, "pre-training")
        classes = int(getattr(env, "train_classes", 0))
        if classes < 2:
            raise UsageError(
                "pre-training needs an environment that says how many classes it trains on "
                f"(train_classes) and takes labels='class', got {classes} classes; choose a "
                "built-in one (lazybench list envs)"
            )
        body, width = bare(self.config.network(env.task), rng.at("theta"))
        head = self.classifier.init(width, classes, rng.at("head").torch())
        return self.start(body | head, env.task)

    def update(
        self, state: dict[str, Any], batch: Observation, rng: Rng
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Take one Adam step on a mini-batch: all rows of all tasks.

        Raises:
            Diverged: a parameter isn't finite afterwards.
        """
        net = self.config.network(TaskShape(**state["task"]))

        def loss(theta: Params, row: Row) -> Tensor:
            x = net.prepare(torch.cat([row["support_x"], row["query_x"]]))
            y = torch.cat([row["support_y"], row["query_y"]])
            return F.cross_entropy(self._logits(theta, net.features(theta, x)), y)

        whole = {name: part.flatten(0, 1)[None] for name, part in batch.items()}
        return self.descend(state, whole, loss)

    def policy(self, state: dict[str, Any]) -> PerTask:
        """Return the policy that learns a new head, or the whole network, on each support set."""
        task = TaskShape(**state["task"])
        net, theta = self.config.network(task), detached(state["theta"])
        body = {name: value for name, value in theta.items() if not name.startswith(HEAD)}
        return PerTask(
            lambda row: self._answer(net, own_shape(task, row), body, row), uneven=task.uneven
        )

    def describe_network(self, task: TaskShape) -> Network:
        """Return the body's name and the number of parameters that answer a task.

        Raises:
            UsageError: a network that can't take these instances.
        """
        net = self.config.network(task)
        body, width = bare(net, Rng(0))
        held = body | self.classifier.init(width, task.way, Rng(0).torch())
        return network_description(net, held)

    def _answer(self, net: Net, task: TaskShape, body: Params, row: Row) -> Tensor:
        """The labels of one task's queries, under a head learned on its support set."""
        config, y = self.config, row["support_y"]
        x, query = net.prepare(row["support_x"]), net.prepare(row["query_x"])
        with torch.no_grad():
            support, embedded = self._embedded(net, body, x, query)
            fresh = self._fresh(task, support, y)
        whole = config.adapts == "all"

        def loss_on(pick: Tensor) -> learning.LossFn:
            def loss(params: Params) -> Tensor:
                if whole:
                    logits = self._logits(params, net.features(params, x[pick]))
                else:
                    logits = self.classifier.logits(params, support[pick])
                return F.cross_entropy(logits, y[pick])

            return loss

        generator = Rng(0, ("test",)).torch()
        picks = learning.batches(len(x), config.test_batch, config.test_steps, generator)
        start = body | fresh if whole else fresh
        end = learning.student(start, [loss_on(pick) for pick in picks], rule=self.rule).end
        with torch.no_grad():
            if whole:
                _, embedded = self._embedded(net, end, x, query)
            return self.classifier.logits(end, embedded).argmax(1)

    def _embedded(self, net: Net, theta: Params, x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """What a task's classifier sees of its support and query rows."""
        config = self.config
        support, embedded = embed(net, theta, x, query, config.batch_norm)
        if config.features == "plain":
            return support, embedded
        inductive = config.batch_norm == "inductive"
        like = support if inductive else torch.cat([support, embedded])
        return standardised(support, like), standardised(embedded, like)

    def _logits(self, theta: Params, features: Tensor) -> Tensor:
        """Logits of rows that are one batch."""
        if self.config.features == "standardised":
            features = standardised(features)
        return self.classifier.logits(theta, features)

    def _fresh(self, task: TaskShape, support: Tensor, y: Tensor) -> Params:
        """A task's new head before its first step."""
        if self.config.start == "support":
            return self.classifier.start(support, F.one_hot(y, task.way).to(support.dtype))
        generator = Rng(0, ("head",)).torch()
        fresh = self.classifier.init(support.shape[1], task.way, generator)
        return {name: value.to(support) for name, value in fresh.items()}
