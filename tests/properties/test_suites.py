"""Suites: every combination once, in the order of the file; what isn't one is told in a line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazybench.errors import UsageError
from lazybench.sweep.scheduler import SweepRequest, arguments
from lazybench.sweep.suite import Suite, expand, read_suite

LIKE_CI = settings(max_examples=60, deadline=None, derandomize=True, database=None)

# Few values and names with separators in them, so that cells meet that aren't the same.
NAMES = st.sampled_from(["a", "b", "a b", "x=1"])
VALUES = st.sampled_from([1, 2, "1", "1 y=2", True, 1.5, [1, 2], {"z": 1}])
TABLES = st.dictionaries(st.sampled_from(["x", "y", "eps"]), VALUES, max_size=2)
BLOCKS = st.fixed_dictionaries(
    {
        "agents": st.lists(NAMES, min_size=1, max_size=3),
        "envs": st.lists(NAMES, min_size=1, max_size=2),
    },
    optional={
        "seeds": st.lists(st.integers(0, 2), min_size=1, max_size=3),
        "budget": st.sampled_from(["smoke", "small"]),
        "set": TABLES,
        "protocol": TABLES,
        "grid": st.dictionaries(
            st.sampled_from(["x", "w"]), st.lists(VALUES, min_size=1, max_size=3), max_size=2
        ),
    },
)
SUITES = st.fixed_dictionaries(
    {"name": st.just("s"), "cells": st.lists(BLOCKS, min_size=1, max_size=3)}
)


def by_hand(suite: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells, one loop inside the other."""
    found: list[dict[str, Any]] = []
    for block in suite["cells"]:
        grid = block.get("grid", {})
        for agent in block["agents"]:
            for env in block["envs"]:
                for seed in block.get("seeds", [0]):
                    for chosen in itertools.product(*grid.values()):
                        cell = {
                            "agent": agent,
                            "env": env,
                            "seed": seed,
                            "budget": block.get("budget", "small"),
                            "settings": block.get("set", {}) | dict(zip(grid, chosen, strict=True)),
                            "protocol": block.get("protocol", {}),
                        }
                        # True is 1 to Python, and isn't on a command line.
                        if json.dumps(cell, sort_keys=True) not in [
                            json.dumps(each, sort_keys=True) for each in found
                        ]:
                            found.append(cell)
    return found


@LIKE_CI
@given(SUITES)
def test_every_combination_once_in_order(suite: dict[str, Any]) -> None:
    cells = [vars(cell) for cell in expand(Suite(**suite))]
    assert json.dumps(cells, sort_keys=True) == json.dumps(by_hand(suite), sort_keys=True)
    for cell in expand(Suite(**suite)):
        command = arguments(cell, SweepRequest())
        assert all(isinstance(word, str) and "\0" not in word for word in command)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(value))
    # None has no word in TOML, so that the whole file isn't one.
    return json.dumps(value).replace("\\ud", "\\\\ud").replace("\x7f", "\\u007f")


@LIKE_CI
@given(
    suite=SUITES,
    place=st.sampled_from(
        ["agents", "envs", "seeds", "budget", "set", "protocol", "grid", "other"]
    ),
    junk=JUNK,
)
def test_what_is_no_suite_is_reported_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, suite: dict[str, Any], place: str, junk: Any
) -> None:
    suite["cells"][0] = suite["cells"][0] | {place: junk}
    path = tmp_path_factory.mktemp("suite") / "s.toml"
    path.write_text(f"name = 's'\ncells = {as_toml(suite['cells'])}\n", "utf-8")
    message = ""
    try:
        assert expand(read_suite(str(path)))
    except UsageError as error:
        message = str(error)
    assert not message or str(path) in message
    assert len(message) < 1000
    assert message or place != "other"


@pytest.mark.parametrize(
    "line",
    [
        "set = { x = 1979-05-27 }",
        "grid = { x = [] }",
        "grid = { x = 1 }",
        "seeds = [-1]",
        "seeds = []",
        "agents = []",
        "budget = 'tiny'",
        "more = 1",
    ],
)
def test_blocks_that_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.toml"
    given = {"agents": "agents = ['a']", "envs": "envs = ['e']"} | {line.split()[0]: line}
    path.write_text("name = 's'\n[[cells]]\n" + "\n".join(given.values()))
    with pytest.raises(UsageError, match=line.split()[0]):
        read_suite(str(path))
