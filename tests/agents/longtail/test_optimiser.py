"""The pure step gives torch.optim.SGD's numbers, bit for bit."""

from __future__ import annotations

import pytest
import torch

from lazybench.agents.longtail.learner import sgd_step
from lazybench.agents.longtail.settings import LongTailConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"),
    [(0.9, True, 5e-4), (0.9, False, 5e-4), (0.0, False, 2e-4), (0.9, True, 0.0)],
)
def test_it_is_torchs_own(momentum, nesterov, decay, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4, 2, 2), "b": (5,), "c": (7, 3)}
    theta = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in shapes.items()}
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in theta.items()}
    optimiser = torch.optim.SGD(
        theirs.values(), lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    config = LongTailConfig(momentum=momentum, nesterov=nesterov, weight_decay=decay)
    held = {name: torch.zeros_like(value) for name, value in theta.items()}
    for lr in (0.1, 0.1, 0.01, 0.003):
        gradient = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in shapes.items()}
        before = [{n: v.clone() for n, v in part.items()} for part in (theta, held, gradient)]
        new, fresh = sgd_step(config, theta, held, gradient, lr)
        for part, kept in zip((theta, held, gradient), before, strict=True):
            torch.testing.assert_close(part, kept, rtol=0, atol=0)
        theta, held = new, fresh
        for name, value in theirs.items():
            value.grad = gradient[name]
        optimiser.param_groups[0]["lr"] = lr
        optimiser.step()
        for name, value in theirs.items():
            assert torch.equal(theta[name], value.detach())


def test_parameters_without_a_gradient_stay():
    config = LongTailConfig()
    theta = {"a": torch.ones(2), "b": torch.ones(3)}
    held = {"a": torch.ones(2), "b": torch.ones(3)}
    new, fresh = sgd_step(config, theta, held, {"b": torch.ones(3)}, 0.1)
    assert new["a"] is theta["a"]
    assert fresh["a"] is held["a"]
    assert not torch.equal(new["b"], theta["b"])
    assert sgd_step(config, theta, held, {}, 0.1) == (theta, held)
