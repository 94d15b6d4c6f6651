from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lazybench.errors import UsageError
from lazybench.stats import (
    Parts,
    adjusted,
    mean_interval,
    over_seeds,
    paired_difference,
    paired_estimate,
    standard_error,
    wilson,
)


@pytest.fixture(scope="module")
def intervals(script: Callable[[str], ModuleType]) -> ModuleType:
    """The simulation of boards."""
    return script("benchmarks/intervals.py")


def test_t_interval_agrees_with_scipy() -> None:
    scores = np.random.default_rng(0).random(50)
    mean, lo, hi = mean_interval(scores)
    want = scipy_stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert mean == pytest.approx(scores.mean())
    assert (lo, hi) == pytest.approx((want.low, want.high))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 7), (1, 1)])
def test_wilson_agrees_with_scipy(hits: int, n: int) -> None:
    want = scipy_stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((want.low, want.high))
    got = mean_interval([1.0] * hits + [0.0] * (n - hits))
    assert got == pytest.approx((hits / n, want.low, want.high))
    assert got.hi - got.lo > 0


def test_constant_and_single_scores() -> None:
    assert mean_interval([0.3, 0.3]) == (0.3, 0.3, 0.3)
    mean, lo, hi = mean_interval([0.3])
    assert mean == 0.3
    assert math.isnan(lo)
    assert math.isnan(hi)


@pytest.mark.parametrize("scores", [[], [0.1, math.nan], [[0.1, 0.2]], [math.inf]])
def test_scores_that_say_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(UsageError, match="one finite number a trial"):
        mean_interval(scores)


def test_one_seed_is_the_interval_over_trials() -> None:
    scores = np.random.default_rng(0).random(30)
    got = over_seeds([scores])
    assert got[:3] == mean_interval(scores)
    assert (got.n_trials, got.n_seeds) == (30, 1)
    assert math.isnan(got.seed_std)


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    alike = over_seeds([base + rng.normal(0, 0.01, 200) for _ in range(3)])
    apart = over_seeds([base + shift for shift in (-0.1, 0.0, 0.1)])
    trials = mean_interval(base)
    assert alike.hi - alike.lo == pytest.approx(trials.hi - trials.lo, rel=0.1)
    # Student's t of three seeds alone is 4.3 * 0.1 / sqrt(3) = 0.25 to each side.
    assert 0.18 < (apart.hi - apart.lo) / 2 < 0.35
    assert apart.seed_std == pytest.approx(0.1)


def test_over_seeds_is_deterministic_and_takes_other_lengths() -> None:
    seeds = [np.linspace(0, 1, n) for n in (10, 20, 30)]
    assert over_seeds(seeds) == over_seeds(seeds)
    assert over_seeds(seeds).n_trials == 10
    ones = over_seeds([np.ones(50)] * 3)
    assert (ones.mean, ones.hi) == (1.0, 1.0)
    assert ones.lo < 1


def test_the_standard_error_is_the_half_width_by_the_quantile_it_was_made_with() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(50)
    assert standard_error([one]) == pytest.approx(one.std(ddof=1) / np.sqrt(50))
    # Seeds that differ and trials that don't: t of two degrees of freedom, not 1.96.
    seeds = [np.full(50, value) for value in (0.2, 0.3, 0.5)]
    _, lo, hi, *_ = over_seeds(seeds)
    assert standard_error(seeds) == pytest.approx(np.std([0.2, 0.3, 0.5], ddof=1) / np.sqrt(3))
    t = float(scipy_stats.t.ppf(0.975, 2))
    assert standard_error(seeds) == pytest.approx((hi - lo) / 2 / t)
    # Trials that differ and seeds that don't: t of their degrees of freedom.
    same = [one, one, one]
    _, lo, hi, *_ = over_seeds(same)
    assert standard_error(same) == pytest.approx((hi - lo) / 2 / scipy_stats.t.ppf(0.975, 49))
    hits = np.repeat([1.0, 0.0], [9, 1])
    _, lo, hi = mean_interval(hits)
    assert standard_error([hits]) == pytest.approx((hi - lo) / 2 / scipy_stats.norm.ppf(0.975))
    assert standard_error([np.ones(10)] * 3) > 0
    assert standard_error([np.full(10, 0.2)] * 3) == 0
    assert math.isnan(standard_error([[0.3]]))
    with pytest.raises(UsageError, match="at least one seed"):
        standard_error([])


def test_an_estimate_has_the_p_of_the_paired_difference() -> None:
    rng = np.random.default_rng(1)
    for seeds in (1, 2, 3, 5):
        a, b = (list(rng.normal(shift, 1, (seeds, 40))) for shift in (0.2, 0.0))
        for same in (False, True):
            mean, _, _, p = paired_difference(a, b, same_seeds=same)
            found = paired_estimate(a, b, same_seeds=same)
            assert (found.mean, found.p()) == pytest.approx((mean, p))
            shifted = paired_difference([x - 0.3 for x in a], b, same_seeds=same)
            assert found.p(0.3) == pytest.approx(shifted.p)
            assert found.scaled(-2).p(-0.6) == pytest.approx(shifted.p)
    ones = paired_estimate(np.ones(5), np.zeros(5))
    assert (ones.p(), ones.p(1.0)) == (2 * 0.5**5, 1.0)
    assert math.isnan(paired_estimate([1.0], [0.5]).p())


def test_a_difference_of_differences_has_welchs_p() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.normal(0.5, 1, 30), rng.normal(0, 3, 90)
    found = paired_estimate(one, np.zeros(30)).less(paired_estimate(other, np.zeros(90)))
    want = scipy_stats.ttest_ind(one, other, equal_var=False)
    assert found.p() == pytest.approx(want.pvalue)
    low, high = want.confidence_interval(0.95)
    assert found.parts.half(0.95) == pytest.approx((high - low) / 2)
    seeds = [np.full(20, value) for value in (0.1, 0.4, 0.6)]
    more = [np.full(20, value) for value in (0.3, 0.2, 0.1, 0.35)]
    zeros = [[np.zeros(20)] * n for n in (3, 4)]
    found = paired_estimate(seeds, zeros[0], same_seeds=True).less(
        paired_estimate(more, zeros[1], same_seeds=True)
    )
    want = scipy_stats.ttest_ind([0.1, 0.4, 0.6], [0.3, 0.2, 0.1, 0.35], equal_var=False)
    assert found.p() == pytest.approx(want.pvalue)


def test_hits_over_seeds_lean_away_from_the_ends_and_stay_within() -> None:
    hits = [np.r_[np.ones(98 + more), np.zeros(2 - more)] for more in (0, 1, 1)]
    found = over_seeds(hits)
    assert found.mean == pytest.approx(296 / 300)
    assert 0 < found.lo < found.mean < found.hi < 1
    assert found.mean - found.lo > 1.5 * (found.hi - found.mean)
    # In the middle, with seeds alike, it is the interval of the trials.
    rng = np.random.default_rng(0)
    middle = [(rng.permuted(np.r_[np.ones(500), np.zeros(500)])) for _ in range(2)]
    near = over_seeds([middle[0], middle[0], middle[0]])
    assert (near.lo, near.hi) == pytest.approx(wilson(500, 1000), abs=1e-3)
    # Never as if more trials were known than all seeds have.
    apart = over_seeds([np.tile([0.0, 1.0], 50), np.tile([1.0, 0.0], 50), np.ones(100)])
    assert apart.hi - apart.lo > wilson(200, 300)[1] - wilson(200, 300)[0]


@pytest.mark.parametrize("share", [0.986, 0.96])
def test_intervals_of_hits_hold_shares_near_one(share: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        found = over_seeds(list((rng.random((3, 100)) < share).astype(float)))
        held += found.lo <= share <= found.hi
    assert 930 <= held <= 985


def test_paired_t_agrees_with_scipy_and_beats_the_unpaired_interval() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(100)
    better = base + 0.01 + rng.normal(0, 0.02, 100)
    got = paired_difference(better, base)
    want = scipy_stats.ttest_rel(better, base)
    interval = want.confidence_interval(0.95)
    assert got == pytest.approx((np.mean(better - base), interval.low, interval.high, want.pvalue))
    assert got.lo > 0
    assert mean_interval(better).lo < mean_interval(base).hi


def test_paired_edges() -> None:
    assert paired_difference([0.5, 0.7], [0.5, 0.7]) == (0, 0, 0, 1)
    assert paired_difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) == (1, 1, 1, 0.25)
    assert math.isnan(paired_difference([1.0], [0.0]).p)
    with pytest.raises(UsageError, match=r"the same trials on both sides, got \[2, 3\]"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_paired_over_seeds_knows_that_seeds_are_random() -> None:
    rng = np.random.default_rng(2)
    base = rng.random(300)
    a = [base + shift for shift in (-0.1, 0.02, 0.12)]
    b = [base + shift for shift in (-0.11, 0.0, 0.11)]
    many = paired_difference(a, b)
    assert many.lo < 0 < many.hi
    assert paired_difference(a[1], b[1]).lo > 0
    clear = paired_difference([x + 1 for x in a], b)
    assert clear.lo > 0
    assert clear.p < 0.01
    mirrored = paired_difference(b, a)
    assert mirrored.mean == pytest.approx(-many.mean)


def test_p_belongs_to_the_interval() -> None:
    rng = np.random.default_rng(5)
    for shift in (0.0, 0.01, 0.03, 0.1):
        a = [rng.normal(shift, 0.1, 100) + rng.normal(0, 0.01) for _ in range(3)]
        b = [rng.normal(0, 0.1, 100) + rng.normal(0, 0.01) for _ in range(4)]
        got = paired_difference(a, b)
        assert (got.p < 0.05) == (not got.lo <= 0 <= got.hi)
    far = paired_difference([x + 50 for x in a], b)
    assert 0 < far.p < 1e-6


def test_the_same_seeds_are_paired() -> None:
    rng = np.random.default_rng(7)
    models = rng.normal(0, 0.05, 3)
    tasks = rng.normal(0.5, 0.1, 400)
    b = [tasks + model + rng.normal(0, 0.02, 400) for model in models]
    a = [x + 0.01 + rng.normal(0, 0.02, 400) for x in b]
    paired, apart = paired_difference(a, b, same_seeds=True), paired_difference(a, b)
    assert paired.mean == pytest.approx(apart.mean)
    assert 0 < paired.lo < paired.hi < 0.03
    assert apart.lo < 0 < apart.hi
    # By hand, from the mean squares of a two-way table of seeds and trials.
    table = np.stack([x - y for x, y in zip(a, b, strict=True)])
    by_seed, by_trial = table.mean(1) - table.mean(), table.mean(0) - table.mean()
    left = table - table.mean() - by_seed[:, None] - by_trial
    of_seeds, of_trials = 400 * (by_seed**2).sum() / 2, 3 * (by_trial**2).sum() / 399
    of_chance = (left**2).sum() / (2 * 399)
    t = scipy_stats.t.ppf(0.975, [2, 399])
    squared = (t**2 * [of_seeds, max(0, of_trials - of_chance)]).sum() / (3 * 400)
    assert paired.hi - paired.mean == pytest.approx(squared**0.5)
    assert paired.mean - paired.lo == pytest.approx(squared**0.5)
    with pytest.raises(UsageError, match="got 3 and 2"):
        paired_difference(a, b[:2], same_seeds=True)


def test_seeds_that_all_differ_by_chance_alone_add_nothing() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(0.7, 0.1, 2000) + rng.normal(0, 1e-6, (3, 2000))
    found = over_seeds(list(table))
    trials = mean_interval(table[0])
    assert found.hi - found.lo == pytest.approx(trials.hi - trials.lo, rel=1e-2)


def test_of_single_trials_only_seeds_are_random() -> None:
    values = [0.2, 0.5, 0.9]
    found = over_seeds([[value] for value in values])
    want = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.lo, found.hi) == pytest.approx((want.low, want.high))


def test_adjusted_controls_false_discoveries() -> None:
    assert adjusted([]) == []
    assert adjusted([0.04]) == [0.04]
    # By hand: p_(i) * n / i, made non-increasing from the right.
    assert adjusted([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.04, 0.04, 0.5])


SPREADS = [0.01, *(pytest.param(spread, marks=pytest.mark.slow) for spread in (0.0, 0.005, 0.03))]


@pytest.mark.parametrize("spread", SPREADS)
def test_intervals_hold_the_truth_and_equal_agents_stay_together(
    intervals: ModuleType, spread: float, request: pytest.FixtureRequest
) -> None:
    boards = 1000 if request.node.get_closest_marker("slow") else 300
    for seeds in (3, 5):
        found = intervals.simulate(boards, seeds, spread)
        assert 93 <= found.means <= 97
        # The level holds whatever the spread is; where there is hardly any, they are wider.
        assert 94.5 <= found.differences <= 97.5
        assert found.pairs <= 6


@pytest.mark.parametrize("spread", SPREADS)
def test_boards_of_equal_agents_seldom_tell_any_apart(
    intervals: ModuleType, spread: float, request: pytest.FixtureRequest
) -> None:
    boards = 1000 if request.node.get_closest_marker("slow") else 300
    assert intervals.simulate(boards, 3, spread, better=0.0).boards <= 6


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.005, 0.01, 0.03])
def test_seeds_that_arent_paired_keep_equal_agents_together_too(
    intervals: ModuleType, spread: float
) -> None:
    found = intervals.simulate(1000, 3, spread, paired=False, better=0.0)
    assert found.boards <= 6
    assert 94.5 <= found.differences <= 97.5


def test_two_seeds_are_never_paired() -> None:
    rng = np.random.default_rng(8)
    tasks = rng.normal(0.5, 0.1, 200)
    b = [tasks + model + rng.normal(0, 0.02, 200) for model in (-0.05, 0.03, 0.06)]
    a = [x + 0.01 + rng.normal(0, 0.02, 200) for x in b]
    two = paired_difference(a[:2], b[:2], same_seeds=True)
    assert two == paired_difference(a[:2], b[:2])
    assert two.hi - two.lo > 10 * (0.02 / 200**0.5)
    three = paired_difference(a, b, same_seeds=True)
    assert three.hi - three.lo < (two.hi - two.lo) / 10


@pytest.mark.parametrize("spoilt", [0, 1, 3])
def test_no_interval_of_hits_is_that_of_more_trials_than_there_are(spoilt: int) -> None:
    """Seeds that are right where the others are wrong: their mean hardly varies, or not at all."""
    seeds = [np.tile([0.0, 1.0], 50), np.tile([1.0, 0.0], 50)]
    seeds[0][:spoilt] = 1.0
    found = over_seeds(seeds)
    assert found[1:3] == pytest.approx(wilson(sum(s.sum() for s in seeds), 200))


def test_seeds_of_unequal_trials_have_the_variance_of_their_means() -> None:
    rng = np.random.default_rng(4)
    seeds = [rng.normal(level, 1, n) for level, n in ((0, 10), (0.5, 40), (2, 20))]
    parts = Parts.of_mean(seeds)
    noise = sum(seed.var(ddof=1) / len(seed) for seed in seeds) / 9
    between = np.var([seed.mean() for seed in seeds], ddof=1) / 3
    assert (parts.seeds, parts.trials) == pytest.approx((between - noise, noise))
    assert (parts.seeds_df, parts.trials_df) == (2, 9)


def test_unpaired_seeds_have_welchs_degrees_of_freedom() -> None:
    levels = (0.1, 0.4, 0.9), (0.3, 0.32, 0.31, 0.33)
    a, b = ([np.full(20, level) for level in side] for side in levels)
    found = paired_difference(a, b)
    want = scipy_stats.ttest_ind(*levels, equal_var=False)
    low, high = want.confidence_interval(0.95)
    assert found == pytest.approx((want.statistic * 0 + found.mean, low, high, want.pvalue))
