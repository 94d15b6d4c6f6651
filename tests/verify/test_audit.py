"""Fresh trials agree with honest scores and disagree with made-up ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lazybench
from lazybench.errors import UsageError
from lazybench.harness.evaluate import evaluate
from lazybench.records import Trials
from lazybench.verify import audit
from lazybench.verify.audit import _difference

GLYPHS = "glyphs-5way-1shot"


def saved(folder: Path, record) -> Path:
    path = folder / "record.json"
    path.write_text(record.to_json(), encoding="ascii")
    return path


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("floor")
    return lazybench.run("nearest_pixel", GLYPHS, budget="smoke", out=folder, runs=folder / "runs")


def test_fresh_trials_are_beyond_all_official_ones_and_agree(tmp_path, floor):
    found = audit(saved(tmp_path, floor), trials=40, seed=1)
    assert found.consistent
    assert found.first >= 10_000
    assert found.first % 8 == 0
    assert found.stored.mean == pytest.approx(floor.metrics["accuracy"].value)
    assert found.fresh.mean != found.stored.mean
    assert found.difference.mean == pytest.approx(found.fresh.mean - found.stored.mean)
    again = audit(saved(tmp_path, floor), trials=40, seed=1)
    assert (again.first, again.fresh) == (found.first, found.fresh)
    assert audit(saved(tmp_path, floor), trials=40).first != found.first


def test_made_up_scores_do_not_agree(tmp_path, floor):
    better = np.clip(floor.trials.scores_array() + 0.2, 0, 1)
    forged = floor.model_copy(update={"trials": Trials.of(better)})
    found = audit(saved(tmp_path, forged), trials=40, seed=1)
    assert not found.consistent
    assert found.difference.hi < 0


def test_what_cannot_be_audited_is_told(tmp_path, floor):
    with pytest.raises(UsageError, match="at least 2 fresh trials"):
        audit(saved(tmp_path, floor), trials=1)
    zeros = evaluate(lambda o: o["query_y"] * 0, GLYPHS, name="zeros", budget="smoke", limit=8)
    with pytest.raises(UsageError, match="trained and run elsewhere"):
        audit(saved(tmp_path, zeros))


def test_honest_scores_disagree_in_one_audit_of_a_hundred():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = _difference(rng.random(30), rng.random(60))
        hits += not found.lo <= 0 <= found.hi
    assert 0.003 < hits / 2000 < 0.02


def test_scores_without_spread_are_compared_as_they_are():
    ones, zeros = np.ones(5), np.zeros(5)
    assert _difference(ones, ones) == (0, 0, 0)
    assert _difference(zeros, ones) == (-1, -1, -1)
