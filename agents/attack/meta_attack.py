"""Meta-attack, and random coordinates, its control.

Meta-attack's network is meta-learned: it predicts gradient maps and is fine-tuned to each image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench import learning
from lazybench.agent import Network, Observation, Plan, Policy, TaskEnv
from lazybench.agents.attack.differences import coordinate_slopes, placed
from lazybench.agents.attack.lockstep import Attack, Lockstep, Start, State
from lazybench.agents.attack.search import (
    Iterates,
    ScoreAgent,
    ScoreConfig,
    Space,
    order,
    pixels,
    variables,
)
from lazybench.agents.fewshot.gradient import GradientAgent
from lazybench.agents.fewshot.settings import GradientConfig
from lazybench.nets import Net, backbone
from lazybench.nets.params import Params, detached
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import AttackTask


class CoordinateConfig(ScoreConfig):
    """Settings; the defaults are meta-attack's on MNIST.

    Attributes:
        coordinates: q, how many are probed at once (all, where an image has fewer).
        every: j, steps that use one probing.
        step: lambda, how far every probed coordinate moves in a step, in the unit of `space`.
        width: h of the forward differences.
        space: pixels, or tanh space as meta-attack on CIFAR-10.
    """

    coordinates: int = Field(128, ge=1)
    every: int = Field(5, ge=1)
    step: float = Field(0.01, gt=0)
    width: float = Field(1e-4, gt=0)
    space: Space = "pixel"


class Coordinate(ScoreAgent):
    """Probe q random coordinates, follow the signs of their slopes for j steps, and repeat.

    Queries per image: one for the clean image; then rounds of q probes and j steps, each checked
    by a query. `Choice:` the first probes come at once, since there is nothing to follow before.

    Reference: Du et al., "Query-efficient meta attack to deep neural networks", ICLR 2020, with the
    attacker's choice of coordinates replaced by chance.
    """

    Config = CoordinateConfig

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return meta-attack's constants for the data."""
        if env.data.startswith("cifar"):
            return {"coordinates": 125, "every": 3, "space": "tanh"}
        return {}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield queries, and receive their replies, until no image is left."""
        config: CoordinateConfig = self.config
        iterates = Iterates(start, self.radius(start.task), config.space)
        signs = torch.zeros_like(start.x)
        yield from iterates.check()
        for step in count():
            if step % config.every == 0:
                live = iterates.live
                chosen = order(start, "coordinates", live, step, start.x[0].numel())
                chosen = chosen[:, : config.coordinates]
                slopes, kept = yield from coordinate_slopes(iterates, chosen, config.width)
                signs[iterates.live] = placed(slopes.sign(), chosen[kept], iterates.clean)
            if not len(iterates.live):
                return
            iterates.move(iterates.values[iterates.live] + config.step * signs[iterates.live])
            yield from iterates.check()


_BLOCK = 8
"""Images that pass through their attackers together. Blocks that aren't full are padded: other
shapes round differently and twenty steps of Adam amplify that. So an image's attacker gives the
same bits whether the image is alone or among others."""


def predict(net: Net, params: Params, x: Tensor, *, stacked: bool = True) -> Tensor:
    """Return the output of each image's network, `[n, …]`.

    Every image is a separate batch, so norms use only its statistics.

    Args:
        net: a pure function of its parameters.
        params: each `[n, …]`, or those that all images share.
        x: `[n, channels, height, width]`.
        stacked: whether `params` has separate parameters for each image.
    """
    alone = torch.func.vmap(
        lambda weights, image: net(weights, image[None])[0], (0 if stacked else None, 0)
    )
    maps: Tensor = alone(params, x)
    return maps


def fine_tune(  # noqa: PLR0913 - what is tuned, on what, how far
    net: Net, params: Params, x: Tensor, picked: Tensor, target: Tensor, *, steps: int, lr: float
) -> Params:
    """Return the stacked weights after Adam's steps on some coordinates of each image's map.

    Adam works entry by entry, and losses that share no weight keep their gradients in a sum, so one
    student of all the weights is as many students as there are images.

    Args:
        net: a pure function of its parameters.
        params: stacked, each `[n, …]`; left untouched.
        x: `[n, channels, height, width]`.
        picked: `[n, q]` int64 positions in the flattened maps.
        target: `[n, q]` values that the maps should have there.
        steps: steps of a fresh Adam.
        lr: its step size.

    Reference: Algorithm 4, line 4 (loss L); Du et al. 2020, Algorithm 2, line 5.
    """

    def loss(weights: Params) -> Tensor:
        at = predict(net, weights, x).flatten(1).gather(1, picked)
        return (at - target).square().mean(1).sum()

    return learning.student(params, [loss] * steps, rule=learning.adam(lr, beta1=0.9)).end


class Attackers:
    """One attacker for each of n images: all alike at first, each fine-tuned to its image."""

    def __init__(self, net: Net, theta: Params) -> None:
        """Start all images from one network."""
        self._net, self._theta = net, theta
        self._tuned: Params | None = None

    def maps(self, x: Tensor) -> Tensor:
        """Return each image's map, `[n, channels, height, width]`, without a graph."""
        held = self._tuned
        with torch.no_grad():
            found = [
                predict(self._net, self._theta, x[rows], stacked=False)
                if held is None
                else predict(self._net, _rows(held, rows), x[rows])
                for rows in _blocks(x)
            ]
        return torch.cat(found)[: len(x)]

    def tune(self, x: Tensor, picked: Tensor, target: Tensor, *, steps: int, lr: float) -> None:
        """Tune each image's attacker as `fine_tune` does."""
        start = self._tuned
        if start is None:
            start = {
                name: value.expand(len(x), *value.shape) for name, value in self._theta.items()
            }
        tuned: list[Params] = []
        for rows in _blocks(x):
            at = _rows(start, rows), x[rows], picked[rows], target[rows]
            tuned.append(fine_tune(self._net, *at, steps=steps, lr=lr))
        self._tuned = {
            name: torch.cat([part[name] for part in tuned])[: len(x)] for name in self._theta
        }

    def keep(self, kept: Tensor) -> None:
        """Forget the attackers of images that are finished; `kept` has the positions of others."""
        held = self._tuned
        if held is not None and len(kept) < len(next(iter(held.values()))):
            self._tuned = _rows(held, kept)


def _blocks(x: Tensor) -> list[Tensor]:
    """Row numbers of `x`, so many at a time; the last one repeats until its block is full."""
    padded = -(-len(x) // _BLOCK) * _BLOCK
    rows = torch.arange(padded, device=x.device).clamp(max=len(x) - 1)
    return list(torch.split(rows, _BLOCK))


def _rows(params: Params, rows: Tensor) -> Params:
    return {name: value[rows] for name, value in params.items()}


BACKBONE = "lazybench.nets.attacker:EncoderDecoder"

EVAL_ONLY = (*CoordinateConfig.model_fields, "tune_steps", "tune_lr", "most_steps")
"""Settings of the attack, which the meta-training doesn't know of."""


class MetaAttackConfig(GradientConfig, CoordinateConfig):
    """Settings of a meta-attacker: the meta-learner's (`GradientConfig`), and the attack's.

    The meta-learner regresses gradient maps: a task is a network and a set of images, its support
    and query targets are the maps. The attack's settings are those of its control
    (`CoordinateConfig`), of which `every` and `step` have nothing to do with the training, and
    these:

    Attributes:
        tune_steps: Adam's steps on each image's attacker after a round of probes.
        tune_lr: Adam's step size there.
        most_steps: an image is given up after this many steps; 0 continues while it has queries.
    """

    backbone: str = BACKBONE
    # What makes no sense for maps of whole images can't be chosen.
    adapts: Literal["all"] = "all"
    fairness: Literal["none"] = "none"
    regulariser: Literal["none"] = "none"

    tune_steps: int = Field(20, ge=0)
    tune_lr: float = Field(0.01, gt=0)
    most_steps: int = Field(0, ge=0)

    algorithms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "meta_attack": {},
        "lazy_meta_attack": {"teacher": "lazy"},
        # Lazy meta-attack's inner loop and beta, times the mean leap of its search.
        "meta_attack_matched": {"matched_leap": 0.105},
        "meta_attack_untrained": {"image_gradients": 0, "iterations": 0},
    }


class _Size(NamedTuple):
    """How much is trained: images passed forward and backward once, and images in a task."""

    image_gradients: int
    images: int
    validations: int


_SMOKE = _Size(2_400, 16, 1)
_SMALL = {"glyphs": _Size(100_000, 32, 2), "cifar10": _Size(96_000, 32, 2)}
_SMALL_MNIST = _Size(460_800, 64, 3)
_MEDIUM_VALIDATIONS = 10
_QUERY_IMAGES = 16
_OUTER_STEPS = {"mnist": 6_006, "cifar10": 20_368}
"""Outer steps of the released training."""


def preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of one of `MetaAttackConfig.algorithms` for an environment and budget.

    All of them get the same number of inner gradients, so Lazy meta-attack, whose inner loop is
    longer, takes fewer outer steps, and so does its matched control. `small` has beta 1 and lets it
    fall to 0, with 32 or 64 images a task; `medium` trains five times as long; `paper` has beta .01
    throughout and 800 images a task (640 of CIFAR-10), as released.

    `Choice:` below `paper` the lazy agent and its control have beta 8: the lazy leap goes a tenth
    of the student's way, and with beta 1 for all, theta would move a quarter as far as the plain
    agent's in a whole training.

    `Choice:` beta is .01 at `paper` on CIFAR-10, too, as the lazy paper has it; the released code
    leaves the factor out there, which is outer_lr=1. Adam's beta1 is 0 in the inner loop, as in all
    of lazybench's Reptiles, where the released code has .9; both restart with each task.

    Reference: Du et al. 2020, section 5.1 and released code; the lazy paper, Algorithm 3 and A.2.
    """
    colour = env.data.startswith("cifar")
    lazy = algorithm in ("lazy_meta_attack", "meta_attack_matched")
    settings: dict[str, Any] = {
        "inner_rule": "adam",
        "inner_lr": 0.01,
        "inner_state": "reset",
        "inner_steps": (10 if colour else 8) if lazy else 5,
        "meta_batch": 3,
        "test_steps": 5,
        **Coordinate.preset(algorithm, env, budget),
    }
    settings |= _paper(env, colour) if budget == "paper" else _small(env, budget, lazy)
    return settings | dict(MetaAttackConfig.algorithms[algorithm])


def _small(env: EnvSpec, budget: str, lazy: bool) -> dict[str, Any]:
    size = _SMOKE if budget == "smoke" else _SMALL.get(env.data, _SMALL_MNIST)
    if budget == "medium":
        size = _Size(5 * size.image_gradients, size.images, _MEDIUM_VALIDATIONS)
    return {
        "image_gradients": size.image_gradients,
        "train_shots": size.images,
        "train_queries": min(size.images, _QUERY_IMAGES),
        "validations": size.validations,
        "outer_lr": 8.0 if lazy else 1.0,
    }


def _paper(env: EnvSpec, colour: bool) -> dict[str, Any]:
    images, queries = (640, 640) if colour else (800, 160)
    outer_steps = _OUTER_STEPS["cifar10" if colour else "mnist"]
    targeted = bool(env.kwargs.get("targeted", False))
    return {
        # Five inner steps of three tasks in each of the released training's outer steps.
        "image_gradients": outer_steps * 3 * 5 * images,
        "train_shots": images,
        "train_queries": queries,
        "validations": 20,
        "outer_lr": 0.01,
        "anneal": "none",
        "most_steps": 100 if colour and not targeted else 300,
    }


_NO_SPREAD = 1e-23
"""Added to a standard deviation, which is 0 if no probe changed anything."""

_HELD_OUT_IMAGES = 64
"""Validation images that a trained attacker is compared on with the untrained one, half of them
to adapt to."""


class MetaAttackAgent(ScoreAgent):
    """Meta-learns to predict gradient maps, and attacks with them.

    The state holds the meta-learner's (`learner`), the protocol (`task`), the run's seed, and a few
    validation images with their maps (`held_out`), on which the trained attacker is compared with
    the untrained one.

    Reference: Algorithms 3 and 4; Du et al. 2020 (Query-efficient meta attack).
    """

    Config = MetaAttackConfig
    LATER = MetaAttackConfig.LATER
    EVAL_ONLY = (*GradientAgent.EVAL_ONLY, *EVAL_ONLY)
    SHARDED = True

    def __init__(self, config: MetaAttackConfig) -> None:
        """Compose the meta-learner that the settings name."""
        super().__init__(config)
        self.learner = GradientAgent(config)

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings of `algorithm` for an environment and budget."""
        return preset(algorithm, env, budget)

    @staticmethod
    def resolve_settings(given: Mapping[str, Any], find: Callable[[str], Any]) -> Mapping[str, Any]:
        """Return the settings with `matched_to=KEY` replaced by that lazy run's and its mean leap.

        Raises:
            UsageError: no such record, or not one of a lazy search.
        """
        return GradientAgent.resolve_settings(given, find)

    def plan(self, task: AttackTask) -> Plan:
        """Return how many meta-iterations to run, on what tasks.

        Raises:
            UsageError: a network that can't take these images.
        """
        return self.learner.plan(task.maps)

    def describe_network(self, task: AttackTask) -> Network:
        """Return the attacker's name and its number of parameters."""
        return self.learner.describe_network(task.maps)

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return a fresh attacker, with validation images to compare by where `env` has them.

        Raises:
            UsageError: the target gives labels only, or images that the network can't take.
        """
        begun = super().init(env, rng)
        learner = self.learner.init(SimpleNamespace(task=env.task.maps), rng)
        held_out = _held_out(env)
        return {
            **begun,
            "learner": learner,
            "held_out": held_out,
            "untrained_mse": self._mse(learner, held_out) if held_out else None,
        }

    def load_weights(self, state: State, weights: Mapping[str, Tensor]) -> State:
        """Return the first state with the weights of another training in it.

        Raises:
            UsageError: an entry of the network's body is missing or has another shape.
        """
        return {**state, "learner": self.learner.load_weights(state["learner"], weights)}

    def transfer(self, state: State, task: AttackTask) -> State:
        """Return a trained state made ready for another target or protocol.

        Raises:
            UsageError: other images than the attacker was trained on.
        """
        learner = self.learner.transfer(state["learner"], task.maps)
        return {**state, "learner": learner, "task": task.fields()}

    def update(self, state: State, batch: Observation, rng: Rng) -> tuple[State, dict[str, float]]:
        """Run one meta-iteration on a meta-batch of gradient maps.

        Raises:
            Diverged: a parameter isn't finite afterwards.

        Reference: Algorithm 3, lines 3-13.
        """
        learner, logs = self.learner.update(state["learner"], batch, rng)
        return {**state, "learner": learner}, logs

    def policy(self, state: State) -> MapsOrAttack:
        """Return the policy that attacks, and on validation tasks predicts maps."""
        return MapsOrAttack(self.learner.policy(state["learner"]), partial(self._begin, state))

    def diagnostics(self, state: State) -> dict[str, Any]:
        """Return the meta-learner's diagnostics, and the errors of trained and untrained attackers.

        `held_out_mse` and `untrained_mse` are squared errors, in units of the maps' variance,
        on validation images after the same few steps on others. `under_trained` is True if the
        trained attacker does no better than the untrained one, or than a map of zeros.
        """
        learner = state["learner"]
        found = self.learner.diagnostics(learner)
        if state["untrained_mse"] is None or not learner["step"]:
            return found
        trained = self._mse(learner, state["held_out"])
        found |= {"held_out_mse": trained, "untrained_mse": state["untrained_mse"]}
        zeros = float(state["held_out"]["query_y"].square().mean())
        baseline = min(state["untrained_mse"], zeros)
        return found | {"under_trained": not trained < baseline}

    def attack(self, start: Start, state: State) -> Attack:
        """Yield iterates and probes; the attacker of each image follows that image's probes.

        A step's iterate is sent before anything else, so the first query is the clean image and
        every stop check counts. Before every j-th update the q pixels that the last update moved
        are probed by forward differences, which count q queries; the attacker is tuned to them and
        chooses new pixels; of these the probed ones move by their probe's sign and the others stay.
        Between rounds, pixels move by the sign of the attacker's map.

        `Choice:` margins aren't clamped, so that an image that is adversarial outside eps still has
        slopes. Probes step in pixels in tanh space, too, as the maps of the training do.

        Reference: Algorithm 4; the released code for the order, the choice of pixels and the sign.
        """
        config: MetaAttackConfig = self.config
        net = backbone(config.backbone, start.task.maps)
        attackers = Attackers(net, detached(state["learner"]["theta"]))
        iterates = Iterates(start, self.radius(start.task))
        chosen: Tensor | None = None
        bounded = config.most_steps > 0
        steps: Iterable[int] = range(config.most_steps) if bounded else itertools.count()
        for step in steps:
            kept = yield from iterates.check()
            if not len(kept):
                return
            attackers.keep(kept)
            chosen = None if chosen is None else chosen[kept]
            probed: Tensor | None = None
            if (step + 1) % config.every == 0:
                picked = (
                    self._steepest(attackers.maps(iterates.x[iterates.live]))
                    if chosen is None
                    else chosen
                )
                rise, kept = yield from coordinate_slopes(iterates, picked, config.width)
                if not len(kept):
                    return
                attackers.keep(kept)
                picked = picked[kept]
                probed = _as_map(rise, picked, iterates.clean)
                values = probed.gather(1, picked)
                attackers.tune(
                    iterates.x[iterates.live],
                    picked,
                    values,
                    steps=config.tune_steps,
                    lr=config.tune_lr,
                )
            x = iterates.x[iterates.live]
            maps = attackers.maps(x).flatten(1)
            chosen = self._steepest(maps)
            slopes = (maps if probed is None else probed).gather(1, chosen)
            iterates.move(_moved(x, chosen, -config.step * slopes.sign(), config.space))

    def _steepest(self, maps: Tensor) -> Tensor:
        """The q pixels of each map that are farthest from 0, `[n, q]` int64."""
        flat = maps.flatten(1)
        return flat.abs().topk(min(self.config.coordinates, flat.shape[1])).indices

    def _mse(self, learner: State, held_out: Mapping[str, Tensor]) -> float:
        answers, _ = self.learner.policy(learner)(held_out)
        return float(F.mse_loss(answers, held_out["query_y"]))


def _as_map(rise: Tensor, probed: Tensor, like: Tensor) -> Tensor:
    """Slopes of the margin as targets of an attacker's map, `[n, pixels]`, 0 if unprobed.

    The sign is flipped, since maps are gradients of the label's remaining lead. They are divided
    by their standard deviation over all pixels, so no constant factor matters.
    """
    fall = torch.where(rise.isfinite(), -rise, torch.zeros_like(rise))
    flat = placed(fall, probed, like).flatten(1)
    return flat / (flat.std(1, correction=0, keepdim=True) + _NO_SPREAD)


def _moved(x: Tensor, chosen: Tensor, by: Tensor, space: Space) -> Tensor:
    """Images with their chosen pixels moved by so much in a space; no other pixel changes."""
    step = placed(by, chosen, x)
    return torch.where(step == 0, x, pixels(variables(x, space) + step, space))


class MapsOrAttack(Lockstep):
    """The policy of a meta-attacker: gradient maps where there is a support set, else an attack."""

    def __init__(self, maps: Policy, begin: Callable[[Observation], Attack]) -> None:
        """Hold the policy that predicts maps, and the function that begins an attack."""
        super().__init__(begin)
        self._maps = maps

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Any, Any]:
        """Return the maps of a block of tasks, or the next queries for a block of images."""
        if "support_x" in observation:
            return self._maps(observation, memory)
        return super().__call__(observation, memory)


def _held_out(env: Any) -> dict[str, Tensor]:
    """The images of one validation task and their maps, half to adapt to and half to evaluate on.

    Empty where `env` isn't a validation environment. Its query targets stay hidden, so the
    support set is divided.
    """
    if not hasattr(env, "reset"):
        return {}
    rows = getattr(env, "num_envs", 1)
    observation, _ = env.reset(options={"trials": np.arange(rows)})
    if "support_x" not in observation:
        return {}
    x, y = (observation[name][:1, :_HELD_OUT_IMAGES].cpu() for name in ("support_x", "support_y"))
    half = x.shape[1] // 2
    return {
        "support_x": x[:, :half],
        "support_y": y[:, :half],
        "query_x": x[:, half:],
        "query_y": y[:, half:],
    }
