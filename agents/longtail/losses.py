"""Losses on a long-tailed stream: class weights, priors and margins, heads, and losses of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.nets import Net
from lazybench.nets.params import Params
from lazybench.seeding import Rng


def effective_number(counts: Sequence[int], beta: float) -> Tensor:
    """Return weights (1 - beta) / (1 - beta^n_c), float64 `[classes]`, that sum to the classes.

    0 gives every class 1; towards 1 they are the plain inverses of the counts.

    Args:
        counts: images of each class, at least 1.
        beta: in [0, 1).

    Reference: Cui et al. 2019, eq. (4), with their normalisation.
    """
    numbers = torch.as_tensor(counts, dtype=torch.float64)
    weights = (1 - beta) / -torch.expm1(numbers * torch.tensor(beta, dtype=torch.float64).log())
    return weights * (len(numbers) / weights.sum())


def log_priors(counts: Sequence[int]) -> Tensor:
    """Return the logarithms of the classes' shares, float64 `[classes]`."""
    numbers = torch.as_tensor(counts, dtype=torch.float64)
    return (numbers / numbers.sum()).log()


def reversed_priors(counts: Sequence[int]) -> Tensor:
    """Return log priors in reverse order, float64 `[classes]`: the rarest class has the largest.

    Reference: Zhang et al. 2022, section 4.1: the inverse training distribution.
    """
    priors = log_priors(counts)
    values, order = priors.sort(stable=True)
    found = torch.empty_like(priors)
    found[order] = values.flip(0)
    return found


def margins(counts: Sequence[int], largest: float) -> Tensor:
    """Return margins in proportion to n_c^(-1/4), float64 `[classes]`; the rarest has `largest`.

    Reference: Cao et al. 2019, eq. (13).
    """
    roots = torch.as_tensor(counts, dtype=torch.float64) ** -0.25
    return roots * (largest / roots.max())


class Head(NamedTuple):
    """A last layer as pure functions.

    Attributes:
        init: from a network and a stream to all parameters of a network with this head.
        logits: from parameters and features `[n, d]` to what the loss takes, `[n, classes]`.
        answers: from the same to logits whose softmax gives the probabilities.
    """

    init: Callable[[Net, Rng], Params]
    logits: Callable[[Params, Tensor], Tensor]
    answers: Callable[[Params, Tensor], Tensor]


def head_of(config: LongTailConfig) -> Head:
    """Return the head that the loss of the settings goes with."""
    if config.loss == "sade":
        return _experts(config.expert_weights)
    return _cosine(config.cosine_scale) if config.loss == "ldam" else _LINEAR


def _linear_logits(theta: Params, features: Tensor) -> Tensor:
    return F.linear(features, theta["head.weight"], theta["head.bias"])


_LINEAR = Head(lambda net, rng: net.init(rng.torch()), _linear_logits, _linear_logits)


def _cosine(scale: float) -> Head:
    """Cosines of features and weights, which start as random directions.

    Reference: Cao et al. 2019, section 3.2 and code.
    """

    def init(net: Net, rng: Rng) -> Params:
        theta = net.init(rng.torch())
        shape = theta.pop("head.weight").shape
        del theta["head.bias"]
        drawn = torch.rand(shape, generator=rng.at("head").torch()).mul_(2).sub_(1)
        return theta | {"head.weight": F.normalize(drawn, dim=1)}

    def logits(theta: Params, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features, dim=1), F.normalize(theta["head.weight"], dim=1))

    return Head(init, logits, lambda theta, features: scale * logits(theta, features))


EXPERTS = 3


def _experts(weights: Sequence[float]) -> Head:
    """Three linear heads on one body, whose rows are stacked; answers are their weighted mean.

    `Choice:` the experts share the whole body. Zhang et al. give each one a last stage of its own
    and, on CIFAR, cosine heads; they also weigh the experts on unlabelled test images, which
    wouldn't be an answer to each image alone: the weights are a setting.

    Reference: Zhang et al. 2022, sections 4.1 and 4.2.
    """

    def init(net: Net, rng: Rng) -> Params:
        theta = net.init(rng.torch())
        drawn = [net.init(rng.at("expert", each).torch()) for each in range(1, EXPERTS)]
        for name in ("head.weight", "head.bias"):
            theta[name] = torch.cat([theta[name], *(each[name] for each in drawn)])
        return theta

    def answers(theta: Params, features: Tensor) -> Tensor:
        logits = _linear_logits(theta, features).view(len(features), EXPERTS, -1)
        shares = torch.tensor(weights, dtype=logits.dtype, device=logits.device)
        return torch.einsum("e,nec->nc", shares / shares.sum(), logits)

    return Head(init, _linear_logits, answers)


RowLosses = Callable[[Tensor, Tensor], Tensor]
"""From logits `[n, classes]` and labels `[n]` to a loss for each row, `[n]`."""


def row_losses(config: LongTailConfig, counts: Sequence[int]) -> RowLosses:
    """Return the loss that the settings name, for rows of a stream with these class counts.

    For `ldam` the logits are cosines; for `sade` they are those of three heads, `[n, 3 classes]`.

    Reference: Menon et al. 2021, eq. (10), for `logit_adjust`; Ren et al. 2020, eq. (4), for
    `balanced_softmax`; Cao et al. 2019, eqs. (11) and (13), for `ldam`; Zhang et al. 2022,
    eqs. (2) to (4), for `sade`.
    """
    if config.loss == "cross_entropy":
        return lambda logits, y: F.cross_entropy(logits, y, reduction="none")
    if config.loss == "ldam":
        wide, scale = margins(counts, config.margin), config.cosine_scale

        def ldam(logits: Tensor, y: Tensor) -> Tensor:
            taken = F.one_hot(y, logits.shape[1]) * wide.to(logits)
            return F.cross_entropy(scale * (logits - taken), y, reduction="none")

        return ldam
    if config.loss == "sade":
        priors = log_priors(counts)
        shifts = (0 * priors, priors, priors - config.inverse_tau * reversed_priors(counts))

        def sade(logits: Tensor, y: Tensor) -> Tensor:
            heads = logits.view(len(y), EXPERTS, -1).unbind(1)
            rows = [
                F.cross_entropy(each + shift.to(each), y, reduction="none")
                for each, shift in zip(heads, shifts, strict=True)
            ]
            return torch.stack(rows).sum(0)

        return sade
    if config.loss == "logit_adjust":
        moved = config.adjust_tau * log_priors(counts)
    else:
        moved = torch.as_tensor(counts, dtype=torch.float64).log()
    return lambda logits, y: F.cross_entropy(logits + moved.to(logits), y, reduction="none")


def weighted_mean(
    losses: Tensor, weights: Tensor | None, reduction: Literal["batch", "weights"]
) -> Tensor:
    """Return the sum of weighted losses over the number of rows, or over the sum of weights.

    Args:
        losses: of each row, `[n]`.
        weights: of each row, `[n]`; None weighs all alike.
        reduction: what the sum is divided by.
    """
    if weights is None:
        return losses.mean()
    total = (weights * losses).sum()
    return total / (len(losses) if reduction == "batch" else weights.sum())
