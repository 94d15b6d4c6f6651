"""Attackers that each follow one image: a network's weights once for every image, tuned at once."""

from __future__ import annotations

import torch
from torch import Tensor

from lazybench import learning
from lazybench.nets import Net
from lazybench.params import Params, count

_BLOCK_NUMBERS = 2**24
"""Weights that are tuned together; four copies of them are in memory at a time."""


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

    def __init__(self, net: Net, theta: Params, images: int) -> None:
        """Give all the images one network."""
        self._net, self._theta, self._images = net, theta, images
        self._own: Params | None = None
        self._block = max(1, _BLOCK_NUMBERS // max(count(theta), 1))

    def maps(self, x: Tensor) -> Tensor:
        """Return each image's map, `[n, channels, height, width]`, without a graph."""
        with torch.no_grad():
            if self._own is None:
                return predict(self._net, self._theta, x, stacked=False)
            blocks = zip(self._blocks(), x.split(self._block), strict=True)
            return torch.cat([predict(self._net, params, images) for params, images in blocks])

    def tune(self, x: Tensor, picked: Tensor, target: Tensor, *, steps: int, lr: float) -> None:
        """Tune each image's attacker as `fine_tune` does."""
        rows = zip(
            self._blocks(),
            x.split(self._block),
            picked.split(self._block),
            target.split(self._block),
            strict=True,
        )
        tuned = [fine_tune(self._net, *row, steps=steps, lr=lr) for row in rows]
        self._own = {name: torch.cat([part[name] for part in tuned]) for name in self._theta}

    def keep(self, kept: Tensor) -> None:
        """Forget the attackers of images that are finished; `kept` is bool, `[n]`."""
        self._images = int(kept.sum())
        if self._own is not None:
            self._own = {name: value[kept] for name, value in self._own.items()}

    def _blocks(self) -> list[Params]:
        """The parameters, stacked for so many images as are tuned together."""
        stacked = self._own or {
            name: value.expand(self._images, *value.shape) for name, value in self._theta.items()
        }
        begins = range(0, self._images, self._block)
        return [
            {name: value[begin : begin + self._block] for name, value in stacked.items()}
            for begin in begins
        ]
