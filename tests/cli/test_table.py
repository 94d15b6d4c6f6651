"""`lazybench table`: agents against environments, as text for a paper."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.cli.compare import parse_agents, split_names
from lazybench.errors import UsageError
from lazybench.records import Store

ENV = "glyphs-5way-1shot"


@pytest.fixture
def store(lazybench: Any, make_record: Any) -> Store:
    store = Store("leaderboards")
    store.publish(make_record("reptile"))
    store.publish(make_record("chance"))
    return store


@pytest.mark.parametrize(
    ("form", "shown"),
    [("md", "| Ours "), ("latex", r"\begin{tabular}"), ("csv", f'agent,"{ENV}, accuracy (%)"')],
)
def test_formats(lazybench: Any, store: Store, form: str, shown: str) -> None:
    argv = ("--agents", "Ours=reptile,chance", "--envs", f"{ENV},omniglot-5way-1shot")
    done = lazybench("table", *argv, "--format", form)
    assert done.code == 0, done.err
    assert shown in done.out
    if form == "csv":  # begins with its header; a column names the command
        assert "lazybench table --agents" in done.out.splitlines()[1]
    else:
        assert "Made by `lazybench table --agents" in done.out.splitlines()[0]


def test_an_alias_is_resolved_and_reported(lazybench: Any, store: Store) -> None:
    done = lazybench("table", "-a", "reptile", "-e", "tiered-5way-1shot")
    assert f"| {ENV} " in done.out.splitlines()[2]
    assert "tiered" in done.err


def test_an_agent_without_records_is_a_gap_and_a_typo_an_error(
    lazybench: Any, store: Store
) -> None:
    done = lazybench("table", "-a", "reptile,maml", "-e", ENV)
    assert done.code == 0
    assert "| maml" in done.out
    done = lazybench("table", "-a", "reptile,reptil", "-e", ENV)
    assert done.code == 2
    assert "Did you mean: reptile" in done.err


@pytest.mark.parametrize(
    "argv",
    [
        ("-a", "reptile", "-e", "no-such-env"),
        ("-a", "reptile", "-e", ENV, "-b", "smoke"),
        ("-a", "reptile,reptile", "-e", ENV),
        ("-a", ",", "-e", ENV),
        ("-a", "reptile", "-e", ENV, "--protocol", "x"),
        ("-a", "maml", "-e", ENV),
    ],
)
def test_usage_errors(lazybench: Any, store: Store, argv: tuple[str, ...]) -> None:
    assert lazybench("table", *argv).code == 2


def test_names_with_settings_are_kept_whole() -> None:
    rows = parse_agents("Ours=lazy (a=1, b=2)|3f9c01d2,reptile (k=5),x|y")
    assert [(row.label, row.names) for row in rows] == [
        ("Ours", ("lazy (a=1, b=2)", "3f9c01d2")),
        ("reptile (k=5)", ("reptile (k=5)",)),
        ("x", ("x", "y")),
    ]
    with pytest.raises(UsageError, match="the same label to two rows"):
        parse_agents("A=x,A=y")
    with pytest.raises(UsageError, match="LABEL=NAME"):
        parse_agents("A=")
    assert split_names("a, b", "--envs") == ["a", "b"]
