"""SimBA: its directions, and that it never goes down."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import idctn

from lazybench.agents.attack.simba import waves


def test_waves_are_the_inverse_cosine_transform_of_single_frequencies() -> None:
    shape = torch.Size((2, 5, 6))
    got = waves(torch.arange(shape.numel()), shape).numpy()
    for at in range(shape.numel()):
        one = np.zeros(shape)
        one.reshape(-1)[at] = 1.0
        np.testing.assert_allclose(got[at], idctn(one, axes=(1, 2), norm="ortho"), atol=1e-6)
    flat = torch.from_numpy(got).flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(shape.numel()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["simba", "simba_dct"])
def test_kept_steps_are_orthogonal_and_margins_only_rise(
    meter: ModuleType, make_attacker: Callable[..., Any], name: str
) -> None:
    instance = (1, 8, 8)
    # Steps too short to leave the box from its middle.
    x, step = torch.full((1, *instance), 0.5), 0.02
    target = meter.smooth(instance, seed=4)
    label = target(x).argmax(1)
    task = meter.protocol(instance, query_budget=129, eps=1e-9)
    agent = make_attacker(name, step=step, radius=100.0, frequencies=1.0)
    box = meter.attack(agent, task, target, x, label)
    scores = torch.stack([entry.scores for entry in box.ledger[0]])
    margins = scores.scatter(1, label.expand(129, 1), -1e9).amax(1) - scores[:, int(label)]
    rows = box.rows(0)
    best, directions, at = 0, [], 1
    while at < len(rows):
        forwards = rows[at] - rows[best]
        directions.append(forwards / step)
        if margins[at] > margins[best]:
            best, at = at, at + 1
            continue
        if at + 1 == len(rows):
            break
        # It didn't help: the same direction backwards from the same place.
        torch.testing.assert_close(rows[at + 1] - rows[best], -forwards, atol=1e-6, rtol=0)
        if margins[at + 1] > margins[best]:
            best = at + 1
        at += 2
    assert best > 0
    first = torch.stack(directions[:64]).flatten(1)
    assert len(first) == 64
    torch.testing.assert_close(first @ first.T, torch.eye(64), atol=1e-3, rtol=0)


def test_low_frequencies_come_first_and_a_new_order_after_all(
    meter: ModuleType, make_attacker: Callable[..., Any]
) -> None:
    instance = (2, 4, 4)
    x = torch.full((1, *instance), 0.5)
    task = meter.protocol(instance, query_budget=129)
    agent = make_attacker("simba_dct", step=0.05)
    box = meter.attack(agent, task, meter.always(3), x, torch.tensor([0]))
    basis = waves(torch.arange(32), torch.Size(instance)).flatten(1)
    tried = ((box.rows(0)[1::2] - x[0]).flatten(1) @ basis.T).abs().argmax(1)
    assert sorted(tried[:32].tolist()) == list(range(32))
    assert sorted(tried[32:].tolist()) == list(range(32))
    assert tried[:32].tolist() != tried[32:].tolist()
    low = (tried % 16 // 4 < 2) & (tried % 4 < 2)
    assert low[:8].all()
    assert not low[8:32].any()
