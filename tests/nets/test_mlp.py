"""Fully connected networks against torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lazybench.nets import MLP
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape


def test_mlp_is_torchs(doubled: Callable[..., Params]) -> None:
    task = TaskShape(1, 5, 5, (3,), "float32", "array", (2, 2))
    net = MLP(task, hidden=(7, 6))
    params = doubled(net)
    model = nn.Sequential(
        nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)
    ).double()
    model.load_state_dict(
        {
            f"{index}.{kind}": params[f"{layer}.{kind}"]
            for index, layer in ((0, "layer1"), (2, "layer2"), (4, "head"))
            for kind in ("weight", "bias")
        }
    )
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    got = net(params, net.prepare(x))
    assert got.shape == (5, 2, 2)
    torch.testing.assert_close(got, model(x).view(5, 2, 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.features(params, x), model[:4](x), rtol=1e-12, atol=1e-12)
    assert net.statistics(params, x) == ()


def test_linear_is_a_head_on_standardised_instances() -> None:
    task = TaskShape(4, 5, 5, (6,), "float32")
    net = MLP(task, hidden=())
    x = 3 + 10 * torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    features = net.features({}, net.prepare(x))
    centre = x - x.mean(1, keepdim=True)
    expected = centre / centre.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    params = net.init(torch.Generator().manual_seed(0))
    assert set(params) == {"head.weight", "head.bias"}
    torch.testing.assert_close(net(params, features), features @ params["head.weight"].T)


def test_linear_leaves_single_numbers_alone() -> None:
    net = MLP(TaskShape(1, 5, 5, (1,), "float32", "array", (1,)), hidden=())
    x = torch.tensor([[2.0], [-3.0]])
    assert torch.equal(net.prepare(x), x)
