"""NES, RGF and Frank-Wolfe: their directions, steps and the first point they reach."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

INSTANCE = (1, 8, 8)


def run(meter: ModuleType, agent: Any, budget: int, **changes: Any) -> Any:
    """Attack one image in the middle of the box, on a target of two halves."""
    task = meter.protocol(INSTANCE, classes=2, query_budget=budget, **changes)
    weight = torch.stack([torch.zeros(INSTANCE), torch.ones(INSTANCE)])
    x = torch.full((1, *INSTANCE), 0.5)
    # The margin is the sum of changes less 100: all slopes are 1, and nothing is a success.
    target = meter.linear(weight, torch.tensor([0.0, -32.0 - 100.0]))
    return meter.attack(agent, task, target, x, torch.tensor([0])), x[0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["nes", "rgf_tiled", "fw_black"])
def test_the_first_step_is_where_the_paper_says(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str, norm: str
) -> None:
    settings: dict[str, Any] = {"directions": 4}
    settings |= {"tile": 4} if name == "rgf_tiled" else {"momentum": 0.0}
    box, x = run(meter, make_attacker(name, **settings), 9, norm=norm, eps=0.5)
    rows = box.rows(0) - x
    if name == "rgf_tiled":
        probes, step = rows[1:5], rows[5]
        width = 1e-4 * 8
        drawn = probes / width
        torch.testing.assert_close(drawn.flatten(1).norm(dim=1), torch.ones(4), rtol=1e-3, atol=0)
        # Tiles of two pixels a side.
        assert torch.equal(probes[..., ::2, ::2], probes[..., 1::2, 1::2])
    else:
        width = 1e-3 if name == "nes" else 0.01
        torch.testing.assert_close(rows[0:8:2], -rows[1:8:2], rtol=0, atol=1e-6)
        drawn, step = rows[0:8:2] / width, rows[8]
        assert 0.8 < float(drawn.std()) < 1.2
    # Along each direction the slope is the sum of its entries.
    slope = drawn.flatten(1).sum(1)
    gradient = torch.einsum("q,qchw->chw", slope, drawn)
    toward = gradient.sign() if norm == "linf" else gradient / gradient.norm()
    length = {"l2": 0.2, "linf": 0.01}[norm]
    if name == "fw_black":
        # 3 % of the way to the end of a ball that is 30 times the attack's.
        length = 0.03 * 30 * 0.5
    if norm == "linf":
        sure = gradient.abs() > 0.05 * gradient.abs().max()
        torch.testing.assert_close(step[sure], length * toward[sure], rtol=0, atol=1e-6)
    else:
        torch.testing.assert_close(step, length * toward, rtol=0, atol=0.02 * length)


def test_momentum_keeps_the_former_estimates(
    meter: ModuleType, make_attacker: Callable[..., Any]
) -> None:
    steps = {}
    for momentum in (0.0, 0.9):
        agent = make_attacker("nes", directions=3, momentum=momentum, step_l2=0.01)
        box, _ = run(meter, agent, 70)
        at = box.rows(0)[6::7].flatten(1)
        moved = at[1:] - at[:-1]
        steps[momentum] = torch.cosine_similarity(moved[1:], moved[:-1]).mean()
    assert steps[0.9] > 0.7 > steps[0.0]
