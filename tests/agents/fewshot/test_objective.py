"""Loss, score and answer by hand, for labels and for real-valued targets."""

from __future__ import annotations

import math

import pytest
import torch

from lazybench.agents.fewshot.episode import objective
from lazybench.tasks import TaskShape

LABELS = objective(TaskShape(3, 1, 1, (1, 28, 28), "uint8"))
VALUES = objective(TaskShape(1, 5, 5, (1,), "float32", "array", (2,)))


def test_labels_by_hand() -> None:
    outputs = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([0, 2])
    first = math.log(math.exp(2) + 2) - 2
    second = math.log(math.e + 2)
    loss = (first + second) / 2
    assert float(LABELS.loss(outputs, targets)) == pytest.approx(loss, abs=1e-12)
    assert LABELS.score(outputs, targets) == pytest.approx((0.5, -loss), abs=1e-12)
    assert LABELS.answer(outputs).tolist() == [0, 1]


def test_real_values_by_hand() -> None:
    outputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    assert float(VALUES.loss(outputs, targets)) == pytest.approx(13 / 4, abs=1e-12)
    assert VALUES.score(outputs, targets) == pytest.approx((-13 / 4,), abs=1e-12)
    assert VALUES.answer(outputs) is outputs


def test_accuracy_comes_before_the_loss() -> None:
    targets = torch.tensor([0, 1])
    sure_and_half_wrong = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    unsure_and_right = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    better, worse = (LABELS.score(o, targets) for o in (unsure_and_right, sure_and_half_wrong))
    assert better > worse
    assert better[1] < worse[1]


def test_losses_carry_a_graph() -> None:
    outputs = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(LABELS.loss(outputs, torch.tensor([0, 1])), outputs)
    torch.testing.assert_close(grad.sum(1), torch.zeros(2), rtol=0, atol=1e-7)
