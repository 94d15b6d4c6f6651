"""Folders of runs: locks, disk space, listings, and the run's options in `run.toml`.

`run.toml` is written into each run's folder; `lazybench run --config` reads it.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import platform
import re
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lazybench.errors import (
    DataUnavailable,
    LazybenchError,
    OutputUnavailable,
    StoreError,
    UsageError,
    nearest,
)
from lazybench.files import read_file, read_text, refuse_links
from lazybench.records import write_json
from lazybench.runner.request import ResolvedAgent, RunRequest, read_setting
from lazybench.runtime.locks import alone, is_held, why_closed

_HOLDER = "lock.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder inside a block; `lock.json` names the process that holds it.

    The system releases the lock when its process ends, even if it is killed, so locks never become
    stale.

    Raises:
        Busy: another process holds it.
        OutputUnavailable: it can't be locked.
    """

    def busy() -> str:
        return (
            f"another process is executing this run ({folder}){_holder(folder)}; wait for it, or "
            "use another seed"
        )

    def closed(error: Exception) -> str:
        return (
            f"{folder} can't be locked ({why_closed(error)}), so two processes could write to it; "
            "choose a folder on another disk with --out or --runs, or remove the file with the "
            "lock's name"
        )

    # Wait a moment, since a listing of runs holds each lock briefly.
    with alone(folder / "lock", busy, closed, 0.5):
        try:
            # Only for people; no code depends on it.
            with contextlib.suppress(OSError, LazybenchError):
                write_json(folder / _HOLDER, {"pid": os.getpid(), "host": platform.node()})
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / _HOLDER).unlink()


def _holder(folder: Path) -> str:
    """The process that holds a folder, as part of a message."""
    try:
        holder = json.loads(read_file(folder / _HOLDER, 1 << 16))
        return f": process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


_OWN = (
    *("config.json", "run*.toml", "done*.json", "episodes*.jsonl", "error*.txt"),
    *(
        f"ckpt/{folder}*{name}"
        for folder in ("step-", ".new-", ".old-")
        for name in ("/manifest.json", "/state.json", "/tensors.safetensors", "/.tmp-*", "")
    ),
    *("ckpt", ".tmp-*"),
)
"""What runs write into their folder, as patterns; what is in a folder comes before it."""


def remove_run(folder: Path) -> list[Path]:
    """Remove a run's folder, and return what stays because no run writes it.

    Raises:
        Busy: a process is executing the run.
        OutputUnavailable: something can't be removed, or is a link.
    """
    refuse_links(folder)
    try:
        with locked(folder):
            for path in (path for pattern in _OWN for path in sorted(folder.glob(pattern))):
                if not path.is_dir():
                    path.unlink()
                elif not any(path.iterdir()):
                    path.rmdir()
        (folder / "lock").unlink(missing_ok=True)
        kept = sorted(path for path in folder.rglob("*") if not path.is_dir())
        if not kept:
            shutil.rmtree(folder)
    except OSError as error:
        raise OutputUnavailable(
            f"{folder} can't be removed ({error.strerror or error}); make it writable"
        ) from error
    return kept


def need_space(folder: Path, size: int) -> None:
    """Check before training that `size` bytes fit on the disk of a folder.

    Raises:
        StoreError: they don't; the message has both numbers.
    """
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists()))
        if free.free < size:
            raise StoreError(
                f"checkpoints below {folder} take {size} bytes, but the disk has {free.free} left; "
                "nothing was trained; free some space, or choose another disk with --runs"
            )


def writable(folder: Path) -> None:
    """Create a folder and check that it is writable, before any work whose result goes there.

    Raises:
        OutputUnavailable: it can't be created or written.
    """
    # Its name has the prefix of temporary files, so it is removed like those of killed processes.
    probe = folder / f".tmp-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.open("xb").close()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OutputUnavailable(
            f"can't write to {folder} ({error.strerror or error}); choose another folder with "
            "--out or --runs"
        ) from error


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
    """Return all runs below a folder, by name; folders without a run are skipped."""
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
    # A folder that can't be locked isn't held by a process.
    with contextlib.suppress(OSError):
        if is_held(folder / "lock"):
            return "running"
    # The evaluation with default settings first: `done.json` comes before `done-<key12>.json`.
    done = sorted(folder.glob("done*.json"), key=lambda path: (len(path.name), path.name))
    return str(json.loads(read_file(done[0]))["status"]) if done else "interrupted"


def _step(folder: Path) -> int:
    manifests = folder.glob("ckpt/step-*/manifest.json")
    steps = [path.parent.name.removeprefix("step-") for path in manifests]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


_BARE = re.compile(r"[A-Za-z0-9_-]+")


class RunOptions(BaseModel):
    """The content of a `run.toml`: options of `lazybench run` by their long names."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True)

    agent: str | None = None
    env: str | None = None
    budget: str | None = None
    seed: int | None = None
    seeds: str | None = None
    init: str | None = None
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
    limit: int | None = None
    timeout_per_episode: float | None = Field(default=None, alias="timeout-per-episode")
    isolated: bool | None = None
    allow_overlap: bool | None = Field(default=None, alias="allow-overlap")
    track: str | None = None
    out: str | None = None
    runs: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict, alias="set")
    protocol: dict[str, Any] = Field(default_factory=dict)


def read_options(path: Path) -> RunOptions:
    """Return the options in a TOML file.

    Raises:
        UsageError: no such file, or a key or value that isn't allowed.
    """
    try:
        return RunOptions(**tomllib.loads(read_text(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            fields = RunOptions.model_fields.items()
            allowed = [field.alias or name for name, field in fields]
            raise UsageError(
                f"{path}: unknown key '{where}'; allowed keys: {', '.join(allowed)}."
                f"{nearest(where, allowed)}"
            ) from error
        raise UsageError(f"{path}: {where}: {first['msg']}, got {first['input']!r}") from error
    except (DataUnavailable, ValueError, RecursionError) as error:
        raise UsageError(f"{path} isn't a readable TOML file: {error}") from error


def options_text(request: RunRequest, agent: ResolvedAgent) -> str:
    """Return the TOML file that repeats a run.

    Paths are written as they were given. What a search of settings cost isn't kept.

    Args:
        request: the run.
        agent: its agent.
    """
    values: dict[str, Any] = {
        "agent": agent.asked,
        "env": request.env,
        "budget": request.budget,
        "seed": request.seed,
        "init": request.init,
        "precision": request.precision,
        "device": request.device,
        "threads": request.threads,
        "limit": request.limit,
        "timeout-per-episode": request.episode_timeout_s,
        "isolated": request.isolated or None,
        "allow-overlap": request.allow_overlap or None,
        "out": str(request.out),
        "runs": str(request.runs),
    }
    by_name = isinstance(request.agent, str) or inspect.isclass(request.agent)
    # Those of an instance are all of its settings.
    given = agent.overrides if by_name else agent.config
    lines = ["# Repeats this run: lazybench run --config run.toml"]
    lines += [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
    # Protocol settings are as typed; those of the agent have been read.
    protocol = {name: read_setting(value) for name, value in request.protocol.items()}
    for table, settings in (("set", given), ("protocol", protocol)):
        if settings:
            lines += ["", f"[{table}]", *_settings(settings)]
    return "\n".join([*lines, ""])


def _settings(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"{name if _BARE.fullmatch(name) else _toml(name)} = {_toml(setting_text(value))}"
        for name, value in settings.items()
    ]


def setting_text(value: Any) -> Any:
    """Return the value of a setting such that a command line reads it again.

    It is a plain number or flag, or text.
    """
    if isinstance(value, bool | int | float):
        return value
    return value if isinstance(value, str) and _read_as_text(value) else json.dumps(value)


def _read_as_text(value: str) -> bool:
    """Whether a command line reads a text as itself; one that is JSON is read as its value."""
    try:
        return bool(read_setting(value) == value)
    except UsageError:
        return False


def _toml(value: str | bool | int | float) -> str:
    """A value as TOML, whose numbers and flags are those of JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
