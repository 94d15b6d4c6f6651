"""Files of a run's options, `run.toml`: written into each run's folder, read by `run --config`."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lazybench.errors import DataUnavailable, UsageError, nearest
from lazybench.files import read_text
from lazybench.runner.request import ResolvedAgent, RunRequest, read_setting

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
    # The settings of an instance are its attributes.
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
