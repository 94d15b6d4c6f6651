"""Any sound record comes back from JSON as it was; its key is made of what moves a score alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazybench.records import Record, Store, Trials

LIKE_CI = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# JSON in Python holds lone surrogates, UTF-8 doesn't.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TABLE = st.dictionaries(TEXT, PLAIN, max_size=4)
SCALARS = st.dictionaries(TEXT, st.one_of(st.none(), st.booleans(), NUMBERS, TEXT), max_size=3)
SHA256 = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
METRIC = st.fixed_dictionaries(
    {
        "value": st.floats(),
        "ci95": st.none() | st.tuples(st.floats(), st.floats()),
        "n": st.integers(0, 9),
        "unit": TEXT,
        "better": st.sampled_from(["higher", "lower"]),
    }
)
SCORES = st.lists(st.floats(width=32), max_size=5)


@st.composite
def some_trials(draw: st.DrawFn) -> Trials:
    scores = draw(SCORES)
    width = draw(st.integers(0, 3))
    row = st.lists(st.integers(-(2**40), 2**40), min_size=width, max_size=width)
    rows = np.array([draw(row) for _ in scores], np.int64)
    answers = draw(st.sampled_from([None, rows]))
    columns = {"queries": draw(st.permutations(range(len(scores))))}
    return Trials.of(scores, answers, draw(st.sampled_from([{}, columns])))


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["ok", "diverged", "failed", "oom", "timeout"]),
        "reason": st.none() | TEXT,
        "config": TABLE,
        "overrides": TABLE,
        "diagnostics": TABLE,
        "curve": st.lists(TABLE, max_size=3),
        "metrics": st.dictionaries(TEXT, METRIC, max_size=2),
        "trials": some_trials(),
        "cost": st.fixed_dictionaries(
            {}, optional={"wall_s": st.floats(0), "queries": st.integers(0)}
        ),
        "limited": st.booleans(),
        "isolated": st.booleans(),
        "world_size": st.integers(1, 9),
        "trained_on": st.none() | TEXT,
        "fit": st.none() | SHA256,
        "env__id": TEXT,
        "env__protocol": SCALARS,
        "agent__id": TEXT,
        "agent__source_sha256": st.none() | SHA256,
        "network": st.none()
        | st.fixed_dictionaries({"name": TEXT, "parameters": st.integers(0, 2**60)}),
    },
)


@LIKE_CI
@given(changes=FIELDS)
def test_a_record_comes_back(
    record_fields: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    changes: dict[str, Any],
) -> None:
    record = Record.keyed(**record_fields(**changes))
    text = record.to_json()
    again = Record.from_json(text)
    assert again == record
    assert again.to_json() == text
    assert again.comparable() == record.comparable()
    assert text.isascii()
    store = Store(tmp_path_factory.mktemp("store"))
    path = store.publish(record)
    assert path.resolve().is_relative_to(store.root.resolve() / "records")
    assert store.records() == [record]
    assert store.find(record.key) == record


# What can move a score, each in a way of its own.
MOVES: dict[str, Any] = {
    "env__id": "glyphs-5way-5shot",
    "env__version": 2,
    "env__protocol": {"trials": 5},
    "data__fingerprint": "cd" * 32,
    "data__prep": "2",
    "agent__id": "maml",
    "agent__version": 2,
    "agent__source_sha256": "ef" * 32,
    "config": {"lr": 0.2},
    "budget": "paper",
    "seed": 1,
    "precision": "bf16",
    "device": "cuda",
    "world_size": 2,
    "limited": True,
    "trained_on": "omniglot 3f9c01d2 450",
    "network": {"name": "conv4-32", "parameters": 1},
}
# What can't: where, when, by whom, how fast, and what came out.
STAYS: dict[str, Any] = {
    "status": "failed",
    "reason": "x",
    "overrides": {"lr": 0.1},
    "preset": "paper",
    "machine__threads": 64,
    "machine__processor": "other",
    "machine__python": "3.13",
    "code__commit": "0" * 40,
    "code__dirty": True,
    "started": "2030-01-01T00:00:00Z",
    "cost": {"wall_s": 3.0, "peak_memory_bytes": 5},
    "diagnostics": {"a": 1},
    "curve": [{"step": 1}],
    "data__source": "a mirror",
    "data__name": "another name",
    "track": "none",
    "untuned": True,
    "tuning": {"trials": 9, "cpu_s": 1.0},
    "kind": "submitted",
    "fit": "ab" * 32,
    "isolated": True,
}


def test_no_field_of_a_record_is_forgotten_here() -> None:
    named = {name.partition("__")[0] for name in MOVES | STAYS}
    rest = {"schema_version", "key", "metrics", "trials", "checkpoint"}
    assert named | rest == set(Record.model_fields)


@LIKE_CI
@given(
    moved=st.lists(st.sampled_from(sorted(MOVES)), unique=True, max_size=4),
    extra=st.lists(st.sampled_from(sorted(STAYS)), unique=True, max_size=6),
)
def test_the_key_is_made_of_what_moves_a_score_alone(
    record_fields: Callable[..., dict[str, Any]], moved: list[str], extra: list[str]
) -> None:
    moves = {name: MOVES[name] for name in moved}
    plain = Record.keyed(**record_fields(**moves))
    other = Record.keyed(**record_fields(**moves, **{name: STAYS[name] for name in extra}))
    assert plain.key == other.key
    seen = {plain.key}
    for name in MOVES.keys() - moves.keys():
        seen.add(Record.keyed(**record_fields(**moves, **{name: MOVES[name]})).key)
    assert len(seen) == 1 + len(MOVES) - len(moves)


def test_where_a_record_lies_is_its_own(record_fields: Any) -> None:
    hostile = ["..", ".", "a/b", "a\\b", "CON", "a" * 300, "A", "a", "é", "-rf", "~", "a\nb", "%2e"]
    store = Store("store")
    paths = {
        store.path(Record.keyed(**record_fields(env__id=env, agent__id=agent)))
        for env in hostile
        for agent in hostile
    }
    assert len({str(path).lower() for path in paths}) == len(hostile) ** 2
    for path in paths:
        assert path.parts[:2] == ("store", "records")
        assert len(path.parts) == 5
        assert not any(part.startswith("-") or part in (".", "..") for part in path.parts)
        assert Path(path).name.endswith(".json")
