"""timm, torchvision and open_clip themselves, with random weights on disk: nothing is downloaded.

Each package prepares an image and computes its features in its own way; ours must agree. The images
have the size that the package resizes to, so that no rounding of Pillow is in between.
"""

from __future__ import annotations

import importlib
import logging
import math
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lazybench.errors import DataUnavailable, UsageError
from lazybench.nets import pretrained
from lazybench.nets.pretrained import pretrained as load_pretrained

pytestmark = pytest.mark.filterwarnings("ignore")


def package(name: str) -> Any:
    """A package; the test is skipped where it isn't installed or doesn't fit this torch."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} can't be imported: {type(error).__name__}: {error}")


def saved(network: Any, path: Path) -> str:
    """Write a network's tensors; batch norms with averages of their own."""
    state = {name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / 10)
    network.load_state_dict(state)
    save_file(state, path)
    return str(path)


def picture(edge: int) -> tuple[Any, torch.Tensor]:
    """An image for Pillow, and the same as a tensor `[1, 3, edge, edge]` in [0, 1]."""
    pixels = np.random.default_rng(0).integers(0, 256, (edge, edge, 3), np.uint8)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
    return Image.fromarray(pixels), tensor


def agrees(name: str, edge: int, by_package: Callable[[Any], Any]) -> Any:
    """Check features of an image against the package's; the loaded backbone."""
    image, x = picture(edge)
    made = load_pretrained(name, (3, edge, edge))
    with torch.no_grad():
        got, wanted = made.module(x), by_package(image)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    return made


def grows(name: str, size: int) -> None:
    """Check that a backbone takes small images, resized to a size of the caller's."""
    made = load_pretrained(name, (1, 28, 28), size=size)
    with torch.no_grad():
        out = made.module(torch.rand(2, 1, 28, 28))
    assert out.ndim == 2
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm(model: str, tmp_path: Path) -> None:
    timm, data = package("timm"), package("timm.data")
    torch.manual_seed(0)
    whole = timm.create_model(model, pretrained=False).eval()
    file = saved(whole, tmp_path / "w.safetensors")
    config = data.resolve_model_data_config(whole)
    edge = math.floor(config["input_size"][-1] / config["crop_pct"])
    prepare = data.create_transform(**config, is_training=False)

    def by_package(image: Any) -> Any:
        return whole.forward_head(
            whole.forward_features(prepare(image)[None]),
            pre_logits=True,
        )

    made = agrees(f"timm:{model}@{file}", edge, by_package)
    assert made.weights == "undeclared"
    # A transformer's positions are resized with the images.
    grows(f"timm:{model}@{file}", 64)


def test_torchvision(tmp_path: Path) -> None:
    models = package("torchvision.models")
    torch.manual_seed(0)
    whole = models.get_model("resnet18", weights=None).eval()
    file = saved(whole, tmp_path / "w.safetensors")
    prepare = models.get_model_weights("resnet18").DEFAULT.transforms()
    whole.fc = torch.nn.Identity()
    name = f"torchvision:resnet18@{file}"
    agrees(name, prepare.resize_size[0], lambda image: whole(prepare(image)[None]))
    grows(name, 64)
    with pytest.raises(UsageError, match="torchvision has no model 'fasterrcnn_resnet50_fpn'"):
        load_pretrained(f"torchvision:fasterrcnn_resnet50_fpn@{file}", (3, 32, 32))


def test_open_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = package("open_clip")
    torch.manual_seed(0)
    whole, _, prepare = clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
    file = saved(whole.eval(), tmp_path / "w.safetensors")
    name = f"open_clip:ViT-S-32-alt@{file}"
    edge = whole.visual.image_size[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        agrees(name, edge, lambda image: whole.encode_image(prepare(image)[None]))
    # open_clip warns of random weights, which the file's replace.
    assert not caplog.records
    grows(name, 64)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("timm:resnet10t", "timm"),
        ("torchvision:squeezenet1_1", "torchvision"),
        ("open_clip:RN50/openai", "open_clip"),
    ],
)
def test_weights_that_cant_be_fetched_are_one_line(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(library)

    def no_network(*args: Any, **more: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    pretrained._made.cache_clear()
    with pytest.raises(DataUnavailable) as found:
        load_pretrained(name, (3, 32, 32))
    text = str(found.value)
    assert "\n" not in text
    assert f"can't be loaded by {library}" in text
    assert text.endswith(f"weights on disk: {name}@FILE.safetensors")
