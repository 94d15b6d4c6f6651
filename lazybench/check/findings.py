"""What a check of a contract found, and the looks that agents and environments share."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lazybench.errors import LazybenchError

Scores = NDArray[np.float64]

_CHANCE = 0.005
"""How often something that learns nothing may seem to be ahead."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, whether it holds, and what was seen or what to do."""

    name: str
    ok: bool
    detail: str


class Broken(Exception):
    """A part of the contract that doesn't hold; the text is advice."""


def look(name: str, check: Callable[[], str], contract: str = "") -> Finding:
    """Return what a check found: what it returns, or what it raised, with advice.

    Args:
        name: of the check.
        check: raises `Broken` where something doesn't hold.
        contract: what should hold, told beside an error that nobody foresaw.
    """
    try:
        return Finding(name, True, check())
    except (Broken, LazybenchError) as error:
        return Finding(name, False, str(error))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        advice = f"; {contract}" if contract else ""
        text = f"raised {type(error).__name__}: {error} ({where}){advice}"
        return Finding(name, False, text)


def same(one: Any, other: Any) -> bool:
    """Return whether two arrays are equal, type, shape and every bit."""
    first, second = (torch.as_tensor(each).detach().cpu().contiguous() for each in (one, other))
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and first.numpy().tobytes() == second.numpy().tobytes()


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the name of an entry that isn't what it was, or an empty string."""
    if set(before) != set(after):
        return ", ".join(sorted(set(before) ^ set(after)))
    return next((name for name in before if not same(before[name], after[name])), "")


def copied(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Return an observation that shares no memory with the one given."""
    return {
        name: part.clone() if isinstance(part, torch.Tensor) else np.array(part)
        for name, part in observation.items()
    }


def ahead(ours: Scores, theirs: Scores, better: str) -> bool:
    """Return whether paired scores are better than chance allows.

    By signed ranks, since errors of regression have tails in which a mean sees nothing.

    Reference: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin, 1945.
    """
    gains = ours - theirs if better == "higher" else theirs - ours
    if not gains.any():
        return False
    return bool(stats.wilcoxon(gains, alternative="greater").pvalue < _CHANCE)


class Zeros:
    """Answers 0 to everything: what whoever has learned something is ahead of."""

    vectorized = True

    def __call__(self, observation: Mapping[str, Any], memory: Any = None) -> tuple[Any, Any]:
        """Return zeros, one for each label or value that is asked for."""
        asked = observation["query_y" if "query_y" in observation else "y"]
        return torch.zeros_like(torch.as_tensor(asked)), None


@contextmanager
def global_state_untouched() -> Iterator[None]:
    """Fail where the block draws from global random state or changes torch's global settings.

    Raises:
        Broken: it does; the message says which, and what to use instead.
    """
    before = _global_state()
    yield
    after = _global_state()
    advice = {
        "torch's global generator": "pass generator=rng.torch()",
        "numpy's global generator": "draw from rng.numpy()",
        "Python's global generator": "draw from rng.numpy(), or random.Random(rng.integer)",
        "torch's default dtype or gradient mode": "set it inside a `with` block",
    }
    for name, state in before.items():
        if after[name] != state:
            raise Broken(f"touches {name}, which others depend on; {advice[name]}")


def _global_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": (kind, np.asarray(keys).tobytes(), *rest),
        "Python's global generator": random.getstate(),
        "torch's default dtype or gradient mode": (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        ),
    }
