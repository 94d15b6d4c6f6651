"""Which environment a request names, with what settings, and how many trials it is judged on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lazybench.checks import check_text, check_whole
from lazybench.errors import UnknownName, UsageError, nearest
from lazybench.registry import DATASETS, ENVS
from lazybench.specs import BUDGETS, EnvSpec

_TOLD = 40


def resolve_env(name: str) -> tuple[EnvSpec, str]:
    """Return an environment's spec and the note on how its name was resolved ('' if it wasn't).

    Raises:
        UnknownName: no such environment.
    """
    try:
        found = ENVS.resolve(name)
    except UnknownName as error:
        if name in {spec.id for spec in DATASETS.specs()}:
            raise UnknownName(
                f"'{name}' is a data set; its environments are {name}-5way-1shot and the like. See "
                "all with: lazybench list envs"
            ) from error
        raise
    return found.spec, found.note


def with_protocol(spec: EnvSpec, given: Mapping[str, Any]) -> EnvSpec:
    """Return an environment's spec with some of its settings replaced.

    Raises:
        UsageError: a setting that the environment doesn't have or doesn't let a run choose.
    """
    for name in given:
        if name not in spec.options:
            raise UsageError(
                f"{spec.id} has no setting '{name}' that a run may choose."
                f"{nearest(name, spec.options)} Settings: {', '.join(spec.options) or 'none'}"
            )
    if not given:
        return spec
    return replace(spec, kwargs={**spec.kwargs, **{k: read_setting(v) for k, v in given.items()}})


def check_budget(budget: str) -> str:
    """Return `budget`.

    Raises:
        UsageError: no such budget.
    """
    check_text("budget", budget)
    if budget not in BUDGETS:
        raise UsageError(
            f"budget must be one of {', '.join(BUDGETS)}, got '{budget}'.{nearest(budget, BUDGETS)}"
        )
    return budget


def official_trials(env: EnvSpec, budget: str) -> int:
    """Return the number of official test trials of an environment at a budget.

    Raises:
        UsageError: no such budget, or one that the environment has no trials for.
    """
    check_budget(budget)
    if not (env.trials.get(budget) and env.val_trials.get(budget)):
        raise UsageError(
            f"environment '{env.id}' has no trials at budget {budget}; its EnvSpec needs trials "
            f"and val_trials for it, got {dict(env.trials)} and {dict(env.val_trials)}"
        )
    return env.trials[budget]


def chosen_trials(env: EnvSpec, budget: str, limit: int | None) -> tuple[int, bool]:
    """Return how many test trials to judge, and whether that is fewer than are official.

    Raises:
        UsageError: no such budget, a limit below 1, or one where the test is one whole pass.
    """
    if limit is not None and check_whole("limit", limit, least=None) < 1:
        raise UsageError(f"limit must be at least 1 trial, got {limit}")
    official = official_trials(env, budget)
    if limit is None or limit >= official:
        return official, False
    if env.vector_target is None:
        raise UsageError(f"{env.id} is judged in one pass over its test set; leave --limit out")
    return limit, True


def read_setting(value: Any) -> Any:
    """A setting typed as text: JSON where it is (numbers, lists, true, null), else the text.

    Raises:
        UsageError: a number that isn't finite, or a whole one beyond 64 bits; an infinite float
            that a caller gives as such is left to whoever takes the setting.
    """
    if not isinstance(value, str):
        return in_range(value, value)
    try:
        return in_range(json.loads(value), value, finite=True)
    except json.JSONDecodeError:
        return value
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"a setting can't be read ({error}), got '{value[:40]}...'") from error


def in_range(value: Any, told: Any, *, finite: bool = False) -> Any:
    """The value of a setting, once all its numbers can be computed with.

    Args:
        value: as JSON holds it.
        told: what to show where it is refused.
        finite: whether floats must be finite.

    Raises:
        UsageError: a number that isn't finite, or a whole one beyond 64 bits.
    """
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        for item in items:
            in_range(item, told, finite=finite)
    whole = isinstance(value, int) and not -(2**63) <= value < 2**63
    if whole or (finite and isinstance(value, float) and not math.isfinite(value)):
        shown = str(told)
        raise UsageError(
            "a setting's numbers must be finite, whole ones of at most 64 bits, got "
            f"'{shown if len(shown) <= _TOLD else shown[:_TOLD] + '...'}'"
        )
    return value
