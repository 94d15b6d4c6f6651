"""Parts that the checks of agents and environments share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lazybench.errors import LazybenchError
from lazybench.findings import Finding
from lazybench.plugins import raised_at

Scores = NDArray[np.float64]

_CHANCE = 0.005
"""Chance that an agent that learns nothing passes as better."""


class Broken(Exception):
    """The contract is violated; the message is advice."""


def look(name: str, check: Callable[[], str], contract: str = "") -> Finding:
    """Run a check and return its finding: its result, or the error that it raised, with advice.

    Args:
        name: name of the check.
        check: raises `Broken` if the contract is violated.
        contract: the expected behaviour, added to the message of any other error.
    """
    try:
        return Finding(name, True, check())
    except (Broken, LazybenchError) as error:
        return Finding(name, False, str(error))
    except Exception as error:
        where = Path(raised_at(error)).name
        advice = f"; {contract}" if contract else ""
        text = f"raised {type(error).__name__}: {error} ({where}){advice}"
        return Finding(name, False, text)


def same(one: Any, other: Any) -> bool:
    """Return whether two arrays are equal in type, shape and every bit."""
    first, second = (torch.as_tensor(each).detach().cpu().contiguous() for each in (one, other))
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and first.numpy().tobytes() == second.numpy().tobytes()


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the name of an entry that has changed, or an empty string."""
    if set(before) != set(after):
        return ", ".join(sorted(set(before) ^ set(after)))
    return next((name for name in before if not same(before[name], after[name])), "")


def copied(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of an observation."""
    return {
        name: part.clone() if isinstance(part, torch.Tensor) else np.array(part)
        for name, part in observation.items()
    }


def ahead(ours: Scores, theirs: Scores, better: str) -> bool:
    """Return whether paired scores are better than chance allows.

    It uses signed ranks, since regression errors have heavy tails, which hide differences of means.

    Reference: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin, 1945.
    """
    gains = ours - theirs if better == "higher" else theirs - ours
    if not gains.any():
        return False
    return bool(stats.wilcoxon(gains, alternative="greater").pvalue < _CHANCE)


class Zeros:
    """A policy that predicts 0, which every trained agent must beat."""

    vectorized = True

    def __call__(self, observation: Mapping[str, Any], memory: Any = None) -> tuple[Any, Any]:
        """Return zeros, one for each label or value to predict."""
        asked = observation["query_y" if "query_y" in observation else "y"]
        return torch.zeros_like(torch.as_tensor(asked)), None


@contextmanager
def global_state_untouched() -> Iterator[None]:
    """Check that a block doesn't use global random state or change torch's global settings.

    Raises:
        Broken: it does; the message says which, and what to use instead.
    """
    before = _global_state()
    yield
    after = _global_state()
    advice = {
        "torch's global generator": (
            "pass generator=rng.torch(), or make modules, which take none, in init"
        ),
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
