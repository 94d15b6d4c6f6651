"""Losses of rows by hand, and what their weighted mean divides by."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.agents.longtail.training import row_losses, weighted_mean
from lazybench.agents.longtail.weights import effective_number

COUNTS = (81, 16, 1)
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn((12, 3), generator=GENERATOR, dtype=torch.float64)
Y = torch.arange(12) % 3


def of(**settings):
    return row_losses(LongTailConfig(**settings), COUNTS)(LOGITS, Y)


def by_hand(logits):
    """-log of the softmax's entry, number by number."""
    found = []
    for row, label in zip(logits.tolist(), Y.tolist(), strict=True):
        found.append(math.log(sum(math.exp(value - row[label]) for value in row)))
    return torch.tensor(found, dtype=torch.float64)


def test_each_loss_by_hand():
    shares = torch.tensor(COUNTS, dtype=torch.float64) / 98
    moved = LOGITS.clone()
    for row, label in enumerate(Y.tolist()):
        moved[row, label] -= 0.4 * (1 / 3, 1 / 2, 1)[label]
    cases = [
        ({}, LOGITS),
        ({"loss": "logit_adjust", "adjust_tau": 1.5}, LOGITS + 1.5 * shares.log()),
        ({"loss": "balanced_softmax"}, LOGITS + torch.tensor(COUNTS).double().log()),
        ({"loss": "ldam", "margin": 0.4, "cosine_scale": 7.0}, 7 * moved),
    ]
    for settings, logits in cases:
        torch.testing.assert_close(of(**settings), by_hand(logits), rtol=1e-12, atol=1e-12)


def test_balanced_softmax_is_logit_adjustment_at_tau_1():
    same = of(loss="logit_adjust", adjust_tau=1.0)
    torch.testing.assert_close(of(loss="balanced_softmax"), same, rtol=1e-12, atol=1e-12)
    assert float((of(loss="logit_adjust", adjust_tau=0.5) - same).abs().max()) > 0.1
    torch.testing.assert_close(of(loss="logit_adjust", adjust_tau=0.0), of())


def test_what_a_weighted_mean_divides_by():
    weights = effective_number(COUNTS, 0.99)[Y]
    losses = of()
    torch_own = F.cross_entropy(LOGITS, Y, weight=effective_number(COUNTS, 0.99))
    by_weights = weighted_mean(losses, weights, "weights")
    torch.testing.assert_close(by_weights, torch_own, rtol=1e-12, atol=0)
    by_rows = weighted_mean(losses, weights, "batch")
    torch.testing.assert_close(by_rows * 12, torch_own * weights.sum(), rtol=1e-12, atol=0)
    assert float(weighted_mean(losses, None, "batch")) == pytest.approx(float(losses.mean()))
