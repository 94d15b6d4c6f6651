"""The meta-gradient taken back step by step against the one of an unrolled inner loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lazybench import learning
from lazybench.nets import Conv4
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape


def replayed(
    theta: Params, losses: list[learning.LossFn], valid: learning.LossFn, lr: float
) -> learning.MetaGradient:
    rule = learning.sgd(lr)
    trail = learning.student(theta, losses, rule=rule, keep=len(losses) + 1)
    return learning.replayed_gradient(theta, trail, losses, valid, lr=lr)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_it_is_the_unrolled_gradient(steps: int) -> None:
    net = Conv4(TaskShape(3, 2, 2, (1, 16, 16), "uint8"), filters=4, second_order=True)
    draw = torch.Generator().manual_seed(0)
    theta = {name: value.double() for name, value in net.init(draw).items()}
    x, y = torch.rand(12, 1, 16, 16, generator=draw, dtype=torch.float64), torch.arange(12) % 3

    def loss(rows: slice) -> learning.LossFn:
        return lambda params: F.cross_entropy(net(params, x[rows]), y[rows])

    losses = [loss(slice(step, step + 6)) for step in range(steps)]
    valid = loss(slice(6, 12))
    anchor = {name: value.clone().requires_grad_() for name, value in theta.items()}
    trail = learning.unrolled(anchor, losses, lr=0.3)
    leap = learning.greedy()(anchor, trail, lambda params: ())
    expected = learning.maml_gradient(anchor, leap, valid)
    got = replayed(theta, losses, valid, 0.3)
    assert got.loss == pytest.approx(expected.loss, abs=1e-12)
    for name, grad in expected.params.items():
        torch.testing.assert_close(got.params[name], grad, rtol=1e-9, atol=1e-11)


def test_parameters_without_curvature_pass_through() -> None:
    theta: Params = {
        "used": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "idle": torch.tensor([3.0], dtype=torch.float64),
    }
    steps: list[learning.LossFn] = [
        lambda params: params["used"].sum(),
        lambda params: params["used"].square().sum(),
    ]
    got = replayed(theta, steps, lambda p: p["used"].sum() * p["idle"].sum(), 0.1)
    # phi_2 = (theta - 0.1) * 0.8: the derivative by `used` is 0.8 * idle.
    assert got.params["used"].tolist() == pytest.approx([2.4, 2.4])
    assert got.params["idle"].tolist() == pytest.approx([0.8 * 2.8])


def test_a_trail_with_too_few_checkpoints_is_refused() -> None:
    theta = {"w": torch.ones(1)}
    losses: list[learning.LossFn] = [lambda params: params["w"].sum()] * 2
    trail = learning.student(theta, losses, rule=learning.sgd(0.1))
    with pytest.raises(ValueError, match="needs phi_0 to phi_2, got 1 checkpoints"):
        learning.replayed_gradient(theta, trail, losses, losses[0], lr=0.1)
