"""Answers of a trained network, as they are or corrected after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lazybench.agent import Observation
from lazybench.agents.longtail.augment import shrunk
from lazybench.agents.longtail.heads import Head
from lazybench.agents.longtail.weights import log_priors
from lazybench.nets import Net, Stats
from lazybench.params import Params


class Classify:
    """A policy that answers a batch of images with labels and probabilities."""

    def __init__(self, net: Net, head: Head, theta: Params, running: Stats, side: int) -> None:
        """Hold the trained network.

        Args:
            net: the body.
            head: what makes logits of features.
            theta: parameters of both.
            running: statistics that batch norm takes.
            side: pixels that images are averaged down to; 0 leaves them.
        """
        self._net, self._head, self._theta, self._running = net, head, theta, running
        self._side = side

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Any, Any]:
        """Return `labels` int64 `[B]` and `probs` float32 `[B, classes]`; no memory."""
        x = torch.as_tensor(observation["x"])
        with torch.no_grad():
            x = self._net.prepare(shrunk(x, self._side))
            features = self._net.features(self._theta, x, self._running)
            logits = self._head.answers(self._theta, features)
            return {"labels": logits.argmax(1), "probs": logits.float().softmax(1)}, None


def corrected(
    head: Head,
    theta: Params,
    counts: Sequence[int],
    kind: Literal["none", "logit_adjust", "tau_norm"],
    tau: float,
) -> tuple[Head, Params]:
    """Return the head and the parameters that answer after a correction.

    Args:
        head: the trained network's.
        theta: its parameters.
        counts: of the classes in training.
        kind: `logit_adjust` takes `tau` times the log priors off the logits; `tau_norm` divides
            each row of the head by its norm to the power of `tau` and leaves the offsets out.
        tau: 0 leaves the logits, but for `tau_norm`'s offsets.

    Reference: Menon et al. 2021, eq. (9); Kang et al. 2020, eq. (4).
    """
    if kind == "logit_adjust":
        taken = tau * log_priors(counts)

        def less(theta: Params, features: Tensor) -> Tensor:
            logits = head.answers(theta, features)
            return logits - taken.to(logits)

        return head._replace(answers=less), theta
    if kind == "tau_norm":
        weight = theta["head.weight"]
        scaled = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** tau
        bare = {"head.weight": scaled, "head.bias": torch.zeros_like(theta["head.bias"])}
        return head, {**theta, **bare}
    return head, theta
