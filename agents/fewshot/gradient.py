"""The gradient-based few-shot agents: one agent class, and fine-tuning at meta-test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lazybench import learning
from lazybench.agent import Agent, Needs, Network, Observation, Plan, TaskEnv
from lazybench.agents.fewshot.episode import Episode, PerTask, Row, adapting, objective, select_row
from lazybench.agents.fewshot.meta_step import (
    LOG_STD,
    MetaStep,
    TaskResult,
    inner_rule,
    log_stds,
    plain_rule,
    preconditioner,
    teacher_of,
)
from lazybench.agents.fewshot.presets import preset
from lazybench.agents.fewshot.settings import GradientConfig
from lazybench.agents.fewshot.weights import HEAD, NORM, moved, network_description, overlay
from lazybench.errors import Diverged, UsageError
from lazybench.learning import InnerRule, Outer
from lazybench.nets import Stats
from lazybench.nets.params import Params, combine, detached, finite, leaves, scale
from lazybench.runtime import distributed
from lazybench.runtime.threads import map_tasks
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape


class Adapter:
    """Fine-tunes theta on each support set and answers the query set.

    `Choice:` plain fine-tuning to phi_k, no leap, since a test task has no validation labels; with
    `test_leap` the last support instance of each class is held out and the lazy teacher leaps on
    it. The inner batches are a function of the support labels' positions alone, the same for every
    trial.
    """

    def __init__(
        self,
        task: TaskShape,
        theta: Params,
        inner: dict[str, Tensor],
        rule: InnerRule,
        settings: GradientConfig,
    ) -> None:
        """Hold a meta-model and how to adapt it."""
        self._net = settings.network(task)
        self._task, self._theta = task, theta
        self._inner, self._rule, self._settings = inner, rule, settings
        self._goal = objective(task)

    def answer(self, row: Row) -> Tensor:
        """Return the answers to one task's queries, `[query rows, …]`."""
        if self._task.uneven:
            return self._of_ways(int(row["support_y"].max()) + 1).answer(row)
        x, query = self._net.prepare(row["support_x"]), self._net.prepare(row["query_x"])
        params = self._adapt(x, row["support_y"])
        with torch.no_grad():
            return self._goal.answer(self._outputs(params, x, query))

    def _of_ways(self, way: int) -> Adapter:
        """The same for tasks of that many ways: a head with the first outputs."""
        task = replace(self._task, way=way, uneven=False)
        theta = {n: v[:way] if n.startswith(HEAD) else v for n, v in self._theta.items()}
        # Adam's moments are named `v.NAME` and `m.NAME`.
        inner = {
            n: v[:way] if n.partition(".")[2].startswith(HEAD) else v
            for n, v in self._inner.items()
        }
        return Adapter(task, theta, inner, self._rule, self._settings)

    def _adapt(self, x: Tensor, y: Tensor) -> Params:
        settings = self._settings
        kept = held = torch.arange(len(x))
        if settings.test_leap:
            # Real values are of one class.
            is_class = self._task.target == "class"
            kept, held = _last_held_out(y.tolist() if is_class else [0] * len(x))
        episode = Episode(
            self._net,
            self._task,
            self._theta,
            adapts=settings.adapts,
            adapt_norm=settings.adapt_norm,
            prox=settings.prox if settings.test_prox is None else settings.test_prox,
        )
        with torch.no_grad():
            inputs = episode.inputs(x)
        rng = Rng(0, ("test",)).torch()
        picks = learning.batches(len(kept), settings.test_batch, settings.test_steps, rng)
        losses = episode.steps(inputs, y, [kept[pick] for pick in picks])
        trail = learning.student(episode.moving, losses, rule=self._rule, state=self._inner or None)
        if not settings.test_leap:
            return episode.whole(trail.end)
        with torch.no_grad():
            leap = learning.lazy(gammas=settings.gammas, leap_on=settings.leap_on)(
                episode.moving, trail, lambda moving: episode.score(moving, inputs[held], y[held])
            )
        return episode.whole(leap.params)

    def _outputs(self, params: Params, x: Tensor, query: Tensor) -> Tensor:
        """Outputs for the query rows under the protocol's batch statistics."""
        net, mode = self._net, self._settings.batch_norm
        if mode == "transductive":
            return net(params, query)
        if mode == "inductive":
            stats: Stats = net.statistics(params, x)
            return net(params, query, stats)
        joined = [torch.cat([x, query[i : i + 1]]) for i in range(len(query))]
        return torch.cat([net(params, pair)[-1:] for pair in joined])


State = dict[str, Any]


def _last_held_out(labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The rows to adapt on and those to choose gamma on: the last of each class, if it has two.

    Where no class has two, both are all rows.
    """
    last = {label: row for row, label in enumerate(labels)}
    held = sorted(row for label, row in last.items() if labels.count(label) > 1)
    kept = sorted(set(range(len(labels))) - set(held))
    return torch.tensor(kept), torch.tensor(held or kept)


class _Sums(NamedTuple):
    """Sums over a meta-batch: gradient, inner state, choices of gamma, mean loss."""

    gradient: Params
    inner: Params
    gamma: Tensor
    loss: float


_LEAPS: dict[str, tuple[Any, ...]] = {"teacher": ("lazy",), "test_leap": (True,)}


class GradientAgent(Agent):
    """Meta-learns an initialisation theta: student, teacher, meta-gradient, outer step.

    The state holds theta (`theta`), what else is meta-learned (`meta`: learned rates, the
    noise of weights), the outer and inner rules' states, the histogram of gamma and the step.

    Reference: Algorithm 1; the settings' papers.
    """

    families = ("fewshot",)
    Config = GradientConfig
    LATER = GradientConfig.LATER
    REPLACES = GradientConfig.REPLACES
    EVAL_ONLY = ("batch_norm", "test_steps", "test_batch", "test_prox", "test_leap")
    NEEDS: ClassVar[Needs] = {
        "gammas": _LEAPS,
        "leap_on": _LEAPS,
        "hull": {"teacher": ("lazy",)},
        "hull_step": {"teacher": ("lazy",)},
        "cg_steps": {"meta_gradient": ("implicit",)},
        "damping": {"meta_gradient": ("implicit",)},
        "rate_range": {"rates": ("elementwise",)},
        "beta": {"regulariser": ("kl",)},
        "std": {"regulariser": ("kl",)},
        "clip": {"outer_rule": ("adam",)},
    }
    SHARDED = True

    def __init__(self, config: GradientConfig) -> None:
        """Compose the parts that the settings name."""
        self.config = config
        self.rule, self.teacher = plain_rule(config), teacher_of(config)
        beta = config.outer_lr * config.matched_leap
        self.outer: Outer = (
            learning.outer_sgd(beta)
            if config.outer_rule == "sgd"
            else learning.outer_adam(beta, clip=config.clip)
        )

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return the settings of `algorithm` for an environment and budget."""
        return preset(algorithm, env, budget)

    @staticmethod
    def resolve_settings(given: Mapping[str, Any], find: Callable[[str], Any]) -> Mapping[str, Any]:
        """Return the settings with `matched_to=KEY` replaced by that record's.

        All settings are that run's, except that its mean leap replaces the search.

        Raises:
            UsageError: no such record, or not one of Reptile's steps with a lazy search.
        """
        key = given.get("matched_to")
        if key is None:
            return given
        record = find(str(key))
        why = ""
        if record is None:
            why = "isn't in the store"
        elif "mean_leap" not in record.diagnostics:
            why = "has no lazy search"
        elif record.config.get("meta_gradient") != "reptile":
            # A lazy MAML's leap is where its gradient is taken, not how far the meta-model moves.
            why = f"moves by another step than Reptile's ({record.agent.id})"
        if why:
            raise UsageError(
                f"matched_to needs the key of a lazy Reptile's record, and '{key}' {why}; see: "
                "lazybench list runs"
            )
        search = ("teacher", "gammas", "hull", "hull_step", "leap_on", "batch_norm")
        matched = {name: value for name, value in record.config.items() if name not in search}
        matched["matched_leap"] = record.diagnostics["mean_leap"]
        return matched | {name: value for name, value in given.items() if name != "matched_to"}

    def plan(self, task: TaskShape) -> Plan:
        """Return how many meta-iterations to run, on what tasks.

        Raises:
            UsageError: a network that can't take these instances, or an entropy of answers where
                there are no classes.
        """
        config = self.config
        config.network(task)
        self._need_even(task)
        if config.fairness == "entropy" and task.target != "class":
            raise UsageError(
                "fairness=entropy needs tasks with classes, got real-valued targets; choose an "
                "inequality of losses with --set fairness=theil"
            )
        return config.plan(task, config.images(task))

    def describe_network(self, task: TaskShape) -> Network:
        """Return the backbone's name and its number of parameters, learned rates not counted."""
        net = self.config.network(task)
        return network_description(net, net.init(Rng(0).torch()))

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return a fresh meta-model.

        Raises:
            UsageError: a network that can't take these instances.
        """
        config = self.config
        theta = config.network(env.task).init(rng.at("theta").torch())
        moving = self._moving(theta)
        rates = preconditioner(config, rng.at("rates"))
        meta = rates.init(moving) if rates is not None else {}
        if config.regulariser == "kl":
            meta |= {
                LOG_STD + name: torch.full_like(theta[name], config.std).log()
                for name in theta
                if not name.startswith((HEAD, NORM)) and name.endswith("weight")
            }
        carried = config.inner_rule == "adam" and config.inner_state == "carry"
        return {
            "theta": theta,
            "meta": meta,
            "outer": self.outer.init({**theta, **meta}),
            "inner": self.rule.init(moving) if carried else {},
            "step": 0,
            "gamma": torch.zeros(len(config.gammas), dtype=torch.int64),
            "task": env.task.fields(),
        }

    def load_weights(self, state: State, weights: Mapping[str, Tensor]) -> State:
        """Return the first state with the weights of another training in it.

        Raises:
            UsageError: an entry of the network's body is missing or has another shape.
        """
        return {**state, "theta": overlay(state["theta"], weights)}

    def transfer(self, state: State, task: TaskShape) -> State:
        """Return a trained state made ready for tasks of another shape.

        Raises:
            UsageError: other instances, targets or ways than the network was trained on.
        """
        self._need_even(task)
        return moved(state, task, ways_free=False)

    def update(self, state: State, batch: Observation, rng: Rng) -> tuple[State, dict[str, float]]:
        """Run one meta-iteration on a meta-batch of tasks.

        Raises:
            Diverged: a parameter isn't finite afterwards.

        Reference: Algorithm 1, lines 3-13.
        """
        config, task = self.config, TaskShape(**state["task"])
        theta, meta = state["theta"], state["meta"]
        step = MetaStep(config, self.teacher, task, theta, meta)
        tasks = len(batch["support_x"])

        def run(index: int) -> TaskResult:
            return step(state["inner"], select_row(batch, index), rng.at(index))

        results = map_tasks(run, distributed.mine(tasks))
        sums = self._summed(results, tasks, carried=bool(state["inner"]))
        gradient = _plus(sums.gradient, self._divergence(theta, meta))
        total = config.updates(config.images(task))
        factor = learning.annealed(config.anneal, state["step"], total)
        with torch.no_grad():
            learned, outer = self.outer.update({**theta, **meta}, state["outer"], gradient, factor)
        if not finite(learned):
            # The loss would show it one meta-iteration later, and never after the last one.
            raise Diverged(f"a parameter isn't finite after meta-iteration {state['step'] + 1}")
        fresh = {
            "theta": {name: learned[name] for name in theta},
            "meta": {name: learned[name] for name in meta},
            "outer": outer,
            "inner": sums.inner,
            "step": state["step"] + 1,
            "gamma": state["gamma"] + sums.gamma.to(state["gamma"].device),
        }
        images = config.cost(batch["support_x"].shape[1], batch["query_x"].shape[1])
        logs = {
            "loss": sums.loss,
            "inner_steps": float(config.inner_steps * tasks),
            "image_gradients": float(images * tasks),
        }
        return {**state, **fresh}, logs

    def policy(self, state: State) -> PerTask:
        """Return the policy that fine-tunes theta on each support set."""
        theta, meta = detached(state["theta"]), detached(state["meta"])
        rule = inner_rule(self.config, meta, self._moving(theta))
        task, inner = TaskShape(**state["task"]), dict(state["inner"])
        return PerTask(Adapter(task, theta, inner, rule, self.config).answer, uneven=task.uneven)

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

    def _need_even(self, task: TaskShape) -> None:
        if task.uneven and self.config.meta_gradient != "none":
            raise UsageError(
                "this agent learns a last layer of a fixed size, and these tasks have from 2 to "
                f"{task.way} ways; choose one that compares (protonet, simple_shot, …) or makes "
                "its last layer per task (finetune, baseline_finetune)"
            )

    def _moving(self, theta: Params) -> Params:
        names = adapting(theta, self.config.adapts, self.config.adapt_norm)
        return {name: theta[name] for name in names}

    def _summed(self, results: list[TaskResult], tasks: int, *, carried: bool) -> _Sums:
        """Sums over all tasks of a meta-batch, on whatever ranks they are."""
        config, many = self.config, len(results)
        weight = 1.0 if config.reduce == "sum" else 1.0 / tasks
        gradient = combine([result.gradient.params for result in results], [weight] * many)
        gradient = _plus(gradient, self._unfairness(results, tasks))
        inner = (
            combine([result.trail.state for result in results], [1 / tasks] * many)
            if carried
            else {}
        )
        gamma = torch.zeros(len(config.gammas), dtype=torch.int64)
        for result in results:
            if result.leap.candidates:
                gamma[config.gammas.index(result.leap.gamma)] += 1
        losses = [result.trail.losses[-1] for result in results if result.trail.losses]
        summed = torch.tensor([float(sum(losses)), float(len(losses))], dtype=torch.float64)
        whole = distributed.summed(
            {
                **{f"gradient/{name}": value for name, value in gradient.items()},
                **{f"inner/{name}": value for name, value in inner.items()},
                "gamma": gamma,
                "losses": summed,
            }
        )
        loss, number = whole["losses"].tolist()
        return _Sums(
            {name: whole[f"gradient/{name}"] for name in gradient},
            {name: whole[f"inner/{name}"] for name in inner},
            whole["gamma"],
            loss / max(number, 1),
        )

    def _unfairness(self, results: list[TaskResult], tasks: int) -> Params:
        """The gradient of the weighted inequality of the tasks' losses at theta.

        The losses meet only here, so the chain rule is finished by hand: each task's gradient is
        weighed by the measure's slope for its loss. Ranks exchange the losses in a second sum, of
        as many numbers as there are tasks.
        """
        before = [result.before for result in results if result.before is not None]
        if not before:
            return {}
        losses = torch.zeros(tasks, dtype=torch.float64)
        mine = list(distributed.mine(tasks))
        losses[mine] = torch.tensor([task.loss for task in before], dtype=torch.float64)
        losses = distributed.summed({"losses": losses})["losses"]
        measure = learning.inequality(self.config.fairness)
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(measure(losses.requires_grad_()), losses)
        weights = (self.config.fairness_weight * slopes[mine]).tolist()
        return combine([task.params for task in before], weights)

    def _divergence(self, theta: Params, meta: Params) -> Params:
        """The gradient of the weights' weighted divergence from N(0, I)."""
        if self.config.regulariser == "none":
            return {}
        point = leaves({**theta, **meta})
        with torch.enable_grad():
            bits = learning.kl({name: point[name] for name in theta}, log_stds(point))
        grads = torch.autograd.grad(
            bits, list(point.values()), allow_unused=True, materialize_grads=True
        )
        return scale(dict(zip(point, grads, strict=True)), self.config.beta)


def _plus(gradient: Params, more: Params) -> Params:
    """A gradient with another added where that has entries."""
    return {name: value + more[name] if name in more else value for name, value in gradient.items()}
