"""`list`, `show`, `data`, `check`, `version`: what they say about what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lazybench.cli.listing import patterns
from lazybench.findings import Finding
from lazybench.records import Store
from lazybench.registry import AGENTS, ENVS
from lazybench.specs import EnvSpec


def test_agents_are_listed(lazybench: Any) -> None:
    done = lazybench("list", "agents")
    assert done.code == 0
    for spec in AGENTS.specs():
        assert any(line.startswith(f"{spec.id} ") for line in done.out.splitlines())


def test_envs_as_json(lazybench: Any) -> None:
    found = json.loads(lazybench("list", "envs", "--json").out)
    assert [env["id"] for env in found["envs"]] == [spec.id for spec in ENVS.specs()]
    installed = {env["data"]: env["data_installed"] for env in found["envs"]}
    assert installed["glyphs"] is True
    assert installed["omniglot"] is False


def spelled_out(pattern: str) -> set[str]:
    """The ids of a pattern, by cutting it at its first brace or bracket again and again."""
    first = re.search(r"\{(.*?)\}|\[(.*?)\]", pattern)
    if first is None:
        return {pattern}
    values = first[1].split(",") if first[2] is None else ["", first[2]]
    head, rest = pattern[: first.start()], pattern[first.end() :]
    return set().union(*(spelled_out(head + value + rest) for value in values))


def test_envs_are_listed_by_pattern(lazybench: Any) -> None:
    lines = lazybench("list", "envs").out.splitlines()[2:]
    names = [line.split()[0] for line in lines]
    assert "glyphs-{5,20,30,50}way-{1,5}shot[-noniid]" in names
    assert "mnist-net4-{targeted,untargeted}[-label][-linf]" in names
    found = [spelled_out(name) for name in names]
    # Each environment is in one line, and no line names one that isn't there.
    assert set().union(*found) == {spec.id for spec in ENVS.specs()}
    assert sum(map(len, found)) == len(ENVS.specs())
    assert len(names) < len(ENVS.specs()) / 4
    each = lazybench("list", "envs", "--all").out.splitlines()[2:]
    assert [line.split()[0] for line in each] == [spec.id for spec in ENVS.specs()]


def test_incomplete_patterns_are_spelled_out() -> None:
    ids = ("d-5way-1shot", "d-5way-5shot", "d-20way-1shot", "d-20way-1shot-noniid", "d-x", "e-x")
    specs = [EnvSpec(name, "fewshot", "m:C", None, name[0]) for name in ids]
    found = {name: [spec.id for spec in members] for name, members in patterns(specs)}
    assert found == {name: [name] for name in ids}


def test_family_filters(lazybench: Any) -> None:
    assert lazybench("list", "agents", "--family", "attack").out.count("lazy_maml") == 0
    assert "lazy_maml" in lazybench("list", "agents", "--family", "fewshot").out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("list", "agents", "--all"), "--all goes with envs"),
        (("list", "runs", "--family", "fewshot"), "--family goes with agents and envs"),
        (("list", "agents", "--family", "fewsot"), "fewshot"),
        (("list", "boards"), "agents"),
        (("lst",), "Did you mean 'list'?"),
        (("show", "lazi_reptile"), "Did you mean: lazy_reptile"),
        (("show", "abcdef12"), "no record in leaderboards and no run in runs"),
        (("show", "reptile", "--budget", "small"), "--budget goes with --env"),
        (("check", "env", "glyphs-5way-1shot", "--env", "x"), "--env goes with agents"),
        (("check", "agent", "reptil"), "Did you mean: reptile"),
        (("check", "env", "glyphs"), "unknown environment 'glyphs'"),
        (("data", "where", "omniglott"), "Did you mean: omniglot"),
        (("data", "verify", "glyph"), "Did you mean: glyphs"),
        (("leaderboard", "--write", "--check"), "either --write or --check"),
        (("leaderboard", "--check", "--budget", "small"), "use all records"),
        (("leaderboard", "--budget", "smal"), "Did you mean: small"),
        (("leaderboard", "--env", "glyph-5way"), "unknown environment 'glyph-5way'"),
    ],
)
def test_bad_requests(lazybench: Any, argv: tuple[str, ...], message: str) -> None:
    done = lazybench(*argv)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert done.out == ""


def test_broken_plug_in_is_shown(lazybench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AGENTS.broken, "theirs (their.module:SPEC)", "ImportError: no x\x1b[31m")
    AGENTS.specs()
    assert "  theirs (their.module:SPEC): ImportError: no x [31m" in lazybench("list", "agents").out
    assert (
        "theirs (their.module:SPEC)"
        in json.loads(lazybench("list", "agents", "--json").out)["broken"]
    )


def test_runs_are_listed_and_shown(lazybench: Any) -> None:
    folder = Path("runs/reptile-x")
    folder.mkdir(parents=True)
    config = {"key": "ab" * 32, "agent": "reptile", "env": "x", "budget": "small", "seed": 3}
    (folder / "config.json").write_text(json.dumps(config))
    line = lazybench("list", "runs").out.splitlines()[-1]
    assert line.split()[:6] == ["abababababab", "reptile", "x", "small", "3", "interrupted"]
    assert "interrupted" in lazybench("show", "ababab").out


def test_show_agent_with_settings(lazybench: Any) -> None:
    argv = ("show", "lazy_reptile", "--env", "tiered-20way", "--budget", "small", "--json")
    done = lazybench(*argv)
    found = json.loads(done.out)
    assert found["env"] == "glyphs-20way-5shot"
    assert found["settings"]["small"]["teacher"] == "lazy"
    assert "tiered-20way is glyphs-20way-5shot" in done.err


def test_settings_that_budgets_share_occur_once(lazybench: Any) -> None:
    found = json.loads(lazybench("show", "protonet", "-e", "glyphs-5way-1shot", "--json").out)
    settings = found["settings"]
    assert settings["every budget"]["backbone"] == "auto"
    assert set(settings) == {"every budget", "smoke", "small", "medium", "paper"}
    assert settings["small"]["iterations"] < settings["paper"]["iterations"]
    assert "backbone" not in settings["small"]


def test_show_agent_of_a_file(lazybench: Any) -> None:
    Path("mine.py").write_text(
        'class Mine:\n    """My agent."""\n    def __init__(self, k=3): ...\n'
        "    def init(self, env, rng): ...\n    def policy(self, state): ...\n"
    )
    done = lazybench("show", "mine.py:Mine", "--env", "glyphs-5way-1shot")
    assert done.code == 0, done.err
    assert "My agent." in done.out
    found = lazybench("show", "mine.py:Mine", "--env", "glyphs-5way-1shot", "--json").out
    assert json.loads(found)["settings"]["every budget"] == {"k": 3}


def test_show_env_reports_spaces(lazybench: Any) -> None:
    found = json.loads(lazybench("show", "sinusoid-5shot", "--json").out)
    assert found["gymnasium_id"] == "lazybench/sinusoid-5shot-v1"
    assert found["spaces"]["observation"]["support_x"].startswith("float32 5x1")
    assert found["data_set"]["installed"] is True


def test_show_env_without_its_data(lazybench: Any) -> None:
    done = lazybench("show", "omniglot-5way-1shot", "--json")
    assert done.code == 0
    assert "unknown until its data is installed" in json.loads(done.out)["spaces"]


def test_show_record_by_key(lazybench: Any, make_record: Any) -> None:
    record = make_record()
    path = Store("leaderboards").publish(record)
    found = json.loads(lazybench("show", record.key[:8], "--json").out)
    assert found["kind"] == "measured record"
    assert found["key"] == record.key
    assert found["file"] == str(path)
    assert found["trials"] == 4


def test_data(lazybench: Any, tmp_path: Path) -> None:
    listed = {
        each["name"]: each for each in json.loads(lazybench("data", "list", "--json").out)["data"]
    }
    assert listed["glyphs"]["installed"] is True
    assert listed["omniglot"]["installed"] is False
    assert "lazybench show omniglot" in lazybench("list", "data").out
    assert lazybench("data", "where", "omniglot").out.strip() == str(tmp_path / "no-data")
    done = lazybench("data", "verify", "omniglot")
    assert done.code == 69
    assert done.err.startswith("error: omniglot: ")


def test_version(lazybench: Any) -> None:
    found = json.loads(lazybench("version", "--json").out)
    assert found["lazybench"] == lazybench("--version").out.split()[-1]
    assert found["torch"]
    assert lazybench("version").out.startswith("lazybench ")


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_check_shows_findings(
    lazybench: Any, monkeypatch: pytest.MonkeyPatch, ok: bool, code: int
) -> None:
    asked: list[tuple[str, ...]] = []

    def check_agent(agent: str, env: str, watch: Any) -> list[Finding]:
        asked.append((agent, env))
        return [Finding("init", True, "fine"), Finding("update", ok, "look here")]

    monkeypatch.setattr("lazybench.check.agent_checker.check_agent", check_agent)
    done = lazybench("check", "agent", "reptile")
    assert done.code == code
    assert asked == [("reptile", "glyphs-5way-1shot")]
    assert ("FAILED  update  look here" in done.out) is not ok
    assert ("1 of 2 checks failed" in done.err) is not ok
