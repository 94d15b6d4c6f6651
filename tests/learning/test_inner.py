"""The student against closed forms and torch's own optimisers; memory flat in the steps."""

from __future__ import annotations

import re
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.learning import adam, batches, preconditioned, proximal, sgd, student, unrolled
from lazybench.nets.params import Params, leaves


def flat(params: Params) -> Tensor:
    return torch.cat([value.flatten() for value in params.values()])


def test_sgd_student_lands_on_the_closed_form(quadratic: Any) -> None:
    trail = student(quadratic.theta, [quadratic] * 7, rule=sgd(0.1), keep=8)
    assert len(trail.last) == 8
    for step, phi in enumerate(trail.last):
        expected = quadratic.after(step, 0.1)
        torch.testing.assert_close(phi, expected, rtol=0, atol=1e-12)
    assert trail.end is trail.last[-1]
    before = [float(quadratic(quadratic.after(step, 0.1))) for step in range(7)]
    assert trail.losses == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.0, 0.999, 1e-8), (0.9, 0.99, 1e-3)])
def test_adam_student_is_torchs_adam(
    quadratic: Any, beta1: float, beta2: float, eps: float
) -> None:
    rule = adam(0.03, beta1=beta1, beta2=beta2, eps=eps)
    trail = student(quadratic.theta, [quadratic] * 9, rule=rule)
    weights = {name: torch.nn.Parameter(v.clone()) for name, v in quadratic.theta.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=0.03, betas=(beta1, beta2), eps=eps)
    for _ in range(9):
        optimizer.zero_grad()
        quadratic(dict(weights)).backward()
        optimizer.step()
    torch.testing.assert_close(
        trail.end, {name: w.detach() for name, w in weights.items()}, rtol=0, atol=1e-12
    )
    for name, weight in weights.items():
        theirs = optimizer.state[weight]["exp_avg_sq"]
        torch.testing.assert_close(trail.state[f"v.{name}"], theirs, rtol=0, atol=1e-12)
    assert float(trail.state["step"]) == 9.0
    assert ("m.w" in trail.state) == (beta1 > 0)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_a_carried_state_continues_the_run(quadratic: Any, beta1: float) -> None:
    rule = adam(0.05, beta1=beta1)
    first = student(quadratic.theta, [quadratic] * 4, rule=rule)
    second = student(first.end, [quadratic] * 3, rule=rule, state=first.state)
    whole = student(quadratic.theta, [quadratic] * 7, rule=rule)
    torch.testing.assert_close(second.end, whole.end, rtol=0, atol=0)
    assert float(first.state["step"]) == 4.0  # the state handed in stays as it was


def test_a_carried_state_is_matched_by_name(quadratic: Any) -> None:
    """A state read back from a file may have its entries in another order."""
    rule = adam(0.05, beta1=0.9)
    twins = {name: torch.ones(3, dtype=torch.float64) for name in ("b", "a")}

    def loss(phi: Params) -> Tensor:
        return (phi["a"] - 3).square().sum() + 100 * (phi["b"] + 5).square().sum()

    trail = student(twins, [loss] * 2, rule=rule)
    shuffled = dict(sorted(trail.state.items()))
    assert list(shuffled) != list(trail.state)
    ours = student(trail.end, [loss] * 2, rule=rule, state=shuffled)
    expected = student(trail.end, [loss] * 2, rule=rule, state=trail.state)
    torch.testing.assert_close(ours.end, expected.end, rtol=0, atol=0)
    torch.testing.assert_close(ours.state, expected.state, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [1, 3])
def test_student_leaves_the_anchor_alone_and_keeps_no_graph(quadratic: Any, keep: int) -> None:
    anchor = leaves(quadratic.theta)
    before = flat(anchor).detach().clone()
    trail = student(anchor, [quadratic] * 3, rule=sgd(0.1), keep=keep)
    assert len(trail.last) == keep
    assert trail.start is anchor
    assert torch.equal(flat(anchor).detach(), before)
    for phi in trail.last:
        for name, value in phi.items():
            assert not value.requires_grad
            assert value.grad_fn is None
            assert value.data_ptr() != anchor[name].data_ptr()
    storages = {value.data_ptr() for phi in trail.last for value in phi.values()}
    assert len(storages) == 2 * keep


def test_each_steps_graph_is_freed_before_the_next_one(quadratic: Any) -> None:
    class Saved(torch.autograd.Function):
        """The identity, holding a tensor for the backward pass as a real layer does."""

        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            held = x.detach() * 2
            ctx.save_for_backward(held)  # type: ignore[attr-defined]
            graphs.append(weakref.ref(held.untyped_storage()))
            return x.clone()

        @staticmethod
        def backward(ctx: object, *grads: Tensor) -> Tensor:
            return grads[0]

    hold: Any = Saved.apply
    graphs: list[weakref.ref[object]] = []
    alive: list[int] = []

    def loss(phi: Params) -> Tensor:
        alive.append(sum(ref() is not None for ref in graphs))
        value: Tensor = quadratic({name: hold(v) for name, v in phi.items()})
        alive.append(sum(ref() is not None for ref in graphs))
        return value

    student(quadratic.theta, [loss] * 5, rule=sgd(0.1), keep=2)
    assert alive == [0, 2] * 5
    alive.clear()
    graphs.clear()
    trail = unrolled(leaves(quadratic.theta), [loss] * 5, lr=0.1)
    assert alive[-1] == 10, "the oracle must see the graphs that an unrolled loop keeps"
    assert trail.end["w"].requires_grad


def test_unused_parameters_stay(quadratic: Any) -> None:
    def only_b(phi: Params) -> Tensor:
        return phi["b"].square().sum()

    for trail in (
        student(quadratic.theta, [only_b] * 2, rule=adam(0.1)),
        unrolled(leaves(quadratic.theta), [only_b] * 2, lr=0.1),
    ):
        assert torch.equal(trail.end["w"].detach(), quadratic.theta["w"])
        assert not torch.equal(trail.end["b"].detach(), quadratic.theta["b"])


def test_no_steps_end_at_the_anchor(quadratic: Any) -> None:
    trail = student(quadratic.theta, [], rule=sgd(0.1))
    assert torch.equal(flat(trail.end), flat(quadratic.theta))
    assert trail.losses == ()


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_below_one_is_refused(quadratic: Any, keep: int) -> None:
    message = f"keep must be at least 1 checkpoint, got {keep}"
    with pytest.raises(ValueError, match=message):
        student(quadratic.theta, [quadratic], rule=sgd(0.1), keep=keep)


def test_keep_above_the_steps_is_refused(quadratic: Any) -> None:
    message = "keep must be at most k + 1 = 3 for 2 inner steps, got 4"
    with pytest.raises(ValueError, match=re.escape(message)):
        student(quadratic.theta, [quadratic] * 2, rule=sgd(0.1), keep=4)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan")])
def test_step_sizes_must_be_positive(quadratic: Any, lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be above 0"):
        sgd(lr)
    with pytest.raises(ValueError, match="lr must be above 0"):
        adam(lr)
    with pytest.raises(ValueError, match="lr must be above 0"):
        unrolled(quadratic.theta, [quadratic], lr=lr)


@pytest.mark.parametrize("order", [1, 2])
def test_unrolled_has_the_closed_forms_value_and_jacobian(quadratic: Any, order: int) -> None:
    anchor = leaves(quadratic.theta)
    trail = unrolled(anchor, [quadratic] * 3, lr=0.1, order=2 if order == 2 else 1)
    torch.testing.assert_close(
        {name: v.detach() for name, v in trail.end.items()},
        quadratic.after(3, 0.1),
        rtol=0,
        atol=1e-12,
    )
    # d phi_k / d theta is diagonal: (1 - lr * curvature)^k, or the identity where the inner
    # gradients count as constants.
    got = torch.autograd.grad(flat(trail.end).sum(), list(anchor.values()))
    for name, grad in zip(anchor, got, strict=True):
        curvature = quadratic.curvature[name]
        expected = (1 - 0.1 * curvature) ** 3 if order == 2 else torch.ones_like(curvature)
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


def test_batches_draw_without_replacement_and_carry_the_tail() -> None:
    rows, size, steps = 7, 3, 9
    picks = batches(rows, size, steps, torch.Generator().manual_seed(3))
    assert [len(pick) for pick in picks] == [size] * steps
    assert all(pick.dtype == torch.int64 for pick in picks)
    stream = torch.cat(picks).tolist()
    # Reptile's sampler: shuffle, walk the epoch, go on into the next one.
    epochs = [stream[at : at + rows] for at in range(0, len(stream), rows)]
    for epoch in epochs[:-1]:
        assert sorted(epoch) == list(range(rows))
    assert len(set(epochs[-1])) == len(epochs[-1])
    assert len({tuple(epoch) for epoch in epochs}) > 1, "each epoch has a new order"


@pytest.mark.parametrize("size", [0, 5, 8])
def test_whole_batches_come_in_order_and_draw_nothing(size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert [pick.tolist() for pick in batches(5, size, 2, generator)] == [[0, 1, 2, 3, 4]] * 2
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("size", [0, 2])
def test_no_steps_need_no_batches(size: int) -> None:
    assert batches(5, size, 0, torch.Generator()) == []


def test_batches_repeat_with_the_seed() -> None:
    def draw(seed: int) -> list[int]:
        return torch.cat(batches(6, 2, 5, torch.Generator().manual_seed(seed))).tolist()

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_the_proximal_term_is_half_lam_of_the_squared_distance(quadratic: Any) -> None:
    start = leaves(quadratic.optimum)
    phi = leaves(quadratic.theta)
    got = proximal(quadratic, start, 0.7)(phi)
    away = flat(phi) - flat(start)
    assert float(got.detach()) == pytest.approx(
        float((quadratic(phi) + 0.35 * away.square().sum()).detach()), abs=1e-12
    )
    slopes = torch.autograd.grad(got, list(start.values()))
    torch.testing.assert_close(torch.cat([s.flatten() for s in slopes]), -0.7 * away.detach())
    assert proximal(quadratic, start, 0.0) is quadratic


def test_preconditioned_descent_subtracts_its_direction(quadratic: Any) -> None:
    rates = {"w": 0.05, "b": 0.2}

    def direction(grads: Params) -> Params:
        return {name: rates[name] * grad for name, grad in grads.items()}

    trail = student(quadratic.theta, [quadratic] * 4, rule=preconditioned(direction, rates))
    for name, rate in rates.items():
        torch.testing.assert_close(
            trail.end[name], quadratic.after(4, rate)[name], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_drift_is_the_sum_of_the_gradients_up_to_each_checkpoint(quadratic: Any, keep: int) -> None:
    trail = student(quadratic.theta, [quadratic] * 3, rule=sgd(0.1), keep=keep, drift=True)
    assert len(trail.drift) == len(trail.last) == keep
    for drift, phi in zip(trail.drift, trail.last, strict=True):
        expected = {name: (quadratic.theta[name] - phi[name]) / 0.1 for name in phi}
        torch.testing.assert_close(drift, expected, rtol=0, atol=1e-10)
    assert student(quadratic.theta, [quadratic], rule=sgd(0.1)).drift == ()


@pytest.mark.parametrize("order", [1, 2])
def test_first_order_keeps_no_graph_of_the_inner_gradients(quadratic: Any, order: Any) -> None:
    anchor = leaves(quadratic.theta)
    seen: list[bool] = []

    def direction(grads: Params) -> Params:
        seen.extend(grad.requires_grad for grad in grads.values())
        return {name: 0.1 * grad for name, grad in grads.items()}

    unrolled(anchor, [quadratic] * 2, lr=0.1, order=order, direction=direction)
    assert seen == [order == 2] * 4
