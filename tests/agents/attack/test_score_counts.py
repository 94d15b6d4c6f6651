"""What score-based attackers ask: counted by hand, alone or together, inside ball and box."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from lazybench.errors import UsageError

NAMES = (
    "coordinate",
    "zoo",
    "autozoom",
    "bandits",
    "fw_black",
    "nes",
    "rgf_tiled",
    "simba",
    "simba_dct",
    "square",
)
INSTANCE = (2, 6, 6)
# Few probes, so that many iterations fit; long steps, so that small images come to an end.
QUICK: dict[str, dict[str, Any]] = {
    "coordinate": {"coordinates": 5, "every": 2, "step": 0.1},
    "zoo": {"coordinates": 4, "rate": 0.2, "constant": 100.0},
    "autozoom": {"rate": 0.1, "latent": 3},
    "fw_black": {"directions": 3},
    "nes": {"directions": 3, "step_linf": 0.05},
    "rgf_tiled": {"directions": 4, "tile": 3},
}


def images(count: int) -> torch.Tensor:
    """Random images of six pixels a side and two channels."""
    return torch.rand(count, *INSTANCE, generator=torch.Generator().manual_seed(7))


def lines(meter: ModuleType) -> Any:
    """A target of three classes with random lines between them."""
    weight = torch.randn(3, *INSTANCE, generator=torch.Generator().manual_seed(3))
    return meter.linear(weight, -(weight.flatten(1).sum(1) / 2))


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("coordinate", [1, 5, 1, 1, 5, 1, 1, 5, 1, 1, 4]),
        ("zoo", [1, 8, 1, 8, 1, 7]),
        ("autozoom", [1] * 26),
        ("bandits", [2, 1] * 8 + [2]),
        ("fw_black", [6, 1, 6, 1, 6, 1, 5]),
        ("nes", [6, 1, 6, 1, 6, 1, 5]),
        ("rgf_tiled", [1, 4, 1, 4, 1, 4, 1, 4, 1, 4, 1]),
        # Nothing helps: the clean image once, then every direction forwards and backwards.
        ("simba", [1] * 26),
        ("simba_dct", [1] * 26),
        ("square", [1] * 26),
    ],
)
def test_queries_of_each_iteration_and_all_of_the_budget(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str, calls: list[int]
) -> None:
    task = meter.protocol(INSTANCE, query_budget=26, eps=2.0)
    agent = make_attacker(name, **QUICK.get(name, {}))
    box = meter.attack(agent, task, meter.always(3), images(2), torch.zeros(2, dtype=torch.int64))
    assert box.calls == [calls, calls]
    assert box.queries == [26, 26]


def test_long_estimates_go_in_parts(meter: ModuleType, make_attacker: Callable[..., Any]) -> None:
    task = meter.protocol(INSTANCE, query_budget=78)
    agent = make_attacker("zoo", coordinates=38)
    box = meter.attack(agent, task, meter.always(3), images(1), torch.tensor([0]))
    assert box.calls == [[1, 32, 32, 12, 1]]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", NAMES)
def test_an_image_fares_alone_as_it_does_with_others(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str, norm: str, targeted: bool
) -> None:
    target, x = lines(meter), images(5)
    label = target(x).argmax(1)
    goal = (label + 1) % 3 if targeted else None
    trial = torch.tensor([4, 0, 9, 2, 77])
    eps = 2.5 if norm == "l2" else 0.5
    task = meter.protocol(INSTANCE, query_budget=60, norm=norm, eps=eps, targeted=targeted)
    agent = make_attacker(name, **QUICK.get(name, {}))
    together = meter.attack(agent, task, target, x, label, goal, trial=trial)
    assert any(together.success_query)
    for image in (1, 4):
        only = slice(image, image + 1)
        alone = meter.attack(
            agent,
            task,
            target,
            x[only],
            label[only],
            None if goal is None else goal[only],
            trial=trial[only],
        )
        assert alone.calls[0] == together.calls[image]
        torch.testing.assert_close(alone.rows(0), together.rows(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["first", "minimise"])
@pytest.mark.parametrize("name", NAMES)
def test_finished_images_ask_nothing_and_shrinking_ones_go_on(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str, mode: str
) -> None:
    target, x = lines(meter), images(4)
    task = meter.protocol(INSTANCE, query_budget=150, eps=2.5, mode=mode)
    agent = make_attacker(name, **QUICK.get(name, {}))
    box = meter.attack(agent, task, target, x, target(x).argmax(1))
    assert all(box.success_query)
    if mode == "minimise" and name in ("zoo", "autozoom"):
        assert box.queries == [150] * 4
        at_first = [box.best(by)[i] for i, by in enumerate(box.success_query)]
        assert sum(box.best()) < sum(at_first)
    else:
        assert box.refused == [0] * 4
        # The success is in the last call, all of whose rows were sent at once.
        last = [calls[-1] for calls in box.calls]
        assert all(
            asked - end <= at <= asked
            for at, asked, end in zip(box.success_query, box.queries, last, strict=True)
        )


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["coordinate", "fw_black", "simba", "simba_dct", "square"])
def test_what_is_not_a_probe_stays_inside_ball_and_box(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str, norm: str
) -> None:
    # Corners of the box are where clipping matters.
    x = images(3).round()
    task = meter.protocol(INSTANCE, query_budget=80, eps=0.4, norm=norm)
    agent = make_attacker(name, **QUICK.get(name, {}))
    target = lines(meter)
    goalless = torch.full((3,), 2)
    box = meter.attack(agent, task, target, x, goalless)
    for image, calls in enumerate(box.calls):
        at = 0
        for asked in calls:
            if asked == 1:
                entry = box.ledger[image][at]
                assert entry.distance <= 0.4 + 1e-6
                assert 0 <= float(entry.row.min()) <= float(entry.row.max()) <= 1
            at += asked


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_refused_and_so_is_a_missing_ball(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str
) -> None:
    x, label = images(1), torch.tensor([0])
    with pytest.raises(UsageError, match="needs scores"):
        meter.attack(
            make_attacker(name), meter.protocol(INSTANCE, access="label"), lines(meter), x, label
        )
    endless = meter.protocol(INSTANCE, eps=math.inf, query_budget=20)
    if name in ("square", "fw_black"):
        with pytest.raises(UsageError, match="infinite eps"):
            meter.attack(make_attacker(name), endless, lines(meter), x, label)
        own = make_attacker(name, radius=0.3)
        box = meter.attack(own, endless, meter.always(3), x, label)
        if name == "square":
            assert max(entry.distance for entry in box.ledger[0]) <= 0.3 + 1e-6
    else:
        box = meter.attack(make_attacker(name), endless, meter.always(3), x, label)
    assert box.queries == [20]


def test_presets_follow_the_data(make_attacker: Callable[..., Any]) -> None:
    config = make_attacker("coordinate", "cifar10").config
    assert (config.coordinates, config.every, config.space) == (125, 3, "tanh")
    assert make_attacker("zoo", "cifar10").config.space == "tanh"
    assert make_attacker("simba_dct").config.basis == "dct"
    assert make_attacker("simba").config.basis == "pixel"
