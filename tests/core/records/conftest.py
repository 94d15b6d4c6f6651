"""Records made by hand for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lazybench.records import Record, Trials

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record() -> MakeRecord:
    """A function from changed fields to a keyed record; `env__id="x"` changes `env.id`."""

    def make(**changes: Any) -> Record:
        fields: dict[str, Any] = {
            "status": "ok",
            "env": {
                "id": "glyphs-5way-1shot",
                "version": 1,
                "family": "fewshot",
                "metric": "accuracy",
                "better": "higher",
                "unit": "fraction",
                "protocol": {"trials": 4},
            },
            "data": {"name": "glyphs", "fingerprint": "ab" * 32, "prep": "1", "source": "embedded"},
            "agent": {
                "id": "reptile",
                "origin": "lazybench",
                "trained_by": "lazybench",
                "resumable": True,
            },
            "config": {"lr": 0.1, "nested": {"k": 5}},
            "preset": "small",
            "budget": "small",
            "seed": 0,
            "metrics": {
                "accuracy": {"value": 0.4375, "n": 4, "unit": "fraction", "better": "higher"}
            },
            "trials": Trials.of([0.5, 0.25, 1, 0]),
            "curve": [{"step": 1, "accuracy": 0.3, "wall_s": 1.5}],
            "cost": {"wall_s": 3.5, "inner_steps": 10},
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
