"""What a run came to, as a record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazybench.records import AgentFacts, Record, Trials
from lazybench.runner import checkpoint, provenance
from lazybench.runner.evaluate import Scored
from lazybench.runner.request import Made
from lazybench.runner.resolve import Cell
from lazybench.runner.train import Progress
from lazybench.specs import EnvSpec
from lazybench.stats import mean_interval

_SAME = 1e-9
_PARTIAL = ("gradient_equivalents",)
"""Counted logs that aren't whole numbers."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, when it started and what its agent tells of the training."""

    status: str
    reason: str | None
    started: str
    diagnostics: dict[str, Any]


def record(cell: Cell, progress: Progress, scored: Scored | None, outcome: Outcome) -> Record:
    """Return the record of a run; without scores where it diverged or failed."""
    request, made, spec = cell.request, cell.made, cell.spec
    trains = progress.step > 0
    sha256, size = checkpoint.digest(progress.best) if scored is not None else ("", 0)
    totals = progress.totals.items()
    counts = {name: value if name in _PARTIAL else round(value) for name, value in totals}
    if scored is not None and "queries" in scored.columns:
        counts["queries"] = int(scored.columns["queries"].sum())
    return Record.keyed(
        status=outcome.status,
        reason=outcome.reason,
        **cell.facts,
        agent=AgentFacts(
            id=made.spec.id,
            version=made.spec.version,
            origin=made.spec.origin,
            source_sha256=made.source,
            trained_by="lazybench" if made.spec.trains else "none",
            resumable=not made.agent.has_own_loop(),
        ),
        config=made.config,
        preset=request.budget,
        overrides=made.overrides,
        budget=request.budget,
        limited=bool(cell.identity["limited"]),
        untuned=not made.spec.tuned and request.tuning is None,
        seed=request.seed,
        precision=request.precision,
        device=cell.identity["device"],
        world_size=cell.identity["world_size"],
        metrics={} if scored is None else metrics(spec, scored),
        trials=Trials() if scored is None else trials(scored),
        diagnostics=outcome.diagnostics | _beside(spec, scored) | _loose(made),
        curve=progress.curve,
        cost={
            "train_wall_s": progress.train_wall_s,
            "eval_wall_s": scored.eval_wall_s if scored is not None else None,
            "wall_s": progress.train_wall_s
            + progress.val_wall_s
            + (scored.eval_wall_s if scored is not None else 0.0),
            "train_cpu_s": progress.train_cpu_s,
            "cpu_s": progress.train_cpu_s
            + progress.val_cpu_s
            + (scored.eval_cpu_s if scored is not None else 0.0),
            "peak_memory_bytes": max(progress.peak_memory_bytes, provenance.peak_memory_bytes()),
            "peak_gpu_memory_bytes": max(
                progress.peak_gpu_memory_bytes, provenance.peak_gpu_memory_bytes(cell.device)
            )
            or None,
            "outer_steps": progress.step,
            **counts,
        },
        code=provenance.code(),
        machine=provenance.machine(cell.device),
        checkpoint={"sha256": sha256, "bytes": size, "step": progress.best_step}
        if trains and scored is not None
        else None,
        network=cell.network,
        fit=None if cell.fit_key == cell.key else cell.fit_key,
        track=cell.track,
        isolated=request.isolated and scored is not None,
        tuning=request.tuning,
        started=outcome.started,
    )


def _beside(spec: EnvSpec, scored: Scored | None) -> dict[str, Any]:
    """What the environment tells beside the metrics, as a part of the diagnostics."""
    shown = {spec.metric, *(measure.name for measure in spec.measures)}
    told = {} if scored is None else {k: v for k, v in scored.metrics.items() if k not in shown}
    return {"metrics": told} if told else {}


def _loose(made: Made) -> dict[str, Any]:
    """The mark of an agent that no file defines, whose hash is of its class's source alone."""
    return {} if made.in_file else {"code_not_in_a_file": True}


def judged_alone(spec: EnvSpec, scored: Scored, device: str = "cpu") -> dict[str, Any]:
    """Return the parts of a record of an evaluation alone: scores, costs, code and machine."""
    return {
        "metrics": metrics(spec, scored),
        "trials": trials(scored),
        "cost": {
            "eval_wall_s": scored.eval_wall_s,
            "wall_s": scored.eval_wall_s,
            "cpu_s": scored.eval_cpu_s,
            "peak_memory_bytes": provenance.peak_memory_bytes(),
            "peak_gpu_memory_bytes": provenance.peak_gpu_memory_bytes(device) or None,
        },
        "code": provenance.code(),
        "machine": provenance.machine(device),
    }


def metrics(spec: EnvSpec, scored: Scored) -> dict[str, dict[str, Any]]:
    """Return the headline metric and the measures that the environment told; none is NaN."""
    found = {spec.metric: metric(spec, scored)}
    for measure in spec.measures:
        value = scored.metrics.get(measure.name)
        if value is not None and math.isfinite(value):
            found[measure.name] = {
                "value": float(value),
                "n": len(scored.scores),
                "unit": measure.unit,
                "better": measure.better,
            }
    return found


def metric(spec: EnvSpec, scored: Scored) -> dict[str, Any]:
    """Return the headline metric of a record with its 95 % interval.

    It is the mean over trials, or what the environment tells of a pass; the interval is that of the
    mean, so there is none where the two differ (a test set whose classes differ in size).
    """
    mean, low, high = mean_interval(scored.scores)
    value = float(scored.metrics.get(spec.metric, mean))
    return {
        "value": value,
        "ci95": (low, high) if abs(value - mean) < _SAME else None,
        "n": len(scored.scores),
        "unit": spec.unit,
        "better": spec.better,
    }


def trials(scored: Scored) -> Trials:
    """Return the scores of all trials, their other numbers and the answers, `[n, -1]`, packed."""
    whole = np.concatenate(scored.answers)
    answers = whole.reshape(len(whole), -1) if whole.size else None
    return Trials.of(scored.scores, predictions=answers, columns=scored.columns)
