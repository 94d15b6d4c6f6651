"""The student: inner gradient steps from the meta-model, with or without a graph.

Meta-learned preconditioners turn an inner gradient into the direction of a step.

Symbols of the paper used here: theta (the anchor, a meta-model), phi_j (the student after j steps).
Of preconditioners: alpha (a step size for each entry), M_o, M_i, M_f (curvature along a weight's
outputs, inputs and filter positions), G (the gradient of one weight).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lazybench.nets.params import Params, detached, subtract
from lazybench.seeding import Rng

LossFn = Callable[[Params], Tensor]
Direction = Callable[[Params], Params]
"""From an inner gradient to what a step subtracts."""
RuleState = dict[str, Tensor]


class Trail(NamedTuple):
    """The result of a student's inner loop.

    Attributes:
        start: phi_0, the anchor from which it started.
        last: phi_{k-b+1}, ..., phi_k, oldest first.
        state: state of the inner rule after the last step.
        losses: the training loss before each step, k floats.
        drift: the sum of the inner gradients up to each checkpoint in `last`, where requested.
    """

    start: Params
    last: tuple[Params, ...]
    state: RuleState
    losses: tuple[float, ...] = ()
    drift: tuple[Params, ...] = ()

    @property
    def end(self) -> Params:
        """phi_k."""
        return self.last[-1]


class InnerRule(NamedTuple):
    """One inner update rule: `init(params)` gives its state, `step_` changes parameters in place.

    `step_(params, grads, state)` runs without a graph and may change `state` in place, too: a
    student owns a copy.
    """

    init: Callable[[Params], RuleState]
    step_: Callable[[Sequence[Tensor], Sequence[Tensor], RuleState], None]


def sgd(lr: float) -> InnerRule:
    """Plain gradient descent: phi <- phi - lr * grad (eq. 2).

    Raises:
        ValueError: `lr` isn't positive.
    """
    _positive(lr)

    def step_(params: Sequence[Tensor], grads: Sequence[Tensor], state: RuleState) -> None:
        torch._foreach_add_(list(params), list(grads), alpha=-lr)

    return InnerRule(lambda params: {}, step_)


def adam(lr: float, *, beta1: float = 0.0, beta2: float = 0.999, eps: float = 1e-8) -> InnerRule:
    """Adam; with `beta1=0` the rule of Reptile's inner loop.

    The state is `step` (a float32 scalar), `v.<name>` and, for beta1 > 0, `m.<name>`.

    Raises:
        ValueError: `lr` isn't positive.

    Reference: Kingma & Ba 2015; supervised-reptile's `beta1=0` (Nichol et al. 2018).
    """
    _positive(lr)

    def init(params: Params) -> RuleState:
        state = {"step": torch.zeros(())}
        state |= {f"v.{name}": torch.zeros_like(value) for name, value in params.items()}
        if beta1:
            state |= {f"m.{name}": torch.zeros_like(value) for name, value in params.items()}
        return state

    def step_(params: Sequence[Tensor], grads: Sequence[Tensor], state: RuleState) -> None:
        state["step"] += 1
        step = float(state["step"])
        second = [value for name, value in state.items() if name.startswith("v.")]
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, list(grads), list(grads), 1 - beta2)
        direction = list(grads)
        if beta1:
            direction = [value for name, value in state.items() if name.startswith("m.")]
            torch._foreach_lerp_(direction, list(grads), 1 - beta1)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(root, eps)
        torch._foreach_addcdiv_(list(params), direction, root, -lr / (1 - beta1**step))

    return InnerRule(init, step_)


def preconditioned(direction: Direction, names: Iterable[str]) -> InnerRule:
    """Return descent along a direction made from the gradient: phi <- phi - direction(grad).

    Args:
        direction: for instance meta-learned step sizes; step size included.
        names: names of the parameters that the rule will be given, in their order.

    Reference: Li et al. 2017 (Meta-SGD), eq. (2).
    """
    order = tuple(names)

    def step_(params: Sequence[Tensor], grads: Sequence[Tensor], state: RuleState) -> None:
        steps = direction(dict(zip(order, grads, strict=True)))
        torch._foreach_sub_(list(params), [steps[name] for name in order])

    return InnerRule(lambda params: {}, step_)


def proximal(loss: LossFn, start: Params, lam: float) -> LossFn:
    """Return `loss(phi) + lam / 2 * |phi - start|^2`; with `lam` 0 the loss itself.

    Differentiable in `start`, too, where it has a graph.

    Reference: Rajeswaran et al. 2019, eq. (3); Zhou et al. 2019 (Minibatch-Prox).
    """
    if lam == 0:
        return loss

    def with_prox(params: Params) -> Tensor:
        away = torch._foreach_sub(list(params.values()), [start[name] for name in params])
        return loss(params) + lam / 2 * torch.stack([part.square().sum() for part in away]).sum()

    return with_prox


def student(
    anchor: Params,
    losses: Iterable[LossFn],
    *,
    rule: InnerRule,
    keep: int = 1,
    state: RuleState | None = None,
    drift: bool = False,
) -> Trail:
    """Return the trail of a student that takes one step on each loss, without a graph.

    Memory is flat in the number of steps: each step's graph is freed before the next one.

    Args:
        anchor: theta; left untouched.
        losses: one scalar loss for each step, k in all.
        rule: the inner update.
        keep: b, how many of the last checkpoints phi_{k-b+1..k} to keep.
        state: the rule's state to start from, copied; None starts fresh.
        drift: sum up the inner gradients as well, at the cost of one more parameter set for each
            checkpoint kept.

    Raises:
        ValueError: `keep` is below 1 or above k + 1 (phi_0 counts).

    Reference: Algorithm 1, lines 6-9.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
    phi = detached(anchor, requires_grad=True)
    values = list(phi.values())
    rule_state = rule.init(phi)
    if state is not None:
        # By name: a state read back from a file may have its entries in another order.
        rule_state = {name: state[name].clone() for name in rule_state}
    kept: deque[Params] = deque([detached(phi)] if keep > 1 else [], maxlen=keep)
    seen: list[Tensor] = []
    total: Params = {name: torch.zeros_like(value) for name, value in anchor.items() if drift}
    sums: deque[Params] = deque([detached(total)], maxlen=keep)
    for loss_fn in losses:
        loss = loss_fn(phi)
        grads = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        seen.append(loss.detach())
        with torch.no_grad():
            if drift:
                torch._foreach_add_(list(total.values()), list(grads))
            rule.step_(values, grads, rule_state)
        if keep > 1:
            kept.append(detached(phi))
        sums.append(detached(total) if keep > 1 else total)
    if keep > len(seen) + 1:
        raise ValueError(
            f"keep must be at most k + 1 = {len(seen) + 1} for {len(seen)} inner steps, got "
            f"{keep}; take more inner steps or keep fewer checkpoints"
        )
    # With one checkpoint the student's tensors are returned without a copy.
    last = tuple(kept) or ({name: value.detach() for name, value in phi.items()},)
    step_losses = tuple(float(loss) for loss in seen)
    return Trail(anchor, last, rule_state, step_losses, tuple(sums) if drift else ())


def unrolled(
    anchor: Params,
    losses: Iterable[LossFn],
    *,
    lr: float,
    order: Literal[1, 2] = 2,
    direction: Direction | None = None,
) -> Trail:
    """Return the trail of a student whose every step stays on the graph of `anchor`.

    Memory grows by one graph a step; this is what the lazy teacher does without.

    Args:
        anchor: theta, with gradients on.
        losses: one scalar loss for each step.
        lr: step size of plain gradient descent.
        order: 2 differentiates through the inner gradients; 1 treats them as constants.
        direction: what a step subtracts, on the graph of the direction's parameters; None takes
        `lr` times
            the gradient.

    Raises:
        ValueError: `lr` isn't positive.

    Reference: eq. (2) and (3); Finn et al. 2017.
    """
    _positive(lr)
    phi = anchor
    seen: list[Tensor] = []
    for loss_fn in losses:
        loss = loss_fn(phi)
        grads = torch.autograd.grad(
            loss,
            list(phi.values()),
            create_graph=order == 2,
            allow_unused=True,
            materialize_grads=True,
        )
        seen.append(loss.detach())
        named = dict(zip(phi, grads, strict=True))
        if direction is None:
            phi = {name: value - lr * named[name] for name, value in phi.items()}
        else:
            phi = subtract(phi, direction(named))
    return Trail(anchor, (phi,), {}, tuple(float(loss) for loss in seen))


def batches(rows: int, size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return `steps` index tensors of `min(size, rows)` rows each, int64 in [0, rows).

    Rows are drawn without replacement, reshuffled each epoch, the tail of one epoch carried into
    the next batch (as in supervised-reptile). `size` 0 or >= rows gives the whole set each time, in
    order.
    """
    if size <= 0 or size >= rows or steps == 0:
        return [torch.arange(rows)] * steps
    epochs = -(-size * steps // rows)
    order = torch.cat([torch.randperm(rows, generator=generator) for _ in range(epochs)])
    return list(torch.split(order[: size * steps], size))


def _positive(lr: float) -> None:
    if not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr}")


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
