"""A run's request, and the environment, agent, settings and trials that it names."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from lazybench.agent import Agent, Network, Plan, adapted, check_contract, contract
from lazybench.arguments import (
    check_flag,
    check_one_of,
    check_path,
    check_settings,
    check_text,
    check_whole,
)
from lazybench.errors import (
    ContractError,
    DeviceUnavailable,
    LazybenchError,
    UnknownName,
    UsageError,
    nearest,
)
from lazybench.files import plain
from lazybench.plugins import Escaped, contained, describe, named, raised_at
from lazybench.records import Tuning
from lazybench.registry import DATASETS, ENVS, agent_spec, class_spec
from lazybench.specs import BUDGETS, OWN, AgentSpec, EnvSpec
from lazybench.user_code import (
    defining_sha256,
    is_own_class,
    load,
    loose_sha256,
    spelled,
    target_sha256,
)

_TOLD = 40
_NO_JSON_NUMBER = re.compile(r"\s*[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def resolve_env(name: str) -> tuple[EnvSpec, str]:
    """Return an environment's spec and the note on how its name was resolved ('' if it wasn't).

    Raises:
        UnknownName: no such environment.
    """
    try:
        resolved = ENVS.resolve(name)
    except UnknownName as error:
        if name in {spec.id for spec in DATASETS.specs()}:
            raise UnknownName(
                f"'{name}' is a data set; its environments are {name}-5way-1shot and the like. See "
                "all with: lazybench list envs"
            ) from error
        raise
    return resolved.spec, resolved.note


def with_protocol(spec: EnvSpec, given: Mapping[str, Any]) -> EnvSpec:
    """Return an environment's spec with some of its settings replaced.

    Raises:
        UsageError: a setting that the environment doesn't have or that a run can't change.
    """
    for name in given:
        if name not in spec.options:
            raise UsageError(
                f"{spec.id} has no setting '{name}' that a run may change."
                f"{nearest(name, spec.options)} Settings: {', '.join(spec.options) or 'none'}"
            )
    settings = {name: read_setting(value) for name, value in given.items()}
    chosen = {
        name: value
        for name, value in settings.items()
        if name not in spec.left_out or value != spec.left_out[name]
    }
    if not chosen:
        return spec
    columns = tuple(each for name in chosen for each in spec.option_columns.get(name, ()))
    return replace(spec, kwargs={**spec.kwargs, **chosen}, columns=(*spec.columns, *columns))


def with_recorded(spec: EnvSpec, protocol: Mapping[str, Any]) -> EnvSpec:
    """Return an environment's spec with the settings that a run's protocol has."""
    return with_protocol(spec, {name: protocol[name] for name in spec.options if name in protocol})


def check_budget(budget: str) -> str:
    """Return `budget`.

    Raises:
        UsageError: no such budget.
    """
    check_one_of("budget", budget, BUDGETS)
    return budget


def official_trials(env: EnvSpec, budget: str) -> int:
    """Return the number of official test trials of an environment at a budget.

    Raises:
        UsageError: no such budget, or the environment has no trials for it.
    """
    check_budget(budget)
    if not (env.trials.get(budget) and env.val_trials.get(budget)):
        raise UsageError(
            f"environment '{env.id}' has no trials at budget {budget}; its EnvSpec needs trials "
            f"and val_trials for it, got {dict(env.trials)} and {dict(env.val_trials)}"
        )
    return env.trials[budget]


def chosen_trials(env: EnvSpec, budget: str, limit: int | None) -> tuple[int, bool]:
    """Return the number of test trials, and whether it is below the official number.

    Raises:
        UsageError: no such budget, a limit below 1, or a limit for a test that is one whole pass.
    """
    if limit is not None and check_whole("limit", limit, least=None) < 1:
        raise UsageError(f"limit must be at least 1 trial, got {limit}")
    official = official_trials(env, budget)
    if limit is None or limit >= official:
        return official, False
    if env.vector_target is None:
        raise UsageError(f"{env.id} is scored in one pass over its test set; leave --limit out")
    return limit, True


def read_setting(value: Any) -> Any:
    """Return a setting typed as text: its value if it is JSON (numbers, true, null), else the text.

    A number may lack the digits on one side of its point, which JSON forbids: `.9`.

    Raises:
        UsageError: a number in a text that isn't finite, or a whole number beyond 64 bits.
    """
    if not isinstance(value, str):
        return in_range(value, value)
    try:
        return in_range(json.loads(value), value, finite=True)
    except json.JSONDecodeError:
        number = _NO_JSON_NUMBER.fullmatch(value)
        return value if number is None else in_range(float(value), value, finite=True)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"a setting can't be read ({error}), got '{value[:40]}...'") from error


def in_range(value: Any, given: Any, *, finite: bool = False) -> Any:
    """The value of a setting, once all its numbers can be computed with.

    Args:
        value: as JSON holds it.
        given: what to show where it is refused.
        finite: whether floats must be finite.

    Raises:
        UsageError: a number that isn't finite, or a whole one beyond 64 bits.
    """
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        for item in items:
            in_range(item, given, finite=finite)
    whole = isinstance(value, int) and not -(2**63) <= value < 2**63
    if whole or (finite and isinstance(value, float) and not math.isfinite(value)):
        shown = str(given)
        raise UsageError(
            "a setting's numbers must be finite, whole ones of at most 64 bits, got "
            f"'{shown if len(shown) <= _TOLD else shown[:_TOLD] + '...'}'"
        )
    return value


DEVICES = ("auto", "cpu", "cuda", "mps")
MOST_S = 2_000_000
"""Longest time limit in seconds: systems can't wait longer than 2 ** 31 ms, about 24 days."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunRequest:
    """One requested run.

    Attributes:
        agent: id, `path/to/file.py:Class`, `module:Class`, or in Python a class or an instance.
        env: id or alias.
        budget: compute budget, which names the agent's preset.
        seed: seed of training; trials don't depend on it.
        overrides: settings that replace the preset's; texts that are JSON are parsed.
        protocol: protocol settings that replace the environment's defaults (`query_budget`,
            `norm`, …); part of the key.
        device: `cpu`, `cuda`, `mps` or `auto`.
        precision: precision of the networks: `fp32`, `tf32` (CUDA) or `bf16`.
        init: weights to start from: `FILE.safetensors`, a run's folder or the digits of its key.
        threads: tasks in parallel; None uses all available cores.
        limit: evaluate only the first `limit` trials; the record is marked and never ranked.
        out: the store of records.
        runs: folder of working state (checkpoints).
        force: run again even if a record exists.
        tuning: cost of the search for the settings; a fact of the record, not of its key.
        episode_timeout_s: time limit in seconds for an update, and for each trial of a block; None
            for no limit. Not part of the key.
        isolated: whether to evaluate the trained policy in a separate process without any
            environment in its memory. A fact of the record, not of its key: the result is equal.
        allow_overlap: allow a pre-trained backbone that is known to have seen the test classes; the
            row is marked. Not part of the key.
    """

    agent: Any
    env: str
    budget: str = "small"
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "fp32"
    init: str | None = None
    threads: int | None = None
    limit: int | None = None
    out: Path = Path("leaderboards")
    runs: Path = Path("runs")
    force: bool = False
    tuning: Tuning | None = None
    episode_timeout_s: float | None = None
    isolated: bool = False
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            UsageError: a value of another type, or out of range.
        """
        checked: dict[str, Any] = {
            name: check_text(name, vars(self)[name])
            for name in ("env", "budget", "device", "precision")
        }
        checked["seed"] = check_whole("seed", self.seed)
        for name in ("threads", "limit"):
            value = vars(self)[name]
            checked[name] = None if value is None else check_whole(name, value, least=None)
        checked["overrides"] = check_settings("settings", self.overrides)
        checked["protocol"] = check_settings("protocol", self.protocol)
        checked["init"] = None if self.init is None else str(check_path("init", self.init))
        checked["out"], checked["runs"] = check_path("out", self.out), check_path("runs", self.runs)
        check_flag("force", self.force)
        check_flag("isolated", self.isolated)
        check_flag("allow_overlap", self.allow_overlap)
        check_agent_given(self.agent)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        limit: Any = self.episode_timeout_s
        number = isinstance(limit, numbers.Real) and not isinstance(limit, bool)
        if limit is not None and not (number and 0 < limit <= MOST_S):
            raise UsageError(
                f"timeout-per-episode must be a positive number, got {limit!r}; give at most "
                f"{MOST_S:g} s, or leave it out for none"
            )


@dataclass(frozen=True)
class ResolvedAgent:
    """An agent with its settings.

    Attributes:
        spec: its spec.
        instance: the agent as an `Agent`.
        own: the object of its class: `instance` itself if the class inherits `Agent`.
        config: all of its settings.
        overrides: the settings that the request sets.
        source: sha256 of its code if it is a user's; None for the package's own.
        asked: its name: an id, `file.py:Class` or `module:Class`.
        in_file: whether a file defines it; a class of a notebook or a prompt is hashed by its own
            source only, and its record is marked.
        repeatable: whether its class makes it again from `config`; not of an instance with other
            attributes.
    """

    spec: AgentSpec
    instance: Agent
    own: Any
    config: dict[str, Any]
    overrides: dict[str, Any]
    source: str | None
    asked: str = ""
    in_file: bool = True
    repeatable: bool = True

    def settings(self) -> dict[str, Any]:
        """Return all settings by name, also the defaults of a class without `Config`."""
        if self.instance.Config is not None:
            return dict(self.config)
        try:
            parameters = dict(inspect.signature(type(self.own)).parameters)
        except (TypeError, ValueError):
            parameters = {}
        defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
        return defaults | self.config

    def plan(self, task: Any) -> Plan | None:
        """Return the plan for training on tasks of this shape; None if there is no training.

        Raises:
            ContractError: a user's agent failed, or returned something else.
        """
        return self._asked("plan", self.instance.plan, task, Plan)

    def network(self, task: Any) -> Network | None:
        """Return facts about the network that is trained on tasks of this shape; None for none.

        Raises:
            ContractError: a user's agent failed, or returned something else.
        """
        return self._asked("describe_network", self.instance.describe_network, task, Network)

    def _asked(
        self, name: str, method: Callable[[Any], T | None], task: Any, kind: type[T]
    ) -> T | None:
        what = f"{name} of agent '{self.spec.id}'"
        with named(self.spec.origin, what):
            found = method(task)
        _check_kind(found, kind | None, what, f"a {kind.__module__}.{kind.__name__} or None")
        return found

    @property
    def eval_only(self) -> tuple[str, ...]:
        """Names of the settings that affect evaluation and not training."""
        return tuple(self.instance.EVAL_ONLY)


def check_device(device: str, *, here: bool = True) -> str:
    """Return the device to use; `auto` uses a GPU if there is one.

    Args:
        device: as for a run.
        here: check that this machine has the device; False for a run on another machine.

    Raises:
        UsageError: no such kind of device, or `auto` for a run on another machine.
        DeviceUnavailable: this machine doesn't have it.
    """
    import torch

    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}, got '{device}'")
    index = device.partition(":")[2]
    if ":" in device and not (kind in ("cuda", "mps") and index.isdecimal()):
        raise UsageError(f"a device is cpu, cuda, mps or numbered, such as cuda:1, got '{device}'")
    if not here:
        if kind == "auto":
            raise UsageError("device auto can't be resolved for another machine; name the device")
        return device
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "device cuda isn't available: this torch finds none; use --device cpu or auto"
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"device {device} isn't available: the last one is cuda:{torch.cuda.device_count() - 1}"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable("device mps isn't available on this machine; use --device cpu")
    return device


def check_agent_given(given: Any) -> None:
    """Check that an agent is given as a name, a class or an instance.

    Raises:
        UsageError: it is something else, such as a number, a function or a module.
    """
    if isinstance(given, str):
        check_text("agent", given)
    elif not inspect.isclass(given) and type(given).__module__ == "builtins":
        raise UsageError(
            "agent must be an id, 'FILE.py:CLASS', a class, or an instance of one; got "
            f"{type(given).__name__}: {given!r}"
        )


def check_isolable(agent: ResolvedAgent) -> None:
    """Check whether an agent's policy can be made in another process.

    Raises:
        UsageError: it can't.
    """
    if agent.instance.has_own_loop():
        raise UsageError(
            f"agent '{agent.spec.id}' has its own training loop, so its policy can't be sent to "
            "another process; leave isolated out, or give it init, update and policy"
        )
    if not agent.in_file or agent.asked.startswith("__main__:"):
        raise UsageError(
            f"agent '{agent.spec.id}' is in no file that another process could load; put it in a "
            "file, or leave isolated out"
        )
    if not agent.repeatable:
        raise UsageError(
            f"the attributes of this '{agent.spec.id}' aren't those that its class gives it, so "
            "another process can't make it; make them arguments of __init__, or leave isolated out"
        )


def make(
    name: Any,
    env: EnvSpec,
    budget: str,
    overrides: Mapping[str, Any],
    *,
    find: Callable[[str], Any] = lambda key: None,
    whole: bool = False,
) -> ResolvedAgent:
    """Construct an agent for an environment and budget.

    Args:
        name: id, `file.py:Class`, `module:Class`, a class, or an instance, which is copied and
            whose attributes give its settings.
        env: the environment.
        budget: names the preset.
        overrides: settings that replace the preset's.
        find: returns the record of the first digits of a key, or None; for agents whose
            `resolve_settings` copies a setting of another run.
        whole: whether `overrides` are all settings of a run, maybe of an older version: missing
            ones in the agent's `LATER` take their defaults, not the preset's values.

    Raises:
        UnknownName: no such agent.
        UsageError: it doesn't support this family, a setting is unknown or out of range, or an
            instance's attributes can't be settings.
        ContractError: the class lacks a required method, or one of a user's agent fails or returns
            something else.
    """
    check_agent_given(name)
    given_class = inspect.isclass(name)
    if isinstance(name, str):
        spec = agent_spec(name)
        factory = load(spec.target)
    else:
        factory = name if given_class else type(name)
        spec = class_spec(factory)
    if env.family not in spec.families:
        raise UsageError(
            f"agent '{spec.id}' supports {', '.join(spec.families)}, but {env.id} is {env.family}; "
            f"see: lazybench list agents --family {env.family}"
        )
    # Unparsed texts, since the digits of a key may look like a number.
    kind = contract(factory)
    what = f"resolve_settings of agent '{spec.id}'"
    with named(spec.origin, what):
        settings = kind.resolve_settings(overrides, find)
    _check_kind(settings, Mapping, what, "a mapping")
    read = {key: _read(value) for key, value in settings.items()}
    config_type, repeatable = kind.Config, True
    if not isinstance(name, str) and not given_class:
        agent, resolved = copy.deepcopy(name), _attributes(name, spec, read)
        if config_type is None:
            arguments = _arguments_of(factory, resolved)
            repeatable = arguments is not None
            if arguments is not None:
                resolved = read = arguments
    elif config_type is not None:
        what = f"preset of agent '{spec.id}' at budget {budget}"
        with named(spec.origin, what):
            preset = kind.preset(str(spec.kwargs.get("algorithm", spec.id)), env, budget)
        _check_kind(preset, Mapping, what, "a mapping")
        base = dict(preset)
        base |= {key: value for key, value in spec.kwargs.items() if key != "algorithm"}
        for later in kind.LATER if whole else ():
            base.pop(later, None)
        for name_of_setting, others in kind.REPLACES.items():
            for other in others if read.get(name_of_setting) else ():
                base.pop(other, None)
        config = _validated(spec.id, config_type, base, read)
        resolved = config.model_dump(mode="json")
        try:
            with contained():
                agent = factory(config)
        except LazybenchError:
            raise
        except Exception as error:
            if spec.origin == OWN and not isinstance(error, Escaped):
                raise
            raise UsageError(
                f"agent '{spec.id}' can't be created: {describe(error)} ({raised_at(error)})"
            ) from error
    else:
        own = {key: value for key, value in spec.kwargs.items() if key != "algorithm"}
        held = _held(factory, read) if whole else {}
        read = {key: value for key, value in read.items() if key not in held}
        _check_arguments(spec.id, factory, read)
        base = own | _typed(spec.id, factory, read, settings)
        resolved = {name: _as_recorded(value) for name, value in base.items()} | held
        read = {name: resolved[name] for name in read}
        try:
            with contained():
                agent = factory(**base)
        except (TypeError, ValueError, Escaped) as error:
            raise UsageError(
                f"agent '{spec.id}' can't be created with the settings {base}: "
                f"{describe(error)}; change them with --set"
            ) from error
        if held and (made := _plain_attributes(agent) or {}) | held != made:
            raise UsageError(
                f"the record has {', '.join(f'{k}={v}' for k, v in held.items())}, which "
                f"'{spec.id}' doesn't take as arguments: attributes that were set on an instance "
                "after it was made, so that its class can't repeat the run"
            )
    hooks = adapted(agent)
    check_contract(hooks, spec.id)
    if not spec.trains and resolved.get("iterations"):
        raise UsageError(
            f"agent '{spec.id}' is a baseline that learns nothing before the test: iterations must "
            f"stay 0, got {resolved['iterations']}; choose a learner (lazybench list agents)"
        )
    # The record leaves out a later setting at its default, but the request may set it.
    given = {key: resolved.get(key, value) for key, value in read.items()}
    source, in_file = _source(spec, factory)
    asked = name if isinstance(name, str) else spec.target if spec.origin != OWN else spec.id
    return ResolvedAgent(spec, hooks, agent, resolved, given, source, asked, in_file, repeatable)


def _check_kind(value: Any, kind: Any, what: str, allowed: str) -> None:
    """Check what a method of an agent returned.

    Raises:
        ContractError: it is of another type.
    """
    if not isinstance(value, kind):
        raise ContractError(f"{what} must return {allowed}, got {type(value).__name__} {value!r}")


def _attributes(given: Any, spec: AgentSpec, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an instance: its attributes, or those of its `config`.

    Raises:
        UsageError: an attribute isn't a plain value, or settings are given as well.
    """
    if overrides:
        raise UsageError(
            f"settings go with an agent's id or class; this '{spec.id}' is an instance: create it "
            f"with {', '.join(overrides)}, or pass its class"
        )
    try:
        attributes = vars(given)
    except TypeError:
        attributes = None
    config = None if attributes is None else attributes.get("config", attributes.get("_config"))
    if isinstance(config, BaseModel):
        return config.model_dump(mode="json")
    try:
        if attributes is None:
            raise UsageError("it has no attributes")
        return dict(plain(attributes))
    except UsageError as error:
        raise UsageError(
            f"the settings of this '{spec.id}' can't be read from its attributes ({error}), so "
            "its runs couldn't be distinguished; pass its class, and settings={…}"
        ) from error


def _plain_attributes(given: Any) -> dict[str, Any] | None:
    """The attributes of an instance as JSON's types; None where JSON can't hold them."""
    try:
        return dict(plain(vars(given)))
    except (TypeError, UsageError):
        return None


def _arguments_of(factory: Any, attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments that make an instance with some attributes, without those at their defaults.

    They give a run the key that the same class has with these settings. None where the class makes
    another instance of them.
    """
    found = {
        name: attributes[name]
        for name, parameter in inspect.signature(factory).parameters.items()
        if name in attributes and not _is_same(attributes[name], parameter.default)
    }
    try:
        with contained():
            again = factory(**found)
    except Exception:
        # An instance may be made in another way, or from what isn't there any more.
        return None
    return found if _plain_attributes(again) == attributes else None


def _is_same(value: Any, default: Any) -> bool:
    try:
        return bool(value == plain(default))
    except UsageError:
        return False


def _held(factory: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings that a class doesn't take: attributes of an instance."""
    parameters = inspect.signature(factory).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return {} if takes_all else {k: v for k, v in settings.items() if k not in parameters}


def _source(spec: AgentSpec, factory: Any) -> tuple[str | None, bool]:
    """The sha256 of the code of a user's or plug-in's agent, and whether a file defines it.

    Built-in agents have a version instead.
    """
    if spec.origin == OWN:
        return None, True
    if not inspect.isclass(factory):
        return target_sha256(spec.target), True
    source = defining_sha256(factory)
    if source is None and not is_own_class(factory):
        return loose_sha256(factory), False
    return source, True


def network_source(network: Network) -> str | None:
    """Return a network's source hash for the key: the agent's value, else the hash of its target.

    Raises:
        UsageError: the target can't be loaded.
    """
    source = network.source_sha256
    return target_sha256(network.name) if source is None and ":" in network.name else source


def _read(value: Any) -> Any:
    """A setting as typed; the path of a user's file in canonical form."""
    read = read_setting(value)
    return spelled(read) if isinstance(read, str) else read


def _validated(
    agent: str, config_type: type[BaseModel], base: Mapping[str, Any], given: Mapping[str, Any]
) -> BaseModel:
    _check_names(agent, given, list(config_type.model_fields))
    try:
        return config_type(**{**base, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the settings together"
        raise UsageError(
            f"agent '{agent}': bad value for {where}: {first['msg']}, got {first['input']!r}"
            if first["loc"]
            else f"agent '{agent}': {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _check_arguments(agent: str, factory: Any, given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    _check_names(agent, given, [parameter.name for parameter in parameters])


def _typed(
    agent: str,
    factory: Any,
    read: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return settings of a class without `Config` in the types of its arguments' annotations.

    Args:
        agent: id, for messages.
        factory: the class or function that makes it.
        read: settings as typed.
        given: the same settings as they were given, which is what an argument of type `str` takes.

    Raises:
        UsageError: a value isn't of the annotated type.
    """
    parameters = inspect.signature(factory).parameters
    hints = _hints(factory.__init__ if inspect.isclass(factory) else factory)
    kept: dict[str, Any] = {}
    for name, value in read.items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        hint = hints.get(name, float if type(default) is float and type(value) is int else Any)
        # A default may be of another type than its annotation, as in `layers: list = None`.
        fits = type(value) is type(default) and value == default
        kept[name] = value if fits else _of_type(agent, name, hint, value, given[name])
    return kept


def _hints(function: Any) -> dict[str, Any]:
    """Return the types of a function's arguments, without those that can't be resolved."""
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        # An annotation may name what isn't there, which nothing else needs.
        with contextlib.suppress(Exception):
            hints |= get_type_hints(alone, getattr(function, "__globals__", None))
    return hints


def _as_recorded(value: Any) -> Any:
    """A setting as records hold it; infinity, which JSON lacks, stays."""
    return value if isinstance(value, bool | int | float | str | list) else plain(value)


def _of_type(agent: str, name: str, hint: Any, value: Any, given: Any) -> Any:
    """The value in the type of an annotation; as it is where records couldn't hold the result."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except PydanticUserError:
        return value
    try:
        typed = adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(given, str):
            with contextlib.suppress(ValidationError):
                return adapter.validate_python(given)
        first = error.errors(include_url=False)[0]
        raise UsageError(
            f"agent '{agent}': bad value for {name}: {first['msg']}, got {value!r}"
        ) from error
    try:
        plain(typed)
    except UsageError:
        return value
    return typed


def _check_names(agent: str, given: Iterable[str], allowed: list[str]) -> None:
    for key in given:
        if key not in allowed:
            raise UsageError(
                f"agent '{agent}' has no setting '{key}'.{nearest(key, allowed)} "
                f"Settings: {', '.join(allowed) or 'none'}"
            )
