from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lazybench.boards import compare
from lazybench.errors import UnknownName, UsageError
from lazybench.stats import paired_difference, wilson


def test_the_difference_is_paired_over_trials_and_in_the_boards_unit(make_run: Any) -> None:
    left, right = make_run("a", 0.1), make_run("b")
    found = compare([left, right], "a", "b")
    assert (found.left.name, found.right.name, found.unit) == ("a", "b", "%")
    gaps = left.trials.scores_array().astype("f8") - right.trials.scores_array()
    assert found.difference.mean == pytest.approx(100 * gaps.mean(), rel=1e-5)
    half = 2.0227 * 100 * gaps.std(ddof=1) / np.sqrt(40)
    assert found.difference.lo == pytest.approx(100 * gaps.mean() - half, rel=1e-3)
    assert "trained models" in found.note
    other = compare([left, right], "b", "a").difference
    assert other.mean == pytest.approx(-found.difference.mean)
    # The trials' difficulty is shared, so that the pair says more than the two intervals do.
    wide = found.left.summary.hi - found.left.summary.lo
    assert found.difference.hi - found.difference.lo < wide / 3


def test_seeds_are_drawn_where_there_are_several(make_run: Any) -> None:
    records = [
        make_run(agent, shift, seed)
        for agent, shift in (("a", 0.05), ("b", 0.0))
        for seed in range(3)
    ]
    found = compare(records, "a", "b")
    sides = [[r.trials.scores_array() for r in records[i : i + 3]] for i in (0, 3)]
    want = paired_difference(*sides, same_seeds=True)
    assert found.difference[:3] == pytest.approx([100 * number for number in want[:3]])
    assert found.difference.p == want.p
    assert found.note == ""
    assert found.left.summary.n_seeds == 3


def test_rows_are_found_by_name_agent_or_key_and_never_guessed(make_run: Any) -> None:
    records = [
        make_run("a"),
        make_run("a", 0.1, config={"x": 1}, overrides={"x": 1}),
        make_run("b"),
    ]
    assert compare(records, "a (x=1)", "b").left.name == "a (x=1)"
    assert compare(records, records[0].key12, "b").left.name == "a"
    # A row's own name counts before the agent's.
    assert compare(records, "a", "b").left.keys == (records[0].key12,)
    two = [make_run("a", config={"x": x}, overrides={"x": x}) for x in (1, 2)]
    with pytest.raises(UsageError, match="names 2 rows"):
        compare(two, "a", "a")
    with pytest.raises(UnknownName, match="no row 'c' with a score"):
        compare(records, "c", "b")


def test_sides_that_faced_other_trials_are_refused(make_run: Any) -> None:
    with pytest.raises(UsageError, match="same trials on both sides"):
        compare([make_run("a", n=20), make_run("b")], "a", "b")


def test_sides_have_the_boards_interval(make_run: Any) -> None:
    """Shares of hits have Wilson's interval, which isn't empty at 100 % and doesn't pass it."""
    hits = {"a": np.ones(40), "b": np.r_[np.ones(39), 0]}
    records = [make_run(name, scores=scores) for name, scores in hits.items()]
    found = compare(records, "a", "b")
    for side in (found.left, found.right):
        share = hits[side.name].mean()
        low, high = wilson(40 * share, 40)
        assert side.summary.mean == pytest.approx(100 * share)
        assert (side.summary.lo, side.summary.hi) == pytest.approx((100 * low, 100 * high))
        assert side.summary.lo < side.summary.hi <= 100


def test_the_interval_of_a_difference_of_shares_stays_within_them(make_run: Any) -> None:
    """Two seeds a side that disagree widely have a t interval of more than 100 points each way."""
    levels = {("a", 0): 0.0, ("a", 1): 1.0, ("b", 0): 1.0, ("b", 1): 0.0}
    records = [
        make_run(name, seed=seed, scores=np.full(40, level))
        for (name, seed), level in levels.items()
    ]
    found = compare(records, "a", "b").difference
    assert (found.lo, found.hi) == (-100.0, 100.0)
    assert found.mean == pytest.approx(0.0)


def test_rows_of_one_name_that_are_evaluated_in_two_ways(make_run: Any) -> None:
    def evaluated(agent: str, norm: str, shift: float) -> Any:
        given = {} if norm == "transductive" else {"batch_norm": norm}
        return make_run(agent, shift, config={"batch_norm": norm}, overrides=given)

    both = [evaluated("a", norm, by) for norm, by in (("transductive", 0.1), ("inductive", 0.0))]
    rows = [*both, make_run("b")]
    found = compare(rows, "a", "b")
    assert (found.left.name, found.left.keys) == ("a, transductive", (both[0].key12,))
    found = compare(rows, "a", "b", norm="inductive")
    assert (found.left.name, found.right.name) == ("a, inductive", "b")
    found = compare(rows, "a", both[1].key12)
    assert found.difference.mean == pytest.approx(10, abs=1)
    with pytest.raises(UnknownName, match="no row 'a' with a score"):
        compare(rows, "a", "b", norm="nothing")
