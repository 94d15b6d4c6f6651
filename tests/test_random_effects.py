"""The random-effects mean against published trials, a second formula and made-up studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lazybench.errors import UsageError
from lazybench.stats import random_effects

# Thirteen trials of the BCG vaccine: cases and others, vaccinated and not (Colditz et al. 1994).
BCG = np.array(
    [
        *([4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619]),
        *([33, 5036, 47, 5761], [180, 1361, 372, 1079], [8, 2537, 10, 619]),
        *([505, 87886, 499, 87892], [29, 7470, 45, 7232], [17, 1699, 65, 1600]),
        *([186, 50448, 141, 27197], [5, 2493, 3, 2338], [27, 16886, 29, 17825]),
    ],
    dtype=float,
)


def test_the_bcg_trials_have_their_published_mean() -> None:
    """Log relative risks; metafor and statsmodels give the same digits for this estimator."""
    cases, rest, cases_0, rest_0 = BCG.T
    effects = np.log(cases / (cases + rest) / (cases_0 / (cases_0 + rest_0)))
    variances = 1 / cases - 1 / (cases + rest) + 1 / cases_0 - 1 / (cases_0 + rest_0)
    found = random_effects(effects.tolist(), np.sqrt(variances).tolist())
    assert found.tau**2 == pytest.approx(0.318068, abs=1e-6)
    assert (found.mean, found.error) == pytest.approx((-0.714968, 0.180892), abs=1e-6)
    ends = (found.mean - found.half, found.mean + found.half)
    assert ends == pytest.approx((-1.109098, -0.320838), abs=1e-6)
    assert found.p() == pytest.approx(0.00191927, abs=1e-7)


def test_equal_errors_give_students_t_of_the_effects() -> None:
    """With equal errors below the spread of the effects, the interval is that of a plain mean."""
    effects = [1.0, 3.0, 2.5, 7.0]
    found = random_effects(effects, [0.1] * 4)
    want = stats.ttest_1samp(effects, 0)
    assert found.mean == pytest.approx(np.mean(effects))
    low, high = want.confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.p() == pytest.approx(want.pvalue)
    assert found.p(2.0) == pytest.approx(stats.ttest_1samp(effects, 2.0).pvalue)
    assert found.tau**2 == pytest.approx(np.var(effects, ddof=1) - 0.01)


def test_studies_that_happen_to_agree_keep_their_own_errors() -> None:
    found = random_effects([1.0, 1.01, 0.99], [0.5, 1.0, 2.0])
    weights = 1 / np.array([0.5, 1.0, 2.0]) ** 2
    assert found.tau == 0
    assert found.error == pytest.approx(weights.sum() ** -0.5)
    assert found.half == pytest.approx(stats.t.ppf(0.975, 2) * found.error)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_weighted_squares_sum_to_their_degrees_of_freedom(k: int) -> None:
    rng = np.random.default_rng(k)
    effects, errors = rng.normal(0, 3, k), rng.uniform(0.2, 1, k)
    found = random_effects(effects.tolist(), errors.tolist())
    weights = 1 / (errors**2 + found.tau**2)
    mean = np.average(effects, weights=weights)
    assert found.mean == pytest.approx(mean)
    assert (weights * (effects - mean) ** 2).sum() == pytest.approx(k - 1)


def test_the_interval_holds_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        errors = rng.uniform(0.3, 1.5, 5)
        effects = 2 + rng.normal(0, 1, 5) + rng.normal(0, errors)
        found = random_effects(effects.tolist(), errors.tolist())
        held += abs(found.mean - 2) <= found.half
    assert 0.93 <= held / 400 <= 0.99


@pytest.mark.parametrize(
    ("effects", "errors"), [([1.0], [0.1]), ([1.0, 2.0], [0.1, 0.0]), ([1.0, 2.0], [0.1])]
)
def test_what_has_no_mean_is_refused(effects: list[float], errors: list[float]) -> None:
    with pytest.raises(UsageError, match="at least two effects"):
        random_effects(effects, errors)
