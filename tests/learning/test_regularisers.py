"""Noisy weights, inequality and entropy: torch distributions, values by hand, exact gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lazybench.errors import UsageError
from lazybench.learning import INEQUALITIES, entropy, inequality, kl, sample
from lazybench.nets.params import Params, leaves


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, spread: float = 1.0) -> Params:
    source = generator(seed)
    shapes: dict[str, tuple[int, ...]] = {"w": (3, 2), "b": (4,)}
    return {
        name: spread * torch.randn(shape, generator=source, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def test_kl_is_that_of_torchs_normals() -> None:
    mean, log_std = draw(1), draw(2)
    expected = sum(
        float(kl_divergence(Normal(mean[n], log_std[n].exp()), Normal(0.0, 1.0)).sum())
        for n in mean
    )
    assert float(kl(mean, log_std)) == pytest.approx(expected, rel=1e-14)
    standard = {name: torch.zeros_like(value) for name, value in mean.items()}
    assert float(kl(standard, standard)) == 0.0


def test_kl_is_the_mean_of_the_log_ratio_over_samples() -> None:
    """Monte Carlo over the sampler itself: E_q[ln q - ln p]."""
    mean, log_std = draw(1, 0.5), draw(2, 0.3)
    wide = {name: value.expand(20_000, *value.shape) for name, value in mean.items()}
    thin = {name: value.expand(20_000, *value.shape) for name, value in log_std.items()}
    drawn = sample(wide, thin, generator(3))
    ratio = torch.zeros(20_000, dtype=torch.float64)
    for name, value in drawn.items():
        q, p = Normal(mean[name], log_std[name].exp()), Normal(0.0, 1.0)
        gap: Tensor = q.log_prob(value) - p.log_prob(value)  # type: ignore[no-untyped-call]
        ratio += gap.flatten(1).sum(1)
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert abs(float(ratio.mean() - kl(mean, log_std))) < 4 * error
    assert error < 0.03


def test_gradients_of_kl() -> None:
    mean, log_std = leaves(draw(1)), leaves(draw(2))
    points = [*mean.values(), *log_std.values()]
    got = torch.autograd.grad(kl(mean, log_std), points)
    expected = [*mean.values(), *((2 * value).exp() - 1 for value in log_std.values())]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-13, atol=1e-13)


def test_samples_have_the_moments_and_are_differentiable_in_both() -> None:
    mean = leaves({"w": torch.full((40_000,), 0.7, dtype=torch.float64)})
    log_std = leaves({"w": torch.full((40_000,), -1.2, dtype=torch.float64)})
    drawn = sample(mean, log_std, generator())["w"]
    values = drawn.detach()
    assert float(values.mean()) == pytest.approx(0.7, abs=0.006)
    assert float(values.std().log()) == pytest.approx(-1.2, abs=0.015)
    by_mean, by_std = torch.autograd.grad(drawn.sum(), [mean["w"], log_std["w"]])
    assert torch.equal(by_mean, torch.ones(40_000).double())
    torch.testing.assert_close(by_std, values - 0.7, rtol=0, atol=1e-12)


def test_draws_repeat_with_the_seed_whatever_the_layout() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=generator(9))
    mean = {"w": weight, "b": torch.zeros(5)}
    log_std = {name: torch.zeros_like(value) for name, value in mean.items()}
    first = sample(mean, log_std, generator(1))
    torch.testing.assert_close(sample(mean, log_std, generator(1)), first, rtol=0, atol=0)
    assert not torch.equal(sample(mean, log_std, generator(2))["w"], first["w"])
    rest = {"b": mean["b"]}
    assert not torch.equal(sample(rest, log_std, generator(1))["b"], first["b"])
    last = {**mean, "w": weight.to(memory_format=torch.channels_last)}
    again = sample(last, log_std, generator(1))["w"]
    assert torch.equal(again, first["w"])
    assert again.stride() == last["w"].stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_stay_and_parameters_without_noise_pass(dtype: torch.dtype) -> None:
    mean = {"w": torch.ones(3, dtype=dtype), "head": torch.ones(2, dtype=dtype)}
    log_std = {"w": torch.full((3,), -40.0, dtype=dtype)}
    drawn = sample(mean, log_std, generator())
    assert drawn["head"] is mean["head"]
    assert drawn["w"].dtype == dtype
    torch.testing.assert_close(drawn["w"], mean["w"])
    assert torch.equal(kl(mean, log_std), kl({"w": mean["w"]}, log_std))


def test_a_divergence_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="kl needs at least one parameter with a log_std"):
        kl({"head": torch.ones(2)}, {})


@pytest.mark.gpu
def test_a_generator_on_the_cpu_draws_for_weights_elsewhere() -> None:
    mean, log_std = draw(1), draw(2)
    there = [{n: value.cuda() for n, value in part.items()} for part in (mean, log_std)]
    drawn = sample(there[0], there[1], generator(4))
    expected = sample(mean, log_std, generator(4))
    torch.testing.assert_close({n: value.cpu() for n, value in drawn.items()}, expected)
    assert kl(*there).device.type == "cuda"


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
