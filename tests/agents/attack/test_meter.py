"""The meter itself, by hand."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from lazybench.tasks import Queries


def test_charges_in_order_refuses_past_budget_and_success_by_hand(meter: ModuleType) -> None:
    task = meter.protocol((1, 1, 2), 2, query_budget=3, eps=0.5)
    # Class 1 where the first pixel is above 0.6.
    target = meter.linear(torch.tensor([[[[0.0, 0.0]]], [[[1.0, 0.0]]]]), torch.tensor([0.0, -0.6]))
    x = torch.tensor([[[[0.2, 0.5]]], [[[0.2, 0.5]]]])
    box = meter.Meter(task, target, x, torch.tensor([0, 0]))

    def rows(*first: float) -> torch.Tensor:
        return torch.tensor([[[[value, 0.5]]] for value in first])

    replies = box.answer(
        Queries(rows(0.3, 0.9, float("nan"), 0.65, 0.7), torch.tensor([0] * 4 + [1]))
    )
    # 0.9 is past the decision and outside the ball; the fourth row is past the budget.
    assert replies.served.tolist() == [True, True, True, False, True]
    assert replies.hit.tolist() == [False, False, False, False, True]
    assert replies.labels[:3].tolist() == [0, 1, 0]
    assert replies.left.tolist() == [0, 2]
    assert replies.done.tolist() == [True, True]
    assert box.queries == [3, 1]
    assert box.success_query == [0, 1]
    assert box.refused == [1, 0]
    assert box.calls == [[3], [1]]
    assert box.best() == [float("inf"), pytest.approx(0.5)]


def test_a_finished_image_is_refused_and_a_minimising_one_is_not(meter: ModuleType) -> None:
    x, label = torch.zeros(1, 1, 1, 1), torch.tensor([1])
    ask = Queries(torch.ones(2, 1, 1, 1), torch.tensor([0, 0]))
    for mode, left in (("first", 98), ("minimise", 96)):
        task = meter.protocol((1, 1, 1), 2, mode=mode)
        box = meter.Meter(task, meter.always(2, 0), x, label)
        box.answer(ask)
        assert box.answer(ask).left.tolist() == [left]


def test_targeted_success_is_the_goal_alone(meter: ModuleType) -> None:
    x = torch.zeros(1, 1, 1, 1)
    task = meter.protocol((1, 1, 1), 3, targeted=True)
    for goal, expected in ((0, True), (2, False)):
        box = meter.Meter(task, meter.always(3, 0), x, torch.tensor([1]), torch.tensor([goal]))
        assert box.answer(Queries(x, torch.tensor([0]))).hit.tolist() == [expected]
