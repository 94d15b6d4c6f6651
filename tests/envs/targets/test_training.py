"""Training: it learns, the same seed gives the same weights, a step is the textbook's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lazybench.envs.targets import training
from lazybench.envs.targets.nets import names
from lazybench.envs.targets.training import (
    RATES,
    RECIPES,
    Recipe,
    augmented,
    correct,
    fit,
    keep_net,
    recipe_of,
    train_net,
)
from lazybench.errors import Diverged, UsageError
from lazybench.nets.whitebox import classifier
from lazybench.runner.callbacks import Callback
from lazybench.seeding import Rng

NET = classifier("lenet5", (1, 16, 16), 2)


def squares(many: int = 60, channels: int = 1) -> tuple[Any, Any]:
    """Class 1 is bright on the left."""
    y = np.arange(many) % 2
    x = np.random.default_rng(0).integers(0, 80, (many, channels, 16, 16), dtype=np.uint8)
    x[y == 1, :, :, :8] += 150
    return x, y


def test_it_learns_and_repeats() -> None:
    recipe = Recipe(6, batch=10)
    params, again, other = (fit(NET, squares(), recipe, Rng(seed)) for seed in (0, 0, 1))
    assert correct(NET, params, squares()).all()
    assert all(torch.equal(params[name], again[name]) for name in params)
    assert not all(torch.equal(params[name], other[name]) for name in params)
    assert not any(value.requires_grad for value in params.values())


def test_two_steps_are_nesterovs() -> None:
    """Against the update written out: v <- m v + g + w d, p <- p - lr (g + w d + m v)."""
    recipe = Recipe(2, 0.1, "linear", batch=4, weight_decay=0.01)
    x, y = squares(4)
    found = fit(NET, (x, y), recipe, Rng(5))
    params = {
        name: value.clone().requires_grad_()
        for name, value in NET.init(Rng(5).at("init").torch()).items()
    }
    speed = {name: torch.zeros_like(value) for name, value in params.items()}
    # Both steps see all four images, so their order makes no difference.
    for lr in (0.1, 0.05):
        loss = F.cross_entropy(NET(params, torch.from_numpy(x).float() / 255), torch.from_numpy(y))
        slopes = torch.autograd.grad(loss, list(params.values()))
        for (name, value), slope in zip(params.items(), slopes, strict=True):
            full = slope + 0.01 * value.detach()
            speed[name] = 0.9 * speed[name] + full
            moved = value.detach() - lr * (full + 0.9 * speed[name])
            params[name] = moved.requires_grad_()
    for name, value in params.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_every_image_is_seen_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = training._batches(25, 10, Rng(0))
    first, second, third = (np.concatenate([next(passes), next(passes)]) for _ in range(3))
    for rows in (first, second, third):
        assert len(set(rows.tolist())) == 20
    assert first.tolist() != second.tolist()


def test_rates_fall_as_stated() -> None:
    assert [Recipe(1, 1.0, "linear").lr_at(done) for done in (0, 0.25)] == [1, 0.75]
    assert [Recipe(1, 1.0, "steps").lr_at(done) for done in (0.59, 0.6)] == [1, 0.1]
    assert Recipe(1, 1.0, "none").lr_at(0.99) == 1


def test_shifts_move_whole_images() -> None:
    x = torch.zeros(200, 2, 12, 12)
    x[:, 0, 5, 3], x[:, 1, 6, 8] = 1, 2
    moved = augmented(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    kept = (moved[:, 0].flatten(1).max(1).values == 1) & (moved[:, 1].flatten(1).max(1).values == 2)
    assert kept.float().mean() > 0.5
    seen = set()
    for image in moved[kept]:
        (down, right), (low, far) = (image[k].nonzero()[0].tolist() for k in (0, 1))
        # Both channels move together; a flip turns the sides.
        flip = right > far
        assert low - down == 1
        assert abs(far - right) == 5
        seen.add((flip, down - 5, (11 - right if flip else right) - 3))
    assert {part[0] for part in seen} == {True, False}
    assert {part[1] for part in seen} == set(range(-4, 5))


def test_batch_norms_are_frozen_after_training() -> None:
    net = classifier("resnet8", (3, 16, 16), 2)
    x, y = squares(20, 3)
    params = fit(net, (x, y), Recipe(3, batch=10), Rng(0))
    assert correct(net, params, (x, y)).all()
    pixels = torch.from_numpy(x).float() / 255
    with torch.no_grad():
        one = net(params, pixels[:1])
        torch.testing.assert_close(one, net(params, pixels)[:1], rtol=1e-4, atol=1e-5)


def test_a_network_that_learned_nothing_is_reported(root: Path, write_mnist: Any) -> None:
    """The white box of CIFAR-10's validation tasks once answered at random, and no one noticed."""
    write_mnist()
    with pytest.raises(Diverged, match=r"mnist-lenet5 is right on .* as a guess would be"):
        train_net("mnist-lenet5", recipe=Recipe(4, 1e-12, batch=20))


def test_single_networks_have_rates_of_their_own() -> None:
    assert recipe_of("cifar10-lenet5", "small") == replace(RECIPES["cifar10"]["small"], lr=0.01)
    assert recipe_of("cifar10-lenet5", "paper") == RECIPES["cifar10"]["paper"]
    assert recipe_of("mnist-lenet5", "small") == RECIPES["mnist"]["small"]
    assert all(name in names() for name in RATES)


def test_divergence_is_reported() -> None:
    with pytest.raises(Diverged, match="training lenet5"):
        fit(NET, squares(), Recipe(3, 1e12, batch=10), Rng(0))


def test_progress_is_reported_and_budgets_are_checked(root: Path, write_mnist: Any) -> None:
    write_mnist()
    received: list[Any] = []

    class Ear(Callback):
        def stage(self, name: str, total: int, done: int = 0) -> None:
            received.append((name, total))

        def advance(self, amount: int, values: Any) -> None:
            received.append(amount)

    held = train_net("mnist-lenet5", recipe=Recipe(4, 0.05, batch=20), watch=Ear())
    assert received == [("train mnist-lenet5", 24), *[1] * 24]
    assert held.accuracy > 0.5
    with pytest.raises(UsageError, match="budget must be one of smoke, small, paper, got 'huge'"):
        train_net("mnist-lenet5", budget="huge")
    with pytest.raises(UsageError, match="no target 'mnist-net5'"):
        keep_net("mnist-net5")
