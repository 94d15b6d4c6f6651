"""How often the boards' intervals hold the truth, and how often equal agents are told apart.

Boards are made up: a trial has a difficulty that all agents share and one of each agent's own, a
seed shifts all scores of its model, and chance does the rest. For each spread of the seeds it
prints the share of agents whose interval holds their true mean (95 % is right), the share of
intervals of paired differences that hold the true difference, and the shares of equal pairs, and of
boards with any, that are told apart. On half of the boards all agents are equal, so that every
board with a pair told apart is a false one. `--bootstrap` prints what a bootstrap of seeds, then
trials, would have held instead.

`--worlds` makes up tests whose classes differ and counts how often the intervals over trials and
over classes hold the mean over all classes. `--halves` takes real records: in each split the trials
and the test classes are halved, each half has the answers on its classes' queries in its trials,
and the difference of the halves' means must be as small as both intervals together say. Run from
the root of a checkout: `python benchmarks/intervals.py`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lazybench import registry, seeding
from lazybench.boards.group import Group, groups
from lazybench.class_effects import ClassEffects, TrialClasses
from lazybench.envs.trial_classes import few_shot_classes, protocol_name
from lazybench.records import Store
from lazybench.stats import (
    FEWEST_PAIRS,
    LEVEL,
    Estimate,
    Parts,
    adjusted,
    over_seeds,
    paired_difference,
)

TRIALS, AGENTS = 300, 6
SHARED, OWN, CHANCE = 0.10, 0.05, 0.08
"""Standard deviations of a trial's difficulty for all, for one agent, and of what is left."""

SEEDS = (2, 3, 5)
SPREADS = (0.0, 0.005, 0.01, 0.03)
BETTER = 0.02
"""By how much one half of the agents is better than the other."""


class Found(NamedTuple):
    """Shares in per cent: intervals that hold the truth, equal pairs and boards told apart."""

    means: float
    differences: float
    pairs: float
    boards: float


def board(
    rng: np.random.Generator, seeds: int, spread: float, means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores `[agents, seeds, trials]` of a made-up board."""
    agents = len(means)
    shared = rng.normal(0, SHARED, TRIALS)
    own = rng.normal(0, OWN, (agents, 1, TRIALS))
    models = rng.normal(0, spread, (agents, seeds, 1))
    chance = rng.normal(0, CHANCE, (agents, seeds, TRIALS))
    return means[:, None, None] + shared + own + models + chance


def simulate(
    boards: int,
    seeds: int,
    spread: float,
    *,
    paired: bool = True,
    better: float = BETTER,
    seed: int = 0,
) -> Found:
    """Make up boards whose agents are equal within each half, and count.

    Args:
        boards: how many.
        seeds: of each agent.
        spread: standard deviation of its models.
        paired: whether seeds are paired (from three on), as on boards whose rows have the same
            ones. Here models have nothing in common, the worst case for it.
        better: by how much one half is better than the other; 0 makes all agents equal.
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    means = np.repeat([0.7, 0.7 + better], AGENTS // 2)
    pairs = list(itertools.combinations(range(AGENTS), 2))
    equal = np.array([means[i] == means[j] for i, j in pairs])
    held, near, broken, spoilt = 0, 0, 0, 0
    for _ in range(boards):
        scores = board(rng, seeds, spread, means)
        summaries = [over_seeds(list(each)) for each in scores]
        held += sum(s.lo <= mean <= s.hi for s, mean in zip(summaries, means, strict=True))
        found = [
            paired_difference(list(scores[i]), list(scores[j]), same_seeds=paired) for i, j in pairs
        ]
        truth = [means[i] - means[j] for i, j in pairs]
        near += sum(d.lo <= true <= d.hi for d, true in zip(found, truth, strict=True))
        apart = np.array(adjusted([d.p for d in found])) < 1 - LEVEL
        broken += int((apart & equal).sum())
        spoilt += bool((apart & equal).any())
    counts = (boards * AGENTS, boards * len(pairs), boards * int(equal.sum()), boards)
    shares = [100 * a / b for a, b in zip((held, near, broken, spoilt), counts, strict=True)]
    return Found(*shares)


def bootstrap(boards: int, seeds: int, spread: float, *, draws: int = 400, seed: int = 0) -> float:
    """Return the share, in per cent, of two-level bootstrap intervals that hold the true mean.

    Seeds are drawn first, then trials, the same ones for all drawn seeds; the interval is between
    the 2.5 % and 97.5 % quantiles of the draws' means.
    """
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(boards):
        scores = board(rng, seeds, spread, np.array([0.7]))[0]
        rows = rng.integers(seeds, size=(draws, seeds))
        weights = rng.multinomial(TRIALS, np.full(TRIALS, 1 / TRIALS), size=draws) / TRIALS
        means = (scores[rows].mean(1) * weights).sum(1)
        low, high = np.quantile(means, [0.025, 0.975])
        held += low <= 0.7 <= high
    return 100 * held / boards


WORLDS = (
    (600, 5, 423, 0.25),
    (600, 5, 423, 0.0),
    (200, 20, 423, 0.25),
    (600, 5, 20, 0.25),
    (600, 5, 20, 0.05),
    (200, 50, 425, 0.25),
    (100, 1, 10, 0.10),
)
"""Trials, ways and test classes, and the standard deviation of a class's effect on its trials."""


def world(trials: int, ways: int, classes: int, spread: float, worlds: int) -> tuple[float, float]:
    """Shares, in per cent, of intervals over trials and over classes that hold the mean of all."""
    rng = np.random.default_rng(0)
    members = np.stack([rng.permutation(classes)[:ways] for _ in range(trials)])
    effects = ClassEffects(TrialClasses(members))
    held = np.zeros(2)
    for _ in range(worlds):
        scores = rng.normal(0, spread, classes)[members].mean(axis=1)
        scores += rng.normal(0, 0.1, trials)
        found = [over_seeds([scores], each) for each in (None, effects)]
        held += [each.lo <= 0 <= each.hi for each in found]
    return float(100 * held[0] / worlds), float(100 * held[1] / worlds)


HALVED = ("protonet", "reptile", "maml", "lazy_reptile")


def by_class(group: Group) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Classes of trials and the share of right answers on each's queries, `[n, ways]`, or None.

    None where classes or answers aren't known. Seeds are averaged: their models are the same on
    both halves.
    """
    first = group.scored[0]
    spec = registry.ENVS.resolve(first.env.id).spec
    design = few_shot_classes(spec, first.data.fingerprint, first.trials.n)
    if design is None or any(record.trials.predictions is None for record in group.scored):
        return None
    n, ways = design.members.shape
    keys = seeding.mix(seeding.mix(protocol_name(spec.kwargs), "test"), np.arange(n))
    found = []
    for record in group.scored:
        assert record.trials.predictions is not None
        answers = record.trials.predictions.unpack()
        rows = answers.shape[1]
        labels = seeding.permutation(seeding.mix(keys, 2 * ways), rows) // (rows // ways)
        right = answers == labels
        if not np.allclose(right.mean(axis=1), record.trials.scores_array(), atol=1e-5):
            raise SystemExit(f"{record.key12}: its answers don't have its scores")
        place = (np.arange(n)[:, None] * ways + labels).ravel()
        found.append(np.bincount(place, right.ravel()).reshape(n, ways) / (rows // ways))
    return design.members, np.mean(found, axis=0)


def halves(
    members: NDArray[np.int64], scores: NDArray[np.float64], splits: int
) -> tuple[float, float]:
    """Shares of splits, in per cent, whose halves agree by intervals over trials, over classes."""
    rng = np.random.default_rng(0)
    names, agreed = np.unique(members), np.zeros(2)
    for _ in range(splits):
        chosen = rng.permutation(names)[: len(names) // 2]
        early = rng.permutation(len(members)) < len(members) // 2
        inside = np.isin(members, chosen)
        units = [inside & early[:, None], ~inside & ~early[:, None]]
        for k, over_classes in enumerate((False, True)):
            one, other = (_mean_of(scores[u], members[u], over_classes) for u in units)
            agreed[k] += one.less(other).p() >= 1 - LEVEL
    return float(100 * agreed[0] / splits), float(100 * agreed[1] / splits)


def _mean_of(
    scores: NDArray[np.float64], members: NDArray[np.int64], over_classes: bool
) -> Estimate:
    parts = Parts.of_trials(scores)
    if over_classes:
        parts = parts.with_classes(ClassEffects(TrialClasses(members[:, None])), scores)
    return Estimate(float(scores.mean()), parts)


def show_halves(splits: int) -> None:
    """Write a table, a line for each board."""
    found: dict[str, list[tuple[float, float]]] = {}
    for group in groups(Store("leaderboards").records()):
        first = group.records[0]
        whole = len(group.scored) >= FEWEST_PAIRS and not first.limited
        if first.env.family != "fewshot" or first.agent.id not in HALVED or not whole:
            continue
        cells = by_class(group)
        if cells is not None:
            found.setdefault(first.env.id, []).append(halves(*cells, splits))
    rows = [(env, len(each), *np.mean(each, axis=0).tolist()) for env, each in found.items()]
    rows.append(("mean", sum(row[1] for row in rows), *np.mean([r[2:] for r in rows], axis=0)))
    _show(rows, ("environment", "rows", "over trials, %", "over classes, %"))


def main() -> None:
    """Write a table, a line for each number of seeds and spread."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--boards", type=int, default=1000)
    parser.add_argument("--bootstrap", action="store_true", help="the bootstrap's intervals alone")
    parser.add_argument("--worlds", action="store_true", help="tests whose classes differ")
    parser.add_argument("--halves", action="store_true", help="real records, halved")
    args = parser.parse_args()
    if args.worlds:
        lines = [(*each, *world(*each, args.boards)) for each in WORLDS]
        titles = ("trials", "ways", "classes", "sd of classes", "over trials, %", "over classes, %")
        _show([(str(a), str(b), str(c), str(d), *x) for a, b, c, d, *x in lines], titles)
        return
    if args.halves:
        show_halves(args.boards)
        return
    if args.bootstrap:
        shares = [
            (seeds, spread, bootstrap(args.boards, seeds, spread))
            for seeds in SEEDS
            for spread in SPREADS
        ]
        _show(shares, ("seeds", "their sd", "means, %"))
        return
    rows = [
        (
            seeds,
            spread,
            "yes" if paired else "no",
            "all" if better == 0 else "halves",
            *simulate(args.boards, seeds, spread, paired=paired, better=better),
        )
        for paired in (True, False)
        for better in (0.0, BETTER)
        for seeds in SEEDS
        for spread in SPREADS
        # Two seeds are never paired, and never form groups.
        if not (paired and seeds < FEWEST_PAIRS)
    ]
    _show(rows, ("seeds", "their sd", "paired", "equal", *(f"{name}, %" for name in Found._fields)))


def _show(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> None:
    texts = [
        [f"{x:.1f}" if i > 1 and isinstance(x, float) else x for i, x in enumerate(r)] for r in rows
    ]
    sys.stdout.write(tabulate(texts, headers, disable_numparse=True) + "\n")


if __name__ == "__main__":
    main()
