"""Gradient maps against autograd and by hand; tasks that don't mix nets, images or splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lazybench.data.folders import cache_root
from lazybench.envs.attack.gradient_maps import GradientMaps, gradient_maps, maps_shape
from lazybench.envs.targets.nets import WHITEBOXES, load_net
from lazybench.envs.targets.training import keep_net
from lazybench.errors import ContractError, DataUnavailable, UsageError
from lazybench.nets.whitebox import classifier

SETTINGS: dict[str, Any] = {"target": "mnist-net4", "maps": 60, "shots": 4, "queries": 3}
BOXES = ("mnist-lenet5", "mnist-net2-small")


@pytest.fixture
def boxes(root: Path, write_mnist: Any) -> dict[str, Any]:
    """Two white boxes, hardly trained, and the settings that take them."""
    write_mnist()
    for name in BOXES:
        keep_net(name, budget="smoke")
    return {**SETTINGS, "whiteboxes": BOXES}


def test_it_is_the_papers_gradient_in_float64() -> None:
    """0.5 * max(0, log p_y - log max p_other), through the softmax, image by image."""
    net = classifier("net4", (1, 12, 12), 4)
    params = {
        name: value.double() for name, value in net.init(torch.Generator().manual_seed(0)).items()
    }
    x = torch.rand(8, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = net(params, x).argmax(1)
    y[3] = (y[3] + 1) % 4
    maps = gradient_maps(net, params, x, y)
    for image, label, found in zip(x, y, maps, strict=True):
        leaf = image[None].clone().requires_grad_()
        p = F.softmax(net(params, leaf), 1)[0]
        other = torch.cat([p[:label], p[label + 1 :]]).max()
        loss = 0.5 * torch.clamp(torch.log(p[label]) - torch.log(other), min=0)
        (slope,) = torch.autograd.grad(loss, leaf)
        if float(loss.detach()) == 0:
            assert not found.any()
            continue
        expected = slope[0] / np.std(slope.numpy())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not maps[3].any()
    assert not maps.requires_grad


def test_it_is_what_a_hand_finds_for_a_linear_net() -> None:
    class Linear:
        def __call__(self, params: Any, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ params["w"].T

    w = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    x = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0]]).view(2, 1, 2, 2)
    maps = gradient_maps(Linear(), {"w": w.double()}, x.double(), torch.tensor([0, 1]))  # type: ignore[arg-type]
    # The first is class 0 before class 1: (3, -2, 0, 1) / 2, of mean 1/4; the second is a tie of
    # 1 and 2, on whose edge the loss is 0 but its slope isn't settled.
    slope = np.array([3, -2, 0, 1]) / 2
    np.testing.assert_allclose(maps[0].flatten().numpy(), slope / slope.std())
    wrong = gradient_maps(Linear(), {"w": w}, x, torch.tensor([1, 0]))  # type: ignore[arg-type]
    assert not wrong.any()


def test_steps_along_the_map_make_the_net_surer(boxes: dict[str, Any]) -> None:
    env = GradientMaps(1, split="train", backend="torch", **boxes)
    observation, _ = env.reset(seed=0)
    x, maps = observation["support_x"][0], observation["support_y"][0]
    ((net, params),) = env.whiteboxes()
    kept = maps.flatten(1).any(1)
    x, maps = x[kept], maps[kept]
    y = net(params, x).argmax(1)

    def sure(at: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(net(params, at), 1).gather(1, y[:, None])[:, 0]

    assert (sure(x + 1e-3 * maps) >= sure(x)).all()


def test_tasks_hold_the_maps_of_their_net_and_image(boxes: dict[str, Any]) -> None:
    boxes |= {"whiteboxes": ("mnist-lenet5", "mnist-net4-other", "mnist-net2-small")}
    with pytest.raises(UsageError, match="no target 'mnist-net4-other'"):
        GradientMaps(2, **boxes)
    keep_net("mnist-net1", budget="smoke")
    boxes |= {"whiteboxes": ("mnist-lenet5", "mnist-net1", "mnist-net2-small")}
    env = GradientMaps(4, split="train", backend="torch", **boxes)
    observation, info = env.reset(seed=7)
    assert env.task == maps_shape((1, 28, 28), 4, 3)
    assert env.observation_space.contains({k: v.numpy() for k, v in observation.items()})
    assert info["trial"].tolist() == [0, 1, 2, 3]
    nets = env.whiteboxes()
    for row in range(4):
        net, params = nets[row % 2]
        x = torch.cat([observation["support_x"][row], observation["query_x"][row]])
        y = torch.cat([observation["support_y"][row], observation["query_y"][row]])
        # An image is in a task once; its place in the file is its first pixel.
        assert len(x[:, 0, 0, 0].unique()) == 7
        # Which class an image is of shows in its bright square.
        spots = torch.stack([x[:, 0, 4 + 8 * (k // 4), 4 + 6 * (k % 4)] for k in range(10)], dim=1)
        expected = gradient_maps(net, params, x, spots.argmax(1))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_a_trial_is_a_function_of_seed_and_number(boxes: dict[str, Any]) -> None:
    env = GradientMaps(3, split="train", **boxes)
    first, _ = env.reset(seed=1, options={"trials": np.array([5, 0, 9])})
    again, _ = env.reset(seed=1, options={"trials": np.array([9, 5, 5])})
    other, _ = env.reset(seed=2, options={"trials": np.array([5, 0, 9])})
    for name in first:
        np.testing.assert_array_equal(first[name][[2, 0, 0]], again[name])
    assert not np.array_equal(first["support_x"], other["support_x"])


def test_val_has_other_images_another_net_and_hides_its_maps(boxes: dict[str, Any]) -> None:
    def seen(env: GradientMaps) -> set[float]:
        found: set[float] = set()
        for _ in range(12):
            observation, _ = env.reset()
            found |= set(observation["support_x"][:, :, 0, 0, 0].ravel().tolist())
        return found

    train, val = (GradientMaps(3, split=split, **boxes) for split in ("train", "val"))
    a, b = seen(train), seen(val)
    assert not a & b
    assert (len(a) > 40, len(b) > 12) == (True, True)
    observation, _ = val.reset(seed=0)
    assert not observation["query_y"].any()
    assert observation["support_y"].any()
    assert "net2-small" in val.data["source"]
    assert "lenet5" in train.data["source"]


def test_reward_is_the_error_on_the_query(boxes: dict[str, Any]) -> None:
    train, val = (GradientMaps(2, split=split, **boxes) for split in ("train", "val"))
    observation, _ = train.reset(seed=0)
    guess = observation["query_y"] + 0.5
    _, reward, terminated, _, info = train.step(guess)
    np.testing.assert_allclose(reward, -0.25, rtol=1e-6)
    np.testing.assert_allclose(info["mse"], 0.25, rtol=1e-6)
    assert terminated.all()
    # The hidden maps have standard deviation 1 where the net is right, so 0 is worth about -1.
    val.reset(seed=0)
    answers = val.trials.sampler.answers(val._keys)
    zero = np.zeros((2, 3, 1, 28, 28), np.float32)
    np.testing.assert_allclose(val.step(zero)[1], -np.square(answers).mean((1, 2, 3, 4)), rtol=1e-6)
    val.reset()
    with pytest.raises(ContractError, match="an action must have shape"):
        val.step(zero[:, :2])


def test_maps_are_made_once(boxes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = GradientMaps(1, **boxes).reset(seed=0)
    assert len(list(cache_root().glob("maps-mnist-lenet5-*/maps.npy"))) == 1
    monkeypatch.setattr("lazybench.envs.attack.gradient_maps.gradient_maps", None)
    second, _ = GradientMaps(1, **boxes).reset(seed=0)
    np.testing.assert_array_equal(first["support_y"], second["support_y"])
    # Other weights have other maps.
    keep_net("mnist-lenet5", budget="smoke", seed=1, replace=True)
    with pytest.raises(TypeError, match="not callable"):
        GradientMaps(1, **boxes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "split must be one of train, val"),
        ({"shots": 0}, "shots must be a whole number of at least 1"),
        ({"queries": 0}, "queries must be a whole number of at least 1"),
        ({"shots": 60}, "60 shots and 3 queries are more than the 60 images"),
        ({"maps": 100}, "has 120 training images, got maps=100; allowed are up to 90"),
        (
            {"whiteboxes": ("mnist-lenet5",)},
            "at least two different networks on mnist other than net4",
        ),
        ({"whiteboxes": ("mnist-net4", "mnist-lenet5")}, "got mnist-net4, mnist-lenet5"),
        ({"whiteboxes": ("mnist-lenet5", "glyphs-lenet5")}, "at least two different networks"),
        ({"whiteboxes": ("mnist-lenet5", "mnist-lenet5")}, "at least two different networks"),
        ({"target": "mnist-net3", "whiteboxes": None}, "no white boxes belong to target"),
        ({"target": "module:mine", "whiteboxes": None}, "no white boxes belong to target"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"backend": "jax"}, "backend must be one of numpy, torch"),
    ],
)
def test_what_cannot_be_is_refused(
    boxes: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        GradientMaps(**{**boxes, **changes})


def test_all_that_is_missing_is_named_at_once(root: Path, write_mnist: Any) -> None:
    write_mnist()
    keep_net("mnist-lenet5", budget="smoke")
    with pytest.raises(DataUnavailable) as caught:
        GradientMaps(**SETTINGS)
    assert "'lazybench targets train mnist-net1 mnist-net6 mnist-net2-small'" in str(caught.value)
    assert "mnist-lenet5" not in str(caught.value)


def test_embedded_white_boxes_serve_the_embedded_target() -> None:
    env = GradientMaps(3, target="glyphs-net4", shots=8, queries=4, maps=90, backend="torch")
    observation, _ = env.reset(seed=0)
    maps = observation["support_y"]
    assert maps.shape == (3, 8, 1, 28, 28)
    spread = maps.flatten(2).std(2, correction=0)
    # Nearly all training images are classified rightly, and then the deviation is 1.
    assert (spread - 1).abs().lt(1e-3).float().mean() > 0.9
    assert [net.name for net, _ in env.whiteboxes()] == ["lenet5", "net1-small", "net6-small"]
    assert env.examples().shape == (10, 1, 28, 28)
    target = load_net("glyphs-net4")[1]
    for name in WHITEBOXES["glyphs-net4"].train:
        assert load_net(name)[1].sha256 != target.sha256
