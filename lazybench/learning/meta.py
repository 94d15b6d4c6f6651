"""Meta-gradients of one task and outer updates of the meta-model.

Symbols of the paper: theta (meta-model), beta (outer step).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from lazybench.learning.inner import LossFn
from lazybench.learning.teacher import Leap
from lazybench.nets.params import Params, leaves, scale, subtract


class MetaGradient(NamedTuple):
    """The meta-gradient of one task and the validation loss it was taken at (NaN where unused)."""

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
    their own gradient added where theta asks for gradients.

    Reference: first-order MAML, Finn et al. 2017, section 5.2.
    """
    return imaml_gradient(theta, leap, valid, lambda at_leap: at_leap)


def imaml_gradient(
    theta: Params, leap: Leap, valid: LossFn, solve: Callable[[Params], Params]
) -> MetaGradient:
    """Return the meta-gradient where `solve` takes the gradient at the leap to one at theta.

    Args:
        theta: the meta-model, on its own graph where the loss reaches it past the leap.
        leap: where the inner loop ended, near a minimum of the proximal training loss.
        valid: validation loss.
        solve: (I + H / lam)^-1 times its argument, H the training loss's Hessian at the leap:
            `implicit_gradient`.

    Reference: Rajeswaran et al. 2019, eq. (6) and Algorithm 2.
    """
    point = leaves(leap.params)
    beside = {name: value for name, value in theta.items() if value.requires_grad}
    loss = valid(point)
    grads = torch.autograd.grad(loss, [*point.values(), *beside.values()], allow_unused=True)
    slopes = dict(zip(point, grads, strict=False))
    moved = solve(
        {n: torch.zeros_like(point[n]) if slope is None else slope for n, slope in slopes.items()}
    )
    direct = dict(zip(beside, grads[len(point) :], strict=True))
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
