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
def make_run() -> MakeRun:
    """A function `(agent, shift, seed, **changes)` to a record whose trials share a difficulty."""

    def make(agent: str, shift: float = 0.0, seed: int = 0, **changes: Any) -> Record:
        difficulty = np.random.default_rng(0).uniform(0.3, 0.7, changes.pop("n", N))
        noise = np.random.default_rng([zlib.crc32(agent.encode()), seed])
        scores = np.clip(difficulty + shift + noise.normal(0, 0.01, len(difficulty)), 0, 1)
        fields: dict[str, Any] = {
            "status": "ok",
            "env": {
                "id": "glyphs-5way-1shot",
                "version": 1,
                "family": "fewshot",
                "metric": "accuracy",
                "better": "higher",
                "unit": "fraction",
                "protocol": {"trials": N},
            },
            "data": {"name": "glyphs", "fingerprint": "ab" * 32, "prep": "1", "source": "embedded"},
            "agent": {
                "id": agent,
                "origin": "lazybench",
                "trained_by": "lazybench",
                "resumable": True,
            },
            "config": {"lr": 0.1},
            "preset": "small",
            "budget": "small",
            "seed": seed,
            "trials": Trials.of(scores) if changes.get("status", "ok") == "ok" else Trials(),
            "cost": {"train_wall_s": 10.0 + seed, "peak_memory_bytes": 5_000_000 + seed},
            "code": {"version": "0.1.0"},
            "machine": {
                "python": "3.11",
                "platform": "linux",
                "processor": "x86_64",
                "cores": 2,
                "threads": 1,
            },
            "started": "2026-01-01T00:00:00Z",
        }
        for name, value in changes.items():
            outer, _, inner = name.partition("__")
            fields[outer] = {**fields[outer], inner: value} if inner else value
        return Record.keyed(**fields)

    return make


@pytest.fixture
def store(tmp_path: Path, make_run: MakeRun) -> Store:
    """A store with two agents, one of them over two seeds."""
    store = Store(tmp_path / "leaderboards")
    for record in (make_run("a", 0.1), make_run("b"), make_run("b", seed=1)):
        store.publish(record)
    return store
