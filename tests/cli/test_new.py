"""`lazybench new`: names that can't be, nothing overwritten, and a plug-in's life in a venv."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lazybench.specs import BUDGETS

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("fewshot", "longtail", "attack")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["agent", "env"])
def test_a_package_is_written_whole(lazybench: Any, kind: str, family: str) -> None:
    done = lazybench("new", kind, "my_thing-two", "--family", family, "--json")
    assert done.code == 0, done.err
    reported = json.loads(done.out)
    folder = Path(reported["folder"])
    assert folder == Path("my-thing-two")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == reported["files"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    groups = {"agent": {"agents"}, "env": {"data", "envs"} - ({"data"} & {family})}[kind]
    if family == "attack" and kind == "env":
        groups = {"envs"}
    assert {group.removeprefix("lazybench.") for group in project["entry-points"]} == groups
    for path in folder.rglob("*.py"):
        source = path.read_text()
        compile(source, str(path), "exec")
        assert "{{" not in source
        assert max(map(len, source.splitlines())) <= 100
    # Nothing of it is left half made, and what lists packages loads nothing heavy.
    assert [path.name for path in Path().iterdir()] == ["my-thing-two"]
    assert not re.search("import (torch|numpy)", (folder / "my_thing_two/__init__.py").read_text())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["plan", "agent", "queries", "rng", "false", "env-spec", "field"])
def test_a_name_of_the_template_is_no_class_of_the_package(
    lazybench: Any, name: str, family: str
) -> None:
    done = lazybench("new", "agent", name, "--family", family, "--dir", "it's here", "--json")
    assert done.code == 0, done.err
    reported = json.loads(done.out)
    assert reported["next"][0] == f"""pip install -e 'it'"'"'s here/{name}[test]'"""
    source = Path("it's here", name, name.replace("-", "_"), "agent.py").read_text()
    compile(source, "agent.py", "exec")
    defined = re.findall(r"^(?:class |)(\w+)(?=[(:]| = )", source, re.MULTILINE)
    imported = [
        word
        for line in re.findall(r"^from .* import (.*)", source, re.MULTILINE)
        for word in line.split(", ")
    ]
    assert not set(defined) & set(imported)
    assert len(set(defined)) == len(defined)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_agent_has_a_preset_at_every_budget(lazybench: Any, family: str) -> None:
    assert lazybench("new", "agent", "mine", "--family", family).code == 0
    source = Path("mine/mine/agent.py").read_text()
    for budget in BUDGETS:
        assert f'"{budget}": ' in source


def test_nothing_is_overwritten(lazybench: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("precious")
    done = lazybench("new", "agent", "mine")
    assert done.code == 2
    assert "mine exists already and won't be overwritten" in done.err
    assert (tmp_path / "mine" / "kept").read_text() == "precious"
    (tmp_path / "file").write_text("")
    assert lazybench("new", "agent", "other", "--dir", "file").code == 73


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("agent", "../escape", "such as my_learner; got '../escape'"),
        ("agent", "a b", "lower-case letters, digits"),
        ("agent", "Mine", "lower-case letters, digits"),
        ("agent", "x'; import os", "lower-case letters, digits"),
        ("agent", "", "lower-case letters, digits"),
        ("agent", "-mine", ""),
        ("agent", "mine_", "lower-case letters, digits"),
        ("agent", "é", "lower-case letters, digits"),
        ("agent", "a" * 41, "at most 40"),
        ("agent", "class", "Python has a module or keyword 'class'"),
        ("agent", "json", "Python has a module or keyword 'json'"),
        ("agent", "torch", "Python has a module or keyword 'torch'"),
        ("agent", "lazybench", "Python has a module or keyword 'lazybench'"),
        ("agent", "reptile", "'reptile' is taken, by lazybench; choose another name"),
        ("env", "omniglot", "'omniglot' is taken, by lazybench; choose another name"),
        ("env", "tiered", "'tiered' is taken"),
    ],
)
def test_names_that_cannot_be(lazybench: Any, kind: str, name: str, why: str) -> None:
    done = lazybench("new", kind, name)
    assert done.code == 2
    assert why in done.err
    assert list(Path().iterdir()) == []


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's Python, which borrows the dependencies of the running one."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    # What comes with the environment may be too old to build; the borrowed one isn't.
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "-y", "setuptools"], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return python


def call(python: Path, folder: Path, *words: str) -> str:
    """Return what a command of the environment prints; it must succeed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *words],
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["agent", "env"])
def test_a_plug_ins_life(kind: str, family: str, venv: Path, tmp_path: Path) -> None:
    def lazybench(*words: str) -> str:
        return call(venv, tmp_path, "-m", "lazybench", *words)

    name = f"mine_{kind}_{family}"
    reported = json.loads(lazybench("new", kind, name, "--family", family, "--json"))
    package = tmp_path / reported["folder"]
    call(
        *(venv, tmp_path, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
        *("--no-build-isolation", "-e", str(package)),
    )
    listed = json.loads(lazybench("list", f"{kind}s", "--json"))
    assert listed["broken"] == {}
    found = {each["id"]: each["origin"] for each in listed[f"{kind}s"]}
    assert found[reported["id"]] == package.name
    assert "FAILED" not in lazybench("check", kind, reported["id"])
    agent = reported["id"] if kind == "agent" else reported["next"][2].split()[3]
    run = ("run", "--agent", agent, "--env", reported["env"], "--budget", "smoke", "--json", "-q")
    record = json.loads(lazybench(*run))
    assert (record["status"], record["agent"]["id"]) == ("ok", agent)
    assert agent in lazybench("leaderboard", "--env", reported["env"], "--budget", "smoke")
    assert "passed" in call(venv, package, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_a_new_learner_can_be_evaluated_elsewhere(lazybench: Any) -> None:
    lazybench("new", "agent", "mine")
    agent = "mine/mine/agent.py:Mine"
    run = ("--agent", agent, "--env", "glyphs-5way-1shot", "--budget", "smoke", "--json")
    done = lazybench("run", *run, "--set", "iterations=2")
    assert done.code == 0, done.err
    key = json.loads(done.out)["key"]
    for more in (
        ("--split", "train"),
        ("--env", "glyphs-3way-2shot"),
        ("--env", "fc100-5way-1shot"),
    ):
        done = lazybench("evaluate", key, *more, "--limit", "8")
        missing = "fc100: not found" in done.err
        assert done.code == 0 or missing, done.err
