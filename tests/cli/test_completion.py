"""What a shell is offered for arguments that name something."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lazybench.cli import options
from lazybench.records import write_json

KEY = "abcdef123456" + "0" * 52


def given(**params: Any) -> Any:
    """What a callback gets: the values of the arguments that come before."""
    return SimpleNamespace(params=params)


def test_settings_are_those_of_the_agent_before() -> None:
    found = options.complete_setting(given(agent="maml"), "inner_s")
    assert "inner_steps=" in found
    assert all(name.startswith("inner_s") for name in found)
    assert options.complete_setting(given(agent="maml"), "batch_norm=t") == [
        "batch_norm=transductive"
    ]
    assert options.complete_setting(given(agent="maml"), "adapt_norm=") == [
        "adapt_norm=true",
        "adapt_norm=false",
    ]
    attack = options.complete_setting(given(agent="square"), "")
    assert "inner_steps=" not in attack
    assert attack


@pytest.mark.parametrize("agent", [None, "nobody", "mine.py:Mine"])
def test_without_an_installed_agent_there_are_no_settings(agent: str | None) -> None:
    assert options.complete_setting(given(agent=agent), "") == []


def test_protocol_settings_are_those_of_the_environment_before() -> None:
    found = options.complete_protocol(given(env="glyphs-net4-untargeted"), "query")
    assert found == ["query_budget="]
    assert options.complete_protocol(given(env="nothing"), "") == []
    assert options.complete_protocol(given(), "") == []


def test_runs_and_records_are_named_by_their_keys(store: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "reptile-x"
    facts = {"key": KEY, "agent": "reptile", "env": "x", "budget": "small", "seed": 0}
    write_json(folder / "config.json", facts)
    keys = sorted(record.key12 for record in store.records())
    places = given(runs=tmp_path / "runs", out_dir=store.root)
    assert options.complete_run(places, "abc") == [KEY[:12]]
    assert options.complete_run(places, str(tmp_path)) == [str(folder)]
    assert options.complete_record(places, "") == keys
    assert options.complete_record(places, keys[0][:5]) == [keys[0]]
    assert options.complete_key(places, "") == [KEY[:12], str(folder), *keys]
    assert keys[0] in options.complete_row(places, keys[0][:6])
    assert "maml" in options.complete_row(places, "mam")
    shown = options.complete_shown(places, "")
    assert {"maml", "glyphs-5way-1shot", "glyphs", KEY[:12], keys[0]} <= set(shown)


def test_nothing_is_offered_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert options.complete_key(given(), "") == []


def test_budgets_and_suites() -> None:
    assert options.complete_budget("s") == ["smoke", "small"]
    assert "table2" in options.complete_suite("tab")


def test_the_last_of_a_list_is_completed() -> None:
    found = options.complete_envs("glyphs-5way-1shot,sinusoid-")
    assert found == ["glyphs-5way-1shot,sinusoid-10shot", "glyphs-5way-1shot,sinusoid-5shot"]
    assert options.complete_agents("maml,ours=reptile|matching_n") == [
        "maml,ours=reptile|matching_net"
    ]


def test_plug_ins_are_of_the_kind_before() -> None:
    assert options.complete_plug_in(given(kind="env"), "sinusoid-5") == ["sinusoid-5shot"]
    assert options.complete_plug_in(given(kind="agent"), "protone") == ["protonet"]


def test_trackers() -> None:
    assert options.complete_tracker("") == ["tensorboard", "wandb", "mlflow", "aim"]
