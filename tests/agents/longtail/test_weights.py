"""Class weights, priors and margins against published ranges and hand computation."""

from __future__ import annotations

import math

import pytest
import torch

from lazybench.agents.longtail.weights import effective_number, log_priors, margins

# Class counts of the 100 classes with 490 in the first, by imbalance.
COUNTS = {
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
    weights = effective_number(COUNTS[factor], beta)
    assert float(weights.min()) == pytest.approx(low, rel=0.06)
    assert float(weights.max()) == pytest.approx(high, rel=0.06)
    assert float(weights.sum()) == pytest.approx(100, rel=1e-12)


@pytest.mark.parametrize(("factor", "mean"), [(200, 0.12), (100, 0.20), (50, 0.31), (20, 0.49)])
def test_mean_weight_of_a_row_of_the_stream(factor: int, mean: float) -> None:
    counts = torch.tensor(COUNTS[factor], dtype=torch.float64)
    weights = effective_number(COUNTS[factor], 0.9999)
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
