"""The notebooks of examples/ are whole, hold no outputs, and run from top to bottom.

Their cells are executed in order by plain Python, in a process and a folder of their own. That
needs none of the twenty packages of a Jupyter kernel; `%%writefile` and `!`, the two commands that
the notebooks use, are a line each.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
WRITE, SHELL = "%%writefile ", "!"

PLAYER = """
import ast, json, linecache, pathlib, subprocess, sys
sys.path.insert(0, "")
for place, source in enumerate(json.loads(sys.stdin.read())):
    if source.startswith("%%writefile "):
        head, _, text = source.partition("\\n")
        pathlib.Path(head.split()[1]).write_text(text)
        continue
    if source.startswith("!"):
        command = f"{sys.executable} -m " + source[1:]
        print(subprocess.run(command, shell=True, check=True, capture_output=True).stdout.decode())
        continue
    name = f"<cell {place}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    tree = ast.parse(source)
    shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), globals())
    if shown is not None:
        value = eval(compile(ast.Expression(shown.value), name, "eval"), globals())
        if value is not None:
            print(value._repr_html_() if hasattr(value, "_repr_html_") else value)
"""
"""Executes the cells on stdin, a JSON list; shows the last expression of each, as notebooks do."""


def cells(path: Path, kind: str = "code") -> list[str]:
    """Return the sources of a notebook's cells of one kind."""
    book = json.loads(path.read_text("utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def play(folder: Path, sources: list[str]) -> str:
    """Return what cells print and show; all must succeed."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", PLAYER],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def notebook(name: str, folder: Path) -> str:
    """Return what a notebook prints and shows."""
    return play(folder, cells(ROOT / "examples" / name))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_short_and_holds_no_outputs(path: Path) -> None:
    book: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert 5 <= len(code) <= 12
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert cells(path, "markdown")[0].startswith("# ")
    for source in cells(path):
        assert len(source.splitlines()) <= 30
        if not source.startswith((WRITE, SHELL)):
            ast.parse(source)


def test_every_notebook_has_a_place_in_readme_and_docs() -> None:
    assert len(NOTEBOOKS) == 3
    readme = (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs/examples.md").read_text("utf-8")
    for path in NOTEBOOKS:
        assert f"(examples/{path.name})" in readme
        assert f"examples/{path.name}" in page


def test_the_player_stops_at_an_error_and_shows_the_last_expression(tmp_path: Path) -> None:
    sources = ["%%writefile a.py\nb = 2\n", "from a import b\nprint(b)", "c = b + 1\nc", "!this"]
    assert play(tmp_path, sources[:-1]).split() == ["2", "3"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        play(tmp_path, ["1 / 0", "2"])


@pytest.mark.slow
def test_first_board_shows_both_agents(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="data frames need the extra 'frames'")
    shown = notebook("first_board.ipynb", tmp_path)
    assert "<h3>glyphs-5way-1shot-v1, budget smoke</h3>" in shown
    assert "protonet - nearest_pixel" in shown
    assert len(list((tmp_path / "runs/first-board/records").rglob("*.json"))) == 2


@pytest.mark.slow
def test_own_learner_keeps_the_contract_and_beats_the_baseline(tmp_path: Path) -> None:
    shown = notebook("own_learner.ipynb", tmp_path)
    lines = [line for line in shown.splitlines() if line.startswith(("ok  ", "BAD "))]
    assert len(lines) == 6
    assert all(line.startswith("ok  ") for line in lines)
    assert "LinearMeans - nearest_pixel: +" in shown
    assert "below baseline" not in shown.rpartition("<h3>")[0]


@pytest.mark.slow
def test_attack_a_model_finds_adversarial_images(tmp_path: Path) -> None:
    shown = notebook("attack_a_model.ipynb", tmp_path)
    accuracy = float(shown.partition("accuracy ")[2].split()[0])
    report = json.loads((tmp_path / "runs/attack/report/report.json").read_text("utf-8"))
    assert accuracy > 0.5
    assert report["worst_case"]["accuracy"] < report["clean_accuracy"]["accuracy"]
    assert (tmp_path / "runs/attack/report/sheet.png").read_bytes().startswith(b"\x89PNG")
