"""Meta-gradients of one task, and outer updates of the meta-model.

Symbols of the papers: theta (meta-model), beta (outer step), phi (end of the inner loop), lam
(weight of a proximal term lam / 2 |phi - theta|^2), H (Hessian of the training loss at phi).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lazybench.learning.inner import LossFn, Trail
from lazybench.learning.teacher import Leap
from lazybench.nets.params import Params, leaves, scale, subtract


class MetaGradient(NamedTuple):
    """The meta-gradient of one task and the validation loss it was taken at (NaN if unused)."""

    params: Params
    loss: float


def maml_gradient(theta: Params, leap: Leap, valid: LossFn) -> MetaGradient:
    """Return d valid(leap(theta)) / d theta, through whatever graph the leap has.

    For a lazy leap this is gamma times the gradient at the leap; for a greedy leap on an unrolled
    trail it is MAML's second-order gradient.

    Reference: eq. (3); Algorithm 1, line 13.
    """
    loss = valid(leap.params)
    grads = torch.autograd.grad(
        loss, list(theta.values()), allow_unused=True, materialize_grads=True
    )
    return MetaGradient(dict(zip(theta, grads, strict=True)), float(loss.detach()))


def fomaml_gradient(theta: Params, leap: Leap, valid: LossFn) -> MetaGradient:
    """Return the gradient of the validation loss at the leap, passed to theta unchanged.

    Entries of theta that the loss reaches past the leap, such as weights that don't adapt, have
    their direct gradient added where theta requires gradients.

    Reference: first-order MAML, Finn et al. 2017, section 5.2.
    """
    return imaml_gradient(theta, leap, valid, lambda at_leap: at_leap)


def imaml_gradient(
    theta: Params, leap: Leap, valid: LossFn, solve: Callable[[Params], Params]
) -> MetaGradient:
    """Return the meta-gradient where `solve` takes the gradient at the leap to one at theta.

    Args:
        theta: the meta-model, on a graph where the loss reaches it past the leap.
        leap: where the inner loop ended, near a minimum of the proximal training loss.
        valid: validation loss.
        solve: (I + H / lam)^-1 times its argument, H the training loss's Hessian at the leap:
            `implicit_gradient`.

    Reference: Rajeswaran et al. 2019, eq. (6) and Algorithm 2.
    """
    point = leaves(leap.params)
    past_leap = {name: value for name, value in theta.items() if value.requires_grad}
    loss = valid(point)
    grads = torch.autograd.grad(loss, [*point.values(), *past_leap.values()], allow_unused=True)
    slopes = dict(zip(point, grads, strict=False))
    moved = solve(
        {n: torch.zeros_like(point[n]) if slope is None else slope for n, slope in slopes.items()}
    )
    direct = dict(zip(past_leap, grads[len(point) :], strict=True))
    found: Params = {}
    for name, value in theta.items():
        parts = [part for part in (moved.get(name), direct.get(name)) if part is not None]
        found[name] = sum(parts[1:], parts[0]) if parts else torch.zeros_like(value)
    return MetaGradient(found, float(loss.detach()))


def reptile_gradient(theta: Params, leap: Leap) -> MetaGradient:
    """Return theta - leap; for a lazy leap, (1 - gamma) times Reptile's direction.

    Entries that the leap doesn't have, weights that don't adapt, stay where they are.

    Reference: Table 1's caption (line 13 for Reptile); Algorithm 3, line 13.
    """
    with torch.no_grad():
        moved = {name: leap.params.get(name, value) for name, value in theta.items()}
        return MetaGradient(subtract(theta, moved), float("nan"))


OuterState = dict[str, torch.Tensor]


class Outer(NamedTuple):
    """An outer update rule of two pure functions.

    `init(theta)` gives its state; `update(theta, state, gradient, factor)` gives the new theta and
    state, with the step size multiplied by `factor` (an annealing schedule's value).
    """

    init: Callable[[Params], OuterState]
    update: Callable[[Params, OuterState, Params, float], tuple[Params, OuterState]]


def outer_sgd(lr: float) -> Outer:
    """Return plain descent: theta <- theta - lr * gradient; Reptile's outer step beta."""

    def update(
        theta: Params, state: OuterState, gradient: Params, factor: float
    ) -> tuple[Params, OuterState]:
        return subtract(theta, scale(gradient, lr * factor)), state

    return Outer(lambda theta: {}, update)


def outer_adam(
    lr: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    clip: float | None = None,
) -> Outer:
    """Adam on the meta-gradient, as MAML's outer loop has it.

    Args:
        lr: step size.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        clip: entries of the gradient are clamped to [-clip, clip] first; None leaves them.
    """

    def init(theta: Params) -> OuterState:
        zeros = {name: torch.zeros_like(value) for name, value in theta.items()}
        state = {f"m.{name}": value for name, value in zeros.items()}
        state |= {f"v.{name}": value.clone() for name, value in zeros.items()}
        return {"step": torch.zeros(()), **state}

    def update(
        theta: Params, state: OuterState, gradient: Params, factor: float
    ) -> tuple[Params, OuterState]:
        step = float(state["step"]) + 1
        new_state: OuterState = {"step": torch.full((), step)}
        new_theta: Params = {}
        for name, value in theta.items():
            grad = gradient[name] if clip is None else gradient[name].clamp(-clip, clip)
            m = beta1 * state[f"m.{name}"] + (1 - beta1) * grad
            v = beta2 * state[f"v.{name}"] + (1 - beta2) * grad * grad
            new_state[f"m.{name}"], new_state[f"v.{name}"] = m, v
            root = (v / (1 - beta2**step)).sqrt() + eps
            new_theta[name] = value - (lr * factor / (1 - beta1**step)) * m / root
        return new_theta, new_state

    return Outer(init, update)


def annealed(kind: Literal["none", "linear"], step: int, total: int) -> float:
    """Return the outer step's factor at meta-iteration `step` of `total`: 1, or falling to 0."""
    return 1.0 if kind == "none" or total <= 0 else max(0.0, 1.0 - step / total)


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
        valid: the validation loss, as a function of its argument alone, too.
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


def implicit_gradient(
    end: Params, valid: Params, loss: LossFn, *, lam: float, steps: int, damping: float = 0.0
) -> Params:
    """Return g with (I + H / (lam + damping)) g = valid, as far as `steps` of CG get.

    H is never formed: a step takes one Hessian-vector product, and all products share one graph of
    the training gradient. So memory is that of one double backward, whatever the inner loop's
    length, and the cost is one gradient with a graph and `steps` backward passes through it.

    The matrix must be positive definite, and is where no eigenvalue of H is below
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
