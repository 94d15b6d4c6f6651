"""Meta-attack and its lazy form: a network that foretells gradients, tuned to each image by probes.

Meta-training is the core's meta-learner on maps of the gradients of white-box networks; plain,
lazy and matched meta-attack differ in its settings alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agent import Network, Observation, Plan, Policy
from lazybench.agents.attack.differences import coordinate_slopes, placed
from lazybench.agents.attack.finetune import Attackers
from lazybench.agents.attack.lockstep import Attack, Lockstep, Start, State
from lazybench.agents.attack.meta_attack_settings import JUDGED, MetaAttackConfig, preset
from lazybench.agents.attack.score_search import ScoreAgent, Space, Walk, pixels, variables
from lazybench.agents.fewshot.gradient import GradientAgent
from lazybench.attack_task import AttackTask
from lazybench.nets import backbone
from lazybench.params import detached
from lazybench.rng import Rng
from lazybench.specs import EnvSpec

_NO_SPREAD = 1e-23
"""Added to a standard deviation, which is 0 where no probe changed anything."""

_HELD_OUT_IMAGES = 64
"""Validation images that a trained attacker is compared on with the untrained one, half of them
to adapt to."""


class MetaAttackAgent(ScoreAgent):
    """Meta-learns to foretell gradient maps, and attacks by them.

    The state holds the meta-learner's (`learner`), the protocol (`task`), the run's seed, and a few
    validation images with their maps (`held_out`), on which the trained attacker is compared with
    the untrained one.

    Reference: Algorithms 3 and 4; Du et al. 2020 (Query-efficient meta attack).
    """

    Config = MetaAttackConfig
    JUDGED = (*GradientAgent.JUDGED, *JUDGED)
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
    def settle(given: Mapping[str, Any], find: Callable[[str], Any]) -> Mapping[str, Any]:
        """Return the settings with `matched_to=KEY` replaced by that lazy run's and its mean leap.

        Raises:
            UsageError: no such record, or not one of a lazy search.
        """
        return GradientAgent.settle(given, find)

    def plan(self, task: AttackTask) -> Plan:
        """Return how many meta-iterations to run, on what tasks.

        Raises:
            UsageError: a network that can't take these images.
        """
        return self.learner.plan(task.maps)

    def network(self, task: AttackTask) -> Network:
        """Return the attacker's name and its number of parameters."""
        return self.learner.network(task.maps)

    def init(self, env: Any, rng: Rng) -> State:
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

    def warm(self, state: State, weights: Mapping[str, Tensor]) -> State:
        """Return the first state with the weights of another training in it.

        Raises:
            UsageError: an entry of the network's body is missing or has another shape.
        """
        return {**state, "learner": self.learner.warm(state["learner"], weights)}

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
        """Return the policy that attacks, and on validation tasks foretells maps."""
        return MapsOrAttack(self.learner.policy(state["learner"]), partial(self._begin, state))

    def diagnostics(self, state: State) -> dict[str, Any]:
        """Return the meta-learner's, and how the trained attacker does beside the untrained one.

        `held_out_mse` and `untrained_mse` are squared errors, in units of the maps' own variance,
        on validation images after the same few steps on others. `under_trained` is True where the
        trained attacker does no better than the untrained one, or than a map of zeros.
        """
        learner = state["learner"]
        told = self.learner.diagnostics(learner)
        if state["untrained_mse"] is None or not learner["step"]:
            return told
        trained = self._mse(learner, state["held_out"])
        told |= {"held_out_mse": trained, "untrained_mse": state["untrained_mse"]}
        zeros = float(state["held_out"]["query_y"].square().mean())
        baseline = min(state["untrained_mse"], zeros)
        return told | {"under_trained": not trained < baseline}

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
        walk = Walk(start, self.radius(start.task))
        chosen: Tensor | None = None
        bounded = config.most_steps > 0
        steps: Iterable[int] = range(config.most_steps) if bounded else itertools.count()
        for step in steps:
            kept = yield from walk.check()
            if not len(kept):
                return
            attackers.keep(kept)
            chosen = None if chosen is None else chosen[kept]
            probed: Tensor | None = None
            if (step + 1) % config.every == 0:
                asked = (
                    self._steepest(attackers.maps(walk.x[walk.live])) if chosen is None else chosen
                )
                rise, kept = yield from coordinate_slopes(walk, asked, config.width)
                if not len(kept):
                    return
                attackers.keep(kept)
                asked = asked[kept]
                probed = _as_map(rise, asked, walk.clean)
                values = probed.gather(1, asked)
                attackers.tune(
                    walk.x[walk.live], asked, values, steps=config.tune_steps, lr=config.tune_lr
                )
            x = walk.x[walk.live]
            maps = attackers.maps(x).flatten(1)
            chosen = self._steepest(maps)
            slopes = (maps if probed is None else probed).gather(1, chosen)
            walk.move(_moved(x, chosen, -config.step * slopes.sign(), config.space))

    def _steepest(self, maps: Tensor) -> Tensor:
        """The q pixels of each map that are farthest from 0, `[n, q]` int64."""
        flat = maps.flatten(1)
        return flat.abs().topk(min(self.config.coordinates, flat.shape[1])).indices

    def _mse(self, learner: State, held_out: Mapping[str, Tensor]) -> float:
        answers, _ = self.learner.policy(learner)(held_out)
        return float(F.mse_loss(answers, held_out["query_y"]))


def _as_map(rise: Tensor, probed: Tensor, like: Tensor) -> Tensor:
    """Slopes of the margin as what an attacker shall foretell, `[n, pixels]`, 0 where unprobed.

    The sign turns, since maps are gradients of what is left of the label's lead. They are divided
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
        """Hold the policy that foretells maps, and what begins an attack."""
        super().__init__(begin)
        self._maps = maps

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Any, Any]:
        """Return the maps of a block of tasks, or the next queries for a block of images."""
        if "support_x" in observation:
            return self._maps(observation, memory)
        return super().__call__(observation, memory)


def _held_out(env: Any) -> dict[str, Tensor]:
    """The images of one validation task and their maps, half to adapt to and half to judge by.

    Empty where `env` isn't a validation environment. Its own query targets stay hidden, so the
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
