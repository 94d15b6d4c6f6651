"""Floors by brute force."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lazybench.agents.fewshot.baselines import Chance, NearestPixel, NoSettings
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape


def test_nearest_pixel_by_brute_force(tasks: Any, draw: Any) -> None:
    block = draw(tasks.blobs, 3)
    got, memory = NearestPixel(NoSettings()).policy({})(block)
    assert memory is None
    for row in range(3):
        for query in range(6):
            x = block["query_x"][row, query].long()
            gaps = [int((x - s.long()).square().sum()) for s in block["support_x"][row]]
            assert int(got[row, query]) == int(block["support_y"][row, gaps.index(min(gaps))])


def test_nearest_pixel_distinguishes_neighbours_by_a_pixel() -> None:
    """Large episodes of large images: squared norms of 1e9, differences of 1."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(200, 255, (3, 84, 84), generator=generator, dtype=torch.uint8)
    support = base.repeat(30, 1, 1, 1)
    for index in range(30):
        support[index].view(-1)[index] -= 3
    query = support.flip(0).clone()
    query[:, 2, 83, 83] -= 1
    block = {
        "support_x": support[None],
        "support_y": torch.arange(30)[None],
        "query_x": query[None],
        "query_y": torch.full((1, 30), -1),
    }
    got, _ = NearestPixel(NoSettings()).policy({})(block)
    assert got[0].tolist() == list(range(29, -1, -1))


def test_nearest_pixel_gives_real_valued_targets(tasks: Any, draw: Any) -> None:
    block = draw(tasks.sine, 2)
    got, _ = NearestPixel(NoSettings()).policy({})(block)
    for row in range(2):
        for query in range(5):
            gaps = (block["support_x"][row] - block["query_x"][row, query]).abs().flatten()
            assert torch.equal(got[row, query], block["support_y"][row, int(gaps.argmin())])


def policy_of(task: TaskShape, seed: int) -> Any:
    agent = Chance(NoSettings())
    return agent.policy(agent.init(SimpleNamespace(task=task), Rng(seed)))


def test_chance_depends_on_seed_and_trial_alone(tasks: Any, draw: Any) -> None:
    block = draw(tasks.blobs, 40)
    policy = policy_of(tasks.blobs, 0)
    got, _ = policy(block)
    assert got.shape == block["query_y"].shape
    for row in (0, 7):
        alone, _ = policy({name: part[row : row + 1] for name, part in block.items()})
        assert torch.equal(alone[0], got[row])
    assert torch.equal(policy(block)[0], got)
    assert not torch.equal(policy_of(tasks.blobs, 1)(block)[0], got)
    assert len({tuple(row) for row in got.tolist()}) > 20
    counts = got.flatten().bincount(minlength=3)
    assert len(counts) == 3
    assert counts.min() > 50  # 240 labels, 80 of each expected, sd 7
    hidden = {**block, "query_y": torch.full_like(block["query_y"], -1)}
    assert torch.equal(policy(hidden)[0], got)


def test_chance_answers_zero_to_regression(tasks: Any, draw: Any) -> None:
    block = draw(tasks.sine, 2)
    got, _ = policy_of(tasks.sine, 0)(block)
    assert torch.equal(got, torch.zeros(2, 5, 1))
