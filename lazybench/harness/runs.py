"""The working folders of runs: what is going on, what was cut off, what is done."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from lazybench.files import read_file
from lazybench.locks import is_held


@dataclass(frozen=True)
class RunInfo:
    """One working folder.

    Attributes:
        path: the folder.
        key12: first 12 digits of the run's key.
        agent: agent id.
        env: environment id.
        budget: compute budget.
        seed: seed of training.
        status: `running`, `interrupted`, or the status of the finished record.
        step: updates in the newest checkpoint.
    """

    path: Path
    key12: str
    agent: str
    env: str
    budget: str
    seed: int
    status: str
    step: int


def list_runs(runs: Path) -> list[RunInfo]:
    """Return all runs below a folder, by name; folders that hold no run are passed over."""
    found = (_info(path) for path in sorted(runs.glob("*/config.json")))
    return [info for info in found if info is not None]


def _info(config: Path) -> RunInfo | None:
    folder = config.parent
    try:
        facts = json.loads(read_file(config))
        return RunInfo(
            folder,
            str(facts["key"])[:12],
            str(facts["agent"]),
            str(facts["env"]),
            str(facts["budget"]),
            int(facts["seed"]),
            _status(folder),
            _step(folder),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _status(folder: Path) -> str:
    # What can't be locked is held by nobody.
    with contextlib.suppress(OSError):
        if is_held(folder / "lock"):
            return "running"
    # The fit's own judgement first: `done.json` comes before `done-<key12>.json`.
    done = sorted(folder.glob("done*.json"), key=lambda path: (len(path.name), path.name))
    return str(json.loads(read_file(done[0]))["status"]) if done else "interrupted"


def _step(folder: Path) -> int:
    manifests = folder.glob("ckpt/step-*/manifest.json")
    steps = [path.parent.name.removeprefix("step-") for path in manifests]
    return max((int(step) for step in steps if step.isdecimal()), default=0)
