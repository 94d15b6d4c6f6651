"""Checks that an agent satisfies its contract; findings say what was observed or to do."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lazybench.agent import (
    Agent,
    BatchedEnv,
    Logs,
    OpenedEnv,
    Plan,
    Policy,
    State,
    is_vectorized,
)
from lazybench.check.contract import (
    Broken,
    Zeros,
    ahead,
    changed,
    copied,
    global_state_untouched,
    look,
)
from lazybench.files import plain
from lazybench.findings import Finding
from lazybench.runner import checkpoint
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import (
    Evaluation,
    check_policy,
    evaluate_blocks,
    for_init,
    open_env,
    open_training,
)
from lazybench.runner.request import make, resolve_env, with_protocol
from lazybench.runner.train import seeded, updated
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec

_TRIALS = 8
_QUERIES = 60
"""Number of trials in a check of a policy, and queries per trial of an attacker."""

_COMPARED = (24, 64)
"""Numbers of trials on which policies before and after training are compared, tried in order."""

_RESUMED = 4
"""Updates that are done once without and once with a checkpoint in the middle."""

_SLACK = 0.02
"""Rounding: how much the score of a trial may depend on its row in the block."""

_STATE = "state contains everything that was learned"
_POLICY = "policy(state) returns p, and p(observation, memory) returns (action, memory)"


def check_agent(agent: Any, env: str, watch: Callback = SILENT) -> list[Finding]:
    """Check an agent's contract, determinism, shapes, learning, resuming and side effects.

    Args:
        agent: id, `file.py:Class`, `module:Class`, a class, or an instance of one.
        env: id of the environment to check it on.
        watch: is called with the training at smoke budget.
    """
    spec, _ = resolve_env(env)
    if "query_budget" in spec.options:
        spec = with_protocol(spec, {"query_budget": _QUERIES})
    check = _AgentCheck(agent, spec, watch)
    findings = [look("makes", check.makes, "its settings need defaults")]
    if not findings[0].ok:
        return findings
    answers = ("policy", check.answers, _POLICY)
    learns = ("learns", check.learns, _POLICY)
    looks = [("init", check.starts, "init(env, rng) returns the first state"), answers]
    if check.whole:
        looks = [("fit", check.fits, "fit(env, budget, rng) returns a policy"), answers, learns]
    elif check.trains:
        update = ("update", check.updates, "update(state, batch, rng) returns (state, logs)")
        looks[1:] = [update, ("resumes", check.resumes, _STATE), learns, answers]
    for name, method, contract in looks:
        # An agent that doesn't train may still have a policy; one whose init fails has none.
        if all(each.ok for each in findings) or (name == "policy" and findings[1].ok):
            findings.append(look(name, method, contract))
    return findings


class _AgentCheck:
    """An agent under check, with the results of earlier checks."""

    def __init__(self, agent: Any, spec: EnvSpec, watch: Callback) -> None:
        self._name, self._spec, self._watch = agent, spec, watch
        self._agent: Agent
        self._plan: Plan | None
        self._policy: Policy
        self._state: Any = None

    @property
    def whole(self) -> bool:
        """Whether the agent has its own training loop."""
        return self._agent.has_own_loop()

    @property
    def trains(self) -> bool:
        """Whether the agent's plan has updates."""
        plan = self._plan
        return plan is not None and plan.updates > 0

    def makes(self) -> str:
        agent = make(self._name, self._spec, "smoke", {})
        self._agent = agent.instance
        self._val = open_env(self._spec, self._spec.rows(_TRIALS), "val")
        self._plan = agent.plan(self._val.task)
        if self._plan is None and self._agent.learns():
            raise Broken("plan(task) must return a lazybench.Plan, got None")
        if self._plan is not None:
            open_training(self._spec, self._plan)
        # A class without `Config` has only those that were given.
        count = f" with {len(agent.config)} settings" if agent.config else ""
        return f"{agent.spec.id}{count}"

    def starts(self) -> str:
        self._state, again = self._init(), self._init()
        if checkpoint.digest(self._state) != checkpoint.digest(again):
            raise Broken("init returns different states for the same rng; draw only from rng")
        self._policy = self._agent.policy(self._state)
        return "init is a function of rng, and its state can be saved"

    def _init(self) -> State:
        rng = Rng(0).at("init")
        with global_state_untouched(), seeded(rng):
            return self._agent.init(for_init(self._val), rng)

    def updates(self) -> str:
        train, state = self._train(), self._state
        batch = _batch(train, 0)
        before, kept = checkpoint.digest(state), copied(batch)
        with global_state_untouched():
            after, logs = self._update(self._agent, state, batch, 0)
        if checkpoint.digest(state) != before:
            raise Broken("update changes the given state; return a new one")
        if name := changed(kept, batch):
            raise Broken(f"update changes {name} of its batch; copy what you change")
        again, _ = self._update(self._agent, state, batch, 0)
        if checkpoint.digest(after) != checkpoint.digest(again):
            raise Broken("update returns different states for the same rng; draw only from rng")
        _check_logs(logs)
        plain(self._agent.diagnostics(after))
        shown = ", ".join(sorted(logs)) or "nothing"
        return f"update is a function of state, batch and rng; logs {shown}"

    def resumes(self) -> str:
        """Resume from a checkpoint in a new agent object, as a new process does."""
        half, train = _RESUMED // 2, self._train()
        first = self._advance(self._agent, self._state, train, 0, half)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), half, first)
            read = checkpoint.read(Path(folder) / f"step-{half}")
        straight = self._advance(self._agent, first, train, half, _RESUMED)
        fresh = make(self._name, self._spec, "smoke", {}).instance
        resumed = self._advance(fresh, read, self._train(), half, _RESUMED)
        if checkpoint.digest(straight) != checkpoint.digest(resumed):
            raise Broken(
                "resumed training gives another state than uninterrupted training; keep everything "
                "that updates depend on in state, nothing on the agent"
            )
        return f"resumed after {half} updates, {_RESUMED} updates give the same state"

    def learns(self) -> str:
        """Train at smoke budget; it must beat predicting 0, or the state before training."""
        metric, better = self._spec.validation
        policies: dict[str, Policy] = {"predicting 0": Zeros()}
        if not self.whole and self._plan is not None:
            policies["its first state"] = self._agent.policy(self._state)
            self._watch.stage("train", self._plan.updates)
            self._state = self._advance(
                self._agent, self._state, self._train(), 0, self._plan.updates, self._watch
            )
            self._watch.finished()
            self._policy = self._agent.policy(self._state)
        policies["now"] = self._policy
        val = open_env(self._spec, self._spec.rows(_COMPARED[0]), "val")
        scores = dict.fromkeys(policies, np.zeros(0))
        for trials in _COMPARED:
            for name, policy in policies.items():
                blocks = evaluate_blocks(val, policy, metric, trials, start=len(scores[name]))
                scores[name] = np.concatenate([scores[name], *(block.scores for block in blocks)])
            others = [scores[name] for name in policies if name != "now"]
            if any(ahead(scores["now"], each, better) for each in others):
                break
        else:
            raise Broken(
                f"nothing is learned at smoke budget: {_means(metric, scores)}; does the loss "
                "match the metric, do gradients reach the state, are there enough updates and a "
                "suitable step size?"
            )
        return _means(metric, scores)

    def answers(self) -> str:
        """Ask the policy for the same trials twice, on each kind of trial that it must answer."""
        tracks = []
        if self._spec.val_metric is None or self.whole or self.trains:
            tracks.append((self._val, self._spec.validation[0]))
        if self._spec.val_metric is not None:
            # Test trials are of another kind: an attacker that learns to predict attacks there.
            test = open_env(self._spec, self._spec.rows(_TRIALS), "test")
            tracks.append((test, self._spec.metric))
        return "; ".join(self._answered(env, metric) for env, metric in tracks)

    def _answered(self, env: OpenedEnv, metric: str) -> str:
        before = None if self.whole else checkpoint.digest(self._state)
        with global_state_untouched():
            first = _evaluated(env, _Watched(self._policy), metric)
        if before is not None and checkpoint.digest(self._state) != before:
            raise Broken("the policy changes the agent's state; copy what it adapts")
        again = _evaluated(env, self._policy, metric)
        if not (
            np.array_equal(first.answers, again.answers)
            and np.array_equal(first.scores, again.scores)
        ):
            raise Broken("the policy's answers to the same trials vary; seed it by the trial")
        if self._spec.family == "fewshot":
            half = _TRIALS // 2
            later = _evaluated(env, self._fresh_policy(), metric, start=half)
            gap = np.abs(later.scores - first.scores[half:])
            if not (gap <= _SLACK * (1 + np.abs(later.scores))).all():
                raise Broken(
                    "an answer depends on the trials before it; keep what a trial needs in memory, "
                    "which is None at its start, and nothing on the policy"
                )
        shown = f"{metric} {first.score(metric):.3f}"
        # Attacks are scored by what they asked, and their last action isn't kept.
        if first.answers.size:
            shown = f"answers have shape {list(first.answers.shape)}; {shown}"
        return shown

    def fits(self) -> str:
        self._policy = self._fit()
        first, again = (
            _evaluated(self._val, policy, self._spec.validation[0])
            for policy in (self._policy, self._fit())
        )
        if not np.array_equal(first.answers, again.answers):
            raise Broken("fit returns different policies for the same rng; draw only from rng")
        return "fit returns a policy; an agent's own training loop can't be resumed"

    def _fit(self) -> Policy:
        env = open_training(self._spec, self._plan)
        env.reset(seed=0)
        rng = Rng(0).at("fit")
        with global_state_untouched(), seeded(rng):
            return self._agent.fit(env, "smoke", rng)

    def _fresh_policy(self) -> Policy:
        return self._policy if self.whole else self._agent.policy(self._state)

    def _train(self) -> BatchedEnv:
        """The training environment with the settings of the agent's plan, at its first batch."""
        plan = self._plan or Plan(0)
        env = open_training(self._spec, plan)
        env.reset(seed=0)
        return env

    @staticmethod
    def _update(agent: Agent, state: State, batch: Any, step: int) -> tuple[State, Logs]:
        """The state after one update, and what it logged."""
        answer = agent.update(state, batch, Rng(0).at("update", step))
        new, _ = updated(answer)
        return new, answer[1]

    def _advance(
        self,
        agent: Agent,
        state: State,
        train: BatchedEnv,
        first: int,
        last: int,
        watch: Callback = SILENT,
    ) -> State:
        """The state after updates first..last-1."""
        for step in range(first, last):
            state, logs = self._update(agent, state, _batch(train, step), step)
            loss = logs.get("loss")
            if loss is not None and not math.isfinite(loss):
                raise Broken(f"the loss is {loss} at update {step + 1}; take smaller steps")
            watch.advance(1, {} if loss is None else {"loss": float(loss)})
        return state


class _Watched:
    """Wrapper of a policy that fails if the policy changes its observation."""

    def __init__(self, policy: Policy) -> None:
        check_policy(policy)
        self._policy = policy
        self.vectorized = is_vectorized(policy)

    def __call__(self, observation: Mapping[str, Any], memory: Any = None) -> Any:
        kept = copied(observation)
        answer = self._policy(observation, memory)
        if name := changed(kept, observation):
            raise Broken(f"the policy changes {name} of its observation; copy what you change")
        return answer


def _batch(train: BatchedEnv, step: int) -> Any:
    rows = train.num_envs
    batch, _ = train.reset(options={"trials": np.arange(step * rows, (step + 1) * rows)})
    return batch


def _evaluated(env: OpenedEnv, policy: Policy, metric: str, start: int = 0) -> Evaluation:
    return next(evaluate_blocks(env, policy, metric, _TRIALS, start=start))


def _means(metric: str, scores: Mapping[str, Any]) -> str:
    means = ", ".join(f"{name} {each.mean():.3f}" for name, each in scores.items())
    return f"{metric} on {len(scores['now'])} validation trials: {means}"


def _check_logs(logs: Logs) -> None:
    """Check that logs are numbers by name.

    Raises:
        Broken: they aren't.
    """
    for name, value in logs.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (isinstance(name, str) and math.isfinite(number)):
            raise Broken(f"logs must be finite numbers, got {name!r}: {value!r}; use float(…)")
