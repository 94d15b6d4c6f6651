from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lazybench.runner.request import ResolvedAgent, RunRequest, read_setting
from lazybench.runner.run_dir import RunOptions, options_text
from lazybench.specs import AgentSpec

VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def agent(overrides: dict[str, Any]) -> ResolvedAgent:
    spec = AgentSpec("x", ("fewshot",), "m:C")
    return ResolvedAgent(spec, None, None, {}, overrides, None, asked="x")  # type: ignore[arg-type]


@example({"0": "true", "1": "12", "2": '"quoted"', "3": ["1"], "4": "null", "5": "1e999"})
@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=4))
@settings(max_examples=60, deadline=None)
def test_settings_are_read_as_they_were(overrides: dict[str, Any]) -> None:
    """Through TOML and the reading of settings, every value is what a run makes of it anyway."""
    text = options_text(RunRequest("x", "e"), agent(overrides))
    found = RunOptions(**tomllib.loads(text)).settings
    assert {name: read_setting(value) for name, value in found.items()} == overrides


def test_options_that_are_not_given_are_left_out() -> None:
    text = options_text(RunRequest("x", "e", isolated=True, threads=2), agent({}))
    assert tomllib.loads(text) == {
        "agent": "x", "env": "e", "budget": "small", "seed": 0, "precision": "fp32",
        "device": "cpu", "threads": 2, "isolated": True, "out": "leaderboards", "runs": "runs",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["timeout-per-episode", "allow-overlap"])
def test_keys_are_the_names_of_options(name: str) -> None:
    given = {"timeout-per-episode": 2.5, "allow-overlap": True}
    found = RunOptions(**{name: given[name]}).model_dump(exclude_none=True)
    assert found[name.replace("-", "_")] == given[name]
