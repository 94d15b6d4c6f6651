"""The meta-gradient taken back step by step against the one of an unrolled inner loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lazybench import learning
from lazybench.learning.replay import replayed_gradient
from lazybench.nets import Conv4
from lazybench.params import Params
from lazybench.task import TaskShape


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
    got = replayed_gradient(theta, losses, valid, lr=0.3)
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
    got = replayed_gradient(theta, steps, lambda p: p["used"].sum() * p["idle"].sum(), lr=0.1)
    # phi_2 = (theta - 0.1) * 0.8: the derivative by `used` is 0.8 * idle.
    assert got.params["used"].tolist() == pytest.approx([2.4, 2.4])
    assert got.params["idle"].tolist() == pytest.approx([0.8 * 2.8])
