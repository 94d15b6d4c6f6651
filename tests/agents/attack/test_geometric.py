"""GeoDA and SurFree: their geometry against closed forms and scipy's cosine transform."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import idctn

from lazybench.agents.attack.geometric import (
    Geoda,
    GeodaConfig,
    Surfree,
    SurfreeConfig,
    queries_of_estimates,
    turned,
)
from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.search import Decisions, low_waves

INSTANCE = (1, 6, 6)
LABEL_ONLY = {"access": "label", "mode": "minimise"}


def test_low_waves_are_scipys_inverse_transform() -> None:
    weights = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    whole = np.zeros((2, 3, 5, 7))
    whole[:, :, :2, :4] = weights.numpy()
    expected = idctn(whole, axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(low_waves(weights, 5, 7).numpy(), expected, atol=1e-6)


def test_queries_of_estimates_by_hand() -> None:
    shares = queries_of_estimates(3, 0.125)
    # 1/8 to the power of -2/3 is 4.
    assert shares.tolist() == pytest.approx([1 / 21, 4 / 21, 16 / 21])


def test_the_normal_of_a_plane_is_as_good_as_the_closed_form(meter: ModuleType) -> None:
    """The mean of N random directions by the side of the plane: cos^2 = c / (c + d / N)."""
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(INSTANCE, generator=generator)
    normal /= normal.norm()
    n, probes, size = 12, 200, math.prod(INSTANCE)
    x = torch.full((n, *INSTANCE), 0.5)
    weight = torch.stack([-normal, normal, torch.zeros(INSTANCE)])
    shift = float(normal.sum()) * 0.5 + 0.1
    target = meter.linear(weight, torch.tensor([shift, -shift, -99.0]))
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=500)
    label = torch.zeros(n, dtype=torch.int64)
    start = Start(task, 0, torch.arange(n), x, label, None)
    box, search = meter.Meter(task, target, x, label), Decisions(start)
    agent = Geoda(GeodaConfig(frequencies=1.0))
    points = x + 0.1 * normal
    counts = torch.full((n,), probes)
    found = meter.drive(agent._normal(search, torch.arange(n), points, counts, 0), box)
    cosine = (found * normal).flatten(1).sum(1) / found.flatten(1).norm(dim=1)
    c = 2 / math.pi
    assert float(cosine.mean()) == pytest.approx(
        math.sqrt(c / (c + (1 - c / size) * size / probes)), abs=0.03
    )
    assert box.queries == [probes] * n


def test_a_turned_point_is_on_the_circle_over_the_way() -> None:
    generator = torch.Generator().manual_seed(2)
    clean = torch.full((4, *INSTANCE), 0.5, dtype=torch.float64)
    home = 0.05 * torch.randn(4, *INSTANCE, generator=generator, dtype=torch.float64)
    across = torch.randn(4, *INSTANCE, generator=generator, dtype=torch.float64)
    flat, way = across.flatten(1), home.flatten(1)
    flat -= (flat * way).sum(1, keepdim=True) / way.square().sum(1, keepdim=True) * way
    across = (flat / flat.norm(dim=1, keepdim=True)).view_as(home)
    angle = torch.tensor([0.0, 0.3, -0.3, math.pi / 2], dtype=torch.float64)
    found = turned(clean, clean + home, across, angle)
    far, reach = (found - clean).flatten(1).norm(dim=1), way.norm(dim=1)
    torch.testing.assert_close(far, reach * angle.cos())
    torch.testing.assert_close(found[0], (clean + home)[0])
    # Thales: the circle's diameter is the way.
    middle = (found - clean - home / 2).flatten(1).norm(dim=1)
    torch.testing.assert_close(middle, reach / 2)
    side = ((found - clean) * across).flatten(1).sum(1).sign()
    assert side[1:3].tolist() == [1, -1]


def test_directions_are_at_right_angles_to_the_way_and_to_earlier_ones() -> None:
    x = torch.full((3, *INSTANCE), 0.5)
    task: Any = None
    start = Start(task, 0, torch.arange(3), x, torch.zeros(3, dtype=torch.int64), None)
    agent = Surfree(SurfreeConfig(frequencies=1.0))
    away = torch.randn(3, *INSTANCE, generator=torch.Generator().manual_seed(3))
    earlier = torch.zeros(3, 4, 36)
    kept = []
    for step in range(4):
        found = agent._direction(start, torch.arange(3), away, earlier, step)
        assert (found * away).flatten(1).sum(1).abs().max() < 1e-5
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(3))
        kept.append(found.flatten(1))
        earlier[:, step] = kept[-1]
    across = torch.einsum("smd,tmd->mst", torch.stack(kept), torch.stack(kept))
    torch.testing.assert_close(across, torch.eye(4).expand(3, 4, 4), atol=1e-4, rtol=0)


def test_surfree_counts_by_hand(meter: ModuleType) -> None:
    """No angle leads nearer than a ball's surface, so each direction costs all its tries."""
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=40)
    x = torch.full((1, *INSTANCE), 0.5)
    agent = Surfree(SurfreeConfig(start_tolerance=1 / 512))
    box = meter.attack(agent, task, meter.ball(x[0], 0.2), x, torch.tensor([0]))
    rows = box.rows(0)[10:]
    far = (rows - x).flatten(1).norm(dim=1)
    # 30 degrees and its two thirds and third, on both sides, then 2 % less.
    point = far[0] / math.cos(math.radians(30))
    expected = [math.radians(30) * part for part in (1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3)]
    missed = point * math.cos(math.radians(10)) < 0.2
    assert bool(missed)
    torch.testing.assert_close(far[:6], point * torch.tensor(expected).cos())
    torch.testing.assert_close(far[6], point * math.cos(0.98 * math.radians(30)))
