"""Makes all records of runs and evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lazybench.agent import OpenedEnv
from lazybench.records import AgentFacts, Record, Trials
from lazybench.runner import checkpoint, provenance
from lazybench.runner.evaluate import Evaluation, env_facts
from lazybench.runner.request import ResolvedAgent
from lazybench.runner.resolve import ResolvedRun
from lazybench.runner.train import Progress
from lazybench.specs import EnvSpec
from lazybench.stats import mean_interval

_SAME = 1e-9
_PARTIAL = ("gradient_equivalents",)
"""Counted logs that aren't whole numbers."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, when it started, and the agent's diagnostics of its training."""

    status: str
    reason: str | None
    started: str
    diagnostics: dict[str, Any]


def run_record(
    resolved: ResolvedRun, progress: Progress, evaluation: Evaluation | None, outcome: Outcome
) -> Record:
    """Return the record of a run; without scores if it diverged or failed."""
    request, agent, spec = resolved.request, resolved.agent, resolved.spec
    keeps_state = progress.step > 0 and evaluation is not None
    return _record(
        spec,
        resolved.facts,
        evaluation,
        progress,
        resolved.device,
        status=outcome.status,
        reason=outcome.reason,
        agent=agent_facts(
            agent,
            trained_by="lazybench" if agent.spec.trains else "none",
            resumable=not agent.instance.has_own_loop(),
        ),
        config=agent.config,
        preset=request.budget,
        overrides=agent.overrides,
        budget=request.budget,
        limited=bool(resolved.identity["limited"]),
        untuned=not agent.spec.tuned and request.tuning is None,
        seed=request.seed,
        precision=request.precision,
        device=resolved.identity["device"],
        world_size=resolved.identity["world_size"],
        diagnostics=outcome.diagnostics | _further_metrics(spec, evaluation) | _no_file(agent),
        curve=progress.curve,
        checkpoint=checkpoint_facts(progress.best, progress.best_step) if keeps_state else None,
        network=resolved.network,
        fit=None if resolved.fit_key == resolved.key else resolved.fit_key,
        track=resolved.track,
        isolated=request.isolated and evaluation is not None,
        tuning=request.tuning,
        started=outcome.started,
    )


def evaluation_record(
    spec: EnvSpec,
    env: OpenedEnv,
    trials: int,
    evaluation: Evaluation,
    *,
    on: str = "cpu",
    **given: Any,
) -> Record:
    """Return the record of an evaluation that didn't include training.

    Args:
        spec: the environment's spec.
        env: the environment, opened for the test.
        trials: number of evaluated trials.
        evaluation: the result.
        on: the device that computed it.
        **given: the record's other fields.
    """
    return _record(spec, env_facts(spec, env, trials), evaluation, None, on, status="ok", **given)


def _record(
    spec: EnvSpec,
    facts: Mapping[str, Any],
    evaluation: Evaluation | None,
    progress: Progress | None,
    on: str,
    **given: Any,
) -> Record:
    """A record with the fields that every record has: scores, costs, code and machine."""
    return Record.keyed(
        **facts,
        metrics={} if evaluation is None else metrics(spec, evaluation),
        trials=Trials() if evaluation is None else trials(evaluation),
        cost=_cost(evaluation, progress, on),
        code=provenance.code(),
        machine=provenance.machine(on),
        **given,
    )


def _cost(evaluation: Evaluation | None, progress: Progress | None, on: str) -> dict[str, Any]:
    """Seconds, memory and counts of a test, and of training unless `progress` is None."""
    eval_wall_s = 0.0 if evaluation is None else evaluation.wall_s
    eval_cpu_s = 0.0 if evaluation is None else evaluation.cpu_s
    cost = {
        "eval_wall_s": None if evaluation is None else eval_wall_s,
        "wall_s": eval_wall_s,
        "cpu_s": eval_cpu_s,
        "peak_memory_bytes": provenance.peak_memory_bytes(),
        "peak_gpu_memory_bytes": provenance.peak_gpu_memory_bytes(on) or None,
    }
    if progress is None:
        return cost
    counts = {
        name: value if name in _PARTIAL else round(value) for name, value in progress.totals.items()
    }
    if evaluation is not None and "queries" in evaluation.columns:
        counts["queries"] = int(evaluation.columns["queries"].sum())
    return {
        **cost,
        "train_wall_s": progress.train_wall_s,
        "wall_s": progress.train_wall_s + progress.val_wall_s + eval_wall_s,
        "train_cpu_s": progress.train_cpu_s,
        "cpu_s": progress.train_cpu_s + progress.val_cpu_s + eval_cpu_s,
        "peak_memory_bytes": max(progress.peak_memory_bytes, provenance.peak_memory_bytes()),
        "peak_gpu_memory_bytes": max(
            progress.peak_gpu_memory_bytes, provenance.peak_gpu_memory_bytes(on)
        )
        or None,
        "outer_steps": progress.step,
        **counts,
    }


def agent_facts(
    agent: ResolvedAgent, *, trained_by: Literal["lazybench", "none"], resumable: bool
) -> AgentFacts:
    """Return the agent's part of a record, for an agent that lazybench constructed."""
    return AgentFacts(
        id=agent.spec.id,
        version=agent.spec.version,
        origin=agent.spec.origin,
        source_sha256=agent.source,
        trained_by=trained_by,
        resumable=resumable,
    )


def checkpoint_facts(state: Any, step: int) -> dict[str, Any]:
    """Return the sha256, size in bytes and step of a state."""
    sha256, size = checkpoint.digest(state)
    return {"sha256": sha256, "bytes": size, "step": step}


def _further_metrics(spec: EnvSpec, evaluation: Evaluation | None) -> dict[str, Any]:
    """Diagnostics with those metrics of the environment that the record's metrics lack."""
    shown = {spec.metric, *(measure.name for measure in spec.measures)}
    found = {} if evaluation is None else evaluation.metrics
    further = {name: value for name, value in found.items() if name not in shown}
    return {"metrics": further} if further else {}


def _no_file(agent: ResolvedAgent) -> dict[str, Any]:
    """The mark of an agent without a file, whose hash covers only the source of its class."""
    return {} if agent.in_file else {"code_not_in_a_file": True}


def metrics(spec: EnvSpec, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the headline metric and further measures of the environment, never NaN."""
    found = {spec.metric: headline(spec, evaluation)}
    for measure in spec.measures:
        value = evaluation.metrics.get(measure.name)
        if value is not None and math.isfinite(value):
            found[measure.name] = {
                "value": float(value),
                "n": len(evaluation.scores),
                "unit": measure.unit,
                "better": measure.better,
            }
    return found


def headline(spec: EnvSpec, evaluation: Evaluation) -> dict[str, Any]:
    """Return the headline metric of a record with its 95 % interval.

    It is the mean over trials, or the environment's value for a pass. The interval is that of the
    mean, so it is missing if the two differ (as on a test set with unequal class sizes).
    """
    mean, low, high = mean_interval(evaluation.scores)
    value = float(evaluation.metrics.get(spec.metric, mean))
    return {
        "value": value,
        "ci95": (low, high) if abs(value - mean) < _SAME else None,
        "n": len(evaluation.scores),
        "unit": spec.unit,
        "better": spec.better,
    }


def trials(evaluation: Evaluation) -> Trials:
    """Return scores, further numbers and answers `[n, -1]` of all trials, packed for a record."""
    given = evaluation.answers
    answers = given.reshape(len(given), -1) if given.size else None
    return Trials.of(evaluation.scores, predictions=answers, columns=evaluation.columns)
