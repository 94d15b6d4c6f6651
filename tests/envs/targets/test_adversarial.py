"""Adversarially trained networks: the attack of training, their names and environments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lazybench.envs.attack.protocol import read_eps
from lazybench.envs.targets.nets import (
    ADVERSARIAL,
    EMBEDDED_PGD,
    attack_images,
    embedded,
    load_net,
    names,
    split_name,
)
from lazybench.envs.targets.training import Recipe, adversarial, fit, recipe_of
from lazybench.errors import NotTrained, UsageError
from lazybench.nets.whitebox import classifier
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import resolve_env
from lazybench.seeding import Rng


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_class_moves_to_the_corner_that_numpy_finds() -> None:
    """Of a linear model the largest loss in the ball is at a corner, in closed form."""
    rng = np.random.default_rng(2)
    weight, x = rng.normal(size=(2, 12)), rng.random((5, 12))
    label = np.array([0, 1, 0, 1, 1])
    away = np.sign((weight[1] - weight[0]) * np.where(label == 0, 1, -1)[:, None])
    expected = np.clip(x + 0.2 * away, np.clip(x - 0.2, 0, 1), np.clip(x + 0.2, 0, 1))
    found = adversarial(
        lambda rows: rows @ torch.from_numpy(weight).T,
        torch.from_numpy(x),
        torch.from_numpy(label),
        0.2,
        7,
        seeded(),
    )
    assert np.allclose(found.numpy(), expected, atol=1e-6)


def test_no_step_is_a_random_start_in_the_ball_and_the_box() -> None:
    x = torch.rand(20, 30, generator=seeded(1))
    found = adversarial(lambda rows: rows[:, :2], x, torch.zeros(20).long(), 0.1, 0, seeded())
    assert 0.08 < float((found - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_training_on_adversarial_images_withstands_more() -> None:
    """Two patterns on grey, one faint and one strong: only the strong one withstands the ball."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 400)
    x = draw.integers(100, 156, (400, 1, 12, 12))
    x[:, 0, :6] += np.where(y == 1, 16, -16)[:, None, None]
    x[:, 0, 8:10, 2:4] = np.where(y == 1, 255, 0)[:, None, None]
    images = (x.clip(0, 255).astype(np.uint8), y)
    net = classifier("lenet5", (1, 28, 28), 2)
    whole = (np.pad(images[0], ((0, 0), (0, 0), (8, 8), (8, 8))), y)
    pixels = torch.from_numpy(whole[0][:100].astype(np.float32) / 255)
    robust = []
    for eps in (0.0, 0.2):
        recipe = Recipe(6, eps=eps, attack_steps=3)
        params = fit(net, whole, recipe, Rng(0))
        label = torch.from_numpy(y[:100])
        rows = adversarial(lambda z, p=params: net(p, z), pixels, label, 0.2, 10, seeded())
        robust.append(float((net(params, rows).argmax(1) == label).float().mean()))
    assert robust[1] > robust[0] + 0.2


def test_the_radius_grows_over_the_first_half() -> None:
    recipe = recipe_of("mnist-net4-pgd", "small")
    assert (recipe.eps, recipe_of("mnist-net4", "small").eps) == (0.3, 0.0)
    assert [recipe.eps_at(done) for done in (0, 0.25, 0.5, 1)] == [0, 0.15, 0.3, 0.3]
    assert recipe_of("cifar10-resnet8-pgd", "paper").eps == 8 / 255


def test_names_are_those_of_the_plain_networks() -> None:
    for name, plain in ADVERSARIAL.items():
        assert split_name(name) == split_name(plain)
        assert name in names()
        assert embedded(name) is (name == "glyphs-lenet5-pgd")
    assert embedded("glyphs-net4")
    with pytest.raises(UsageError, match="no target 'glyphs-net1-small-pgd'"):
        split_name("glyphs-net1-small-pgd")


@pytest.mark.parametrize(("eps", "plain_most", "least"), [(0.1, 0.75, 0.9), (0.3, 0.05, 0.45)])
def test_the_embedded_network_withstands_more_than_the_plain_one(
    eps: float, plain_most: float, least: float
) -> None:
    """Shares of 100 test images that stay right under 20 steps of projected gradient descent."""
    x, y = attack_images("glyphs-lenet5-pgd")
    pixels, label = torch.from_numpy(np.array(x[:100])).float() / 255, torch.from_numpy(y[:100])
    robust = {}
    for name in ("glyphs-lenet5", "glyphs-lenet5-pgd"):
        net, held = load_net(name)
        assert held.accuracy >= 0.96
        right = net(held.params, pixels).argmax(1) == label
        assert float(right.float().mean()) == pytest.approx(held.accuracy, abs=0.04)
        rows = adversarial(
            lambda z, n=net, p=held.params: n(p, z), pixels, label, eps, 20, seeded()
        )
        robust[name] = float((net(held.params, rows).argmax(1) == label).float().mean())
    assert robust["glyphs-lenet5"] <= plain_most
    assert robust["glyphs-lenet5-pgd"] >= least


def test_environments_attack_it_and_the_plain_one_on_the_same_images() -> None:
    seen = []
    for target in ("glyphs-lenet5", "glyphs-lenet5-pgd"):
        spec = resolve_env(f"{target}-untargeted-linf")[0]
        assert spec.kwargs["target"] == target
        env = open_env(spec, 2, "test")
        assert env.task.eps == 0.3
        seen.append(env.reset(options={"trials": np.arange(2)})[0]["x"])
    assert EMBEDDED_PGD.stat().st_size < 300_000
    assert np.array_equal(np.asarray(seen[0]), np.asarray(seen[1]))


def test_environments_name_the_command_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path))
    spec = resolve_env("glyphs-net4-pgd-untargeted-label-linf")[0]
    assert spec.kwargs["target"] == "glyphs-net4-pgd"
    assert (spec.kwargs["access"], spec.kwargs["norm"]) == ("label", "linf")
    with pytest.raises(NotTrained, match="lazybench targets train glyphs-net4-pgd"):
        open_env(spec, 1, "test")
    with pytest.raises(NotTrained):
        load_net("glyphs-net4-pgd")


def test_published_radii_are_read_as_they_are_printed() -> None:
    assert read_eps("12.75/255", "linf") == 0.05
    assert read_eps("8/255", "linf") == 8 / 255
    for wrong in ("12.75/0", "1./255", "1/25.5", "/255", "12,75/255"):
        with pytest.raises(UsageError, match="a fraction such as 8/255"):
            read_eps(wrong, "l2")


def test_loss_rises_at_each_radius() -> None:
    net, held = load_net("glyphs-lenet5")
    x, label = torch.rand(8, 1, 28, 28, generator=seeded()), torch.arange(8)
    losses = [
        float(
            F.cross_entropy(
                net(
                    held.params,
                    adversarial(lambda z: net(held.params, z), x, label, eps, 5, seeded()),
                ),
                label,
            )
        )
        for eps in (0.01, 0.05, 0.1)
    ]
    assert losses == sorted(losses)
