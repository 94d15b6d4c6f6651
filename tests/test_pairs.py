"""All pairs of a board at once: the same as one by one."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from lazybench.class_effects import ClassEffects, TrialClasses
from lazybench.stats import LEVEL, _paired, _Pairs, adjusted, paired_difference, significant_pairs


def board(rng, rows, trials, seeds, spread=0.02):
    """Made-up sides that share the difficulty of their trials."""
    difficulty = rng.normal(0.5, 0.1, trials)
    sides = []
    for row in range(rows):
        level = difficulty + rng.normal(0, spread)
        sides.append(
            [
                level + rng.normal(0, 0.01) + rng.normal(0, 0.1, trials)
                for _ in seeds[row % len(seeds)]
            ]
        )
    return sides, [list(seeds[row % len(seeds)]) for row in range(rows)]


def one_by_one(sides, seeds):
    """The pairs that differ, by `paired_difference` and scipy's correction."""
    known, apart = [], set()
    for i, j in itertools.combinations(range(len(sides)), 2):
        both = [*sides[i], *sides[j]]
        if not sides[i] or not sides[j] or len({each.size for each in both}) > 1:
            apart.add((i, j))
            continue
        p = paired_difference(sides[i], sides[j], same_seeds=seeds[i] == seeds[j]).p
        if np.isnan(p):
            apart.add((i, j))
        else:
            known.append(((i, j), p))
    chances = adjusted([p for _, p in known])
    return apart | {pair for (pair, _), p in zip(known, chances, strict=True) if p < 1 - LEVEL}


SEEDS = {
    "same": [(0, 1, 2)],
    "others": [(0, 1, 2), (3, 4, 5, 6)],
    "mixed": [(0, 1, 2), (0, 1, 2, 3), (0, 1, 3)],
}


@pytest.mark.parametrize(
    ("trials", "with_classes"), [(1, False), (2, False), (50, False), (50, True)]
)
@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
def test_parts_are_those_of_each_pair(seeds, trials, with_classes):
    sides, reported = board(np.random.default_rng(trials), 9, trials, seeds)
    members = np.random.default_rng(0).integers(0, 7, (trials, 2))
    effects = ClassEffects(TrialClasses(members)) if with_classes and trials > 2 else None
    found = _Pairs(sides, reported, effects)
    assert found.pairs.tolist() == [list(pair) for pair in itertools.combinations(range(9), 2)]
    for k, (i, j) in enumerate(found.pairs):
        parts, differences = _paired(sides[i], sides[j], reported[i] == reported[j], effects)
        assert parts is not None
        assert found.mean[k] == pytest.approx(differences.mean(), rel=1e-12, abs=1e-15)
        assert found.seeds[k] == pytest.approx(parts.seeds, rel=1e-12)
        assert found.trials[k] == pytest.approx(parts.trials, rel=1e-12)
        assert (found.seeds_df[k], found.trials_df[k]) == pytest.approx(
            (parts.seeds_df, parts.trials_df), rel=1e-12
        )


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03, 0.3])
@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
def test_the_same_pairs_differ(seeds, spread):
    for trial in range(3):
        sides, reported = board(np.random.default_rng(trial), 16, 40, seeds, spread)
        assert significant_pairs(sides, reported) == one_by_one(sides, reported)


def test_sides_that_hardly_vary_or_cannot_be_compared():
    rng = np.random.default_rng(0)
    hits = [rng.integers(0, 2, 30).astype(float) for _ in range(3)]
    noise = [rng.normal(0.5, 0.1, 30) for _ in range(3)]
    sides = [
        *(hits, [each.copy() for each in hits], noise, [each + 0.1 for each in noise]),
        *([np.full(30, value)] * 3 for value in (0.0, 1.0, 1.0, 0.3, 0.1 + 0.2)),
        *([], [np.ones(29)] * 3, [np.ones(29)] * 3, [np.ones(1)] * 3, [np.ones(1)] * 3),
        [np.array([float(seed)]) for seed in range(3)],
        [np.array([2.0 * seed]) for seed in range(3)],
    ]
    reported = [[0, 1, 2]] * len(sides)
    assert significant_pairs(sides, reported) == one_by_one(sides, reported)
    assert significant_pairs([], []) == significant_pairs([hits], [[0, 1, 2]]) == set()


def test_a_wide_board_takes_seconds():
    """Pair by pair, 400 rows took 22 CPU-s."""
    sides, reported = board(np.random.default_rng(0), 400, 100, SEEDS["same"], 0.3)
    begin_s = time.process_time()
    assert len(significant_pairs(sides, reported)) > 1000
    assert time.process_time() - begin_s < 2
