"""Stores of small made-up runs for the tests of the boards."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.records import Record, Store, Trials

MakeRun = Callable[..., Record]
N = 40


@pytest.fixture
def make_run(record_fields: Callable[..., dict[str, Any]]) -> MakeRun:
    """A function `(agent, shift, seed, **changes)` to a record whose trials share a difficulty.

    `scores` are the trials' own instead, and `n` their number.
    """

    def make(agent: str, shift: float = 0.0, seed: int = 0, **changes: Any) -> Record:
        difficulty = np.random.default_rng(0).uniform(0.3, 0.7, changes.pop("n", N))
        noise = np.random.default_rng([zlib.crc32(agent.encode()), seed])
        scores = np.clip(difficulty + shift + noise.normal(0, 0.01, len(difficulty)), 0, 1)
        scores = changes.pop("scores", scores)
        sound = changes.get("status", "ok") == "ok"
        given = {
            "seed": seed,
            "trials": Trials.of(scores) if sound else Trials(),
            "cost": {"train_wall_s": 10.0 + seed, "peak_memory_bytes": 5_000_000 + seed},
        }
        names = {"env__protocol": {"trials": N}, "agent__id": agent}
        return Record.keyed(**record_fields(given, **{**names, **changes}))

    return make


@pytest.fixture
def store(tmp_path: Path, make_run: MakeRun) -> Store:
    """A store with two agents, one of them over two seeds."""
    store = Store(tmp_path / "leaderboards")
    for record in (make_run("a", 0.1), make_run("b"), make_run("b", seed=1)):
        store.publish(record)
    return store
