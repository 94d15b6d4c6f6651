"""Settings of few-shot agents that a search chose for `medium`, by the kind of task.

Each entry is the best configuration of a search under `leaderboards/tuning/`, on validation tasks
of one environment of its kind. A test compares this table with those files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazybench.specs import EnvSpec

_PIXELS = {"omniglot": 28, "glyphs": 28, "cifarfs": 32}


@dataclass(frozen=True)
class TaskKind:
    """Environments that share tuned settings.

    Attributes:
        pixels: width of an image.
        many_ways: 20 ways or more.
        many_shots: more than one shot.
    """

    pixels: int
    many_ways: bool
    many_shots: bool


def task_kind(env: EnvSpec) -> TaskKind | None:
    """Return the kind of tasks that `env` draws, or None where nothing was tuned for its data."""
    pixels = _PIXELS.get(env.data)
    if pixels is None or "way" not in env.kwargs:
        return None
    return TaskKind(pixels, int(env.kwargs["way"]) >= 20, int(env.kwargs["shot"]) > 1)


TUNED: Mapping[TaskKind, Mapping[str, Mapping[str, Any]]] = {
    # omniglot-5way-1shot
    TaskKind(28, many_ways=False, many_shots=False): {
        "protonet": {"lr": 0.0041, "temperature": 4.0},
        "maml": {"inner_lr": 0.137, "outer_lr": 0.0023},
        "reptile": {"inner_lr": 0.00819, "outer_lr": 0.804},
        "lazy_reptile": {"inner_lr": 0.00819, "outer_lr": 3.22},
        "lazy_maml": {"inner_lr": 0.137, "outer_lr": 0.00461},
    },
}
"""Settings that differ from the preset, by kind of task and agent."""

_CONTROL_OF = {"reptile_matched": "lazy_reptile"}


def tuned(algorithm: str, env: EnvSpec) -> Mapping[str, Any]:
    """Return the settings that a search chose for `algorithm` on tasks like those of `env`.

    A control takes the settings of the agent that it is compared with. Empty where there was no
    search.
    """
    kind = task_kind(env)
    found = TUNED.get(kind, {}) if kind else {}
    return found.get(_CONTROL_OF.get(algorithm, algorithm), {})
