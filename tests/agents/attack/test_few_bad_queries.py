"""Searches from the adversarial side, RayS row by row, and attackers that see labels alone."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lazybench.agents.attack.geometric import Geoda, GeodaConfig, Surfree, SurfreeConfig
from lazybench.agents.attack.hopskipjump import (
    HopSkipJump,
    HopSkipJumpConfig,
    StealthyHopSkipJump,
    StealthyHopSkipJumpConfig,
)
from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.rays import RayS, RaySConfig, SignOpt, SignOptConfig, blocks
from lazybench.agents.attack.search import Decisions, descend_to
from lazybench.api import make_env
from lazybench.seeding import Rng

INSTANCE = (1, 4, 4)
LABEL_ONLY = {"access": "label", "mode": "minimise"}
NEW: list[Any] = [
    (StealthyHopSkipJump, StealthyHopSkipJumpConfig),
    (RayS, RaySConfig),
    (Geoda, GeodaConfig),
    (Surfree, SurfreeConfig),
]


def standard_errors(differences: Any) -> float:
    """How many standard errors the mean of some differences is above 0."""
    values = np.asarray(differences, np.float64)
    return float(values.mean() / (values.std(ddof=1) / math.sqrt(len(values))))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_descent_pays_one_bad_answer_a_round(meter: ModuleType, norm: Any, rounds: int) -> None:
    x, radius = torch.full((1, *INSTANCE), 0.5), 0.237
    task = meter.protocol(INSTANCE, **LABEL_ONLY, norm=norm, query_budget=200)
    label = torch.zeros(1, dtype=torch.int64)
    box = meter.Meter(task, meter.ball(x[0], radius), x, label)
    search = Decisions(Start(task, 0, torch.arange(1), x, label, None))
    points = x.clone()
    points[0, 0, 0, 0] = 1.0
    found = meter.drive(descend_to(search, torch.arange(1), points, 1 / 64, rounds), box)
    # By hand, in lengths: the point is .5 away, and each round divides its interval by s.
    steps = {1: 64, 2: 8, 3: 4}[rounds]
    high, low, asked = 0.5, 0.0, 0
    for _ in range(rounds):
        stride = (high - low) / steps
        for _ in range(steps - 1):
            asked += 1
            if high - stride <= radius:
                low = high - stride
                break
            high -= stride
    assert float((found - x).norm()) == pytest.approx(high, abs=1e-6)
    assert radius < high <= radius + 0.5 / 64
    assert box.queries == [asked]
    assert sum(not entry.hit for entry in box.ledger[0]) <= rounds


def test_probes_are_bad_as_often_as_wanted_and_still_find_the_normal(meter: ModuleType) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (1, 12, 12)
    normal = torch.randn(shape, generator=generator)
    normal /= normal.norm()
    n = 10
    x = torch.full((n, *shape), 0.5)
    weight = torch.stack([-normal, normal])
    shift = float(normal.sum()) * 0.5 + 0.1
    target = meter.linear(weight, torch.tensor([shift, -shift]))
    task = meter.protocol(shape, 2, **LABEL_ONLY, query_budget=2000)
    label = torch.zeros(n, dtype=torch.int64)
    found = {}
    for made, config in ((HopSkipJump, HopSkipJumpConfig), NEW[0]):
        box = meter.Meter(task, target, x, label)
        search = Decisions(Start(task, 0, torch.arange(n), x, label, None))
        counts, radius = torch.full((n,), 640), torch.full((n,), 0.02)
        agent = made(config())
        outside = torch.full((n,), agent._outside(144))
        points = x + 0.1001 * normal
        way = meter.drive(
            agent._estimate(search, torch.arange(n), points, counts, radius, 1, outside),
            box,
        )
        cosine = (way * normal).flatten(1).sum(1)
        bad = np.array([[not entry.hit for entry in rows] for rows in box.ledger])
        found[made] = float(cosine.mean()), bad
    plain, stealthy = found[HopSkipJump], found[StealthyHopSkipJump]
    assert plain[1].mean() == pytest.approx(0.5, abs=0.05)
    # After the centre has moved; its share follows the one that is wanted.
    assert 0.05 < stealthy[1][:, 320:].mean() < 0.2
    # cos^2 of N signs is about c / (c + d / N): what each bad answer is worth.
    worth = [cosine**2 / (1 - cosine**2) / bad.sum(1).mean() for cosine, bad in (plain, stealthy)]
    assert worth[1] > 2 * worth[0]


def test_the_centre_moves_by_hand() -> None:
    agent = StealthyHopSkipJump(StealthyHopSkipJumpConfig(bad_share=0.25))
    outside = torch.tensor([1.0, 1.0, 1.0, 0.5, 2.0])
    row = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3])
    bad = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0]).bool()
    agent._move(outside, row, ~bad)
    root = math.sqrt(2)
    torch.testing.assert_close(outside, torch.tensor([root, 1 / root, 1.0, 0.5 * root, 2.0]))


def test_stealthy_hopskipjump_is_nearer_at_equal_bad_queries(
    meter: ModuleType, glyph_net: SimpleNamespace
) -> None:
    x, label = glyph_net.x[::3], glyph_net.label[::3]
    task = meter.protocol(glyph_net.instance, glyph_net.classes, **LABEL_ONLY, query_budget=450)
    least = []
    for made, config in (NEW[0], (HopSkipJump, HopSkipJumpConfig)):
        box = meter.attack(made(config()), task, glyph_net.target, x, label)
        for rows in box.ledger:
            bad = np.cumsum([not entry.hit for entry in rows])
            until = int(np.searchsorted(bad, 60))
            least.append(min(entry.distance for entry in rows[:until] if entry.hit))
    stealthy, plain = np.array(least).reshape(2, -1)
    assert standard_errors(np.log(plain / stealthy)) > 3


def test_blocks_by_hand() -> None:
    found = [list(range(5)[block]) for block in blocks(5)]
    assert found == [
        [0, 1, 2, 3, 4],
        *([0, 1, 2], [3, 4]),
        *([0, 1], [2, 3], [4]),
        *([0], [1], [2], [3], [4]),
    ]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_rays_asks_what_a_plain_loop_asks(meter: ModuleType, norm: Any) -> None:
    """One image in NumPy: signs, lengths and decisions, a query at a time."""
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(2, *INSTANCE, generator=generator)
    x = torch.full((1, *INSTANCE), 0.5)
    bias = torch.tensor([0.6, 0.0]) - (weight * x[0]).flatten(1).sum(1)
    target = meter.linear(weight, bias)
    budget, tolerance = 120, 0.004
    task = meter.protocol(INSTANCE, 2, **LABEL_ONLY, norm=norm, query_budget=budget)
    box = meter.attack(RayS(RaySConfig(tolerance=tolerance)), task, target, x, torch.tensor([0]))

    away = (weight[1] - weight[0]).numpy().astype(np.float64).ravel()
    scale = 1.0 if norm == "linf" else 0.25
    tolerance *= 1.0 if norm == "l2" else 0.25
    asked: list[np.ndarray] = []

    def adversarial(signs: np.ndarray, reach: float) -> bool:
        asked.append(np.clip(0.5 + reach * scale * signs, 0, 1))
        return bool(away @ (asked[-1] - 0.5) > 0.6)

    best, least, found = np.ones(16), 1 / scale, False
    flips = [np.arange(0)] + [
        np.arange(first, first + side) for side in (16, 8, 4, 2, 1) for first in range(0, 16, side)
    ]
    turn = 0
    while len(asked) < budget:
        signs = best.copy()
        signs[flips[turn if turn < len(flips) else (turn - 1) % (len(flips) - 1) + 1]] *= -1
        turn += 1
        if not adversarial(signs, least):
            continue
        low, high = 0.0, least
        while high - low > tolerance:
            middle = (low + high) / 2
            low, high = (low, middle) if adversarial(signs, middle) else (middle, high)
        if high < least or not found:
            best, least, found = signs, high, True
    assert found
    rows = box.rows(0).flatten(1).numpy()
    np.testing.assert_allclose(rows, np.array(asked[:budget]), atol=1e-6)


@pytest.mark.parametrize(("made", "config"), NEW)
def test_scores_are_never_looked_at(
    meter: ModuleType, made: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows where scores are shown, hidden, or something that breaks when it is used."""
    x = 0.4 + 0.2 * torch.rand(2, *INSTANCE, generator=torch.Generator().manual_seed(8))
    target, label = meter.smooth(INSTANCE), torch.zeros(2, dtype=torch.int64)
    label = target(x).argmax(1)
    answer = meter.Meter.answer
    sent = []
    for access, shown in (("scores", True), ("label", True), ("label", False)):
        task = meter.protocol(INSTANCE, access=access, mode="minimise", query_budget=150)

        def answered(self: Any, queries: Any, shown: bool = shown) -> Any:
            replies = answer(self, queries)
            return replies if shown else replies._replace(scores=None)

        monkeypatch.setattr(meter.Meter, "answer", answered)
        box = meter.attack(made(config()), task, target, x, label)
        sent.append([box.rows(image) for image in range(2)])
    for rows in sent[1:]:
        assert all(torch.equal(one, other) for one, other in zip(sent[0], rows, strict=True))


@pytest.fixture(scope="module")
def nearest() -> Any:
    """A function from an attacker and a norm to its distances on `glyphs-net4`, `[n]`."""
    kept: dict[Any, np.ndarray] = {}

    def attack(agent: Any, norm: str) -> np.ndarray:
        key = type(agent), norm
        if key not in kept:
            ending = "-linf" if norm == "linf" else ""
            env = make_env(
                f"glyphs-net4-untargeted-label{ending}",
                num_envs=12,
                backend="torch",
                query_budget=250,
            )
            policy, memory = agent.policy(agent.init(env, Rng(0))), None
            seen, _ = env.reset(seed=0)
            while not bool(torch.as_tensor(seen["done"]).all()):
                action, memory = policy(seen, memory)
                seen = env.step(action)[0]
            kept[key] = env.box.ledger.nearest.copy()
            env.close()
        return kept[key]

    return attack


@pytest.mark.slow
@pytest.mark.parametrize(("made", "config"), NEW)
def test_is_nearer_than_random_directions_on_glyphs_net4(
    nearest: Any, made: Any, config: Any
) -> None:
    """Equal queries; the control keeps the best of random rays, each bisected where it wins.

    Images that the control finds nothing for aren't compared; the attacker finds all of them.
    """
    norm = "linf" if made is RayS else "l2"
    control = nearest(SignOpt(SignOptConfig(directions=10**6)), norm)
    found = nearest(made(config()), norm)
    assert np.isfinite(found).all()
    there = np.isfinite(control)
    assert there.sum() >= 6
    assert standard_errors((control - found)[there]) > 3
