"""Targets by name, resized images and white-box attacks of `lazybench attack`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lazybench.cli import main
from lazybench.envs.own_target.attack import named_target
from lazybench.envs.own_target.form import TargetForm
from lazybench.envs.own_target.images import read_user_images
from lazybench.envs.own_target.white_box import need_white_box, white_box
from lazybench.errors import DataUnavailable, UsageError


class Linear(nn.Module):
    """Two classes; class 1 where the sum of the first channel exceeds a bound."""

    def __init__(self, bound: float = 8.0, scale: float = 1.0) -> None:
        super().__init__()
        self.bound, self.scale = bound, scale
        self.pretrained_cfg = {"mean": (0.5,), "std": (0.25,)}

    def forward(self, x: Tensor) -> Tensor:
        total = x[:, 0].flatten(1).sum(1) * self.scale - self.bound
        return torch.stack([0 * total, total], 1)


def timm(fails: bool = False) -> Any:
    def create_model(model: str, pretrained: bool) -> nn.Module:
        assert (model, pretrained) == ("resnet18.a1", True)
        if fails:
            raise RuntimeError("no connection")
        return Linear()

    found: Any = ModuleType("timm")
    found.list_models = lambda: ["resnet18", "vit"]
    found.create_model = create_model
    return found


def test_a_network_of_timm_is_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", timm())
    network = named_target("timm:resnet18.a1", "l2")
    assert network is not None
    assert not network.training
    x = torch.rand(3, 1, 4, 4)
    assert torch.allclose(network(x), Linear()((x - 0.5) / 0.25))
    with pytest.raises(UsageError, match=r"timm has no network 'resnet19'\. Did you mean"):
        named_target("timm:resnet19", "l2")
    monkeypatch.setitem(sys.modules, "timm", timm(fails=True))
    with pytest.raises(DataUnavailable, match="no connection"):
        named_target("timm:resnet18.a1", "l2")


def test_a_network_of_robustbench_is_that_of_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    package: Any = ModuleType("robustbench")
    package.utils = SimpleNamespace(load_model=lambda **given: loaded.append(given) or Linear())
    zoo: Any = ModuleType("robustbench.model_zoo")
    zoo.model_dicts = {"cifar10": {"Linf": {"Standard": 1}, "L2": {"Rony": 1}}}
    enums: Any = ModuleType("robustbench.model_zoo.enums")
    enums.BenchmarkDataset = enums.ThreatModel = str
    for module in (package, zoo, enums):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert named_target("robustbench:Standard", "linf") is not None
    assert loaded == [{"model_name": "Standard", "dataset": "cifar10", "threat_model": "Linf"}]
    with pytest.raises(UsageError, match="no network 'Standard' for L2 on CIFAR-10"):
        named_target("robustbench:Standard", "l2")


@pytest.mark.parametrize("package", ["timm", "robustbench"])
def test_what_is_not_installed_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs the package {package} .*pip install"):
        named_target(f"{package}:x", "l2")
    assert named_target("my.module:net", "l2") is None


def test_images_are_resized_and_stay_in_the_box(tmp_path: Path) -> None:
    x = np.zeros((2, 3, 8, 8), np.uint8)
    x[0, :, :, 4:] = 255
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1])
    found = read_user_images(tmp_path / "a.npz", size=4)
    assert (found.x.shape, found.x.dtype) == ((2, 3, 4, 4), np.float32)
    assert found.names == ("0", "1")
    assert 0 <= found.x.min() <= found.x.max() <= 1
    assert found.x[0].mean() == pytest.approx(0.5, abs=1e-6)
    np.savez(tmp_path / "b.npz", x=found.x, y=[0, 1])
    assert np.allclose(read_user_images(tmp_path / "b.npz", size=4).x, found.x)


def test_a_folder_s_images_of_several_sizes_are_resized_one_by_one(tmp_path: Path) -> None:
    for name, shape in (("0/grey.png", (6, 9)), ("1/colour.png", (8, 8, 3))):
        pixels = np.full(shape, 51, np.uint8)
        pixels[:, shape[1] // 2 :] = 255
        (tmp_path / name).parent.mkdir()
        Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(UsageError, match=r"must have one size, got .*--size 224"):
        read_user_images(tmp_path)
    found = read_user_images(tmp_path, size=4)
    assert (found.x.shape, found.x.dtype) == ((2, 3, 4, 4), np.float32)
    assert found.x[1, 0, 0].tolist() == pytest.approx([0.2, 0.3, 0.9, 1], abs=0.1)
    np.savez(tmp_path / "x.npz", x=np.array(Image.open(tmp_path / "1" / "colour.png"))[None], y=[1])
    assert (read_user_images(tmp_path / "x.npz", size=4).x[0] == found.x[1]).all()


@pytest.mark.parametrize(("norm", "margin"), [("linf", 0.1 * 16), ("l2", 0.4 * 4)])
def test_white_box_attacks_of_a_linear_network_win_as_its_closed_form(
    norm: Any, margin: float
) -> None:
    """The largest change of a sum of 16 pixels in the ball is known; half the images are inside."""
    pytest.importorskip("foolbox")
    sums = torch.tensor([8 + 0.5 * margin, 8 - 0.5 * margin, 8 + 1.3 * margin, 8 - 1.3 * margin])
    x = (sums / 16)[:, None, None, None].expand(-1, 1, 4, 4).clone()
    label = torch.tensor([1, 0, 1, 0])
    eps = 0.1 if norm == "linf" else 0.4
    bounds = white_box(Linear(), TargetForm(), x, label, norm=norm, eps=eps)
    assert [each.name for each in bounds] == ["white-box pgd", "white-box ensemble"]
    for each in bounds:
        assert each.won.tolist() == [True, True, False, False]
    bytes_form = TargetForm(bounds=(0.0, 255.0))
    scaled = white_box(Linear(scale=1 / 255), bytes_form, x, label, norm=norm, eps=eps)
    assert scaled[0].won.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("network", "form", "protocol", "eight_bit", "why"),
    [
        (len, {}, {}, False, "needs a torch network"),
        (None, {}, {}, False, "needs a torch network"),
        (Linear(), {"answers": "probs"}, {}, False, "answers with logits"),
        (Linear(), {"arrays": "numpy"}, {}, False, "--arrays torch"),
        (Linear(), {}, {"targeted": True}, False, "untargeted"),
        (Linear(), {}, {"eps": "inf"}, False, "finite --eps"),
        (Linear(), {}, {}, True, "8 bits"),
    ],
)
def test_white_box_attacks_that_cannot_be_are_refused(
    network: Any, form: Any, protocol: Any, eight_bit: bool, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        need_white_box(network, TargetForm(**form), protocol, eight_bit=eight_bit)


def test_the_report_has_the_bound_next_to_the_black_box_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("foolbox")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        total = x.flatten(1).sum(1) - 8\n"
        "        return torch.stack([0 * total, 9 * total], 1)\n"
    )
    levels = np.array([120, 135, 20, 240], np.uint8)
    x = np.broadcast_to(levels[:, None, None, None], (4, 1, 8, 8))
    np.savez(tmp_path / "x.npz", x=x, y=np.array([0, 1, 0, 1]))
    words = ["attack", "--target", "net.py:Net", "--images", "x.npz", "--norm", "linf", "--eps"]
    words += ["0.1", "--attacks", "square", "--query-budget", "5", "--size", "4", "--white-box"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [each["accuracy"] for each in facts["white_box"]] == [0.5, 0.5]
    assert facts["worst_case"]["accuracy"] >= 0.5
    report = (tmp_path / "attack-report" / "report.md").read_text()
    assert "| white-box ensemble | 50" in report
    assert "no query budget" in report
