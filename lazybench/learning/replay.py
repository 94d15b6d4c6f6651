"""MAML's second-order meta-gradient at flat memory: the inner loop taken back step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lazybench.learning.inner import LossFn, Trail
from lazybench.learning.meta import MetaGradient
from lazybench.nets.params import Params, leaves


def replayed_gradient(
    theta: Params, trail: Trail, losses: Sequence[LossFn], valid: LossFn, *, lr: float
) -> MetaGradient:
    """Return d valid(phi_k(theta)) / d theta, the gradient that an unrolled inner loop has.

    From the last step to the first, v <- v - lr * H_j v, with H_j the Hessian of the step's loss at
    phi_j and v at first the validation loss's gradient. One step's graph is alive at a time, so
    that memory grows by one parameter set a step instead of one graph, for a second forward and
    backward pass of each step.

    Args:
        theta: the meta-model, whose names the gradient has.
        trail: of a student that took plain gradient steps without a graph and kept all of phi_0 to
            phi_k.
        losses: the loss of each step; they depend on theta through their argument alone.
        valid: the validation loss, likewise.
        lr: the student's step size.

    Raises:
        ValueError: the trail has other steps than there are losses, or not all of its checkpoints.

    Reference: eq. (3) by the chain rule from its end; Finn et al. 2017.
    """
    steps = len(losses)
    if len(trail.last) != steps + 1:
        raise ValueError(
            f"a replay of {steps} steps needs phi_0 to phi_{steps}, got {len(trail.last)} "
            f"checkpoints; call student(keep={steps + 1})"
        )
    end = leaves(trail.end)
    loss = valid(end)
    along = _gradients(loss, end)
    for point, loss_fn in zip(reversed(trail.last[:steps]), reversed(losses), strict=True):
        phi = leaves(point)
        ahead = _gradients(loss_fn(phi), phi, create_graph=True)
        # What doesn't move with the parameters (a linear loss) has no second derivative.
        curved = [(grad, v) for grad, v in zip(ahead, along, strict=True) if grad.requires_grad]
        if not curved:
            continue
        bends = torch.autograd.grad(
            [grad for grad, _ in curved],
            list(phi.values()),
            [v for _, v in curved],
            allow_unused=True,
            materialize_grads=True,
        )
        along = torch._foreach_add(along, bends, alpha=-lr)
    return MetaGradient(dict(zip(theta, along, strict=True)), float(loss.detach()))


def _gradients(loss: Tensor, params: Params, *, create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        loss,
        list(params.values()),
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
