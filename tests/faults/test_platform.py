"""Systems that lack what POSIX systems have: a run without limits beats no run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Read by every Python that finds it first, children included.
HIDDEN = """
import os, signal, sys
sys.modules["resource"] = None
for module, names in (
    (os, ("pread", "killpg", "posix_fallocate", "sched_getaffinity", "O_NOFOLLOW")),
    (signal, ("setitimer", "getitimer", "SIGALRM")),
):
    for name in names:
        vars(module).pop(name, None)
"""
SUITE = """
name = "mine"
[[cells]]
agents = ["chance"]
envs = ["sinusoid-5shot"]
budget = "smoke"
"""


def test_runs_and_sweeps_without_what_only_posix_has(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HIDDEN)
    (tmp_path / "mine.toml").write_text(SUITE)
    environment = os.environ | {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "LAZYBENCH_CACHE": str(tmp_path / "cache"),
    }

    def lazybench(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lazybench", *argv],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    ran = lazybench(
        *("run", "-a", "reptile", "-e", "sinusoid-5shot", "-b", "smoke", "--json"),
        *("--limit", "2", "--timeout-per-episode", "60"),
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("this system has no timer") == 1
    assert json.loads(ran.stdout)["status"] == "ok"
    swept = lazybench("sweep", "mine.toml", "--memory-gib", "4", "--timeout", "100")
    assert swept.returncode == 0, swept.stderr
    assert "this system can't limit memory: --memory-gib has no effect" in swept.stderr
    assert "1 ok" in swept.stderr
    listed = lazybench("list", "runs", "--json")
    assert {each["status"] for each in json.loads(listed.stdout)["runs"]} == {"ok"}


def test_a_limit_of_memory_that_the_system_refuses_is_no_end(tmp_path: Path) -> None:
    """A limit above the one that this process has itself can't be set."""
    (tmp_path / "mine.toml").write_text(SUITE)
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))\n"
        "from lazybench.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "mine.toml", "--memory-gib", "2048"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 ok" in done.stderr
