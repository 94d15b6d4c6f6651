"""Row 26: packages that plug in and fail, clash or offer something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = (
    "from lazybench.specs import AgentSpec\n"
    "SPEC = AgentSpec({name!r}, ('fewshot',), {target!r}, origin={origin!r})\n"
)
PACKAGES = {
    "sound": SPEC.format(name="plugged", target="lazybench_sound:Agent", origin="pkg-sound"),
    "fails": "raise RuntimeError('boom at import')\n",
    "clashes": SPEC.format(name="reptile", target="x:Y", origin="pkg-clashes"),
    "other": "SPEC = 3\n",
}
AGENT = (
    "class Agent:\n"
    "    def init(self, env, rng): return {}\n"
    "    def policy(self, state):\n"
    "        return lambda seen, memory=None: (seen['query_y'] * 0, memory)\n"
)


def install(site: Path, name: str, source: str) -> None:
    (site / f"lazybench_{name}.py").write_text(source)
    info = site / f"lazybench_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lazybench-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lazybench.agents]\n{name} = lazybench_{name}:SPEC\n")


def test_26_plug_ins_that_fail_affect_no_others(tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    for name, source in PACKAGES.items():
        install(site, name, source + (AGENT if name == "sound" else ""))
    environment = os.environ | {
        "PYTHONPATH": f"{site}:{ROOT}",
        "LAZYBENCH_DATA": str(tmp_path / "data"),
        "LAZYBENCH_CACHE": str(tmp_path / "cache"),
    }

    def lazybench(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lazybench", *argv],
            cwd=work, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    listed = lazybench("list", "agents")
    assert listed.returncode == 0
    reported = listed.stdout + listed.stderr
    assert "plugged" in reported
    assert "reptile" in reported
    assert "RuntimeError: boom at import" in reported
    assert "pkg-clashes" in reported, "a clash names both packages"
    assert "registered twice: by lazybench" in reported
    assert "got int" in reported
    assert "Traceback" not in reported
    unknown = lazybench("run", "-a", "pluged", "-e", "sinusoid-5shot")
    assert unknown.returncode == 2
    assert "Did you mean: plugged?" in unknown.stderr
    assert "broken plug-ins" in unknown.stderr
    ran = lazybench("run", "-a", "plugged", "-e", "glyphs-5way-1shot", "-b", "smoke", "-q")
    assert ran.returncode == 0, ran.stderr


def test_26_with_json_nothing_else_is_on_stdout(tmp_path: Path) -> None:
    """Plug-ins and users' agents may print, write to the descriptor, and print from C."""
    site = tmp_path / "site"
    site.mkdir()
    noise = (
        "import ctypes, os\nprint('python')\nos.write(1, b'descriptor')\n"
        "ctypes.CDLL(None).printf(b'c')\n"
    )
    install(site, "noisy", noise + "raise KeyboardInterrupt\n")
    loud = AGENT.replace("return {}", "os.write(1, b'init'); print('init'); return {}")
    (tmp_path / "mine.py").write_text(noise + loud)
    environment = os.environ | {"PYTHONPATH": f"{site}:{ROOT}"}

    def shown(*argv: str) -> object:
        done = subprocess.run(
            [sys.executable, "-m", "lazybench", *argv, "--json"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "descriptor" in done.stderr
        return json.loads(done.stdout)

    assert "KeyboardInterrupt" in str(shown("list", "agents"))
    mine = ("mine.py:Agent", "--env", "glyphs-5way-1shot")
    ran = shown("run", "-a", *mine, "-b", "smoke", "--limit", "2", "-q")
    assert isinstance(ran, dict)
    assert ran["status"] == "ok"
    assert shown("check", "agent", *mine)
