"""Losses of single rows, and their weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.agents.longtail.weights import log_priors, margins

RowLosses = Callable[[Tensor, Tensor], Tensor]
"""From logits `[n, classes]` and labels `[n]` to a loss for each row, `[n]`."""


def row_losses(config: LongTailConfig, counts: Sequence[int]) -> RowLosses:
    """Return the loss that the settings name, for rows of a stream with these class counts.

    For `ldam` the logits are cosines.

    Reference: Menon et al. 2021, eq. (10), for `logit_adjust`; Ren et al. 2020, eq. (4), for
    `balanced_softmax`; Cao et al. 2019, eqs. (11) and (13), for `ldam`.
    """
    if config.loss == "cross_entropy":
        return lambda logits, y: F.cross_entropy(logits, y, reduction="none")
    if config.loss == "ldam":
        wide, scale = margins(counts, config.margin), config.cosine_scale

        def ldam(logits: Tensor, y: Tensor) -> Tensor:
            taken = F.one_hot(y, logits.shape[1]) * wide.to(logits)
            return F.cross_entropy(scale * (logits - taken), y, reduction="none")

        return ldam
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
