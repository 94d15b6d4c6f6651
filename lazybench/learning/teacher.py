"""The teacher: how a finished inner loop becomes one task model.

Greedy and lazy are two values of one type, so no algorithm needs a separate lazy variant. Symbols
of the paper: gamma (weight of the anchor in the leap), alpha (weights of the hull), b (checkpoints
kept).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch

from lazybench.learning.inner import Direction, Trail
from lazybench.nets.params import Params, combine, lerp, subtract

Score = tuple[float, ...]
ScoreFn = Callable[[Params], Score]
LeapOn = Literal["theta", "phi"]

GAMMAS: tuple[float, ...] = (0.75, 0.80, 0.85, 0.90, 0.95)
"""The grid of gamma in Table 1: .75 to .95 by .05."""


class Leap(NamedTuple):
    """The task model that a teacher chose.

    Attributes:
        params: the model; on the graph of the anchor (lazy) or of the trail (greedy).
        gamma: weight of the anchor, in [0, 1]; 0 for greedy.
        alpha: weights of the kept checkpoints, oldest first, summing to 1.
        score: the winner's score, empty if nothing was searched.
        candidates: how many models were scored.
    """

    params: Params
    gamma: float
    alpha: tuple[float, ...]
    score: Score
    candidates: int


class Teacher(Protocol):
    """Turns an anchor, a trail and a score into a leap."""

    def __call__(self, anchor: Params, trail: Trail, score: ScoreFn) -> Leap:
        """Return the chosen task model; higher scores are better, compared entry by entry."""
        ...


def greedy() -> Teacher:
    """Return the teacher that takes phi_k itself: MAML, Reptile and meta-attack as published."""

    def teach(anchor: Params, trail: Trail, score: ScoreFn) -> Leap:
        return Leap(trail.end, 0.0, (*(0.0,) * (len(trail.last) - 1), 1.0), (), 0)

    return teach


def lazy(
    *,
    gammas: Sequence[float] = GAMMAS,
    alphas: Sequence[Sequence[float]] = ((1.0,),),
    leap_on: LeapOn = "theta",
) -> Teacher:
    """Return the lazy teacher: the best of `gamma * anchor + (1 - gamma) * hull` on the score.

    Candidates are scored without a graph; checkpoints enter as constants; the returned model is
    rebuilt on the graph of the anchor alone, so d leap / d anchor = gamma * I. Equal scores keep
    the earlier candidate: gammas in the order given, for each gamma the alphas in the order given.
    A score with a NaN in it loses to any without; where all have one, the first candidate stays.

    Args:
        gammas: candidate weights of the anchor, each in [0, 1].
        alphas: candidate hull weights, each non-negative and summing to 1, one entry for each kept
            checkpoint, oldest first.
        leap_on: what gamma weighs. `Choice:` "theta", as eq. (4) and all three algorithms print it;
            "phi" is the other reading, in which gamma weighs the student.

    Raises:
        ValueError: a gamma outside [0, 1], or an alpha off the simplex; at call, alphas whose
            length differs from the number of checkpoints kept.

    Reference: eqs. (4) and (5); Algorithm 1, lines 10-11.
    """
    grid = tuple(float(gamma) for gamma in gammas)
    hulls = tuple(tuple(float(weight) for weight in alpha) for alpha in alphas)
    if not grid or not hulls:
        raise ValueError(f"need at least one gamma and one alpha, got {len(grid)} and {len(hulls)}")
    for gamma in grid:
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"each gamma must lie in [0, 1], got {gamma}")
    for alpha in hulls:
        if not (min(alpha, default=-1.0) >= 0.0 and abs(sum(alpha) - 1.0) <= 1e-6):
            raise ValueError(
                f"each alpha must be non-negative and sum to 1, got {alpha} (sum {sum(alpha):g})"
            )

    def teach(anchor: Params, trail: Trail, score: ScoreFn) -> Leap:
        for alpha in hulls:
            if len(alpha) != len(trail.last):
                raise ValueError(
                    f"alphas need one entry for each kept checkpoint: got alpha {alpha} of length "
                    f"{len(alpha)} for a trail of {len(trail.last)}; call "
                    f"student(keep={len(alpha)})"
                )
        best: tuple[Score, float, tuple[float, ...]] | None = None
        with torch.no_grad():
            start = {name: value.detach() for name, value in anchor.items()}
            regions = [_hull(trail, alpha) for alpha in hulls]
            for gamma, (alpha, region) in itertools.product(grid, zip(hulls, regions, strict=True)):
                got = score(lerp(start, region, _anchor_weight(gamma, leap_on)))
                if best is None or _beats(got, best[0]):
                    best = (got, gamma, alpha)
        won, gamma, alpha = best or ((), grid[0], hulls[0])
        region = regions[hulls.index(alpha)]
        params = lerp(anchor, region, _anchor_weight(gamma, leap_on))
        return Leap(params, gamma, alpha, won, len(grid) * len(hulls))

    return teach


def on_rates(
    anchor: Params, leap: Leap, trail: Trail, direction: Direction, *, leap_on: LeapOn = "theta"
) -> Leap:
    """Return the same leap with its hull on the graph of meta-learned rates.

    phi_j = theta - direction(g_1 + ... + g_j) for a direction that is linear in the gradients; with
    the g as constants the rates keep their first-order gradient, and memory stays flat in the
    number of steps. A greedy leap becomes anchor - direction(g_1 + ... + g_k), whose gradient for
    the anchor is first-order MAML's.

    Args:
        anchor: theta, on its graph.
        leap: what the teacher chose.
        trail: of `student(..., drift=True)`.
        direction: the student's, on the graph of the direction's parameters.
        leap_on: as the teacher's.

    Reference: Li et al. 2017 (Meta-SGD), eq. (2), with eqs. (4) and (5) around it.
    """
    # Combining copies, which one checkpoint doesn't need.
    one = len(trail.drift) == 1
    step = direction(trail.drift[0] if one else combine(trail.drift, leap.alpha))
    if not leap.candidates:
        return leap._replace(params=subtract(anchor, step))
    region = subtract({name: value.detach() for name, value in anchor.items()}, step)
    return leap._replace(params=lerp(anchor, region, _anchor_weight(leap.gamma, leap_on)))


def simplex_grid(b: int, step: float) -> tuple[tuple[float, ...], ...]:
    """Return all points of the (b-1)-simplex whose entries are multiples of `step`.

    For b=3 and step=.05 these are 231 points. The newest checkpoint's weight falls first, so the
    first point is the plain last checkpoint.

    Raises:
        ValueError: b < 1, or 1/step isn't a whole number.

    Reference: eq. (5); Table 1's grid.
    """
    if b < 1:
        raise ValueError(f"b must be at least 1 checkpoint, got {b}")
    parts = round(1 / step) if step > 0 else 0
    if parts < 1 or abs(parts * step - 1.0) > 1e-9:
        raise ValueError(f"step must divide 1 evenly (as .05, .1, .25, .5), got {step}")
    points = (
        point for point in itertools.product(range(parts + 1), repeat=b) if sum(point) == parts
    )
    newest_first = sorted(points, key=lambda point: point[::-1], reverse=True)
    return tuple(tuple(entry / parts for entry in point) for point in newest_first)


def _beats(score: Score, best: Score) -> bool:
    """True if a score is better; NaN is checked first, since tuple comparison passes over it."""
    if any(map(math.isnan, score)):
        return False
    return any(map(math.isnan, best)) or score > best


def _anchor_weight(gamma: float, leap_on: LeapOn) -> float:
    return gamma if leap_on == "theta" else 1.0 - gamma


def _hull(trail: Trail, alpha: tuple[float, ...]) -> Params:
    """R of eq. (5), as a constant."""
    constants = [{name: value.detach() for name, value in phi.items()} for phi in trail.last]
    return constants[0] if len(constants) == 1 else combine(constants, alpha)
