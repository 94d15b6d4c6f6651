"""The meta-gradient of a proximal inner problem, by conjugate gradient and without a path.

Symbols: theta (meta-model), phi (the end of the inner loop, near a minimum of the training loss
plus lam / 2 |phi - theta|^2), H (Hessian of the training loss alone, at phi).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lazybench.learning.inner import LossFn
from lazybench.nets.params import Params, leaves


def implicit_gradient(
    end: Params, valid: Params, loss: LossFn, *, lam: float, steps: int, damping: float = 0.0
) -> Params:
    """Return g with (I + H / (lam + damping)) g = valid, as far as `steps` of CG get.

    H is never formed: a step takes one Hessian-vector product, and all products share one graph of
    the training gradient. So memory is that of one double backward, whatever the inner loop's
    length, and the cost is one gradient with a graph and `steps` backward passes through it.

    The matrix must be positive definite, and is where no eigenvalue of H lies below
    -(lam + damping). Conjugate gradient stops at the first direction of zero or negative curvature
    and returns what it has: the last iterate, or `valid` (the first-order meta-gradient) where that
    is the first direction, as truncated Newton methods do. It also stops when the residual reaches
    the rounding of the dtype. Entries that aren't finite are passed on to the result.

    Args:
        end: phi; left untouched. Parameters that `loss` doesn't use have no curvature.
        valid: gradient of the validation loss at phi, of the same names and shapes.
        loss: the training loss without the proximal term; called once.
        lam: weight of the proximal term, from 0.
        steps: conjugate-gradient steps, at least 1; 5 in the paper.
        damping: added to lam, from 0. `Choice:` 0, the paper's equation. The authors' code has
            (1 + c) I + H / (lam + d) instead; that is damping = (1 + c) (lam + d) - lam here, with
            a gradient 1 + c times as long, which an outer Adam divides out again.

    Raises:
        ValueError: `lam` + `damping` isn't positive and finite, or `steps` is below 1.

    Reference: Rajeswaran et al. 2019, eq. (6) and Algorithm 2.
    """
    weight = lam + damping
    if not 0 < weight < float("inf"):
        raise ValueError(f"lam + damping must be above 0 and finite, got {lam} + {damping}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1 conjugate-gradient step, got {steps}")
    point = leaves(end)
    values = list(point.values())
    with torch.enable_grad():
        slopes = torch.autograd.grad(
            loss(point), values, create_graph=True, allow_unused=True, materialize_grads=True
        )
    # A constant slope has no graph to go back through, and no curvature.
    curved = [index for index, slope in enumerate(slopes) if slope.requires_grad]

    def product(direction: list[Tensor]) -> list[Tensor]:
        """Return (I + H / weight) direction."""
        if not curved:
            return direction
        bent = torch.autograd.grad(
            [slopes[index] for index in curved],
            values,
            [direction[index] for index in curved],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return list(torch._foreach_add(direction, list(bent), alpha=1 / weight))

    # In the order of `end`, which is the order of its gradients.
    target = [valid[name].detach() for name in point]
    with torch.no_grad():
        found = _conjugate_gradient(product, target, steps)
    return dict(zip(point, found, strict=True))


def _conjugate_gradient(
    product: Callable[[list[Tensor]], list[Tensor]], target: list[Tensor], steps: int
) -> list[Tensor]:
    """Return the iterate after `steps` from zero, or earlier as `implicit_gradient` says."""
    found = [torch.zeros_like(value) for value in target]
    residual = [value.clone() for value in target]
    direction = [value.clone() for value in target]
    length = start = _dot(target, target)
    rounding = max((torch.finfo(value.dtype).eps for value in target), default=0.0)
    for step in range(steps):
        if length <= rounding**2 * start:
            break
        image = product(direction)
        curvature = _dot(direction, image)
        if curvature <= 0:
            return found if step else target
        rate = length / curvature
        torch._foreach_add_(found, direction, alpha=rate)
        torch._foreach_sub_(residual, image, alpha=rate)
        before, length = length, _dot(residual, residual)
        torch._foreach_mul_(direction, length / before)
        torch._foreach_add_(direction, residual)
    return found


def _dot(left: list[Tensor], right: list[Tensor]) -> float:
    # Brought together before it's read, so that a device is waited for only once.
    return float(torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum())
