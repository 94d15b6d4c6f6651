"""The last layer: linear, or cosines to a weight vector a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.nets import Net
from lazybench.nets.params import Params
from lazybench.seeding import Rng


class Head(NamedTuple):
    """A last layer as pure functions.

    Attributes:
        init: from a network and a stream to all parameters of a network with this head.
        logits: from parameters and features `[n, d]` to what the loss takes, `[n, classes]`.
        answers: likewise, to logits whose softmax are the probabilities.
    """

    init: Callable[[Net, Rng], Params]
    logits: Callable[[Params, Tensor], Tensor]
    answers: Callable[[Params, Tensor], Tensor]


def head_of(config: LongTailConfig) -> Head:
    """Return the head that the loss of the settings goes with."""
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
