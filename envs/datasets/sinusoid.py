"""Sine waves: a regression task family without labels or images, drawn afresh for each trial."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, np.pi)
INPUT = (-5.0, 5.0)


@dataclass(frozen=True)
class Sinusoid:
    """Sine waves y = a sin(x - p), a in [.1, 5], p in [0, pi], x in [-5, 5], all uniform.

    Reference: Finn et al. 2017, section 5.1.
    """

    name: str = "sinusoid"
    prep: str = "1"
    source: str = "generated"

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the family's definition."""
        return hashlib.sha256(repr((AMPLITUDE, PHASE, INPUT, self.prep)).encode()).hexdigest()

    def draw(
        self, keys: NDArray[np.uint64], points: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return inputs and targets, `[R, points, 1]` float32 each, one wave for each of R keys."""
        amplitude = _between(seeding.mix(keys, 0), AMPLITUDE)[:, None]
        phase = _between(seeding.mix(keys, 1), PHASE)[:, None]
        x = _between(seeding.mix(keys[:, None], np.arange(2, points + 2)), INPUT)
        y = amplitude * np.sin(x - phase)
        return x[..., None].astype(np.float32), y[..., None].astype(np.float32)


def open_sinusoid() -> Sinusoid:
    """Return the family of sine waves."""
    return Sinusoid()


def _between(keys: NDArray[np.uint64], bounds: tuple[float, float]) -> NDArray[np.float64]:
    low, high = bounds
    return low + (high - low) * seeding.uniform(keys)
