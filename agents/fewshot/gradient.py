"""Gradient-based meta-learners: each composes a student, a teacher and a meta-gradient.

`maml`, `fomaml`, `reptile`, `reptile_matched`, `lazy_maml`, `lazy_reptile` and the floor `finetune`
are settings of one agent; none has code of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lazybench import learning
from lazybench.agent import Observation, Plan
from lazybench.agents.fewshot.adapt import Adapter, norms, select_row
from lazybench.agents.fewshot.presets import GradientConfig, preset
from lazybench.errors import Diverged
from lazybench.learning import InnerRule, Leap, MetaGradient, Outer, Teacher, Trail
from lazybench.nets import Net, backbone
from lazybench.objective import objective
from lazybench.parallel import map_tasks
from lazybench.params import Params, combine, detached, finite, leaves, mean
from lazybench.rng import Rng
from lazybench.specs import EnvSpec
from lazybench.task import TaskShape

State = dict[str, Any]


class TaskResult(NamedTuple):
    """What one task of a meta-batch gives."""

    gradient: MetaGradient
    trail: Trail
    leap: Leap


class GradientAgent:
    """Meta-learns an initialisation theta: student, teacher, meta-gradient, outer step.

    Reference: Algorithm 1; the settings' own papers.
    """

    families = ("fewshot",)
    Config = GradientConfig

    def __init__(self, config: GradientConfig) -> None:
        """Compose the parts that the settings name."""
        self.config = config
        self.rule: InnerRule = (
            learning.sgd(config.inner_lr)
            if config.inner_rule == "sgd"
            else learning.adam(config.inner_lr)
        )
        self.teacher: Teacher = learning.greedy()
        if config.teacher == "lazy":
            self.teacher = learning.lazy(
                gammas=config.gammas,
                alphas=learning.simplex_grid(config.hull, config.hull_step),
                leap_on=config.leap_on,
            )
        self.outer: Outer = (
            learning.outer_sgd(config.outer_lr)
            if config.outer_rule == "sgd"
            else learning.outer_adam(config.outer_lr, clip=config.clip)
        )

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings of `algorithm` for an environment and budget."""
        return preset(algorithm, env, budget)

    def plan(self, task: TaskShape) -> Plan:
        """Return how many meta-iterations to run, on what tasks.

        Raises:
            UsageError: a network that can't take these instances.
        """
        config = self.config
        backbone(config.backbone, task)
        return Plan(
            updates=config.iterations,
            meta_batch=config.meta_batch,
            env={"shots": config.train_shots or task.shot, "queries": config.train_queries},
            validate_every=config.validate_every,
        )

    def init(self, env: Any, rng: Rng) -> State:
        """Return a fresh meta-model.

        Raises:
            UsageError: a network that can't take these instances.
        """
        net = backbone(self.config.backbone, env.task)
        theta = net.init(rng.at("theta").torch())
        carried = self.config.inner_rule == "adam" and self.config.inner_state == "carry"
        return {
            "theta": theta,
            "outer": self.outer.init(theta),
            "inner": self.rule.init(theta) if carried else {},
            "step": 0,
            "gamma": torch.zeros(len(self.config.gammas), dtype=torch.int64),
            "task": env.task.fields(),
        }

    def update(self, state: State, batch: Observation, rng: Rng) -> tuple[State, dict[str, float]]:
        """Run one meta-iteration on a meta-batch of tasks.

        Raises:
            Diverged: a parameter isn't finite afterwards.

        Reference: Algorithm 1, lines 3-13.
        """
        config = self.config
        task = TaskShape(**state["task"])
        net = backbone(config.backbone, task, second_order=config.inner == "unrolled")
        theta: Params = state["theta"]
        tasks = len(batch["support_x"])

        def run(index: int) -> TaskResult:
            return self._task(
                net, task, theta, state["inner"], select_row(batch, index), rng.at(index)
            )

        results = map_tasks(run, range(tasks))
        weight = 1.0 if config.reduce == "sum" else 1.0 / tasks
        meta = combine([result.gradient.params for result in results], [weight] * tasks)
        factor = learning.annealed(config.anneal, state["step"], config.iterations)
        with torch.no_grad():
            theta, outer = self.outer.update(theta, state["outer"], meta, factor)
        if not finite(theta):
            # The loss tells of it one meta-iteration later, and after the last one never.
            raise Diverged(f"a parameter isn't finite after meta-iteration {state['step'] + 1}")
        inner = state["inner"]
        if inner:
            inner = mean([result.trail.state for result in results])
        gamma = state["gamma"].clone()
        for result in results:
            if result.leap.candidates:
                gamma[config.gammas.index(result.leap.gamma)] += 1
        fresh = {"theta": theta, "outer": outer, "inner": inner, "step": state["step"] + 1}
        return {**state, **fresh, "gamma": gamma}, self._logs(results, task, batch)

    def policy(self, state: State) -> Adapter:
        """Return the policy that fine-tunes theta on each support set."""
        config = self.config
        task = TaskShape(**state["task"])
        net = backbone(config.backbone, task)
        return Adapter(net, task, detached(state["theta"]), dict(state["inner"]), self.rule, config)

    def diagnostics(self, state: State) -> dict[str, Any]:
        """Return how often each gamma was chosen and the share at the grid's edge."""
        chosen = state["gamma"].tolist()
        if not sum(chosen):
            return {}
        edge = (chosen[0] + chosen[-1]) / sum(chosen) if len(chosen) > 1 else 1.0
        names = [f"{gamma:g}" for gamma in self.config.gammas]
        mean = sum(g * n for g, n in zip(self.config.gammas, chosen, strict=True)) / sum(chosen)
        return {
            "gamma_histogram": dict(zip(names, chosen, strict=True)),
            "gamma_edge_share": edge,
            "mean_leap": 1.0 - mean if self.config.leap_on == "theta" else mean,
        }

    def _task(
        self,
        net: Net,
        task: TaskShape,
        theta: Params,
        inner: dict[str, Tensor],
        row: Observation,
        rng: Rng,
    ) -> TaskResult:
        """Student, teacher and meta-gradient of one task (Algorithm 1, lines 6-13)."""
        config, goal = self.config, objective(task)
        x, query_x = net.prepare(row["support_x"]), net.prepare(row["query_x"])
        y, query_y = row["support_y"], row["query_y"]
        picks = learning.batches(len(x), config.inner_batch, config.inner_steps, rng.torch())
        anchor = leaves(theta)
        # On the anchor's graph where there is one: MAML differentiates through every forward pass.
        source = anchor if config.inner == "unrolled" else theta
        frozen = {} if config.adapt_norm else norms(source)

        def loss_on(pick: Tensor) -> learning.LossFn:
            whole = len(pick) == len(x)
            xs, ys = (x, y) if whole else (x[pick], y[pick])
            return lambda params: goal.loss(net(params | frozen, xs), ys)

        losses = [loss_on(pick) for pick in picks]
        if config.inner == "unrolled":
            moving = {name: value for name, value in anchor.items() if name not in frozen}
            trail = learning.unrolled(moving, losses, lr=config.inner_lr)
            end = {name: trail.end.get(name, value) for name, value in anchor.items()}
            trail = trail._replace(start=anchor, last=(end,))
        else:
            trail = learning.student(
                theta, losses, rule=self.rule, keep=config.hull, state=inner or None
            )
        leap = self.teacher(anchor, trail, lambda params: goal.score(net(params, query_x), query_y))

        def valid(params: Params) -> Tensor:
            return goal.loss(net(params, query_x), query_y)

        if config.meta_gradient == "maml":
            gradient = learning.maml_gradient(anchor, leap, valid)
        elif config.meta_gradient == "fomaml":
            gradient = learning.fomaml_gradient(theta, leap, valid)
        else:
            gradient = learning.reptile_gradient(theta, leap)
        return TaskResult(gradient, trail, leap)

    def _logs(
        self, results: list[TaskResult], task: TaskShape, batch: Observation
    ) -> dict[str, float]:
        config, tasks = self.config, len(results)
        support, query = batch["support_x"].shape[1], batch["query_x"].shape[1]
        images = config.inner_steps * min(config.inner_batch or support, support)
        images += query if config.meta_gradient != "reptile" else 0
        losses = [result.trail.losses[-1] for result in results if result.trail.losses]
        return {
            "loss": sum(losses) / max(len(losses), 1),
            "inner_steps": float(config.inner_steps * tasks),
            "image_gradients": float(images * tasks),
        }
