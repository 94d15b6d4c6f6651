"""Weights on examples, learned from a validation loss one step ahead.

Symbols of the paper used here: eps (what is added to an example's weight), theta(eps) (the model
after one virtual step on the weighted examples), gamma (weight of the anchor in the leap).

theta(eps) = theta - lr * sum_i (w_i + eps_i) grad L_i(theta) is linear in eps, so the gradient of
any function of it is -lr * <grad L_i(theta), v>, where v is that function's gradient for
theta(eps): no virtual model has to be on a graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from lazybench.errors import Diverged, UsageError
from lazybench.learning.inner import LossFn, Trail, sgd, student, unrolled
from lazybench.learning.meta_gradient import maml_gradient
from lazybench.learning.teacher import Leap, ScoreFn, Teacher, greedy
from lazybench.nets.params import Params, leaves

ExampleLosses = Callable[[Params], Tensor]
"""The loss of every example of a mini-batch, `[B]`, at given parameters."""

Products = Literal["vjp", "jvp"]
"""Methods to compute the examples' slopes along a direction; both are exact."""


class Examples:
    """The losses of a mini-batch's examples at theta: one forward pass for all results.

    With the batch's statistics in batch norm, examples interact: an example's gradient is that of
    its entry of the loss vector, the way through the statistics included.

    Attributes:
        point: theta as leaves.
        losses: `[B]`, on the graph of `point`.
    """

    def __init__(self, theta: Params, losses: ExampleLosses, *, products: Products = "jvp") -> None:
        """Run the forward pass.

        Args:
            theta: the parameters; left untouched.
            losses: gives the loss vector at any parameters.
            products: how `along` works. `jvp` is a forward pass of dual numbers, which keeps no
                second graph; `vjp` goes back through the backward pass of `gradient`. `Choice:`
                jvp, which is the faster one on a CPU, 1.2 against 3.6 times a forward and
                backward pass (`benchmarks/longtail.py`); vjp serves networks without dual numbers.

        Raises:
            ValueError: `products` is neither.
        """
        if products not in get_args(Products):
            raise ValueError(f"products must be vjp or jvp, got '{products}'")
        self.point = leaves(theta)
        self._products, self._at = products, losses
        with torch.enable_grad():
            self.losses = losses(self.point)
        self._back: tuple[Tensor, tuple[Tensor, ...]] | None = None

    @property
    def values(self) -> Tensor:
        """The losses off the graph, `[B]`."""
        return self.losses.detach()

    def weighted(self, weights: Tensor) -> LossFn:
        """Return the loss `sum_i weights_i L_i` as a function of the parameters."""
        held = weights.detach()
        return lambda params: (held * self._at(params)).sum()

    def gradient(self, weights: Tensor) -> Params:
        """Return `sum_i weights_i grad L_i(theta)`, a constant; the graph stays."""
        seed, found = self._backward(weights)
        if self._products == "vjp":
            self._back = seed, found
        return {name: slope.detach() for name, slope in zip(self.point, found, strict=True)}

    def along(self, direction: Params) -> Tensor:
        """Return `<grad L_i(theta), direction>` for every example, `[B]`, a constant.

        Raises:
            UsageError: the network has no forward derivative and `products` is jvp.

        Reference: Ren et al. 2018, whose released code has the same product as a gradient of
        gradients.
        """
        if self._products == "jvp":
            return self._forward(direction)
        if self._back is None:
            # The backward pass is linear in its seed, so any seed gives the same product.
            self._back = self._backward(torch.ones_like(self.losses))
        (seed, found), self._back = self._back, None
        on_graph = [
            (slope, direction[name])
            for name, slope in zip(self.point, found, strict=True)
            if slope.requires_grad
        ]
        (product,) = torch.autograd.grad(
            [slope for slope, _ in on_graph],
            seed,
            [part for _, part in on_graph],
            # The forward pass's graph is below this one, and is needed again.
            retain_graph=True,
        )
        return product.detach()

    def _backward(self, weights: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The weights as a leaf, and the gradients on its graph where products need one."""
        twice = self._products == "vjp"
        seed = weights.detach().clone().requires_grad_(twice)
        found = torch.autograd.grad(
            self.losses,
            list(self.point.values()),
            seed,
            retain_graph=True,
            create_graph=twice,
            allow_unused=True,
            materialize_grads=True,
        )
        return seed, found

    def _forward(self, direction: Params) -> Tensor:
        with torch.no_grad(), forward_ad.dual_level():
            with warnings.catch_warnings():
                # The first dual number loads scripts of torch, which give warnings.
                warnings.simplefilter("ignore", DeprecationWarning)
                dual = {
                    name: forward_ad.make_dual(  # type: ignore[no-untyped-call]
                        value.detach(), direction[name]
                    )
                    for name, value in self.point.items()
                }
            try:
                out = forward_ad.unpack_dual(self._at(dual))  # type: ignore[no-untyped-call]
            except NotImplementedError as error:
                raise UsageError(
                    "this network has an operator without a forward derivative, which "
                    "products=jvp needs; use --set products=vjp"
                ) from error
        tangent: Tensor | None = out.tangent
        return torch.zeros_like(self.values) if tangent is None else tangent


class LookAhead(NamedTuple):
    """How far ahead of theta the validation loss is taken.

    Attributes:
        lr: eta, the step size on the *sum* of the weighted losses, in the virtual step and in the
            student's; a mean's step size is to be divided by B.
        steps: k, the student's steps from theta(0) on the same weighted examples.
        teacher: what makes the leap; None is greedy, which without steps is theta(eps) itself.
        inner: `student` (checkpoints are constants) or `unrolled` (the student's steps stay on the
            anchor's graph: the ablation that Algorithm 2 does without).
    """

    lr: float
    steps: int = 0
    teacher: Teacher | None = None
    inner: Literal["student", "unrolled"] = "student"


class WeightGradient(NamedTuple):
    """The gradient of a validation loss one step ahead for the examples' weights.

    Attributes:
        slopes: d L_val(leap(theta(eps))) / d eps at eps = 0, `[B]`.
        loss: L_val at the leap.
        leap: what the teacher chose.
        trail: what the student left, from theta(0).
    """

    slopes: Tensor
    loss: float
    leap: Leap
    trail: Trail


def weight_gradient(
    examples: Examples,
    weights: Tensor,
    valid: LossFn,
    ahead: LookAhead,
    *,
    score: ScoreFn | None = None,
) -> WeightGradient:
    """Return the gradient of the validation loss at the leap for the examples' weights.

    theta(0) is the anchor: from it a student takes its steps, the teacher makes the leap, and the
    validation loss's gradient goes back to the anchor by whatever graph the leap has (gamma times
    the gradient for a lazy leap) and from there to the weights.

    Args:
        examples: the mini-batch at theta.
        weights: w, `[B]`.
        valid: the validation loss.
        ahead: the virtual step, the student and the teacher.
        score: what a lazy teacher compares candidates by, on rows that `valid` doesn't see; None
            keeps the first candidate.

    Raises:
        ValueError: a student's steps under a greedy teacher, which have no way back to the weights.

    Reference: Algorithm 2, lines 6-12; Jamal et al. 2020 (greedy); Ren et al. 2018 (w = 0).
    """
    lr, teacher = ahead.lr, ahead.teacher
    anchor = leaves(examples.point)
    # Weights of 0 leave theta where it is, without a backward pass.
    if bool(weights.any()):
        back = examples.gradient(weights)
        anchor = leaves({name: value.detach() - lr * back[name] for name, value in anchor.items()})
    losses = [examples.weighted(weights)] * ahead.steps
    # No steps leave the anchor itself, which costs nothing to keep on its graph.
    if ahead.inner == "unrolled" or (teacher is None and not ahead.steps):
        trail = unrolled(anchor, losses, lr=lr)
    else:
        trail = student(anchor, losses, rule=sgd(lr))
    leap = (teacher or greedy())(anchor, trail, score or (lambda params: ()))
    if not any(value.requires_grad for value in leap.params.values()):
        raise ValueError(
            "a greedy leap after a student's steps doesn't depend on the weights; use "
            "inner='unrolled' or a lazy teacher"
        )
    meta = maml_gradient(anchor, leap, valid)
    return WeightGradient(-lr * examples.along(meta.params), meta.loss, leap, trail)


def sound(weights: Tensor, step: int) -> Tensor:
    """Return `[B]` weights as they are.

    Raises:
        Diverged: a weight isn't finite, or together they are negative, so that a step on them would
            climb.
    """
    if not bool(torch.isfinite(weights).all()):
        raise Diverged(
            f"an example's weight isn't finite at step {step}; lower the learning rate or tau"
        )
    total = float(weights.sum())
    if total < 0:
        raise Diverged(
            f"the examples' weights sum to {total:.3g} at step {step} and must not be negative; "
            "lower tau or rho, or set clip=true"
        )
    return weights
