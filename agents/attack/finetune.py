"""Attackers that each follow one image: a network's weights once for every image, tuned at once."""

from __future__ import annotations

import torch
from torch import Tensor

from lazybench import learning
from lazybench.nets import Net
from lazybench.params import Params

_BLOCK = 8
"""Images that pass through their attackers together. Blocks that aren't full are filled up, since
other shapes are rounded otherwise, and twenty steps of Adam make much of little: so an image fares
alone as it does among others, bit for bit as far as its attacker goes."""


def predict(net: Net, params: Params, x: Tensor, *, stacked: bool = True) -> Tensor:
    """Return what each image's own network makes of it, `[n, …]`.

    Every image is a batch of its own, so norms take its statistics alone.

    Args:
        net: a pure function of its parameters.
        params: each `[n, …]`, or those that all images share.
        x: `[n, channels, height, width]`.
        stacked: whether each image has parameters of its own.
    """
    alone = torch.func.vmap(
        lambda weights, image: net(weights, image[None])[0], (0 if stacked else None, 0)
    )
    maps: Tensor = alone(params, x)
    return maps


def fine_tune(  # noqa: PLR0913 - what is tuned, on what, how far
    net: Net, params: Params, x: Tensor, picked: Tensor, target: Tensor, *, steps: int, lr: float
) -> Params:
    """Return the stacked weights after Adam's steps on some coordinates of each image's map.

    Adam works entry by entry and a sum of losses that share no weight has each one's own gradient,
    so one student of all the weights is as many students as there are images.

    Args:
        net: a pure function of its parameters.
        params: stacked, each `[n, …]`; left untouched.
        x: `[n, channels, height, width]`.
        picked: `[n, q]` int64 positions in the flattened maps.
        target: `[n, q]` values that the maps shall have there.
        steps: steps of a fresh Adam.
        lr: its step size.

    Reference: Algorithm 4, line 4 (loss L); Du et al. 2020, Algorithm 2, line 5.
    """

    def loss(weights: Params) -> Tensor:
        at = predict(net, weights, x).flatten(1).gather(1, picked)
        return (at - target).square().mean(1).sum()

    return learning.student(params, [loss] * steps, rule=learning.adam(lr, beta1=0.9)).end


class Attackers:
    """One attacker for each of n images: all alike at first, each tuned to its own image."""

    def __init__(self, net: Net, theta: Params) -> None:
        """Give all images one network."""
        self._net, self._theta = net, theta
        self._own: Params | None = None

    def maps(self, x: Tensor) -> Tensor:
        """Return each image's map, `[n, channels, height, width]`, without a graph."""
        own = self._own
        with torch.no_grad():
            found = [
                predict(self._net, self._theta, x[rows], stacked=False)
                if own is None
                else predict(self._net, _rows(own, rows), x[rows])
                for rows in _blocks(x)
            ]
        return torch.cat(found)[: len(x)]

    def tune(self, x: Tensor, picked: Tensor, target: Tensor, *, steps: int, lr: float) -> None:
        """Tune each image's attacker as `fine_tune` does."""
        start = self._own
        if start is None:
            start = {
                name: value.expand(len(x), *value.shape) for name, value in self._theta.items()
            }
        tuned: list[Params] = []
        for rows in _blocks(x):
            at = _rows(start, rows), x[rows], picked[rows], target[rows]
            tuned.append(fine_tune(self._net, *at, steps=steps, lr=lr))
        self._own = {
            name: torch.cat([part[name] for part in tuned])[: len(x)] for name in self._theta
        }

    def keep(self, kept: Tensor) -> None:
        """Forget the attackers of images that are finished; `kept` has the positions of others."""
        own = self._own
        if own is not None and len(kept) < len(next(iter(own.values()))):
            self._own = _rows(own, kept)


def _blocks(x: Tensor) -> list[Tensor]:
    """Row numbers of `x`, so many at a time; the last one repeats until its block is full."""
    padded = -(-len(x) // _BLOCK) * _BLOCK
    rows = torch.arange(padded, device=x.device).clamp(max=len(x) - 1)
    return list(torch.split(rows, _BLOCK))


def _rows(params: Params, rows: Tensor) -> Params:
    return {name: value[rows] for name, value in params.items()}
