"""Class effects against the analysis of variance, explicit matrices and simulated worlds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from lazybench.class_effects import ClassEffects, TrialClasses
from lazybench.errors import UsageError
from lazybench.stats import adjusted, over_seeds, paired_difference, significant_pairs


def drawn(trials: int, ways: int, classes: int, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(classes)[:ways] for _ in range(trials)])


def widened(effects: ClassEffects, scores: NDArray[Any]) -> tuple[float, float]:
    """Variance and degrees of freedom of the mean of one row's scores."""
    squares, sums = ((part**2).sum(axis=1) for part in effects.moments(scores[None]))
    trials = np.array([scores.var(ddof=1) / scores.size])
    variance, freedom = effects.widened(squares, sums, trials, np.array([scores.size - 1.0]))
    return float(variance[0]), float(freedom[0])


def matrix_of(effects: ClassEffects, n: int) -> NDArray[np.float64]:
    """The matrix A of the class component y'Ay, from values of the component alone."""
    unit = np.eye(n)
    alone = np.array([effects.components(row).classes for row in unit])
    found = np.diag(alone)
    for i, j in itertools.combinations(range(n), 2):
        both = effects.components(unit[i] + unit[j]).classes
        found[i, j] = found[j, i] = (both - alone[i] - alone[j]) / 2
    return found


def test_a_balanced_nested_design_has_the_analysis_of_variance() -> None:
    classes, each = 12, 9
    rng = np.random.default_rng(1)
    table = rng.normal(size=(classes, each)) + rng.normal(size=(classes, 1))
    effects = ClassEffects(TrialClasses(np.repeat(np.arange(classes), each)[:, None]))
    between = each * table.mean(axis=1).var(ddof=1)
    within = table.var(axis=1, ddof=1).mean()
    scores = table.reshape(-1)
    found = effects.components(scores)
    assert found == pytest.approx(((between - within) / each, within))
    # Classically the variance of the mean is that of the class means, over their number.
    whole = scores.var(ddof=1) / scores.size + effects.added * found.classes
    assert whole == pytest.approx(between / scores.size)
    # Where classes are distinguished well, so are the interval's variance and degrees of freedom.
    clear = (table + 10 * rng.normal(size=(classes, 1))).reshape(-1)
    variance, freedom = widened(effects, clear)
    means = clear.reshape(classes, each).mean(axis=1)
    assert variance == pytest.approx(means.var(ddof=1) / classes, rel=0.05)
    assert classes - 2 < freedom < classes


def test_strata_leave_differences_within_pairs_of_classes() -> None:
    classes, each = 10, 6
    rng = np.random.default_rng(2)
    trend = np.linspace(0, 50, classes // 2).repeat(2)[:, None]
    table = trend + rng.normal(size=(classes, 1)) + rng.normal(size=(classes, each))
    strata = np.arange(classes).repeat(each) // 2
    members = np.arange(classes).repeat(each)[:, None]
    found = ClassEffects(TrialClasses(members, strata)).components(table.reshape(-1))
    pairs = table.mean(axis=1).reshape(-1, 2)
    between, within = each * pairs.var(axis=1, ddof=1).mean(), table.var(axis=1, ddof=1).mean()
    assert found == pytest.approx(((between - within) / each, within))


RAGGED = np.array(
    [[0, 1, 2], [1, 3, -1], [4, -1, -1], [0, 4, 2], [3, 2, -1], [1, 0, -1], [4, 3, 1]]
)


@pytest.mark.parametrize("members", [RAGGED, drawn(9, 2, 5), drawn(8, 3, 4, seed=3)])
def test_components_are_unbiased_and_their_error_is_that_of_normal_effects(
    members: NDArray[np.int64],
) -> None:
    n, names = len(members), int(members.max()) + 1
    share = np.array(
        [[(row == c).sum() / (row >= 0).sum() for c in range(names)] for row in members]
    )
    effects = ClassEffects(TrialClasses(members))
    quadratic = matrix_of(effects, n)
    assert np.trace(quadratic @ share @ share.T) == pytest.approx(1)
    assert np.trace(quadratic) == pytest.approx(0, abs=1e-9)
    assert quadratic @ np.ones(n) == pytest.approx(0, abs=1e-9)
    # The mean's variance: what the trials' spread misses of it, in expectation.
    weights = share.mean(axis=0)
    centre = np.eye(n) - 1 / n
    by_spread = np.trace(centre @ share @ share.T) / (n - 1) / n
    assert effects.added == pytest.approx((weights**2).sum() - by_spread)

    scores = np.random.default_rng(4).normal(size=n) + share @ np.arange(names)
    classes, rest = effects.components(scores)
    above = max(0.0, classes)
    rest = max(0.0, rest) if classes > 0 else scores.var(ddof=1)
    covariance = above * share @ share.T + rest * np.eye(n)
    both = quadratic @ covariance
    error = np.sqrt(2 * np.trace(both @ both))
    cut = scipy_stats.truncnorm(-classes / error, np.inf, loc=classes, scale=error)
    trials = scores.var(ddof=1) / n
    variance = trials + effects.added * cut.mean()
    spread = centre @ covariance / (n - 1) / n
    shared = 2 * np.trace(spread @ both) * cut.var() / error**2
    doubt = 2 * np.trace(spread @ spread) + 2 * effects.added * shared
    freedom = 2 * variance**2 / (doubt + effects.added**2 * cut.var())
    got = widened(effects, scores)
    assert got[0] == pytest.approx(variance, rel=1e-6)
    assert got[1] == min(np.floor(4 * freedom) / 4, n - 1)


def test_weights_are_the_shares_of_classes() -> None:
    """Scores that are the weighted class effects alone give the effects' variance."""
    rng = np.random.default_rng(5)
    members = drawn(400, 5, 40)
    weights = rng.dirichlet(np.full(5, 2), 400)
    effects = ClassEffects(TrialClasses(members, weights=weights))
    found = np.array(
        [effects.components((weights * rng.normal(size=40)[members]).sum(1)) for _ in range(200)]
    )
    assert found.mean(0) == pytest.approx([1, 0], abs=0.06)
    even = ClassEffects(TrialClasses(members, weights=np.full((400, 5), 0.2)))
    scores = rng.normal(size=400)
    plain = ClassEffects(TrialClasses(members)).components(scores)
    assert even.components(scores) == pytest.approx(plain)


def test_designs_that_cant_tell_classes_apart_say_so() -> None:
    assert not ClassEffects(TrialClasses(drawn(20, 6, 6))).identified
    assert not ClassEffects(TrialClasses(np.arange(20)[:, None])).identified
    assert not ClassEffects(TrialClasses(np.zeros((1, 1), np.int64))).identified
    assert ClassEffects(TrialClasses(drawn(20, 5, 6))).identified


def test_intervals_of_other_trials_are_refused() -> None:
    effects = ClassEffects(TrialClasses(drawn(20, 5, 9)))
    with pytest.raises(UsageError, match="20 trials don't fit"):
        over_seeds([np.arange(19.0)], effects)
    with pytest.raises(UsageError, match="20 trials don't fit"):
        paired_difference(np.arange(19.0), np.zeros(19), effects=effects)


def world(
    rng: np.random.Generator, members: NDArray[np.int64], spread: float, seeds: int
) -> list[NDArray[np.float64]]:
    """Scores of some seeds whose classes' effects have a standard deviation."""
    classes = rng.normal(0, spread, int(members.max()) + 1)[members].mean(axis=1)
    shared = rng.normal(0, 0.05, len(members))
    return [
        0.5
        + (seeds > 1) * rng.normal(0, 0.01)
        + classes
        + shared
        + rng.normal(0, 0.08, len(members))
        for _ in range(seeds)
    ]


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.2), (3, 0.2), (1, 0.0)])
def test_intervals_over_classes_hold_the_mean_of_other_classes(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(5)
    members = drawn(300, 5, 60)
    effects = ClassEffects(TrialClasses(members))
    worlds, over_trials, over_classes = 300, 0, 0
    for _ in range(worlds):
        scores = world(rng, members, spread, seeds)
        narrow, wide = over_seeds(scores), over_seeds(scores, effects)
        assert wide.lo <= narrow.lo < narrow.hi <= wide.hi
        over_trials += narrow.lo <= 0.5 <= narrow.hi
        over_classes += wide.lo <= 0.5 <= wide.hi
    assert over_classes >= 0.92 * worlds
    if spread:
        assert over_trials < 0.75 * worlds


def test_pairs_of_a_board_have_the_p_of_their_paired_differences() -> None:
    rng = np.random.default_rng(6)
    members = drawn(80, 4, 15)
    effects = ClassEffects(TrialClasses(members))
    sides = [[x + 0.05 * i for x in world(rng, members, 0.1, 3)] for i in range(6)]
    seeds = [(0, 1, 2)] * 4 + [(3, 4, 5)] * 2
    pairs = list(itertools.combinations(range(6), 2))
    found = [
        paired_difference(sides[i], sides[j], same_seeds=seeds[i] == seeds[j], effects=effects)
        for i, j in pairs
    ]
    p = adjusted([each.p for each in found])
    want = {pair for pair, value in zip(pairs, p, strict=True) if value < 0.05}
    assert significant_pairs(sides, seeds, effects) == want
    assert 0 < len(want) < len(pairs)
    assert want < significant_pairs(sides, seeds)


def test_equal_sides_of_known_classes_have_the_sign_test() -> None:
    members = drawn(30, 3, 8)
    effects = ClassEffects(TrialClasses(members))
    scores = np.random.default_rng(7).random(30)
    same = paired_difference(scores, scores, effects=effects)
    assert same == (0.0, 0.0, 0.0, 1.0)
    always = paired_difference([scores + 0.5], [scores], effects=effects)
    assert always.p < 1e-6
