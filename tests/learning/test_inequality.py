"""Inequality measures against values worked out by hand, their invariances and derivatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.learning import INEQUALITIES, entropy, inequality

# The losses (1, 3) have shares 1/2 and 3/2 of their mean; (1, 2, 6) have 1/3, 2/3 and 2.
BY_HAND: list[tuple[str, dict[str, float], tuple[float, ...], float]] = [
    ("theil", {}, (1, 3), (0.5 * math.log(0.5) + 1.5 * math.log(1.5)) / 2),
    ("theil", {}, (0, 5), math.log(2)),
    ("gini", {}, (1, 3), 4 / 16),
    ("gini", {}, (1, 2, 6), 20 / 54),
    ("gini", {}, (0, 0, 0, 7), 3 / 4),
    ("atkinson", {}, (1, 9), 1 - 4 / 5),
    ("atkinson", {"epsilon": 1}, (1, 3), 1 - math.sqrt(3) / 2),
    ("atkinson", {"epsilon": 2}, (1, 3), 1 - 1.5 / 2),
    ("atkinson", {"epsilon": 0}, (1, 3), 0.0),
    ("generalized_entropy", {}, (1, 3), 0.125),
    ("generalized_entropy", {}, (1, 2, 6), ((1 + 4 + 36) / 9 / 3 - 1) / 2),
    ("generalized_entropy", {"alpha": 0}, (1, 3), -(math.log(0.5) + math.log(1.5)) / 2),
    ("generalized_entropy", {"alpha": -1}, (1, 3), ((2 + 2 / 3) / 2 - 1) / 2),
    ("variance_of_logs", {}, (1, math.e**2), 1.0),
]


def tensor(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "options", "losses", "expected"), BY_HAND)
def test_values_by_hand(
    kind: str, options: dict[str, float], losses: tuple[float, ...], expected: float
) -> None:
    got = inequality(kind, **options)(tensor(*losses))
    assert got.shape == ()
    assert float(got) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("kind", INEQUALITIES)
def test_equal_losses_have_none_and_scale_does_not_matter(kind: str) -> None:
    measure = inequality(kind)
    assert float(measure(tensor(0.7, 0.7, 0.7))) == pytest.approx(0, abs=1e-15)
    losses = tensor(0.2, 1.1, 0.4, 3.0)
    assert float(measure(losses)) > 0.05
    torch.testing.assert_close(measure(17 * losses), measure(losses), rtol=1e-12, atol=0)
    torch.testing.assert_close(measure(losses.flip(0)), measure(losses), rtol=1e-12, atol=0)
    torch.testing.assert_close(measure(losses.repeat(2)), measure(losses), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", INEQUALITIES)
@pytest.mark.parametrize("options", [{}, {"alpha": 0.0, "epsilon": 1.0}])
def test_derivatives(kind: str, options: dict[str, float]) -> None:
    losses = tensor(0.2, 1.1, 0.4, 3.0).requires_grad_()
    assert torch.autograd.gradcheck(inequality(kind, **options), losses)
    (slope,) = torch.autograd.grad(inequality(kind, **options)(losses), losses)
    # More of the largest loss is more inequality; along the losses themselves nothing changes.
    assert float(slope[3]) > 0
    assert float(slope @ losses.detach()) == pytest.approx(0, abs=1e-14)


def test_generalized_entropy_of_one_is_theil_and_its_limit() -> None:
    losses = tensor(0.2, 1.1, 0.4, 3.0)
    theil = inequality("theil")(losses)
    assert torch.equal(inequality("generalized_entropy", alpha=1)(losses), theil)
    near = inequality("generalized_entropy", alpha=1 + 1e-6)(losses)
    torch.testing.assert_close(near, theil, rtol=1e-5, atol=0)


def test_equal_losses_have_a_finite_gradient() -> None:
    for kind in INEQUALITIES:
        losses = tensor(0.5, 0.5, 0.5).requires_grad_()
        (slope,) = torch.autograd.grad(inequality(kind)(losses), losses)
        torch.testing.assert_close(slope, torch.zeros(3).double(), rtol=0, atol=1e-14)


def test_entropy_by_hand() -> None:
    logits = tensor(0, 0, 0, 0).view(1, 4)
    assert float(entropy(logits)) == pytest.approx(math.log(4), abs=1e-14)
    two = torch.stack([tensor(0.9, 0.1).log() + 5, tensor(0.5, 0.5).log()])
    sure = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert float(entropy(two)) == pytest.approx((sure + math.log(2)) / 2, abs=1e-14)
    assert float(entropy(tensor(1e4, 0, 0).view(1, 3))) == 0.0
    assert torch.autograd.gradcheck(entropy, torch.randn(3, 5).double().requires_grad_())


def test_unknown_measures_are_refused() -> None:
    with pytest.raises(UsageError, match=r"got 'theill'\. Did you mean: theil"):
        inequality("theill")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": math.nan}, "alpha must be finite, got nan"),
        ({"epsilon": -0.5}, "epsilon must be from 0 and finite, got -0.5"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inequality("atkinson", **options)
