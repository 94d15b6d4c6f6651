"""Meta-learned preconditioners: what turns an inner gradient into the direction of a step.

Symbols: alpha (a step size for each entry), M_o, M_i, M_f (curvature along a weight's outputs,
inputs and filter positions), G (the gradient of one weight).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lazybench.learning.inner import _positive
from lazybench.nets.params import Params
from lazybench.seeding import Rng


class Preconditioner(NamedTuple):
    """A preconditioner of two pure functions.

    `init(params)` gives its meta-parameters, learned along with the meta-model; `apply(meta,
    grads)` gives the direction to subtract, step size included: phi <- phi - apply(meta, grads),
    named and shaped as `grads`, differentiable in both as often as one likes. `grads` may hold
    some of the parameters only; `meta` may hold more than they need. Without gradients recorded
    `apply` keeps nothing, and its result may be changed in place.
    """

    init: Callable[[Params], Params]
    apply: Callable[[Params, Params], Params]


def elementwise(
    lr: float, *, within: tuple[float, float] | None = None, rng: Rng | None = None
) -> Preconditioner:
    """Return Meta-SGD's step sizes: alpha, one for each entry, of either sign once learned.

    The meta-parameters are `rate.<name>`, shaped as the parameter.

    Args:
        lr: the value that every step size starts from, so that the first step is plain descent.
        within: lowest and highest value of a uniform draw for each entry instead. `Choice:` off;
            the paper starts in [0.005, 0.1].
        rng: where `within` draws from; each name has a separate stream.

    Raises:
        ValueError: `lr` isn't positive, `within` isn't an interval of positive numbers, or it comes
            without `rng`.

    Reference: Li et al. 2017 (Meta-SGD), eq. (2).
    """
    _positive(lr)
    if within is not None and not 0 < within[0] <= within[1] < math.inf:
        raise ValueError(f"within must be an interval of positive numbers, got {within}")
    if within is not None and rng is None:
        raise ValueError("within draws step sizes and needs rng; got None")

    def start(name: str, value: Tensor) -> Tensor:
        if within is None or rng is None:
            return torch.full_like(value, lr)
        low, high = within
        drawn = torch.rand(value.shape, generator=rng.at("rate", name).torch(), dtype=value.dtype)
        return torch.empty_like(value).copy_(drawn * (high - low) + low)

    def apply(meta: Params, grads: Params) -> Params:
        rates = [meta[f"rate.{name}"] for name in grads]
        return dict(zip(grads, torch._foreach_mul(rates, list(grads.values())), strict=True))

    return Preconditioner(
        lambda params: {f"rate.{name}": start(name, value) for name, value in params.items()}, apply
    )


def curvature(lr: float, *, vectors: Literal["matrix", "diagonal"] = "matrix") -> Preconditioner:
    """Return Meta-Curvature: lr * G x_3 M_f x_2 M_i x_1 M_o, mode products along each axis.

    On the flattened gradient of a convolution `[out, in, h, w]` that is lr * (M_o kron M_i kron
    M_f), on that of a linear weight `[out, in]` lr * (M_o kron M_i), on a vector lr * M_o; the big
    matrix is never formed. The meta-parameters are `curve.out.<name> [out, out]`,
    `curve.in.<name> [in, in]` and `curve.field.<name> [h * w, h * w]`, identities at first, so that
    the first step is plain descent with `lr`.

    Args:
        lr: step size, not learned itself.
        vectors: `diagonal` gives a vector (an offset, or a norm's scale) one number an entry,
            `curve.out.<name> [out]`, ones at first. `Choice:` a matrix, as for other axes.

    Raises:
        ValueError: `lr` isn't positive, or `vectors` is another word. `init` raises it for a
            parameter that isn't a vector, a linear or a two-dimensional convolution's weight.

    Reference: Park & Oliva 2019 (Meta-Curvature), section 3.3, MC2.
    """
    _positive(lr)
    if vectors not in ("matrix", "diagonal"):
        raise ValueError(f"vectors must be matrix or diagonal, got '{vectors}'")

    def start(name: str, value: Tensor) -> Params:
        if value.dim() not in (1, 2, 4):
            raise ValueError(
                "meta-curvature takes vectors, linear weights [out, in] and convolutions "
                f"[out, in, h, w], got {name} of shape {list(value.shape)}"
            )
        if value.dim() == 1 and vectors == "diagonal":
            return {f"curve.out.{name}": torch.ones_like(value)}
        sizes = {"out": value.shape[0]}
        if value.dim() > 1:
            sizes["in"] = value.shape[1]
        if value.dim() == 4:
            sizes["field"] = value.shape[2] * value.shape[3]
        return {
            f"curve.{axis}.{name}": torch.eye(size, dtype=value.dtype, device=value.device)
            for axis, size in sizes.items()
        }

    def init(params: Params) -> Params:
        return {key: m for name, value in params.items() for key, m in start(name, value).items()}

    def apply(meta: Params, grads: Params) -> Params:
        return {name: _mode_products(meta, name, grad, lr) for name, grad in grads.items()}

    return Preconditioner(init, apply)


def _mode_products(meta: Params, name: str, grad: Tensor, lr: float) -> Tensor:
    """Return the preconditioned gradient of one parameter.

    The step size goes into M_o, the smaller factor.
    """
    out = lr * meta[f"curve.out.{name}"]
    if grad.dim() == 1:
        return out * grad if out.dim() == 1 else out @ grad
    inputs = meta[f"curve.in.{name}"].mT
    if grad.dim() == 2:
        return out @ grad @ inputs
    rows, columns, height, width = grad.shape
    # Inputs last, as channels_last has them in memory: then each product is one matrix product on a
    # view, and the direction comes out in the layout of the parameter.
    x = grad.permute(0, 2, 3, 1).reshape(rows, height * width, columns)
    x = meta[f"curve.field.{name}"] @ (x @ inputs)
    x = out @ x.reshape(rows, -1)
    return x.view(rows, height, width, columns).permute(0, 3, 1, 2)
