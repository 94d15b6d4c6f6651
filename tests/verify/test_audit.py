"""Fresh trials agree with honest scores and disagree with made-up ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lazybench
from lazybench.errors import UsageError
from lazybench.records import Trials
from lazybench.runner.transfer import evaluate
from lazybench.verify import StateSource, audit
from lazybench.verify.audit import _difference, split_p

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


def test_what_cannot_be_audited_is_reported(tmp_path, floor):
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


@pytest.mark.parametrize(
    ("fresh", "stored"),
    [
        ([0.2] * 40, [0.2] * 40),
        ([0.0] * 200, [0.0] * 9_990 + [1.0] * 10),
        ([1.0] * 200, [1.0] * 9_990 + [0.0] * 10),
        ([0.2] * 39 + [0.4], [0.2] * 1_000),
        ([0.2] * 2, [0.2] * 39 + [0.0]),
        (list(np.linspace(0, 1, 200)), [0.02]),
        ([0.0, 1.0], [0.5]),
    ],
    ids=["constant", "rare", "nearly all", "one differs", "two", "single", "three"],
)
def test_scores_that_hardly_vary_are_consistent_where_chance_gives_them(fresh, stored):
    assert split_p(np.array(fresh), np.array(stored)) > 0.01


@pytest.mark.parametrize(
    ("fresh", "stored"),
    [
        ([0.2] * 40, [0.21] * 40),
        ([0.0] * 200, [0.0] * 950 + [1.0] * 50),
        (list(np.linspace(0, 0.5, 200)), [1.0]),
        ([0.0] * 10, [1.0] * 10),
    ],
    ids=["constants", "rare", "single", "hits"],
)
def test_scores_that_chance_does_not_give_are_not(fresh, stored):
    assert split_p(np.array(fresh), np.array(stored)) <= 0.01


def test_p_is_the_share_of_splits_that_differ_as_much():
    # Of the 6 ways to choose two of (0, 1, 2, 3), two have the sums 1 or 5.
    assert split_p(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_honest_hits_fail_in_at_most_one_audit_of_a_hundred(share):
    rng = np.random.default_rng(0)
    failed = sum(
        split_p(*(rng.binomial(1, share, n).astype(float) for n in (20, 60)), splits=299) <= 0.01
        for _ in range(400)
    )
    assert failed <= 10


def test_a_constant_agent_is_consistent_and_its_score_as_stored(tmp_path):
    source = "class Zero:\n    def init(self, env, rng):\n        return {}\n"
    source += "    def policy(self, state):\n"
    source += "        return lambda seen, memory=None: (seen['query_y'] * 0, memory)\n"
    (tmp_path / "zero.py").write_text(source)
    zero = f"{tmp_path / 'zero.py'}:Zero"
    record = lazybench.run(
        zero, GLYPHS, budget="smoke", limit=8, out=tmp_path, runs=tmp_path / "runs"
    )
    found = audit(
        saved(tmp_path, record), trials=8, source=StateSource(runs=tmp_path / "runs"), seed=1
    )
    assert (found.consistent, found.p, found.difference) == (True, 1.0, (0, 0, 0))


def test_a_single_score_takes_the_spread_of_the_others():
    many = np.linspace(0, 1, 101)
    found = _difference(np.array([0.9]), many)
    half = 2.6258905 * many.std(ddof=1) * np.sqrt(1 + 1 / 101)
    assert (found.lo, found.hi) == pytest.approx((0.4 - half, 0.4 + half))


def test_scores_without_spread_are_compared_as_they_are():
    ones, zeros = np.ones(5), np.zeros(5)
    assert _difference(ones, ones) == (0, 0, 0)
    assert _difference(zeros, ones) == (-1, -1, -1)
