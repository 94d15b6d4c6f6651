"""Weights with Gaussian noise, whose divergence from N(0, I) is what a meta-model may remember.

Symbols: mu (mean of the weights), sigma (standard deviation of each), beta (weight of the KL).
"""

from __future__ import annotations

import torch
from torch import Tensor

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
