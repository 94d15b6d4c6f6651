"""Terms that a meta-loss adds to the validation loss: KL of noisy weights, inequality, entropy.

Symbols of `sample`, `kl` (MR-MAML): mu (mean of the weights), sigma (standard deviation of each),
beta (weight of the KL). Symbols of `inequality`, `entropy` (TAML): l_i (loss of task i under the
meta-model, before it adapts), m (their mean), M (number of tasks).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError, nearest
from lazybench.nets.params import Params


def sample(mean: Params, log_std: Params, generator: torch.Generator) -> Params:
    """Return mean + exp(log_std) * noise, differentiable in both; each parameter as its mean is.

    Parameters without a `log_std` are passed on as they are. The noise is standard normal, drawn
    on the generator's device in the order of `mean`, so a generator on the CPU gives the same
    weights whatever device they are on.

    In the authors' code the kernels of the encoder are noisy, every layer below those that adapt to
    a task; offsets and the adapted layers are not. sigma is float32's epsilon plus the softplus of
    a number that starts around -20 (images) or -50 (sine waves), so log_std is -16 at first: next
    to no noise, and nearly all of the KL is a decay of the means. At -20 sigma rises from there,
    at -50 the softplus is flat and sigma stays. All tasks of a meta-batch share one draw, support
    and query have one each.

    Args:
        mean: mu; float32 or float64, on any device.
        log_std: ln sigma, of the same shapes.
        generator: where the noise comes from.

    Reference: Yin et al. 2020 (MR-MAML), section 4, meta-regularization on weights; Blundell et
        al. 2015, section 3.2.
    """
    noisy: Params = {}
    for name, value in mean.items():
        if name not in log_std:
            noisy[name] = value
            continue
        # In the order of the shape, not of the memory: a weight's layout changes nothing.
        noise = torch.randn(
            value.shape, generator=generator, device=generator.device, dtype=value.dtype
        )
        noisy[name] = value + log_std[name].exp() * noise.to(value.device)
    return noisy


def kl(mean: Params, log_std: Params) -> Tensor:
    """Return KL(N(mean, exp(log_std)^2) || N(0, I)) in nats, a scalar from 0.

    It is summed over all entries of the parameters that have a `log_std`.

    The meta-loss adds beta times this to the mean validation loss over the tasks; the authors' beta
    is 1e-3 for pose prediction (a default) and 5e-5 for sine waves.

    Raises:
        ValueError: no parameter has a `log_std`.

    Reference: Yin et al. 2020 (MR-MAML), section 4, meta-regularization on weights.
    """
    parts = [
        ((2 * log_std[name]).exp() + value.square() - 1).sum() * 0.5 - log_std[name].sum()
        for name, value in mean.items()
        if name in log_std
    ]
    if not parts:
        raise ValueError("kl needs at least one parameter with a log_std, got none")
    return torch.stack(parts).sum()


Measure = Callable[[Tensor], Tensor]


def inequality(kind: str, *, alpha: float = 2.0, epsilon: float = 0.5) -> Measure:
    """Return a measure of inequality: losses `[M]` to a scalar, 0 if all are equal.

    No measure changes when every loss is scaled by one factor. Losses are positive; one that isn't
    gives NaN or infinity, in the value or the gradient, where the measure is undefined.

    `theil` is the mean of (l_i / m) ln(l_i / m), in [0, ln M]; `gini` the sum of |l_i - l_j| over
    all pairs over 2 M^2 m, in [0, 1 - 1 / M]; `atkinson` is 1 - g / m with g the power mean of
    exponent 1 - epsilon, in [0, 1]; `generalized_entropy` the mean of (l_i / m)^alpha - 1 over
    alpha (alpha - 1); `variance_of_logs` the mean of (ln l_i - mean ln l)^2.

    Args:
        kind: one of `INEQUALITIES`.
        alpha: of `generalized_entropy`, any finite number: larger looks more at large losses. 1 is
            `theil`, 0 the mean log deviation. `Choice:` 2, half the squared variation coefficient.
        epsilon: aversion of `atkinson`, from 0 (where it measures nothing): larger looks more at
            small losses; 1 takes the geometric mean. `Choice:` 0.5; the paper leaves it open.

    Raises:
        UsageError: no such measure, or `alpha` or `epsilon` out of range.

    Reference: Jamal & Qi 2019 (TAML), section 3.2 and its inequality measures.
    """
    if kind not in _MEASURES:
        raise UsageError(
            f"inequality must be one of {', '.join(INEQUALITIES)}, got '{kind}'."
            f"{nearest(kind, INEQUALITIES)}"
        )
    if not math.isfinite(alpha):
        raise UsageError(f"alpha must be finite, got {alpha}")
    if not 0 <= epsilon < math.inf:
        raise UsageError(f"epsilon must be from 0 and finite, got {epsilon}")
    return _MEASURES[kind](alpha, epsilon)


def entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of the answers to logits `[n, way]`, a scalar in [0, ln way] nats.

    TAML adds lambda (-entropy before adapting + entropy after) to the meta-loss.

    Reference: Jamal & Qi 2019 (TAML), section 3.1.
    """
    logs = F.log_softmax(logits, dim=-1)
    return -(logs.exp() * logs).sum(-1).mean()


def _theil(losses: Tensor) -> Tensor:
    # xlogy takes a loss of 0 to its limit, 0.
    share = losses / losses.mean()
    return torch.xlogy(share, share).mean()


def _gini(losses: Tensor) -> Tensor:
    gaps = (losses[:, None] - losses[None, :]).abs().sum()
    return gaps / (2 * len(losses) * losses.sum())


def _atkinson(epsilon: float) -> Measure:
    def measure(losses: Tensor) -> Tensor:
        share = losses / losses.mean()
        if epsilon == 1:
            return 1 - share.log().mean().exp()
        power = 1 - epsilon
        return 1 - share.pow(power).mean().pow(1 / power)

    return measure


def _generalized_entropy(alpha: float) -> Measure:
    def measure(losses: Tensor) -> Tensor:
        share = losses / losses.mean()
        if alpha == 0:
            return -share.log().mean()
        return (share.pow(alpha) - 1).mean() / (alpha * (alpha - 1))

    return _theil if alpha == 1 else measure


def _variance_of_logs(losses: Tensor) -> Tensor:
    return losses.log().var(correction=0)


_MEASURES: dict[str, Callable[[float, float], Measure]] = {
    "theil": lambda alpha, epsilon: _theil,
    "gini": lambda alpha, epsilon: _gini,
    "atkinson": lambda alpha, epsilon: _atkinson(epsilon),
    "generalized_entropy": lambda alpha, epsilon: _generalized_entropy(alpha),
    "variance_of_logs": lambda alpha, epsilon: _variance_of_logs,
}

INEQUALITIES = tuple(_MEASURES)
"""The measures' names."""
