"""The examples of README, docs/guide.md and docs/attack.md run and print what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = "".join(
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "docs/guide.md", "docs/attack.md")
)


def snippet(language, words):
    """Return the one code block of a language that holds some words."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    (found,) = (block for kind, block in blocks if kind == language and words in block)
    return found


def shell(folder, *words):
    """Return what a command prints; it must succeed."""
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines_of_python(tmp_path):
    (tmp_path / "ten.py").write_text(snippet("python", "nearest support image"))
    rewards, last = shell(tmp_path, "ten.py").strip().splitlines()
    assert re.match(r"\[0?\.\d+", rewards)
    accuracy, wall_s = map(float, last.split())
    assert 0.2 < accuracy < 1
    assert wall_s > 0


def test_the_first_lines_of_python(tmp_path):
    (tmp_path / "first.py").write_text(snippet("python", "record.agent.id"))
    agent, env, accuracy = shell(tmp_path, "first.py").split()
    assert (agent, env) == ("protonet", "glyphs-5way-1shot")
    assert 0.2 < float(accuracy) < 1


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_an_agent_of_your_own(tmp_path):
    (tmp_path / "my_agent.py").write_text(snippet("python", "class MyAgent"))
    for line in (
        snippet("sh", "my_agent.py:MyAgent --env glyphs-20way-5shot --set").strip().splitlines()
    ):
        printed = shell(tmp_path, "-m", "lazybench", *line.split()[1:])
        assert "MyAgent" in printed


def test_an_attack_of_another_tool(tmp_path):
    (tmp_path / "attack.py").write_text(snippet("python", "foolbox"))
    printed = shell(tmp_path, "-W", "ignore::DeprecationWarning", "attack.py")
    queries, distances = re.findall(r"\[([^]]*)\]", printed)
    assert [int(number) for number in queries.split()] == [300] * 4
    assert all(0 < float(number) < 15 for number in distances.split())


def test_commands_that_only_list_work(tmp_path):
    lines = snippet("sh", "lazybench list agents").strip().splitlines()
    for line in lines:
        words = line.partition("#")[0].split()[1:]
        if words[0] in ("list", "show", "data"):
            assert shell(tmp_path, "-m", "lazybench", *words)
