"""The lazy teacher against brute force and closed forms; its contract, clause by clause."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.learning import (
    GAMMAS,
    Trail,
    greedy,
    lazy,
    on_rates,
    sgd,
    simplex_grid,
    student,
    unrolled,
)
from lazybench.nets.params import Params, leaves

Score = tuple[float, ...]


def distance(left: Params, right: Params) -> float:
    return math.sqrt(sum(float((v - right[name]).square().sum()) for name, v in left.items()))


def toward(target: Params) -> Callable[[Params], Score]:
    """Score of being near `target`, highest there."""
    return lambda params: (-distance(params, target),)


def point(*entries: float) -> Params:
    return {"x": torch.tensor(entries, dtype=torch.float64)}


def trail_of(*last: Params) -> Trail:
    return Trail(last[0], last, {})


@pytest.mark.parametrize("leap_on", ["theta", "phi"])
def test_gamma_is_the_closed_forms_best_on_the_grid(
    make_quadratic: Callable[[int], Any], leap_on: str
) -> None:
    grid = [step / 50 for step in range(51)]
    inside = 0
    for seed in range(8):
        task = make_quadratic(seed)
        trail = student(task.theta, [task] * 4, rule=sgd(0.1))
        # On the line phi + weight * (theta - phi) the nearest point to the target is a projection.
        span = {name: value - trail.end[name] for name, value in task.theta.items()}
        noise = make_quadratic(seed + 100).theta
        target = {n: trail.end[n] + (seed / 5 - 0.2) * v + 0.1 * noise[n] for n, v in span.items()}
        along = sum(float((v * (target[n] - trail.end[n])).sum()) for n, v in span.items())
        weight = along / sum(float(v.square().sum()) for v in span.values())
        best = min(max(weight, 0.0), 1.0)
        inside += 0 < weight < 1
        teacher = lazy(gammas=grid, leap_on="theta" if leap_on == "theta" else "phi")
        leap = teacher(task.theta, trail, toward(target))
        got = leap.gamma if leap_on == "theta" else 1 - leap.gamma
        assert abs(got - best) <= 0.01 + 1e-9
        assert leap.candidates == 51
        expected = {n: trail.end[n] + got * v for n, v in span.items()}
        torch.testing.assert_close(leap.params, expected, rtol=0, atol=1e-12)
        assert leap.score == pytest.approx((-distance(expected, target),), abs=1e-12)
    assert inside >= 4, "the oracle must meet optima inside the grid"


def test_hull_of_three_is_the_brute_force_best(make_quadratic: Callable[[int], Any]) -> None:
    task, target = make_quadratic(1), make_quadratic(2).theta
    trail = student(task.theta, [task] * 5, rule=sgd(0.2), keep=3)
    oldest, middle, newest = trail.last
    best = (-math.inf, 0.0, (0.0, 0.0, 0.0))
    for gamma in GAMMAS:
        for i in range(11):
            for j in range(11 - i):
                alpha = (i / 10, j / 10, (10 - i - j) / 10)
                params = {
                    n: gamma * task.theta[n]
                    + (1 - gamma)
                    * (alpha[0] * oldest[n] + alpha[1] * middle[n] + alpha[2] * newest[n])
                    for n in task.theta
                }
                if -distance(params, target) > best[0]:
                    best = (-distance(params, target), gamma, alpha)
    leap = lazy(alphas=simplex_grid(3, 0.1))(task.theta, trail, toward(target))
    assert (leap.gamma, leap.alpha) == (best[1], best[2])
    assert leap.score == pytest.approx((best[0],), abs=1e-12)
    assert leap.candidates == 5 * 66


def test_simplex_grid_counts() -> None:
    assert len(simplex_grid(3, 0.05)) == 231
    assert len(simplex_grid(3, 0.5)) == 6
    assert len(simplex_grid(4, 0.1)) == math.comb(13, 3)
    assert simplex_grid(1, 0.05) == ((1.0,),)
    for alpha in simplex_grid(3, 0.05):
        assert sum(alpha) == pytest.approx(1.0, abs=1e-12)
        assert all(entry * 20 == pytest.approx(round(entry * 20), abs=1e-9) for entry in alpha)


def test_simplex_grid_starts_at_the_newest_checkpoint() -> None:
    assert simplex_grid(3, 0.5) == (
        (0.0, 0.0, 1.0),
        (0.0, 0.5, 0.5),
        (0.5, 0.0, 0.5),
        (0.0, 1.0, 0.0),
        (0.5, 0.5, 0.0),
        (1.0, 0.0, 0.0),
    )


@pytest.mark.parametrize("step", [0.3, 0.0, -0.5, 2.0])
def test_simplex_steps_must_divide_one(step: float) -> None:
    with pytest.raises(ValueError, match=re.escape("step must divide 1 evenly (as .05")):
        simplex_grid(3, step)


def test_simplex_needs_a_checkpoint() -> None:
    with pytest.raises(ValueError, match="b must be at least 1 checkpoint, got 0"):
        simplex_grid(0, 0.5)


def test_ties_keep_the_first_candidate() -> None:
    trail = trail_of(point(0.0), point(1.0))
    corners = ((0.0, 1.0), (1.0, 0.0))
    leap = lazy(gammas=(0.9, 0.3, 0.5), alphas=corners)(point(4.0), trail, lambda params: (1.0,))
    assert (leap.gamma, leap.alpha) == (0.9, (0.0, 1.0))
    # The first entry ties, the second decides; then the earlier of two equal ones is kept.
    seen: list[Score] = [(1.0, 0.0), (1.0, 2.0), (1.0, 2.0), (0.5, 9.0), (1.0, 2.0), (1.0, 1.0)]
    scores = iter(seen)
    leap = lazy(gammas=(0.9, 0.3, 0.5), alphas=corners)(
        point(4.0), trail, lambda params: next(scores)
    )
    assert (leap.gamma, leap.alpha, leap.score) == (0.9, (1.0, 0.0), (1.0, 2.0))


def test_candidates_come_gamma_by_gamma_without_a_graph() -> None:
    anchor, seen = leaves(point(4.0)), list[float]()

    def score(params: Params) -> Score:
        assert not torch.is_grad_enabled()
        assert not params["x"].requires_grad
        seen.append(float(params["x"]))
        return (0.0,)

    teacher = lazy(gammas=(0.5, 0.25), alphas=((0.0, 1.0), (1.0, 0.0)))
    teacher(anchor, trail_of(point(0.0), point(8.0)), score)
    assert seen == [6.0, 2.0, 7.0, 1.0]


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("bad", [(math.nan,), (1.0, math.nan)])
def test_a_score_that_is_not_a_number_never_wins(where: int, bad: Score) -> None:
    scores: list[Score] = [(0.2, -2.0)[: len(bad)], (0.3, -1.0)[: len(bad)]]
    scores.insert(where, bad)
    given = iter(scores)
    leap = lazy(gammas=(0.2, 0.4, 0.6))(point(1.0), trail_of(point(0.0)), lambda p: next(given))
    winner = scores.index((0.3, -1.0)[: len(bad)])
    assert leap.gamma == (0.2, 0.4, 0.6)[winner]
    assert leap.score == scores[winner]


def test_without_any_number_the_first_candidate_stays() -> None:
    trail = trail_of(point(0.0))
    leap = lazy(gammas=(0.6, 0.4))(point(1.0), trail, lambda params: (0.5, math.nan))
    assert leap.gamma == 0.6
    assert math.isnan(leap.score[1])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("on_graph", [False, True])
def test_the_leap_depends_on_the_anchor_by_gamma_alone(
    quadratic: Any, gamma: float, on_graph: bool
) -> None:
    """d leap / d anchor = gamma * I, even where the checkpoints have a graph of their own."""
    shapes = {name: value.shape for name, value in quadratic.theta.items()}
    flat = torch.cat([value.flatten() for value in quadratic.theta.values()])

    def leap_of(entries: Tensor) -> Tensor:
        parts = torch.split(entries, [shape.numel() for shape in shapes.values()])
        anchor = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        trail = (
            unrolled(anchor, [quadratic] * 2, lr=0.1)
            if on_graph
            else student(anchor, [quadratic] * 2, rule=sgd(0.1))
        )
        leap = lazy(gammas=(gamma,))(anchor, trail, lambda params: (0.0,))
        return torch.cat([value.flatten() for value in leap.params.values()])

    jacobian = torch.autograd.functional.jacobian(leap_of, flat)  # type: ignore[no-untyped-call]
    assert torch.equal(jacobian, gamma * torch.eye(10, dtype=torch.float64))


def test_gamma_one_without_steps_is_greedy_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    anchor = {"w": torch.randn(50, generator=generator), "zero": torch.tensor([0.0, -0.0])}
    trail = student(anchor, [], rule=sgd(0.1))
    score: Callable[[Params], Score] = lambda params: (0.0,)  # noqa: E731
    ours = lazy(gammas=(1.0,))(anchor, trail, score)
    theirs = greedy()(anchor, trail, score)
    for name, value in theirs.params.items():
        assert torch.equal(ours.params[name].view(torch.int32), value.view(torch.int32))


def test_gamma_zero_is_greedy(quadratic: Any) -> None:
    trail = student(quadratic.theta, [quadratic] * 3, rule=sgd(0.1))
    leap = lazy(gammas=(0.0,))(quadratic.theta, trail, lambda params: (0.0,))
    torch.testing.assert_close(leap.params, trail.end, rtol=0, atol=0)


def test_greedy_takes_the_last_checkpoint_and_scores_nothing() -> None:
    def never(params: Params) -> Score:
        raise AssertionError("greedy has no search")

    trail = trail_of(point(1.0), point(2.0), point(3.0))
    leap = greedy()(point(0.0), trail, never)
    assert leap.params is trail.last[-1]
    assert (leap.gamma, leap.alpha, leap.score, leap.candidates) == (0.0, (0.0, 0.0, 1.0), (), 0)


@pytest.mark.parametrize("gamma", [-0.1, 1.01, math.nan])
def test_gammas_outside_the_interval_are_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"each gamma must lie in [0, 1], got {gamma}")):
        lazy(gammas=(0.5, gamma))


@pytest.mark.parametrize("alpha", [(0.5, 0.4), (1.5, -0.5), (), (math.nan, 1.0)])
def test_alphas_off_the_simplex_are_refused(alpha: tuple[float, ...]) -> None:
    message = f"each alpha must be non-negative and sum to 1, got {alpha} (sum {sum(alpha):g})"
    with pytest.raises(ValueError, match=re.escape(message)):
        lazy(alphas=(alpha,))


def test_empty_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="need at least one gamma and one alpha, got 0 and 1"):
        lazy(gammas=())
    with pytest.raises(ValueError, match="need at least one gamma and one alpha, got 5 and 0"):
        lazy(alphas=())


def test_alphas_of_another_length_than_the_trail_are_refused() -> None:
    message = (
        "alphas need one entry for each kept checkpoint: got alpha (0.5, 0.5) of length 2 for a "
        "trail of 1; call student(keep=2)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        lazy(alphas=((0.5, 0.5),))(point(1.0), trail_of(point(0.0)), lambda params: (0.0,))


@pytest.mark.parametrize("off", [2e-6, 5e-3])
def test_alphas_sum_to_1_but_for_rounding(off: float) -> None:
    lazy(alphas=((0.1, 0.2, 0.7),))
    for alpha in ((0.5, 0.5 + off), (0.5, 0.5 - off)):
        with pytest.raises(ValueError, match="each alpha must be non-negative and sum to 1"):
            lazy(alphas=(alpha,))


@pytest.mark.parametrize("step", [0.33, 0.3333, 0.051])
def test_simplex_steps_divide_one_but_for_rounding(step: float) -> None:
    assert len(simplex_grid(2, 1 / 3)) == 4
    with pytest.raises(ValueError, match="step must divide 1 evenly"):
        simplex_grid(2, step)


@pytest.mark.parametrize("leap_on", ["theta", "phi"])
def test_a_leap_on_rates_is_the_same_leap(quadratic: Any, leap_on: Any) -> None:
    """Where a step is a rate times the gradient, the hull is theta less the rates' steps."""
    anchor, rate = leaves(quadratic.theta), torch.tensor(0.1, dtype=torch.float64)
    rate.requires_grad_()
    trail = student(anchor, [quadratic] * 3, rule=sgd(0.1), keep=2, drift=True)

    def direction(grads: Params) -> Params:
        return {name: rate * grad for name, grad in grads.items()}

    teacher = lazy(gammas=(0.3,), alphas=((0.2, 0.8),), leap_on=leap_on)
    for leap in (teacher(anchor, trail, lambda params: (0.0,)), greedy()(anchor, trail, toward)):
        again = on_rates(anchor, leap, trail, direction, leap_on=leap_on)
        for name, value in leap.params.items():
            torch.testing.assert_close(
                again.params[name].detach(), value.detach(), rtol=0, atol=1e-12
            )
        weight = 1.0 - (leap.gamma if leap_on == "theta" else 1 - leap.gamma)
        weight = weight if leap.candidates else 1.0
        summed = {
            name: sum(a * d[name] for a, d in zip(leap.alpha, trail.drift, strict=True))
            for name in anchor
        }
        total = torch.stack([value.sum() for value in again.params.values()]).sum()
        (slope,) = torch.autograd.grad(total, rate)
        expected = -weight * sum(float(value.sum()) for value in summed.values())
        assert float(slope) == pytest.approx(expected, abs=1e-10)
