"""Square attack: the squares' sizes, and what every proposal must be."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from lazybench.agents.attack.square import bump, scheduled
from lazybench.tasks import distance

EPS = {"l2": 1.5, "linf": 0.2}


def test_area_is_halved_on_the_published_schedule() -> None:
    halvings = {10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 501: 16, 1001: 32, 2001: 64}
    for step, share in {**halvings, 4001: 128, 6001: 256, 8001: 512, 9999: 512}.items():
        assert scheduled(0.8, step, 10_000) == pytest.approx(0.8 / share)
    # Stretched to the budget.
    assert scheduled(0.8, 500, 5_000) == scheduled(0.8, 1_000, 10_000)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_proposals_are_on_the_ball_and_change_one_square(
    meter: ModuleType, make_attacker: Callable[..., Any], norm: str
) -> None:
    # Nothing is clipped here, and a target that prefers nothing keeps the first candidate.
    x = torch.full((2, 3, 16, 16), 0.5)
    task = meter.protocol((3, 16, 16), query_budget=60, norm=norm, eps=EPS[norm])
    box = meter.attack(
        make_attacker("square"), task, meter.always(3), x, torch.zeros(2, dtype=torch.int64)
    )
    for image in range(2):
        rows = box.rows(image)
        far = distance(rows, x[:1].expand_as(rows), task.norm)
        torch.testing.assert_close(far, torch.full((60,), EPS[norm]), rtol=0, atol=1e-5)
        spans = []
        for step, row in enumerate(rows[1:]):
            moved = (row - rows[0]).abs().amax(0) > 1e-6
            across, along = moved.any(0).nonzero()[:, 0], moved.any(1).nonzero()[:, 0]
            area = scheduled(0.05 if norm == "linf" else 0.1, step, 60) * 256
            span = int(max(across[-1] - across[0], along[-1] - along[0])) + 1
            spans.append(span == max(round(area**0.5), 1))
            assert norm == "l2" or span <= max(round(area**0.5), 1)
        # A column that has all its signs already doesn't change, so not every square shows whole.
        assert norm == "l2" or sum(spans) > 40


def test_linf_starts_with_stripes_and_keeps_to_the_two_ends(
    meter: ModuleType, make_attacker: Callable[..., Any]
) -> None:
    x = torch.full((1, 2, 8, 8), 0.5)
    task = meter.protocol((2, 8, 8), query_budget=30, norm="linf", eps=0.25)
    box = meter.attack(make_attacker("square"), task, meter.always(3), x, torch.tensor([0]))
    offset = box.rows(0) - x
    assert torch.equal(offset.abs(), torch.full_like(offset, 0.25))
    assert torch.equal(offset[0], offset[0, :, :1].expand(2, 8, 8))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_margins_never_go_down(
    meter: ModuleType, make_attacker: Callable[..., Any], norm: str
) -> None:
    # Each proposal differs from the best so far in a square: nothing worse was kept.
    x = 0.2 + 0.6 * torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    target = meter.smooth((1, 12, 12), seed=2)
    task = meter.protocol((1, 12, 12), query_budget=80, norm=norm, eps=0.002)
    label = target(x).argmax(1)
    box = meter.attack(make_attacker("square"), task, target, x, label)
    assert box.success_query == [0]
    score = [
        float(entry.scores.scatter(0, label, -1e9).max() - entry.scores[label])
        for entry in box.ledger[0]
    ]
    rows, best = box.rows(0), 0
    if norm == "linf":
        for at in range(1, len(rows)):
            share = scheduled(0.05, at - 1, 80)
            side = max(round((share * 144) ** 0.5), 1)
            assert int((rows[at] != rows[best]).sum()) <= side * side
            best = at if score[at] > score[best] else best
    assert max(score) > score[0]


def test_bumps_by_hand() -> None:
    # Halves of 1x3 and 2x3: rectangles around (0, 1) and (1, 1), each lower than the one before.
    one = torch.tensor([[0.25, 1.25, 0.25]], dtype=torch.float64)
    two = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]], dtype=torch.float64)
    expected = torch.cat([one / one.norm(), -two / two.norm()])
    torch.testing.assert_close(bump(3), expected / expected.norm())
    for size in (1, 2, 5, 9):
        assert float(bump(size).norm()) == pytest.approx(1.0)
