"""Last layers: what the cosine forgets, where a task's head starts, standardised features."""

from __future__ import annotations

import math

import pytest
import torch

from lazybench.agents.fewshot import pretrain


def rows(count: int, width: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, width), generator=generator, dtype=torch.float64)


def test_cosines_are_those_of_a_loop_and_forget_all_lengths() -> None:
    layer = pretrain.by_cosine(0.2)
    features, weight = rows(4), rows(3, seed=1)
    found = layer.logits({"head.weight": weight}, features)
    for at in range(4):
        for c in range(3):
            norms = math.sqrt(float(features[at] @ features[at]) * float(weight[c] @ weight[c]))
            assert float(found[at, c]) == pytest.approx(
                float(features[at] @ weight[c]) / norms / 0.2
            )
    lengths = torch.tensor([[0.1], [5.0], [30.0]], dtype=torch.float64)
    again = layer.logits({"head.weight": lengths * weight}, 9 * features)
    torch.testing.assert_close(again, found)
    assert float(found.abs().max()) <= 5 + 1e-9


def test_a_dead_embedding_has_a_finite_gradient() -> None:
    features = torch.zeros(2, 5, requires_grad=True)
    layer = pretrain.by_cosine(0.1)
    logits = layer.logits({"head.weight": rows(3).float()}, features)
    (gradient,) = torch.autograd.grad(logits.sum(), features)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("layer", [pretrain.linear(), pretrain.by_cosine(0.1)])
def test_fresh_and_started_heads_have_one_shape(layer: pretrain.Classifier) -> None:
    members = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 2])]
    started = layer.start(rows(4), members)
    fresh = layer.init(5, 3, torch.Generator().manual_seed(0))
    assert {n: v.shape for n, v in fresh.items()} == {n: v.shape for n, v in started.items()}
    assert all(name.startswith("head.") for name in fresh)


def test_linear_heads_start_at_zero_and_cosine_heads_at_the_class_means() -> None:
    support = rows(4)
    members = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 2])]
    assert all(not value.any() for value in pretrain.linear().start(support, members).values())
    weight = pretrain.by_cosine(0.1).start(support, members)["head.weight"]
    expected = torch.stack([(support[0] + support[1]) / 2, support[2], support[3]])
    torch.testing.assert_close(weight, expected)


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    features = 3 + 10 * rows(200)
    found = pretrain.standardised(features)
    torch.testing.assert_close(found.mean(0), torch.zeros(5, dtype=torch.float64))
    assert (found.std(0, correction=0) - 1).abs().max() < 1e-4
    # Under the statistics of others a row is its own, and one row alone has no deviation.
    alone = pretrain.standardised(features[:1], like=features)
    torch.testing.assert_close(alone, found[:1])
    assert not pretrain.standardised(features[:1]).any()
