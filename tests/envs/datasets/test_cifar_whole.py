"""CIFAR-10 and CIFAR-100: both packings, class order, subsets named, damage refused."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.data.pool import open_labelled
from lazybench.envs.datasets import cifar_whole
from lazybench.envs.datasets.cifar_whole import LAYOUTS, Whole, check, labelled, open_cifar
from lazybench.errors import DataUnavailable, UsageError

NAMES = ("cat", "ant", "bee")
FOLDER = "cifar-10-batches-py"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 of three classes: five batches of 3 x 2 images, and 3 x 2 for the test."""
    layout = replace(LAYOUTS["cifar10"], each={"train": 10, "test": 2})
    monkeypatch.setattr(cifar_whole, "LAYOUTS", {**LAYOUTS, "cifar10": layout})


def write(root: Path, *, batch: tuple[int, ...] = (2, 0, 1, 1, 0, 2), **test: Any) -> Path:
    """Red of an image's first pixel is its class, of its second the number of its file."""
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    files = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(files):
        labels = list(test.get("labels", batch) if name == "test_batch" else batch)
        data = np.random.default_rng(number).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        data[:, 0], data[:, 1] = np.array(labels) % 256, number
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, 2))
    meta = {b"label_names": [name.encode() for name in test.get("names", NAMES)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, 2))
    return folder


def test_classes_keep_their_labels_order(root: Path) -> None:
    write(root)
    data = open_cifar("cifar10")
    train, test = data.pool("train"), data.pool("test")
    assert train.names == test.names == NAMES
    assert train.x[:, 0, 0, 0].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert train.x[:10, 0, 0, 1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert test.x[:, 0, 0, 1].tolist() == [5] * 6
    with pytest.raises(UsageError, match="isn't one of train, test"):
        data.pool("val")
    whole = labelled("cifar10")
    assert (whole.name, whole.classes, whole.fingerprint) == ("cifar10", NAMES, data.fingerprint)
    np.testing.assert_array_equal(whole.train.labels, train.x[:, 0, 0, 0])
    assert open_labelled("cifar10").test.count.tolist() == [2, 2, 2]


def test_the_archive_is_as_good_as_the_folder(root: Path) -> None:
    folder = write(root)
    first = open_cifar("cifar10").fingerprint
    assert check("cifar10") == folder
    (root / "cifar10").mkdir()
    with tarfile.open(root / "cifar10" / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, FOLDER)
    shutil.rmtree(folder)
    assert check("cifar10") == root / "cifar10"
    data = open_cifar("cifar10")
    assert data.fingerprint == data.reread() == first


def test_what_is_known_of_the_files_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def source(**facts: Any) -> str:
        layout = replace(LAYOUTS["cifar10"], each={"train": 10, "test": 2}, **facts)
        monkeypatch.setattr(cifar_whole, "LAYOUTS", {"cifar10": layout})
        return Whole(root, "cifar10").about("f" * 64, counts)

    folder = write(root)
    counts: Any = {"train": np.array([10] * 3), "test": np.array([2] * 3)}
    assert source() == "CIFAR-10; not checked against the authors' files"
    assert source(fingerprint="f" * 64) == "CIFAR-10; the known images, repacked"
    assert source(fingerprint="0" * 64) == "CIFAR-10; the images differ from the known ones"
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert source(published=sums) == "CIFAR-10; the authors' files"
    counts["train"] = np.array([4] * 3)
    assert source() == ("CIFAR-10; a subset: 4 of 10 train and 2 of 2 test images a class")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": (0, 1, 2, 0)}, "holds 5 to 10 train images a class, not 10"),
        ({"batch": (0, 0, 0, 1, 1, 1, 2, 2, 2)}, "holds 15 to 15 train images a class, not 10"),
        ({"batch": (0, 1, 3)}, "labels that its batches.meta doesn't name"),
        ({"labels": (0, 1, -1)}, "labels that its batches.meta doesn't name"),
        ({"labels": (0, 0, 1, 1)}, "holds 0 to 2 test images a class"),
        ({"names": ("cat", "ant", "cat")}, "labels that its batches.meta doesn't name"),
    ],
)
def test_other_content_is_refused(root: Path, changes: dict[str, Any], message: str) -> None:
    write(root, **changes)
    with pytest.raises(DataUnavailable, match=message) as caught:
        open_cifar("cifar10")
    assert "lazybench data get cifar10" in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_what_is_missing_is_reported(root: Path, name: str) -> None:
    with pytest.raises(DataUnavailable, match=f"{name}: not found; expected below {root}"):
        check(name)
    with pytest.raises(UsageError, match="isn't one of cifar10, cifar100"):
        open_cifar("cifar1000")


@pytest.mark.data
def test_the_real_cifar100() -> None:
    try:
        data = open_cifar("cifar100")
    except DataUnavailable as error:
        pytest.skip(str(error))
    assert data.fingerprint == LAYOUTS["cifar100"].fingerprint
    train, test = data.pool("train"), data.pool("test")
    assert (len(train.x), len(test.x)) == (50_000, 10_000)
    assert set(train.count) == {500}
    assert set(test.count) == {100}
    # The published means of the training images, in the order of the channels.
    means = [float(train.x[:, channel].mean(dtype=np.float64)) / 255 for channel in range(3)]
    assert means == pytest.approx([0.5070751, 0.4865488, 0.4409178], abs=1e-6)
    assert train.names[0] == "apple"
