"""A request with everything resolved, and the key that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazybench.errors import UsageError
from lazybench.harness.judge import env_facts, open_env
from lazybench.harness.request import (
    Made,
    RunRequest,
    check_budget,
    check_device,
    make,
    official_trials,
    resolve_env,
)
from lazybench.harness.watch import SILENT, Watch
from lazybench.records import make_key, slug
from lazybench.specs import EnvSpec

PRECISION = "fp32"


@dataclass(frozen=True)
class Cell:
    """A request with everything resolved: what will be run, and its key."""

    request: RunRequest
    spec: EnvSpec
    made: Made
    device: str
    trials: int
    identity: dict[str, Any]
    facts: dict[str, Any]
    key: str

    @property
    def folder(self) -> Path:
        """The run's working folder."""
        name = (
            f"{slug(self.made.spec.id)}-{slug(self.spec.id)}-s{self.request.seed}-{self.key[:12]}"
        )
        return self.request.runs / name


def resolve(request: RunRequest, watch: Watch = SILENT) -> Cell:
    """Return the request with names, presets, data and key resolved; nothing is written.

    Raises:
        UsageError: a name, setting, device or limit that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
    """
    check_budget(request.budget)
    device = check_device(request.device)
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit must be at least 1 trial, got {request.limit}")
    spec, note = resolve_env(request.env)
    if note:
        watch.note(note)
    made = make(request.agent, spec, request.budget, request.overrides)
    official = official_trials(spec, request.budget)
    limited = request.limit is not None and request.limit < official
    trials = request.limit if limited and request.limit is not None else official
    judged = open_env(spec, 1, "test")
    if hasattr(made.agent, "plan"):
        # Opened here so that shots that the data can't serve are told before anything is written.
        open_env(spec, 1, "train", **made.agent.plan(judged.task).env)
    described = env_facts(spec, judged, trials)
    identity = {
        "env": spec.id,
        "env_version": spec.version,
        "protocol": described["env"]["protocol"],
        "data": described["data"]["fingerprint"],
        "prep": described["data"]["prep"],
        "agent": made.spec.id,
        "agent_version": made.spec.version,
        "agent_source": made.source,
        "config": made.config,
        "budget": request.budget,
        "seed": request.seed,
        "precision": PRECISION,
        "device": device.partition(":")[0],
        "world_size": 1,
        "limited": limited,
    }
    return Cell(request, spec, made, device, trials, identity, described, make_key(identity))
