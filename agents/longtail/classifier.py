"""Classifiers on long-tailed streams, and corrections of their answers after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lazybench.agent import Agent, Needs, Network, Observation, Plan, TaskEnv
from lazybench.agents.fewshot.weights import network_description, overlay
from lazybench.agents.longtail import learner
from lazybench.agents.longtail.learner import State, shrunk
from lazybench.agents.longtail.losses import Head, effective_number, head_of, log_priors
from lazybench.agents.longtail.settings import LongTailConfig, classifier_preset
from lazybench.errors import UsageError
from lazybench.nets import Net, Stats
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import LongTailTask


class Classify:
    """A policy that answers a batch of images with labels and probabilities."""

    def __init__(self, net: Net, head: Head, theta: Params, running: Stats, side: int) -> None:
        """Hold the trained network.

        Args:
            net: the body.
            head: what makes logits of features.
            theta: parameters of both.
            running: statistics that batch norm takes.
            side: pixels that images are averaged down to; 0 leaves them.
        """
        self._net, self._head, self._theta, self._running = net, head, theta, running
        self._side = side

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Any, Any]:
        """Return `labels` int64 `[B]` and `probs` float32 `[B, classes]`; no memory."""
        x = torch.as_tensor(observation["x"])
        with torch.no_grad():
            x = self._net.prepare(shrunk(x, self._side))
            features = self._net.features(self._theta, x, self._running)
            logits = self._head.answers(self._theta, features)
            return {"labels": logits.argmax(1), "probs": logits.float().softmax(1)}, None


def corrected(
    head: Head,
    theta: Params,
    counts: Sequence[int],
    kind: Literal["none", "logit_adjust", "tau_norm"],
    tau: float,
) -> tuple[Head, Params]:
    """Return the head and the parameters that answer after a correction.

    Args:
        head: the trained network's.
        theta: its parameters.
        counts: of the classes in training.
        kind: `logit_adjust` takes `tau` times the log priors off the logits; `tau_norm` divides
            each row of the head by its norm to the power of `tau` and leaves the offsets out.
        tau: 0 leaves the logits, but for `tau_norm`'s offsets.

    Reference: Menon et al. 2021, eq. (9); Kang et al. 2020, eq. (4).
    """
    if kind == "logit_adjust":
        taken = tau * log_priors(counts)

        def less(theta: Params, features: Tensor) -> Tensor:
            logits = head.answers(theta, features)
            return logits - taken.to(logits)

        return head._replace(answers=less), theta
    if kind == "tau_norm":
        weight = theta["head.weight"]
        scaled = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** tau
        bare = {"head.weight": scaled, "head.bias": torch.zeros_like(theta["head.bias"])}
        return head, {**theta, **bare}
    return head, theta


FROZEN_SHARE = 1 / 3
"""Work of a step that moves the head alone, in gradient-equivalents: a backward pass through the
body counts as two forward ones."""


class Classifying(Agent):
    """Base class of agents that train a classifier on a stream by weighted descent.

    Attributes:
        config: their settings.
    """

    families = ("longtail",)
    EVAL_ONLY: ClassVar[tuple[str, ...]] = ("posthoc", "posthoc_tau", "expert_weights")
    NEEDS: ClassVar[Needs] = {
        "adjust_tau": {"loss": ("logit_adjust",)},
        "margin": {"loss": ("ldam",)},
        "cosine_scale": {"loss": ("ldam",)},
        "inverse_tau": {"loss": ("sade",)},
        "expert_weights": {"loss": ("sade",)},
        "beta": {"class_weights": ("effective_number",)},
        "weighted": {"class_weights": ("effective_number",)},
        "reduction": {"class_weights": ("effective_number",)},
        "posthoc_tau": {"posthoc": ("logit_adjust", "tau_norm")},
    }
    LATER = LongTailConfig.LATER
    config: LongTailConfig

    def plan(self, task: LongTailTask) -> Plan:
        """Return how many mini-batches to train on, and what stream to draw them from."""
        config = self.config
        updates = config.updates(task)
        return Plan(
            updates=updates,
            env={
                "batch": config.batch,
                "epochs": config.epochs,
                "sampler": config.samplers(),
                "dev_batch": self.dev_rows(task),
            },
            # Rounded up, so that no validation falls right before the last one.
            validate_every=-(-updates // config.validations),
            select="last",
        )

    def dev_rows(self, task: LongTailTask) -> int:
        """Return the number of dev images that an update needs."""
        return self.config.dev_rows(task)

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return a fresh network.

        Raises:
            UsageError: a network that can't take these images.
        """
        return learner.begin(self.config, env.task, rng)

    def load_weights(self, state: State, weights: Mapping[str, Tensor]) -> State:
        """Return the first state with weights of another training in its body.

        Raises:
            UsageError: weights that don't fit the body.
        """
        return {**state, "theta": overlay(state["theta"], weights)}

    def transfer(self, state: State, task: LongTailTask) -> State:
        """Return a trained state, once it is known to fit a stream of the same classes.

        Its class counts stay those that it was trained on, which corrections of its answers need.

        Raises:
            UsageError: other classes or images than it was trained on.
        """
        trained = LongTailTask(**state["task"])
        for name in ("classes", "instance", "dtype"):
            had, has = getattr(trained, name), getattr(task, name)
            if had != has:
                raise UsageError(
                    f"this agent was trained on a stream with {name} {had}, which its network "
                    f"takes; this one has {has}; choose a run on the same data set"
                )
        return state

    def policy(self, state: State) -> Classify:
        """Return the policy that classifies with the running statistics."""
        config, task = self.config, LongTailTask(**state["task"])
        head, theta = corrected(
            head_of(config),
            state["theta"],
            config.counts(task),
            config.posthoc,
            config.posthoc_tau,
        )
        net = learner.net_of(config, task)
        return Classify(net, head, theta, state["running"], config.side)

    def describe_network(self, task: LongTailTask) -> Network:
        """Return the network's name and the number of parameters, head included.

        Raises:
            UsageError: a network that can't take these images.
        """
        net = learner.net_of(self.config, task)
        theta = head_of(self.config).init(net, Rng(0))
        return network_description(net, theta)

    def diagnostics(self, state: State) -> dict[str, Any]:
        """Return the span of the class weights, and of the norms of the head's rows."""
        config, counts = self.config, self.config.counts(LongTailTask(**state["task"]))
        norms = state["theta"]["head.weight"].detach().norm(dim=1)
        found: dict[str, Any] = {"head_norms": [float(norms.min()), float(norms.max())]}
        if config.class_weights != "none":
            weights = effective_number(counts, config.beta)
            found["class_weights"] = [float(weights.min()), float(weights.max())]
        return found


class ClassifierAgent(Classifying):
    """Descends on one loss in two stages; its settings make it each of the one-loss agents.

    Reference: Cui et al. 2019; Cao et al. 2019; Menon et al. 2021; Ren et al. 2020; Kang et al.
    2020; Zhang et al. 2018 (`mixup`); Zhang et al. 2022 (`sade`); the stages' defaults are those of
    Jamal et al. 2020 (160 and 40 epochs).
    """

    Config = LongTailConfig

    def __init__(self, config: LongTailConfig) -> None:
        """Take the settings."""
        self.config = config

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings of `algorithm` for an environment and budget."""
        return classifier_preset(algorithm, env, budget)

    def update(self, state: State, batch: Observation, rng: Rng) -> tuple[State, dict[str, float]]:
        """Take one step on a mini-batch.

        Raises:
            Diverged: a parameter isn't finite afterwards.
        """
        config = self.config
        now = learner.current(config, state)
        x, y = learner.labelled(batch)
        if config.dev == "joined":
            x, y = torch.cat([x, batch["dev_x"]]), torch.cat([y, batch["dev_y"]])
        elif config.dev == "late" and now.late:
            x, y = batch["dev_x"], batch["dev_y"]
        if state["step"] == config.begins(config.late, now.task) and (
            config.late_trains == "fresh_head"
        ):
            state = learner.fresh_head(config, state, rng.at("head"))
        x = learner.prepared(config, now.net, x, rng.at("augment"))
        mixed = None
        if config.mixes(late=now.late):
            share, order = learner.mixup_draw(config.mixup, len(y), rng.at("mixup"))
            x, other = share * x + (1 - share) * x[order], y[order]
            mixed = learner.Mixed(share, other, now.class_weights(state["theta"], other))
        after, loss = now.step(state, x, y, now.class_weights(state["theta"], y), mixed)
        share = FROZEN_SHARE if now.late and config.late_trains != "all" else 1.0
        return after, {
            "loss": loss,
            "image_gradients": float(len(y)),
            "gradient_equivalents": share * len(y) / config.batch,
        }
