"""Features by a pre-trained network: what they are, how an embedding goes on, what is refused."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lazybench
from lazybench.cli import main
from lazybench.data.importing import embed
from lazybench.data.importing.catalogue import imported_root, overlap
from lazybench.data.importing.embed import Embedded, EmbedRequest, default_name, embed_data
from lazybench.data.importing.importer import Imported, forget, unfinished_path
from lazybench.data.pool import SPLITS
from lazybench.errors import (
    DataUnavailable,
    DuplicateName,
    StoreError,
    UnknownName,
    UsageError,
)
from lazybench.registry import DATASETS, ENVS, open_data

Bring = Callable[..., Imported]

NET = """
import torch

WEIGHTS = "a few squares"

def factory(task):
    convolution = torch.nn.Conv2d(task.instance[0], 3, 3, bias=False)
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean.fill_(0.25)
    norm.running_var.fill_(2.0)
    return torch.nn.Sequential(convolution, norm, torch.nn.Dropout(), torch.nn.Flatten())

def broken(task):
    return torch.nn.Linear(7, 2)

def maps(task):
    return torch.nn.Conv2d(task.instance[0], 3, 3)

def infinite(task):
    return torch.nn.Sequential(torch.nn.Flatten(), Inverse())

class Inverse(torch.nn.Module):
    def forward(self, x):
        return 1 / (x - x)

def other(task):
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 4))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    """The target of a network with batch norm and dropout."""
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:factory"


@pytest.fixture
def images(tmp_path: Path, own: Any, bring: Bring) -> Imported:
    """Images `[3, 6, 5]` of 15 classes, imported as `mine`: 5 a split."""
    return bring(own.save(tmp_path / "x.npz", own.pixels), fractions=(0.34, 0.33, 0.33))


def embedded(net: str, **options: Any) -> Embedded:
    return embed_data(EmbedRequest("mine", net, **options))


def by_hand(image: Any) -> Any:
    """The features of an image in numpy, by the definition of a convolution and of batch norm."""
    torch.manual_seed(0)
    weights = torch.nn.Conv2d(3, 3, 3, bias=False).weight.detach().numpy().astype(np.float64)
    x = image.astype(np.float64) / 255
    out = np.zeros((3, x.shape[1] - 2, x.shape[2] - 2))
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            patch = x[:, row : row + 3, column : column + 3]
            out[:, row, column] = (weights * patch).sum((1, 2, 3))
    return ((out - 0.25) / np.sqrt(2.0 + 1e-5)).ravel()


def test_features_are_those_of_each_image_alone(images: Imported, net: str) -> None:
    done = embedded(net)
    assert done.meta.name == "mine@factory"
    assert (done.computed, done.resumed) == (255, 0)
    source, features = open_data("mine"), open_data("mine@factory")
    for split in SPLITS:
        had, got = source.pool(split), features.pool(split)
        assert (got.names, got.groups) == (had.names, had.groups)
        assert got.x.dtype == np.float32
        np.testing.assert_array_equal(got.count, had.count)
        wanted = np.stack([by_hand(image) for image in had.x])
        np.testing.assert_allclose(got.x, wanted, atol=1e-5)


def test_it_has_the_environments_of_its_data(images: Imported, net: str) -> None:
    embedded(net)
    names = {spec.id for spec in ENVS.specs() if spec.data == "mine@factory"}
    assert names == {"mine@factory-5way-1shot", "mine@factory-5way-1shot-noniid"}
    assert ENVS.resolve("mine@factory-3way-2shot").spec.data == "mine@factory"
    env = lazybench.make_env("mine@factory-5way-1shot")
    assert env.data["weights"] == "a few squares"
    assert env.task.instance == (36,)
    import gymnasium

    made: Any = gymnasium.make("lazybench/mine.factory-5way-1shot-v1").unwrapped
    assert made.data == env.data


def test_a_record_and_its_row_show_the_weights(images: Imported, net: str, tmp_path: Path) -> None:
    from lazybench.boards.build import build

    embedded(net)
    record = lazybench.run(
        "nearest_pixel",
        "mine@factory-2way-1shot",
        budget="smoke",
        out=tmp_path / "out",
        runs=tmp_path / "runs",
    )
    assert record.data.weights == "a few squares"
    (board,) = build([record])
    assert [row.weights for row in board.rows] == ["a few squares"]
    again = type(record).from_json(record.to_json())
    assert again == record


class Stopped(Exception):
    """What represents a signal."""


def test_an_interrupted_embedding_goes_on(
    images: Imported, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedded(net).folder
    wanted = {path.name: path.read_bytes() for path in whole.glob("*.npy")}
    forget("mine@factory")
    monkeypatch.setattr(embed, "threads", lambda: 1)

    def stop(part: str, done: int, rows: int) -> None:
        if part.endswith("val") and done >= 48:
            raise Stopped

    with pytest.raises(Stopped):
        embed_data(EmbedRequest("mine", net), stop)
    place = unfinished_path(whole)
    with (place / "val.npy").open("r+b") as file:
        # A write that was cut.
        file.truncate((place / "val.npy").stat().st_size - 70)
    assert "mine@factory" not in {spec.id for spec in DATASETS.specs()}
    done = embedded(net)
    assert (done.computed, done.resumed) == (255 - 85 - 32, 85 + 32)
    assert {path.name: path.read_bytes() for path in whole.glob("*.npy")} == wanted
    assert not place.exists()


def test_what_was_begun_with_other_weights_is_begun_again(
    images: Imported, net: str, tmp_path: Path
) -> None:
    def stop(part: str, done: int, rows: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        embed_data(EmbedRequest("mine", net), stop)
    other = embedded(net.replace(":factory", ":other"), name="mine@factory")
    assert (other.computed, other.resumed) == (255, 0)


def test_splits_can_follow_later(images: Imported, net: str) -> None:
    first = embedded(net, splits=("test",))
    assert first.computed == 85
    open_data("mine@factory").pool("test")
    with pytest.raises(DataUnavailable, match=r"split train .* isn't embedded yet; .* --splits tr"):
        open_data("mine@factory").pool("train")
    lazybench.make_env("mine@factory-2way-1shot", split="test")
    later = embedded(net)
    assert later.computed == 170
    assert later.meta.fingerprint == first.meta.fingerprint
    assert [open_data("mine@factory").pool(split).classes for split in SPLITS] == [5, 5, 5]
    assert embedded(net).computed == 0


def test_one_split_is_made_again_and_the_others_stay(images: Imported, net: str) -> None:
    """They were deleted, although nothing about them had changed."""
    first = embedded(net)
    again = embedded(net, splits=("test",), replace=True)
    assert again.computed == sum(first.meta.splits["test"].counts)
    assert again.meta == first.meta


def test_weights_can_be_declared_later(images: Imported, net: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET.replace('WEIGHTS = "a few squares"', ""))
    first = embedded(net)
    assert first.meta.embedding is not None
    assert first.meta.embedding.weights == "undeclared"
    declared = embedded(net, weights="circles")
    assert declared.computed == 0
    for found in (declared, embedded(net)):
        assert found.meta.embedding is not None
        assert found.meta.embedding.weights == "circles"
        assert "(circles)" in found.meta.source
    assert declared.meta.splits == first.meta.splits


def test_the_command_for_a_missing_split_can_be_run(images: Imported, net: str) -> None:
    found = embedded(net, splits=("val", "test"), size=12)
    name = found.meta.name
    with pytest.raises(DataUnavailable, match="isn't embedded yet; get it with: ") as raised:
        lazybench.make_env(f"{name}-5way-1shot", split="train").reset(seed=0)
    words = shlex.split(str(raised.value).partition("get it with: lazybench ")[2])
    assert "--size" in words
    assert main(words) == 0
    lazybench.make_env(f"{name}-5way-1shot", split="train").reset(seed=0)


def test_changed_data_and_weights_are_said(
    images: Imported, net: str, tmp_path: Path, own: Any, bring: Bring
) -> None:
    before = embedded(net).meta.fingerprint
    with pytest.raises(DuplicateName, match=r"features of other weights .*net\.py:factory"):
        embedded(net.replace(":factory", ":other"), name="mine@factory")
    with pytest.raises(DuplicateName, match="another size or preparation"):
        embedded(net, size=8, name="mine@factory")
    changed = own.pixels.copy()
    changed[0, 0, 0, 0, 0] ^= 1
    bring(own.save(tmp_path / "y.npz", changed), fractions=(0.34, 0.33, 0.33), replace=True)
    with pytest.raises(DuplicateName, match=r"of mine as it was: its fingerprint is .*--replace"):
        embedded(net)
    after = embedded(net, replace=True).meta.fingerprint
    assert before != after


def test_a_full_disk_is_said_and_nothing_is_lost(
    images: Imported, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = embed._Writer.write

    def full(self: Any, rows: Any) -> None:
        if self._path.name == "val.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, rows)

    monkeypatch.setattr(embed._Writer, "write", full)
    with pytest.raises(StoreError, match=r"mine@factory can't be written \(No space left"):
        embedded(net)
    monkeypatch.undo()
    # `undo` also takes back where the data are.
    monkeypatch.setenv("LAZYBENCH_DATA", str(images.folder.parent.parent))
    assert embedded(net).resumed == 85


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backbone": "effnet-lite1"}, "no pre-trained backbone .*Did you mean: effnet-lite0"),
        ({"size": 0}, "--size takes pixels"),
        ({"size": 2}, r"failed on images \[3, 6, 5\].*try another --size"),
        ({"name": "other@x"}, "--name takes at most 80 of mine@, then"),
        ({"name": "mine@x-5way"}, "no end that environment ids read"),
        ({"backbone": "net.py:broken"}, "failed on images"),
        ({"backbone": "net.py:maps"}, r"must give features \[n, d\]"),
        ({"backbone": "net.py:infinite"}, "must be finite"),
        ({"backbone": "net.py:facory"}, "has no 'facory'. Did you mean: factory"),
        ({"backbone": "timm:resnet18@w.bin"}, "FILE.safetensors"),
    ],
)
def test_what_is_wrong_is_named(
    images: Imported, net: str, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    backbone = options.pop("backbone", net)
    if backbone.startswith("net.py"):
        backbone = f"{tmp_path}/{backbone}"
    with pytest.raises(UsageError, match=match):
        embedded(backbone, **options)
    assert not (imported_root() / "mine@factory").exists()


def test_data_without_images_are_refused(tmp_path: Path, own: Any, bring: Bring, net: str) -> None:
    bring(own.save(tmp_path / "f.npz"), fractions=(0.34, 0.33, 0.33))
    for data in ("mine", "sinusoid"):
        with pytest.raises(UsageError, match="has no images of classes"):
            embed_data(EmbedRequest(data, net))
    with pytest.raises(UnknownName, match="Did you mean"):
        embed_data(EmbedRequest("glyph", net))


def test_seen_test_classes_are_refused() -> None:
    assert overlap("miniimagenet", "imagenet-1k")
    assert overlap("tieredimagenet@effnet-lite0", "imagenet-21k")
    assert not overlap("cifarfs", "imagenet-1k")
    assert not overlap("miniimagenet", "laion2b_s34b_b79k")


@pytest.mark.parametrize(
    ("data", "env", "seen"),
    [
        ("cifarfs", "fc100-5way-1shot", True),
        ("cifarfs@effnet-lite0", "cifar100-lt-20", True),
        ("fc100", "cifarfs@effnet-lite0-64px-5way-1shot", True),
        ("cifar100", "fc100-5way-5shot-dirichlet", True),
        ("omniglot", "omniglot-alphabet-20way-1shot", True),
        ("omniglot-alphabet", "omniglot-anyway", True),
        ("omniglot", "omniglot-5way-1shot", False),
        ("cifarfs", "cifarfs-anyway", False),
        ("cifarfs", "omniglot-20way-1shot-noniid", False),
        ("glyphs", "glyphshard-5way-1shot", False),
    ],
)
def test_runs_on_other_splits_of_the_same_classes_have_seen_test_classes(
    data: str, env: str, seen: bool
) -> None:
    assert overlap(data, f"protonet on {env} (0123456789ab, step 40)") is seen


def test_the_default_name_is_data_and_backbone() -> None:
    assert default_name("cifarfs", "effnet-lite0") == "cifarfs@effnet-lite0"
    assert default_name("cifarfs", "effnet-lite0", 64) == "cifarfs@effnet-lite0-64px"
    clip = "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert default_name("glyphs", clip) == "glyphs@open-clip-vit-b-32-laion2b-s34b-b79k"
    assert default_name("glyphs", "a/b.py:my_net") == "glyphs@my-net"
    assert default_name("glyphs", "timm:resnet18@w.safetensors") == "glyphs@timm-resnet18"
