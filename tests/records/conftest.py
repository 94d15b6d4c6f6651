"""Records made by hand for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lazybench.records import Record, Trials

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record(record_fields: Callable[..., dict[str, Any]]) -> MakeRecord:
    """A function from changed fields to a keyed record; `env__id="x"` changes `env.id`."""

    given = {
        "config": {"lr": 0.1, "nested": {"k": 5}},
        "metrics": {"accuracy": {"value": 0.4375, "n": 4, "unit": "fraction", "better": "higher"}},
        "trials": Trials.of([0.5, 0.25, 1, 0]),
        "curve": [{"step": 1, "accuracy": 0.3, "wall_s": 1.5}],
        "cost": {"wall_s": 3.5, "inner_steps": 10},
    }

    def make(**changes: Any) -> Record:
        return Record.keyed(**record_fields(given, **changes))

    return make
