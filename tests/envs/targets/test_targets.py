"""Named networks: found by name, trained once, kept under their images, refused when damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lazybench.data.folders import cache_root
from lazybench.envs.datasets.mnist import Mnist
from lazybench.envs.targets import nets as targets
from lazybench.envs.targets.nets import (
    NETS,
    WHITEBOXES,
    Trained,
    attack_images,
    is_trained,
    load_net,
    load_target,
    names,
    read_nets,
    split_name,
    target_data,
    whiteboxes,
    write_nets,
)
from lazybench.envs.targets.training import RECIPES, keep_net
from lazybench.errors import DataUnavailable, UsageError
from lazybench.nets.whitebox import CLASSIFIERS, classifier
from lazybench.sweep.scheduler import SweepRequest, split
from lazybench.sweep.suite import SuiteCell


def test_names_are_data_and_architecture() -> None:
    assert {net for nets in NETS.values() for net in nets} <= set(CLASSIFIERS)
    assert split_name("glyphs-net1-small") == ("glyphs", "net1-small")
    assert all(set(RECIPES[data]) == {"smoke", "small", "paper"} for data in NETS)
    for wrong in ("mnist", "mnist-net5", "cifar10-net4", "module:function", ""):
        with pytest.raises(UsageError, match="no target '"):
            split_name(wrong)


def test_no_white_box_is_its_target() -> None:
    for target, boxes in WHITEBOXES.items():
        data, net = split_name(target)
        every = (*boxes.train, boxes.val)
        assert len(set(every)) == len(every) == 4
        assert {split_name(name)[0] for name in every} == {data}
        # Not the same architecture under another width either.
        assert not any(split_name(name)[1].startswith(net) for name in every)
        assert set(every) <= set(names())
    with pytest.raises(UsageError, match="no white boxes belong to target 'mnist-net3'"):
        whiteboxes("mnist-net3")


def test_what_is_not_trained_names_the_command(root: Path, write_mnist: Any) -> None:
    with pytest.raises(DataUnavailable, match="lazybench data get mnist"):
        load_target("mnist-net4")
    write_mnist()
    assert not is_trained("mnist-net4")
    with pytest.raises(DataUnavailable, match="run 'lazybench targets train mnist-net4'"):
        load_target("mnist-net4")


def test_a_sweep_distinguishes_a_network_that_isnt_trained_from_data_that_arent_there(
    root: Path, write_mnist: Any
) -> None:
    cells = [SuiteCell("square", "mnist-net4-untargeted", 0, "smoke", {})]
    request = SweepRequest(out=root / "store", runs=root / "runs")
    assert [outcome.status for outcome in split(cells, request)[1]] == ["absent"]
    write_mnist()
    assert [outcome.status for outcome in split(cells, request)[1]] == ["untrained"]


def test_trained_once_and_loaded_ever_after(root: Path, write_mnist: Any) -> None:
    write_mnist()
    held, fresh = keep_net("mnist-lenet5", budget="smoke", seed=3)
    assert fresh
    assert keep_net("mnist-lenet5")[1] is False
    target = load_target("mnist-lenet5")
    assert (target.sha256, target.accuracy) == (held.sha256, held.accuracy)
    assert (target.classes, target.instance) == (10, (1, 28, 28))
    assert target.data["fingerprint"] == held.fingerprint == target_data("mnist").fingerprint
    x = torch.rand(5, 1, 28, 28)
    net = classifier("lenet5", (1, 28, 28), 10)
    logits = target.predict(x)
    assert torch.equal(logits, net(held.params, x))
    assert not logits.requires_grad
    # The reported accuracy is the target's on the attacked images.
    images, labels = attack_images("mnist-lenet5")
    top = target.predict(torch.from_numpy(images).float() / 255).argmax(1).numpy()
    assert float((top == labels).mean()) == target.accuracy


def test_images_come_in_the_files_order(root: Path, write_mnist: Any) -> None:
    write_mnist(test=40)
    x, y = attack_images("mnist-net4")
    assert x[:, 0, 0, 0].tolist() == list(range(40))
    k = y[7]
    assert int(x[7, 0, 4 + 8 * (k // 4), 4 + 6 * (k % 4)]) == 230
    assert len(attack_images("mnist-net4", "train")[0]) == 120
    with pytest.raises(UsageError, match="part must be one of train, test, got 'val'"):
        attack_images("mnist-net4", "val")  # type: ignore[arg-type]


def test_other_images_are_another_network(root: Path, write_mnist: Any) -> None:
    write_mnist()
    keep_net("mnist-lenet5", budget="smoke")
    (kept,) = (cache_root() / "targets").glob("*.safetensors")
    write_mnist(seed=1)
    assert not is_trained("mnist-lenet5")
    # A file of other images under the new name is refused, too.
    place = targets.place("mnist-lenet5", target_data("mnist").fingerprint)
    kept.rename(place)
    with pytest.raises(DataUnavailable, match=r"trained on other images .* --replace"):
        load_net("mnist-lenet5")


def made_up(**changes: Any) -> Trained:
    params = classifier("lenet5", (1, 28, 28), 10).init(torch.Generator().manual_seed(0))
    fields = {"accuracy": 0.5, "fingerprint": "f" * 64, "budget": "small", "seed": 0, "epochs": 3.0}
    return Trained(**{"name": "mnist-lenet5", "params": params, **fields, **changes})


def test_files_hold_every_fact(tmp_path: Path) -> None:
    path = tmp_path / "nets.safetensors"
    first, second = made_up(), made_up(name="mnist-net4", seed=2, params={"a": torch.ones(2)})
    write_nets(path, {held.name: held for held in (first, second)})
    found = read_nets(path, remedy="none")
    assert list(found) == ["mnist-lenet5", "mnist-net4"]
    assert found["mnist-lenet5"].facts() == first.facts()
    assert found["mnist-lenet5"].sha256 == first.sha256 != second.sha256
    changed = {**first.params, "head.bias": first.params["head.bias"] + 1e-6}
    assert made_up(params=changed).sha256 != first.sha256


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-7], "isn't a whole file of networks"),
        (lambda data: b"", "isn't a whole file of networks"),
        (lambda data: data.replace(b'"schema":"1"', b'"schema":"9"'), "schema 9, not 1"),
        (lambda data: data.replace(b"accuracy", b"accurazy"), "unexpected keyword"),
        (lambda data: data[:-4] + b"\0\0\xc0\x7f", "aren't finite float32 numbers"),
    ],
)
def test_damaged_files_say_what_to_do(tmp_path: Path, spoil: Any, message: str) -> None:
    path = write_nets(tmp_path / "nets.safetensors", {"mnist-lenet5": made_up()})
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataUnavailable, match=f"{message}.*; do something"):
        read_nets(path, remedy="do something")


def test_another_hash_or_other_layers_are_refused(
    root: Path, write_mnist: Any, tmp_path: Path
) -> None:
    path = write_nets(tmp_path / "nets.safetensors", {"mnist-lenet5": made_up()})
    with pytest.raises(DataUnavailable, match="its sha256 isn't the published one"):
        read_nets(path, remedy="none", sha256="0" * 64)
    write_mnist()
    fingerprint = target_data("mnist").fingerprint
    held = made_up(fingerprint=fingerprint, params={"head.weight": torch.ones(2, 2)})
    write_nets(targets.place("mnist-lenet5", fingerprint), {"mnist-lenet5": held})
    with pytest.raises(DataUnavailable, match="other layers than its architecture has"):
        load_net("mnist-lenet5")


def test_weights_cannot_be_changed_for_the_next_one() -> None:
    _, held = load_net("glyphs-lenet5")
    before = held.sha256
    held.params["head.bias"] += 1
    assert held.sha256 != before
    assert load_net("glyphs-lenet5")[1].sha256 == before


def test_the_embedded_networks_are_as_good_as_stated() -> None:
    assert targets.EMBEDDED.stat().st_size <= 3_000_000
    x, y = attack_images("glyphs-net4")
    assert (x.shape, x.dtype) == ((1200, 1, 28, 28), np.uint8)
    assert np.bincount(y[:100]).tolist() == [10] * 10
    pixels = torch.from_numpy(np.array(x[:200])).float() / 255
    for net in NETS["glyphs"]:
        name = f"glyphs-{net}"
        target = load_target(name)
        right = (target.predict(pixels).argmax(1).numpy() == y[:200]).mean()
        assert target.accuracy >= 0.97
        assert right == pytest.approx(target.accuracy, abs=0.03)
    with pytest.raises(UsageError, match="comes with the package"):
        keep_net("glyphs-net4", replace=True)
    assert keep_net("glyphs-net4")[1] is False


def test_files_of_one_class_after_another_are_dealt_out(
    root: Path, write_mnist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(test=30)
    plain = target_data("mnist")
    x, y = plain.images("test")
    parts = list(Mnist(root).parts())
    rows = np.argsort(parts[1][2], kind="stable")
    monkeypatch.setattr(
        Mnist, "parts", lambda self: [parts[0], ("test", parts[1][1][rows], parts[1][2][rows])]
    )
    monkeypatch.setenv("LAZYBENCH_CACHE", str(root.parent / "another"))
    dealt = target_data("mnist")
    found, labels = dealt.images("test")
    assert labels.tolist() == list(range(10)) * 3
    # Within a class the files' order stays: the first ten are each class's first.
    assert found[:10, 0, 0, 0].tolist() == [int(x[y == k][0, 0, 0, 0]) for k in range(10)]
    assert dealt.fingerprint == plain.fingerprint
    assert (plain.prep, dealt.prep) == ("28-1", "28-1-dealt")


@pytest.mark.data
def test_real_cifar10_comes_in_file_order() -> None:
    try:
        data = target_data("cifar10")
    except DataUnavailable as error:
        pytest.skip(str(error))
    x, y = data.images("test")
    # The first test images as everyone knows them: a cat, two ships, a plane, two frogs.
    assert y[:6].tolist() == ([*range(6)] if data.prep.endswith("dealt") else [3, 8, 8, 0, 6, 6])
    assert x.shape == (10_000, 3, 32, 32)


@pytest.mark.data
def test_real_mnist_comes_in_file_order() -> None:
    try:
        x, y = attack_images("mnist-net4")
    except DataUnavailable as error:
        pytest.skip(str(error))
    assert y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert x.shape == (10_000, 1, 28, 28)
