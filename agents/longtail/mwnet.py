"""Meta-Weight-Net: an example's weight as a learned function of its loss."""

from __future__ import annotations

import torch
from torch import Tensor

from lazybench.nets import MLP
from lazybench.params import Params
from lazybench.rng import Rng
from lazybench.task import TaskShape

_SCALAR = TaskShape(1, 1, 1, (1,), "float32", "array", (1,))


class WeightNet:
    """One hidden layer between a loss and a weight, sigmoid at the end.

    Weights of a mini-batch sum to 1, which keeps the step from dying where all of them fall.

    Reference: Shu et al. 2019, section 3.2 and code.
    """

    def __init__(self, hidden: int) -> None:
        """Fix the number of hidden units."""
        self._net = MLP(_SCALAR, hidden=(hidden,))

    def init(self, rng: Rng) -> Params:
        """Return fresh parameters."""
        return self._net.init(rng.torch())

    def __call__(self, params: Params, losses: Tensor) -> Tensor:
        """Return the weights `[B]` of losses `[B]`, on the graph of `params` alone.

        `Choice:` the loss is a constant here, as in the authors' code for noisy labels; in theirs
        for imbalance the weights' own slope joins the virtual step.
        """
        drawn = torch.sigmoid(self._net(params, losses.detach()[:, None])).flatten()
        return drawn / drawn.sum()
