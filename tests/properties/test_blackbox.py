"""Whatever an attacker asks, only what is paid is answered, and what counts is inside its ball."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lazybench.envs.attack.blackbox import TOLERANCE, BlackBox
from lazybench.envs.attack.oracle import Oracle

LIKE_CI = settings(max_examples=60, deadline=None, derandomize=True, database=None)
IMAGES = 3
PIXELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -3.0, 9.0, float("nan"), float("inf")])
ROWS = st.lists(
    st.tuples(st.integers(0, IMAGES - 1), st.lists(PIXELS, min_size=4, max_size=4)), max_size=9
)


class ByHand:
    """A model of four pixels in plain Python, which writes down all that it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    @staticmethod
    def label(pixels: list[float]) -> int:
        """0 up to a mean of .4, 1 up to .7, 2 beyond."""
        mean = sum(pixels) / len(pixels)
        return int(mean > 0.4) + int(mean > 0.7)

    def __call__(self, rows: Tensor) -> Tensor:
        found = rows.flatten(1).tolist()
        self.asked += found
        return torch.eye(3)[[self.label(pixels) for pixels in found]]


def far(one: list[float], other: list[float], norm: str) -> float:
    apart = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return max(apart) if norm == "linf" else sum(a * a for a in apart) ** 0.5


@LIKE_CI
@given(
    calls=st.lists(ROWS, max_size=6),
    budget=st.integers(1, 8),
    norm=st.sampled_from(["l2", "linf"]),
    eps=st.sampled_from([0.25, 0.5, 1.0, float("inf")]),
    mode=st.sampled_from(["first", "minimise"]),
    access=st.sampled_from(["scores", "label"]),
    goals=st.none() | st.just([1, 2, 1]),
    levels=st.sampled_from([None, 3, 256]),
)
def test_the_ledger_holds_whatever_is_asked(
    calls: list[Any],
    budget: int,
    norm: Any,
    eps: float,
    mode: Any,
    access: Any,
    goals: list[int] | None,
    levels: int | None,
) -> None:
    clean = [[0.0] * 4, [0.5, 0.0, 0.5, 0.25], [0.25] * 4]
    model = ByHand()
    box = BlackBox(
        Oracle(model, 3),
        torch.tensor(clean).reshape(IMAGES, 1, 2, 2),
        torch.zeros(IMAGES, dtype=torch.int64),
        None if goals is None else torch.tensor(goals),
        norm=norm,
        eps=eps,
        query_budget=budget,
        mode=mode,
        access=access,
        levels=levels,
    )
    paid = [0] * IMAGES
    done = [False] * IMAGES
    for call in calls:
        before = len(model.asked)
        rows = torch.tensor([pixels for _, pixels in call]).reshape(len(call), 1, 2, 2)
        reported = box.query(rows, np.array([owner for owner, _ in call], np.int64))
        served = 0
        for place, (owner, _) in enumerate(call):
            fits = not done[owner] and paid[owner] < budget
            assert bool(reported.served[place]) is fits
            paid[owner] += fits
            served += fits
            if not fits:
                assert not reported.hit[place]
                assert reported.labels[place] == -1
                assert not reported.scores[place].any()
        assert len(model.asked) - before == served, "what isn't paid isn't sent"
        assert reported.scores.shape[1] == (3 if access == "scores" else 0)
        assert box.ledger.queries.tolist() == paid
        assert reported.left.tolist() == [budget - each for each in paid]
        done = reported.done.tolist()
        assert all(done[i] for i in range(IMAGES) if paid[i] == budget)
    assert len(model.asked) == sum(paid)
    assert all(0 <= pixel <= 1 for pixels in model.asked for pixel in pixels)

    verdict = box.verdict()
    for image in range(IMAGES):
        best = box.best[image].flatten().tolist()
        assert all(0 <= pixel <= 1 for pixel in best)
        if not verdict["success"][image]:
            assert verdict["success_query"][image] == 0
            continue
        assert far(best, clean[image], norm) <= eps + 2 * TOLERANCE
        aim = model.label(best)
        assert aim != 0 if goals is None else aim == goals[image]
        assert 1 <= verdict["success_query"][image] <= verdict["queries"][image] <= budget
        assert verdict["best_l2"][image] <= far(best, clean[image], "l2") + TOLERANCE
        if mode == "first":
            assert box.ledger.done[image]
    assert verdict["queries"].tolist() == paid, "the verdict charges nothing"
