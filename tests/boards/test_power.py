"""Power against published numbers of Student's test, and against simulated comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lazybench.boards.compare import Size, Variances, plan
from lazybench.class_effects import ClassEffects, TrialClasses
from lazybench.errors import UsageError
from lazybench.stats import paired_difference

MANY = 10**9


@pytest.mark.parametrize(
    ("variances", "enough", "few"),
    [
        (Variances(0, 0, 1, 0, 1), Size(34, None, 3), Size(33, None, 3)),
        (Variances(1, 0, 0, 0, 1), Size(100, None, 34), Size(100, None, 33)),
        (Variances(0, 1, 0, 0, 1), Size(MANY, 34, 3), Size(MANY, 33, 3)),
    ],
)
def test_a_single_part_needs_what_tables_of_the_t_test_say(
    variances: Variances, enough: Size, few: Size
) -> None:
    """Half a standard deviation at 80 %: 34 pairs (J. Cohen, Statistical Power Analysis, 1988)."""
    assert variances.power(few, 0.5) < 0.8 <= variances.power(enough, 0.5)
    assert variances.power(enough, 1e-9) == pytest.approx(0.05, abs=1e-6)
    assert variances.power(enough, 100) == pytest.approx(1)


def test_the_power_is_the_share_of_simulated_comparisons_that_detect_it() -> None:
    rng = np.random.default_rng(0)
    seeds, n, ways, classes, true = 5, 300, 5, 60, 0.02
    of = Variances(seeds=0.012**2, classes=0.06**2, trials=0.05**2, chance=0.08**2, ways=ways)
    members = np.stack([rng.permutation(classes)[:ways] for _ in range(n)])
    effects = ClassEffects(TrialClasses(members))
    worlds, apart = 400, 0
    for _ in range(worlds):
        shared = rng.normal(0, of.classes**0.5, classes)[members].mean(axis=1)
        shared += rng.normal(0, of.trials**0.5, n)
        models = rng.normal(0, of.seeds**0.5, (seeds, 1))
        table = true + shared + models + rng.normal(0, of.chance**0.5, (seeds, n))
        found = paired_difference(
            list(table), list(np.zeros((seeds, n))), same_seeds=True, effects=effects
        )
        apart += found.p < 0.05
    power = of.power(Size(n, classes, seeds), true)
    assert 0.3 < power < 0.9
    assert apart / worlds == pytest.approx(power, abs=0.07)


def two_rows(make_run: Any, seeds: int = 4, n: int = 400) -> list[Any]:
    rng = np.random.default_rng(1)
    shared, own = rng.normal(0.5, 0.1, n), rng.normal(0, 0.04, n)
    return [
        make_run(
            agent,
            seed=seed,
            scores=shared + level + (agent == "a") * own + rng.normal(0, 0.03, n),
            env__id="mnist-net4-untargeted",
            env__family="attack",
        )
        for agent, level in (("a", 0.02), ("b", 0.0))
        for seed in range(seeds)
    ]


def test_a_plan_takes_the_variances_of_the_records(make_run: Any) -> None:
    found = plan(two_rows(make_run), "a", "b", difference=1.0, power=0.8)
    assert found.now == (400, None, 4)
    assert found.observed == pytest.approx(2, abs=0.6)
    # In points squared: what the two agents' trials differ by, and chance in both.
    assert found.variances.trials == pytest.approx(4**2, rel=0.2)
    assert found.variances.chance == pytest.approx(2 * 3**2, rel=0.2)
    assert found.variances.seeds < 0.05
    assert found.classes is None
    for size in (found.now._replace(trials=found.trials), found.together):
        assert size is not None
        assert found.variances.power(size, 1.0) >= 0.8
    assert found.trials is not None
    less = found.now._replace(trials=found.trials - 1)
    assert found.variances.power(less, 1.0) < 0.8
    # Trials that all agree on bound what more seeds can do.
    assert plan(two_rows(make_run), "a", "b", difference=0.1, power=0.8).seeds is None


def test_what_a_plan_cant_be_made_of_is_refused(make_run: Any) -> None:
    rows = two_rows(make_run)
    with pytest.raises(UsageError, match="number above 0"):
        plan(rows, "a", "b", difference=0, power=0.8)
    with pytest.raises(UsageError, match=r"between 0\.05 and 1"):
        plan(rows, "a", "b", difference=1, power=1)
    with pytest.raises(UsageError, match="has 1 seed"):
        plan(two_rows(make_run, seeds=1), "a", "b", difference=1, power=0.8)
