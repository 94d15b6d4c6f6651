"""Starts, bisection and rays against closed forms on scripted targets, queries counted by hand."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.agents.attack.boundary import Boundary, BoundaryConfig
from lazybench.agents.attack.hopskipjump import HopSkipJump, HopSkipJumpConfig
from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.rays import (
    OptAttack,
    OptAttackConfig,
    Rays,
    SignOpt,
    SignOptConfig,
    local,
    unit,
)
from lazybench.agents.attack.search import Decisions, LabelConfig, bisect, ragged, starting_points
from lazybench.errors import ContractError
from lazybench.seeding import Rng

INSTANCE = (1, 4, 4)
LABEL_ONLY = {"access": "label", "mode": "minimise"}
ATTACKERS: list[tuple[Any, Any]] = [
    (Boundary, BoundaryConfig),
    (OptAttack, OptAttackConfig),
    (SignOpt, SignOptConfig),
    (HopSkipJump, HopSkipJumpConfig),
]


def begin(task: Any, x: Tensor, goal: Tensor | None = None) -> Start:
    n = len(x)
    return Start(task, 0, torch.arange(n), x, torch.zeros(n, dtype=torch.int64), goal)


def opened(meter: ModuleType, target: Any, x: Tensor, **changes: Any) -> tuple[Any, Decisions]:
    task = meter.protocol(INSTANCE, **{**LABEL_ONLY, **changes})
    start = begin(task, x)
    return meter.Meter(task, target, x, start.label), Decisions(start)


def test_ragged_rows_by_hand() -> None:
    owner, number = ragged(torch.tensor([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert number.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_bisection_ends_next_to_a_ball_of_known_radius(meter: ModuleType, norm: Any) -> None:
    x = torch.full((2, *INSTANCE), 0.5)
    box, search = opened(meter, meter.ball(x[0], 0.25), x, norm=norm)
    points = x.clone()
    points[0] += 0.4 * torch.linspace(-1, 1, 16).view(INSTANCE)
    points[1, 0, 0, 0] = 1.0
    found = meter.drive(bisect(search, torch.arange(2), points, 1 / 128), box)
    far = (found - x).flatten(1).norm(dim=1)
    assert bool((far > 0.25).all())
    if norm == "l2":
        assert box.queries == [7, 7]
        width = (points - x).flatten(1).norm(dim=1) / 128
        assert bool((far <= 0.25 + width + 1e-6).all())
    else:
        # The interval [0, d] is halved until it is no wider than d / 128: 7 times as well.
        assert box.queries == [7, 7]
        assert float(far[1]) <= 0.25 + 0.5 / 128 + 1e-6


def test_a_start_takes_one_query_a_try_and_may_be_found_in_coarse_noise(meter: ModuleType) -> None:
    x = torch.zeros(3, *INSTANCE)
    box, search = opened(meter, meter.ball(x[0], 0.5), x)
    points, found = meter.drive(starting_points(search, LabelConfig(), None), box)
    assert box.queries == [1, 1, 1]
    assert found.tolist() == [True] * 3
    assert not torch.equal(points[0], points[1])

    # Fine noise has a mean near 1/2; only coarse noise has an image whose mean is below 1/4.
    def dark(images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([mean - 0.25, 0.25 - mean, mean * 0 - 9], 1)

    box, search = opened(meter, dark, torch.full((2, *INSTANCE), 0.5), query_budget=500)
    points, found = meter.drive(starting_points(search, LabelConfig(uniform_tries=5), None), box)
    assert found.tolist() == [True, True]
    assert min(box.queries) > 5


@pytest.mark.parametrize(("made", "config"), ATTACKERS)
def test_who_finds_no_start_asks_no_more(meter: ModuleType, made: Any, config: Any) -> None:
    rays = {"directions": 4} if made in (OptAttack, SignOpt) else {}
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=90)
    x = torch.full((2, *INSTANCE), 0.5)
    box = meter.attack(
        made(config(start_tries=7, **rays)), task, meter.always(3), x, torch.tensor([0, 0])
    )
    assert box.queries == [7 + rays.get("directions", 0)] * 2


@pytest.mark.parametrize(("made", "config"), ATTACKERS)
def test_a_targeted_attack_starts_from_the_goals_example(
    meter: ModuleType, made: Any, config: Any
) -> None:
    task = meter.protocol(INSTANCE, **LABEL_ONLY, targeted=True, query_budget=400)
    weight = torch.stack([torch.full(INSTANCE, value) for value in (-1.0, 0.0, 1.0)])
    target = meter.linear(weight, torch.tensor([4.0, 0.0, -12.0]))
    examples = torch.stack([torch.full(INSTANCE, value) for value in (0.1, 0.5, 0.9)])
    x, label, goal = examples[:1].repeat(2, 1, 1, 1), torch.tensor([0, 0]), torch.tensor([1, 2])
    env = SimpleNamespace(task=task, examples=lambda: (examples * 255).to(torch.uint8))
    agent = made(config())
    state = agent.init(env, Rng(0))
    box = meter.attack(agent, task, target, x, label, goal, state=state)
    for image in range(2):
        assert torch.equal(box.rows(image)[0], state["examples"][goal[image]])
        assert box.ledger[image][0].hit
    # The classes meet where the sum of the pixels is 4 and 12; the images' sum is 1.6.
    for best, shortest in zip(box.best(), (2.4 / 4, 10.4 / 4), strict=True):
        assert shortest - 1e-4 <= best < 1.1 * shortest
    with pytest.raises(ContractError, match="has no examples"):
        agent.init(SimpleNamespace(task=task), Rng(0))
    with pytest.raises(ContractError, match=r"got shape \[1, 1, 4, 4\]"):
        agent.init(SimpleNamespace(task=task, examples=lambda: examples[:1]), Rng(0))


def test_local_search_of_a_ray_by_hand(meter: ModuleType) -> None:
    x = torch.full((4, *INSTANCE), 0.5)
    box, search = opened(meter, meter.ball(x[0], 0.3), x, query_budget=1000)
    direction = unit(torch.randn(4, *INSTANCE, generator=torch.Generator().manual_seed(0)), "l2")
    near = torch.tensor([0.301, 0.32, 0.296, 0.1], dtype=torch.float64)
    width = torch.full((4,), 1e-4, dtype=torch.float64)
    rays = Rays(torch.arange(4), direction, near)
    length = meter.drive(local(search, rays, width, longer=True), box)
    assert torch.allclose(length[:3], torch.full((3,), 0.3, dtype=torch.float64), atol=1.1e-4)
    assert bool((length[:3] > 0.3 - 1e-6).all())
    # Nothing is adversarial within twice a tenth.
    assert math.isinf(float(length[3]))

    def halvings(bracket: float) -> int:
        return math.ceil(math.log2(bracket / 1e-4))

    # Asked at the length given; then 1 % at a time until past 0.3; then a bracket of that 1 %.
    down = math.ceil(math.log(0.3 / 0.32) / math.log(0.99))
    up = math.ceil(math.log(0.3 / 0.296) / math.log(1.01))
    last = 0.32 * 0.99 ** (down - 1) * 0.01
    assert box.queries[0] == 1 + 1 + halvings(0.00301)
    assert box.queries[1] == 1 + down + halvings(last)
    assert box.queries[2] == 1 + up + halvings(0.296 * 1.01 ** (up - 1) * 0.01)
    assert box.queries[3] == 1 + math.ceil(math.log(2) / math.log(1.01))

    box, search = opened(meter, meter.ball(x[0], 0.3), x)
    length = meter.drive(local(search, rays, width, longer=False), box)
    assert torch.isinf(length).tolist() == [False, False, True, True]
    assert box.queries[2:] == [1, 1]
