"""What class counts make of a class: its weight, its prior, its margin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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


def margins(counts: Sequence[int], largest: float) -> Tensor:
    """Return margins in proportion to n_c^(-1/4), float64 `[classes]`; the rarest has `largest`.

    Reference: Cao et al. 2019, eq. (13).
    """
    roots = torch.as_tensor(counts, dtype=torch.float64) ** -0.25
    return roots * (largest / roots.max())
