"""Gradient descent with momentum and weight decay, as a pure function of parameter sets."""

from __future__ import annotations

import torch

from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.params import Params


def sgd_step(
    config: LongTailConfig, theta: Params, momentum: Params, gradient: Params, lr: float
) -> tuple[Params, Params]:
    """Return new parameters and momentum; the arguments are left as they are.

    The same numbers as `torch.optim.SGD`'s, bit for bit, from a momentum of zeros on.

    Args:
        config: gives momentum, nesterov and weight decay.
        theta: parameters.
        momentum: of those of `gradient`, and maybe others.
        gradient: of parameters to move, all of `theta` or some; the others stay.
        lr: step size.

    Reference: Sutskever et al. 2013, eqs. (3) and (4), in torch's form.
    """
    names = list(gradient)
    if not names:
        return theta, momentum
    values = [theta[name] for name in names]
    with torch.no_grad():
        steps = [gradient[name] for name in names]
        if config.weight_decay:
            steps = list(torch._foreach_add(steps, values, alpha=config.weight_decay))
        kept = dict(momentum)
        if config.momentum:
            moved = torch._foreach_mul([momentum[name] for name in names], config.momentum)
            torch._foreach_add_(moved, steps)
            kept |= dict(zip(names, moved, strict=True))
            nesterov = config.nesterov
            steps = list(
                torch._foreach_add(steps, moved, alpha=config.momentum) if nesterov else moved
            )
        new = torch._foreach_add(values, steps, alpha=-lr)
        return {**theta, **dict(zip(names, new, strict=True))}, kept
