"""Every example runs as it stands and says what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
RUN_ELSEWHERE = {"own_features.py"}
"""Takes a run on data that isn't embedded; its steps are tested in tests/core/data."""


def run(folder: Path, *words: str) -> str:
    """Return what a Python command prints; it must succeed."""
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test_and_a_place_in_the_docs() -> None:
    tested, page = Path(__file__).read_text("utf-8"), (ROOT / "docs/examples.md").read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested
        assert f"examples/{path.name}" in page


@pytest.mark.slow
def test_own_learner_beats_chance(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "own_learner.py"))
    match = re.match(r"accuracy (0\.\d+), 95 % interval", printed)
    assert match is not None
    assert float(match[1]) > 0.5
    learner = f"{EXAMPLES / 'own_learner.py'}:LinearMeans"
    command = ("check", "agent", learner, "--env", "glyphs-5way-5shot")
    assert "LinearMeans" in run(tmp_path, "-m", "lazybench", *command)
    assert "snell2017protonet" in run(tmp_path, "-m", "lazybench", "cite", learner)


@pytest.mark.slow
def test_lazy_teacher_learns_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    printed = run(tmp_path, str(EXAMPLES / "lazy_teacher.py"), "out.png")
    errors = re.findall(r": ([\d.]+) -> ([\d.]+)", printed)
    assert len(errors) == 2
    assert all(float(last) < 0.8 * float(first) for first, last in errors)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_own_attack_wins_some_image_within_its_budget(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "own_attack.py"))
    found = re.findall(r"image \d: (won|withstood) (\d+) queries", printed)
    assert len(found) == 4
    assert all(1 <= int(queries) <= 300 for _, queries in found)
    assert "won" in {how for how, _ in found}


@pytest.mark.slow
@pytest.mark.parametrize("engine", [(), ("--jobs", "2")], ids=["dask", "processes"])
def test_own_sweep_finishes_its_cells(tmp_path: Path, engine: tuple[str, ...]) -> None:
    if not engine:
        pytest.importorskip("distributed", reason="needs the extra lazybench[cluster]")
    run(tmp_path, str(EXAMPLES / "own_sweep.py"), *engine)
    records = list((tmp_path / "runs/own-sweep/store/records").rglob("*.json"))
    assert len(records) == 4


@pytest.mark.slow
def test_paper_walk_shows_every_experiment(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "paper_walk.py"))
    titles = ("Few-shot", "Memorisation trap", "Long-tailed", "Attacks")
    assert all(f"\n{title}" in printed for title in titles)
    lazy = [line for line in printed.splitlines() if line.startswith("  lazy_")]
    assert len(lazy) == 5
    assert sum("gamma 0." in line for line in lazy) >= 4


@pytest.mark.slow
def test_lazy_idea_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    run(tmp_path, str(ROOT / "tools" / "draw_lazy_idea.py"), "idea.png")
    assert (tmp_path / "idea.png").read_bytes().startswith(b"\x89PNG")
