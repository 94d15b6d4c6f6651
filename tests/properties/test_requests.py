"""A run's key and folder: moved by what can move a score, and by nothing else that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazybench.runner.request import RunRequest
from lazybench.runner.resolve import ResolvedRun, resolve

LIKE_CI = settings(max_examples=25, deadline=None, derandomize=True, database=None)
ENV = "sinusoid-5shot"
SAME: dict[str, st.SearchStrategy[Any]] = {
    "threads": st.sampled_from([None, 1, 7]),
    "out": st.sampled_from([Path("leaderboards"), Path("/elsewhere/store")]),
    "runs": st.sampled_from([Path("runs"), Path("/elsewhere/runs")]),
    "force": st.booleans(),
    "device": st.sampled_from(["cpu"]),
}
OTHER: dict[str, st.SearchStrategy[Any]] = {
    "agent": st.sampled_from(["reptile", "maml"]),
    "env": st.sampled_from([ENV, "sinusoid-10shot"]),
    "budget": st.sampled_from(["smoke", "small"]),
    "seed": st.integers(0, 2),
    "overrides": st.sampled_from([{}, {"inner_steps": 3}, {"inner_steps": "3"}, {"inner_lr": 0.5}]),
    "limit": st.sampled_from([None, 3]),
}


def read(values: dict[str, Any]) -> tuple[Any, ...]:
    """What is requested, as it is understood: `3` typed on a command line is the number."""
    overrides = {name: str(value) for name, value in values["overrides"].items()}
    return tuple(str(overrides if name == "overrides" else values[name]) for name in OTHER)


@LIKE_CI
@given(
    one=st.fixed_dictionaries(OTHER),
    two=st.fixed_dictionaries(OTHER),
    here=st.fixed_dictionaries(SAME),
    there=st.fixed_dictionaries(SAME),
)
def test_two_requests_share_a_key_where_they_ask_for_the_same_run(
    one: dict[str, Any], two: dict[str, Any], here: dict[str, Any], there: dict[str, Any]
) -> None:
    left = resolve(RunRequest(**one, **here))
    assert left.key == resolve(RunRequest(**one, **there)).key
    right = resolve(RunRequest(**two, **there))
    assert (left.key == right.key) is (read(one) == read(two))
    if left.key != right.key:
        assert left.folder.name != right.folder.name
    assert left.folder.parent == here["runs"]


@pytest.fixture(scope="module")
def cell() -> ResolvedRun:
    return resolve(RunRequest("chance", ENV, "smoke", runs=Path("runs")))


@settings(LIKE_CI, max_examples=200)
@given(names=st.lists(st.text(min_size=1, max_size=90), min_size=2, max_size=2, unique=True))
def test_folders_of_agents_with_any_names_are_safe_and_apart(
    cell: ResolvedRun, names: list[str]
) -> None:
    folders = []
    for name in names:
        spec = replace(cell.agent.spec, id=name)
        other = replace(cell, agent=replace(cell.agent, spec=spec))
        folders.append(other.folder)
        assert other.folder.parent == Path("runs")
        assert set(other.folder.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
        assert len(other.folder.name) < 200
        assert not other.folder.name.startswith("-")
    # The keys are the same here, so the names alone keep them apart.
    assert folders[0] != folders[1]
