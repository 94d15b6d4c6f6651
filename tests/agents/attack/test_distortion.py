"""ZOO, AutoZOOM and bandits: what they update between queries, against plain references."""

from __future__ import annotations

import pytest
import torch

from lazybench.agents.attack.random_directions import learned
from lazybench.agents.attack.zoo import Adam, DynamicConstant


def test_adam_is_torchs_where_all_numbers_move() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 5, dtype=torch.float64)
    reference = torch.nn.Parameter(x.clone())
    theirs = torch.optim.Adam([reference], lr=0.01)
    ours, images = Adam(x), torch.arange(2)
    index = torch.arange(5).expand(2, -1)
    for _ in range(20):
        gradient = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        reference.grad = gradient.clone()
        theirs.step()
        x += 0.01 * ours.change(images, index, gradient)
    torch.testing.assert_close(x, reference.data, rtol=1e-10, atol=1e-12)


def test_adam_counts_each_number_for_itself() -> None:
    adam = Adam(torch.zeros(3, 4))
    for _ in range(5):
        adam.change(torch.tensor([1]), torch.tensor([[2]]), torch.tensor([[3.0]]))
    # A number's first move has length 1, however often others have been moved.
    moved = adam.change(
        torch.tensor([1, 2]), torch.tensor([[3], [2]]), torch.tensor([[2.0], [-9.0]])
    )
    torch.testing.assert_close(moved, torch.tensor([[-1.0], [1.0]]), rtol=1e-4, atol=1e-4)
    assert adam.steps.tolist() == [[0, 0, 0, 0], [0, 0, 5, 1], [0, 0, 1, 0]]
    adam.forget(torch.tensor([1]))
    assert adam.steps.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_the_constant_grows_until_it_suffices_and_is_then_bisected() -> None:
    trade = DynamicConstant(torch.tensor([10.0, 10.0]))
    images = torch.arange(2)
    fails, wins = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, -1.0])
    assert trade.update(images, fails, 0, 4)[0].tolist() == [False, False]
    trade.update(images, fails, 4, 4)
    assert trade.constant.tolist() == [100.0, 100.0]
    first, switched = trade.update(images, wins, 5, 4)
    assert (first.tolist(), switched.tolist()) == ([True, False], [False, False])
    # The first success forgets the lower bound.
    first, switched = trade.update(images, fails, 8, 4)
    assert (first.tolist(), switched.tolist()) == ([False, False], [True, False])
    assert trade.constant.tolist() == [50.0, 1000.0]
    trade.update(images, fails, 12, 4)
    assert trade.constant.tolist() == [75.0, 10_000.0]


@pytest.mark.parametrize("change", [0.3, -2.0, 40.0])
def test_the_prior_learns_by_exponentiated_gradients_in_linf(change: float) -> None:
    prior = torch.tensor([-0.9, 0.0, 0.5], dtype=torch.float64)
    moved = torch.tensor(change, dtype=torch.float64)
    up, down = (1 + prior) / 2 * moved.exp(), (1 - prior) / 2 * (-moved).exp()
    expected = 2 * up / (up + down) - 1
    torch.testing.assert_close(learned(prior, moved.expand(3), "linf"), expected)
    torch.testing.assert_close(learned(prior, moved.expand(3), "l2"), prior + change)


def test_a_prior_at_its_end_comes_back() -> None:
    end = torch.tensor([1.0, -1.0])
    assert learned(end, torch.tensor([-100.0, 100.0]), "linf").tolist() == [-1.0, 1.0]
