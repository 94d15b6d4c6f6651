"""Class weights, priors, margins, losses of rows and their weighted mean, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lazybench.agents.longtail.losses import (
    effective_number,
    log_priors,
    margins,
    reversed_priors,
    row_losses,
    weighted_mean,
)
from lazybench.agents.longtail.settings import LongTailConfig

# Class counts of the 100 classes with 490 in the first, by imbalance.
COUNTS_BY_IMBALANCE = {
    factor: [int(490 * (1 / factor) ** (c / 99)) for c in range(100)]
    for factor in (200, 100, 50, 20)
}
RANGES = [
    (200, 0.9, 0.63, 3.3),
    (200, 0.99, 0.11, 5.4),
    (200, 0.999, 0.029, 5.6),
    (200, 0.9999, 0.024, 5.64),
    (100, 0.9, 0.81, 2.4),
    (100, 0.99, 0.19, 4.8),
    (100, 0.999, 0.054, 5.3),
    (100, 0.9999, 0.044, 5.29),
    (50, 0.9, 0.93, 1.5),
    (50, 0.99, 0.31, 3.6),
    (50, 0.999, 0.095, 4.1),
    (50, 0.9999, 0.079, 4.17),
    (20, 0.9, 0.99, 1.1),
    (20, 0.99, 0.52, 2.4),
    (20, 0.999, 0.19, 3.1),
    (20, 0.9999, 0.158, 3.16),
]


@pytest.mark.parametrize(("factor", "beta", "low", "high"), RANGES)
def test_ranges_of_the_weights(factor: int, beta: float, low: float, high: float) -> None:
    weights = effective_number(COUNTS_BY_IMBALANCE[factor], beta)
    assert float(weights.min()) == pytest.approx(low, rel=0.06)
    assert float(weights.max()) == pytest.approx(high, rel=0.06)
    assert float(weights.sum()) == pytest.approx(100, rel=1e-12)


@pytest.mark.parametrize(("factor", "mean"), [(200, 0.12), (100, 0.20), (50, 0.31), (20, 0.49)])
def test_mean_weight_of_a_row_of_the_stream(factor: int, mean: float) -> None:
    counts = torch.tensor(COUNTS_BY_IMBALANCE[factor], dtype=torch.float64)
    weights = effective_number(COUNTS_BY_IMBALANCE[factor], 0.9999)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(mean, abs=0.005)


def test_weights_by_hand() -> None:
    raw = [0.5 / (1 - 0.5**n) for n in (1, 2, 5)]
    expected = [3 * value / sum(raw) for value in raw]
    assert effective_number((1, 2, 5), 0.5).tolist() == pytest.approx(expected, rel=1e-14)


def test_limits_of_beta() -> None:
    assert effective_number((1, 7, 400), 0.0).tolist() == [1.0, 1.0, 1.0]
    inverse = torch.tensor([1 / 3, 1 / 30, 1 / 300], dtype=torch.float64)
    inverse *= 3 / inverse.sum()
    got = effective_number((3, 30, 300), 1 - 1e-10)
    torch.testing.assert_close(got, inverse, rtol=1e-7, atol=0)


def test_priors_and_margins_by_hand() -> None:
    expected = [math.log(0.75), math.log(0.2), math.log(0.05)]
    assert log_priors((75, 20, 5)).tolist() == pytest.approx(expected, rel=1e-14)
    # n^(-1/4): 1/2, 1/4, 1 for 16, 256, 1; the rarest class's is .5.
    assert margins((16, 256, 1), 0.5).tolist() == pytest.approx([0.25, 0.125, 0.5], rel=1e-14)


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


def test_experts_are_trained_for_three_test_distributions():
    """Softmax, balanced softmax, and priors over the squared priors in reverse order."""
    logits = torch.cat([LOGITS, LOGITS.flip(0), LOGITS.flip(1)], dim=1)
    got = row_losses(LongTailConfig(loss="sade", inverse_tau=1.5), COUNTS)(logits, Y)
    counts = torch.tensor(COUNTS).double()
    # The rarest class has the largest prior: 81, 16, 1 become 1, 16, 81.
    shifts = (0 * counts, counts.log(), (counts / counts.flip(0) ** 1.5).log())
    parts = zip((LOGITS, LOGITS.flip(0), LOGITS.flip(1)), shifts, strict=True)
    expected = sum(by_hand(each + shift) for each, shift in parts)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_reversed_priors_follow_ranks_in_any_order():
    got = reversed_priors((16, 81, 1, 4)).exp() * 102
    assert got.tolist() == pytest.approx([4, 1, 81, 16])


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
