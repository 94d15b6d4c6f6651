"""`lazybench matrix`: runs on the diagonal, evaluations off it, and why cells are empty."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lazybench.records import Store

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"
AGENT = f"{PLAYERS}:Movable"
HERE, THERE = "sinusoid-5shot", "sinusoid-10shot"
ASKED = ("matrix", "-a", AGENT, "-b", "smoke", "--train", f"{HERE},{THERE}")


@pytest.fixture
def trained(lazybench: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command line behind which one run of two seeds is finished."""
    # Smoke runs are left out of tables; here they stand for others.
    monkeypatch.setattr(
        "lazybench.boards.matrix.whole_runs",
        lambda records: [record for record in records if record.trained_on is None],
    )
    for seed in ("0", "1"):
        done = lazybench("run", "-a", AGENT, "-e", HERE, "-b", "smoke", "--seed", seed, "-q")
        assert done.code == 0
    return lazybench


def test_cells_are_runs_and_evaluations(trained: Any) -> None:
    done = trained(*ASKED, "--test", f"{HERE},{THERE}", "--json", "-q")
    assert done.code == 0
    cells = {(c["train"], c["test"]): c for c in json.loads(done.out)["cells"]}
    records = Store("leaderboards").records()
    own = [r for r in records if r.env.id == HERE and r.trained_on is None]
    moved = [r for r in records if r.env.id == THERE]
    assert len(own) == len(moved) == 2
    for test, expected in ((HERE, own), (THERE, moved)):
        cell = cells[HERE, test]
        values = [float(r.metrics["mse"].value or 0) for r in expected]
        assert cell["score"] == pytest.approx(sum(values) / 2)
        assert sorted(cell["keys"]) == sorted(r.key12 for r in expected)
        assert cell["diagonal"] is (test == HERE)
    assert cells[THERE, HERE]["reason"] == "no finished run"
    assert cells[THERE, HERE]["score"] is None
    # What is recorded isn't evaluated again.
    again = trained(*ASKED, "--test", f"{HERE},{THERE}", "--json", "-q")
    assert again.out == done.out
    assert len(Store("leaderboards").records()) == len(records)


def test_text_csv_and_reasons(trained: Any) -> None:
    done = trained(*ASKED[:-1], HERE, "--test", f"{HERE},glyphs-5way-1shot", "-q")
    assert done.code == 0
    row = next(line for line in done.out.splitlines() if line.startswith(HERE))
    assert " *" in row
    assert row.rstrip().endswith("-")
    assert f"{HERE} on glyphs-5way-1shot: trained on 1 way" in done.out
    done = trained(*ASKED[:-1], HERE, "--test", f"{HERE},{THERE}", "--csv", "-q")
    found = list(csv.DictReader(io.StringIO(done.out)))
    assert [each["diagonal"] for each in found] == ["yes", "no"]
    assert all(float(each["score"]) > 0 and each["seeds"] == "0 1" for each in found)


def test_runs_at_smoke_do_not_count(lazybench: Any) -> None:
    assert lazybench("run", "-a", AGENT, "-e", HERE, "-b", "smoke", "-q").code == 0
    done = lazybench(*ASKED, "--test", HERE, "-q")
    assert f"{HERE} on {HERE}: no finished run of all trials at a budget above smoke" in done.out
    assert f"{THERE} on {HERE}: no finished run\n" in done.out


def test_refusals(lazybench: Any) -> None:
    done = lazybench(*ASKED, "--test", HERE, "--csv", "--json")
    assert (done.code, done.err.count("error:")) == (2, 1)
    assert lazybench(*ASKED, "--test", "nothing-5way").code == 2
