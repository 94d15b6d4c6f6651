"""Agents that learn the weights of examples from a dev set, one step ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agent import Needs, Observation, Plan, TaskEnv
from lazybench.agents.longtail import learner
from lazybench.agents.longtail.classifier import Classifying
from lazybench.agents.longtail.learner import Learner, State
from lazybench.agents.longtail.settings import MetaConfig, meta_preset
from lazybench.errors import UsageError
from lazybench.learning import (
    Examples,
    Leap,
    Outer,
    WeightGradient,
    outer_adam,
    outer_sgd,
    sound,
    weight_gradient,
)
from lazybench.nets import MLP
from lazybench.nets.params import Params, leaves
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import LongTailTask, TaskShape

_SCALAR = TaskShape(1, 1, 1, (1,), "float32", "array", (1,))


class WeightNet:
    """One hidden layer between a loss and a weight, sigmoid at the end.

    Weights of a mini-batch sum to 1, which keeps the step from dying where all of them fall.

    Reference: Shu et al. 2019, section 3.2 and code.
    """

    def __init__(self, hidden: int) -> None:
        """Fix the number of hidden units."""
        self._net = MLP(_SCALAR, hidden=(hidden,))

    def init(self, rng: Rng) -> Params:
        """Return fresh parameters."""
        return self._net.init(rng.torch())

    def __call__(self, params: Params, losses: Tensor) -> Tensor:
        """Return the weights `[B]` of losses `[B]`, on the graph of `params` alone.

        `Choice:` the loss is a constant here, as in the authors' code for noisy labels; in theirs
        for imbalance the weights' slope joins the virtual step.
        """
        drawn = torch.sigmoid(self._net(params, losses.detach()[:, None])).flatten()
        return drawn / drawn.sum()


class ClassSampler:
    """Draws a mini-batch again from itself, each class at a learned rate.

    Each of the B places takes one image by a Gumbel-softmax draw; a straight-through gradient goes
    from the draws to the rates. An image's weight is the share of places that took it.

    `Choice:` rates are relative to the stream's, and 1 at first: the environment draws the stream.
    The authors' sampler draws from the whole training set, at first by powers of the counts, and
    retrains the classifier on a frozen body; here all layers move, as for the other meta-weighting
    agents. Batch norm takes the statistics of the mini-batch as it came.

    Reference: Ren et al. 2020, section 3.2 and algorithm 1; E. Jang et al., "Categorical
        reparameterization with Gumbel-softmax", ICLR 2017 (straight through).
    """

    def __init__(self, temperature: float) -> None:
        """Fix the temperature of the relaxed draws."""
        self._temperature = temperature

    def init(self, classes: int) -> Params:
        """Return the logarithms of the rates, all 0."""
        return {"rates": torch.zeros(classes)}

    def __call__(self, params: Params, y: Tensor, rng: Rng) -> Tensor:
        """Return weights `[B]` of images with labels `y`, which sum to 1, on the rates' graph."""
        rows = len(y)
        uniform = torch.rand((rows, rows), generator=rng.torch(), dtype=torch.float64)
        tiny = torch.finfo(torch.float64).tiny
        noise = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
        logits = params["rates"][y].log_softmax(0) + noise.to(params["rates"])
        soft = (logits / self._temperature).softmax(1)
        hard = F.one_hot(logits.argmax(1), rows).to(soft)
        # The value of the hard draws, to the bit, with the slopes of the soft ones.
        return (hard + (soft - soft.detach())).mean(0)


class DevHalves(NamedTuple):
    """A mini-batch of the dev set in two parts that share no image.

    Attributes:
        x: prepared images for the validation loss.
        y: their labels.
        score_x: prepared images to compare candidates on; none where there is nothing to compare.
        score_y: their labels.
    """

    x: Tensor
    y: Tensor
    score_x: Tensor
    score_y: Tensor


class Weighed(NamedTuple):
    """The result of a meta-step.

    Attributes:
        weights: of the real step, `[B]`.
        leap: where the validation loss was taken.
        ratio: mean size of eps over the mean class weight; 0 if weights have one part.
        negative: share of examples whose weight was below 0, before any cut.
        net: the weights' network after its step, and its rule's state; empty without one.
    """

    weights: Tensor
    leap: Leap
    ratio: float
    negative: float
    net: dict[str, Params]


class MetaWeightAgent(Classifying):
    """Plain steps first, then in each step the examples' weights from a batch of the dev set.

    Meta passes take the statistics of their batch in batch norm; the real step alone updates the
    running ones. eps starts from 0 in every mini-batch. The state has, on top of a classifier's,
    `seen` (what diagnostics report) and `net` (the weights' network, where there is one).

    Reference: Algorithm 2 (`lazy_two_component`); Jamal et al. 2020 (`two_component`); Ren et al.
    2018 (`l2rw`); Shu et al. 2019 (`meta_weight_net`); Ren et al. 2020 (`balms`).
    """

    Config = MetaConfig
    LATER = MetaConfig.LATER
    # Weights are learned through the experts' joint answers, so how these are joined affects them.
    EVAL_ONLY = ("posthoc", "posthoc_tau")
    NEEDS: ClassVar[Needs] = {
        **{name: needs for name, needs in Classifying.NEEDS.items() if name != "reduction"},
        "gammas": {"teacher": ("lazy",)},
        "strength": {"weighting": ("two_component",)},
        "tau": {"strength": ("released",)},
        "rho": {"strength": ("scaled",)},
        "virtual": {"weighting": ("two_component",)},
        "clip": {"weighting": ("two_component",)},
        "net_hidden": {"weighting": ("meta_weight_net",)},
        "net_rule": {"weighting": ("meta_weight_net", "sampler")},
        "net_lr": {"weighting": ("meta_weight_net", "sampler")},
        "sampler_temperature": {"weighting": ("sampler",)},
    }
    config: MetaConfig

    def __init__(self, config: MetaConfig) -> None:
        """Take the settings and set up the weights' network."""
        self.config = config
        self.net = WeightNet(config.net_hidden)
        self.sampler = ClassSampler(config.sampler_temperature)
        rule = outer_adam if config.net_rule == "adam" else outer_sgd
        self.net_outer: Outer = rule(config.net_lr)

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings of `algorithm` for an environment and budget."""
        return meta_preset(algorithm, env, budget)

    def plan(self, task: LongTailTask) -> Plan:
        """Return how many mini-batches to train on, and what stream to draw them from.

        Raises:
            UsageError: a stream whose dev set is too small.
        """
        least = 4 if self.config.teacher == "lazy" else 2
        if self.config.dev_rows(task) < least:
            raise UsageError(
                f"this agent learns from a dev set of at least {least} images, got "
                f"{task.dev_per_class} of each of {task.classes} classes; make the environment "
                "with a larger dev_per_class"
            )
        return super().plan(task)

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return a fresh network, and a fresh network of weights where there is one.

        Raises:
            UsageError: a network that can't take these images.
        """
        state = super().init(env, rng)
        state["seen"] = {
            "steps": 0,
            "ratio": 0.0,
            "negative": 0.0,
            "gamma": torch.zeros(len(self.config.gammas), dtype=torch.int64),
        }
        if self.config.weighting in ("meta_weight_net", "sampler"):
            sampler = self.config.weighting == "sampler"
            classes = env.task.classes
            params = self.sampler.init(classes) if sampler else self.net.init(rng.at("net"))
            state["net"] = {"params": params, "outer": self.net_outer.init(params)}
        return state

    def update(self, state: State, batch: Observation, rng: Rng) -> tuple[State, dict[str, float]]:
        """Take one step on a mini-batch, weighed in the second stage.

        Raises:
            Diverged: a weight or a parameter isn't finite, or the weights' sum is negative.
            UsageError: the network has no forward derivative and `products` is jvp.

        Reference: Algorithm 2, lines 3-13.
        """
        config = self.config
        now = learner.current(config, state)
        x, y = learner.labelled(batch)
        x = learner.prepared(config, now.net, x, rng.at("augment"))
        rows, equivalents, passed = len(y), 1.0, len(y)
        weights = now.class_weights(state["theta"], y)
        if now.late:
            dev = self._halves(now, batch, rng.at("dev"))
            weighed = self.weigh(now, state, x, y, dev, rng.at("draws"))
            weights = sound(weighed.weights, state["step"] + 1)
            state = _noted(state, weighed, config)
            equivalents = config.equivalents(rows, len(dev.y) + len(dev.score_y))
            virtual = 0 if config.weighting == "l2rw" else 1
            passed += (virtual + config.inner_steps) * rows + len(dev.y)
        after, loss = now.step(state, x, y, weights)
        return after, {
            "loss": loss,
            "image_gradients": float(passed),
            "gradient_equivalents": equivalents * rows / config.batch,
        }

    def weigh(
        self, now: Learner, state: State, x: Tensor, y: Tensor, dev: DevHalves, rng: Rng
    ) -> Weighed:
        """Return the weights of a prepared mini-batch's real step; theta isn't changed.

        Args:
            now: the network on the stream.
            state: of the training.
            x: prepared images.
            y: their labels.
            dev: images for the validation loss and the candidates' scores.
            rng: gives the draws of `sampler`.
        """
        config, theta = self.config, state["theta"]
        examples = Examples(
            theta, lambda params: now.row_losses(params, x, y), products=config.products
        )
        losses = examples.values
        if config.weighting == "l2rw":
            found = self._slopes(now, examples, torch.zeros_like(losses), dev)
            return _rectified(found)
        if config.weighting in ("meta_weight_net", "sampler"):

            def draw(params: Params, step: str) -> Tensor:
                if config.weighting == "sampler":
                    return self.sampler(params, y, rng.at(step)).to(losses)
                return self.net(params, losses)

            params = leaves(state["net"]["params"])
            drawn = draw(params, "virtual")
            found = self._slopes(now, examples, drawn.detach(), dev)
            # The chain rule's last link: from the weights to the parameters that drew them.
            grads = torch.autograd.grad(drawn, list(params.values()), found.slopes)
            meta = dict(zip(params, grads, strict=True))
            with torch.no_grad():
                new, outer = self.net_outer.update(
                    state["net"]["params"], state["net"]["outer"], meta, 1.0
                )
                # They sum to 1, and the real step is a mean.
                weights = draw(new, "real") * len(y)
            return Weighed(weights, found.leap, 0.0, 0.0, {"params": new, "outer": outer})
        base = now.class_weights(theta, y)
        base = torch.ones_like(losses) if base is None else base
        found = self._slopes(now, examples, base, dev)
        eps = self.eps(found.slopes, base)
        weights = base + eps
        negative = float((weights < 0).float().mean())
        ratio = float(eps.abs().mean() / base.mean())
        kept = weights.clamp_min(0) if config.clip else weights
        return Weighed(kept, found.leap, ratio, negative, {})

    def eps(self, slopes: Tensor, base: Tensor) -> Tensor:
        """Return what is added to the class weights `base`, `[B]`: a step down the slopes."""
        config = self.config
        if config.strength == "released":
            return -config.tau * slopes
        size = slopes.abs().mean()
        if not float(size):
            return torch.zeros_like(slopes)
        return slopes * (-config.rho * base.mean() / size)

    def diagnostics(self, state: State) -> dict[str, Any]:
        """Return the size of eps, the share of weights below 0 and the histogram of gamma."""
        config, seen = self.config, state["seen"]
        found = super().diagnostics(state)
        steps = seen["steps"]
        if not steps:
            return found
        found["negative_weight_share"] = seen["negative"] / steps
        if config.weighting == "sampler":
            rates = state["net"]["params"]["rates"].exp()
            found["class_rates"] = [float(rates.min()), float(rates.max())]
        if config.weighting == "two_component":
            found["eps_over_weight"] = seen["ratio"] / steps
        if config.teacher == "lazy":
            chosen = seen["gamma"].tolist()
            names = [f"{gamma:g}" for gamma in config.gammas]
            found["gamma_histogram"] = dict(zip(names, chosen, strict=True))
            edge = chosen[0] + chosen[-1] if len(chosen) > 1 else chosen[0]
            found["gamma_edge_share"] = edge / sum(chosen)
        return found

    def _slopes(
        self, now: Learner, examples: Examples, weights: Tensor, dev: DevHalves
    ) -> WeightGradient:
        def valid(theta: Params) -> Tensor:
            return F.cross_entropy(now.logits(theta, dev.x), dev.y)

        def score(theta: Params) -> tuple[float, ...]:
            hits = now.logits(theta, dev.score_x).argmax(1) == dev.score_y
            return (float(hits.float().mean()),)

        ahead = self.config.ahead(now.lr, len(weights))
        return weight_gradient(examples, weights, valid, ahead, score=score)

    def _halves(self, now: Learner, batch: Observation, rng: Rng) -> DevHalves:
        """The dev images, each class in both halves as far as it goes."""
        y = batch["dev_y"]
        x = learner.prepared(self.config, now.net, batch["dev_x"], rng)
        if self.config.teacher == "greedy":
            return DevHalves(x, y, x[:0], y[:0])
        order = y.argsort(stable=True)
        one, other = order[::2], order[1::2]
        return DevHalves(x[one], y[one], x[other], y[other])


def _rectified(found: WeightGradient) -> Weighed:
    """The part of the descent direction above 0, its mean 1; all 0 if nothing is above.

    Reference: Ren et al. 2018, eqs. (7) and (8), with their guard.
    """
    down = -found.slopes
    kept = down.clamp_min(0)
    total = kept.sum()
    weights = kept * (len(kept) / total) if float(total) else kept
    return Weighed(weights, found.leap, 0.0, float((down < 0).float().mean()), {})


def _noted(state: State, weighed: Weighed, config: MetaConfig) -> State:
    """The state with the counts for diagnostics and the weights' network after its step."""
    seen = state["seen"]
    gamma = seen["gamma"].clone()
    if weighed.leap.candidates:
        gamma[config.gammas.index(weighed.leap.gamma)] += 1
    noted = {
        "steps": seen["steps"] + 1,
        "ratio": seen["ratio"] + weighed.ratio,
        "negative": seen["negative"] + weighed.negative,
        "gamma": gamma,
    }
    return {**state, "seen": noted, **({"net": weighed.net} if weighed.net else {})}
