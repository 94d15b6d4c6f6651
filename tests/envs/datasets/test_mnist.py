"""MNIST as given out: both packings, file order, class order, damage refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lazybench import envs
from lazybench.data.folders import data_root
from lazybench.envs.datasets.mnist import (
    FILES,
    FINGERPRINT,
    FOLDERS,
    Mnist,
    check,
    labelled,
    open_mnist,
    read_idx,
)
from lazybench.errors import DataUnavailable

LABELS = {"train": [3, 1, 4, 1, 5, 9, 2, 6, 0, 7, 8, 1], "test": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]}


def idx(array: NDArray[np.uint8]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(root: Path, folder: str = "MNIST/raw", *, packed: bool = True) -> Path:
    """The first pixel of an image is its place in the file."""
    place = root / folder
    place.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in FILES.items():
        y = np.array(LABELS[split], np.uint8)
        x = np.random.default_rng(1).integers(0, 256, (len(y), 28, 28), dtype=np.uint8)
        x[:, 0, 0] = np.arange(len(y))
        for name, array in ((images, x), (labels, y)):
            data = idx(array)
            if packed:
                (place / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (place / name).write_bytes(data)
    return place


def test_classes_come_in_order_and_files_as_they_are(root: Path) -> None:
    write(root)
    data = open_mnist()
    train = data.pool("train")
    assert train.names == tuple("0123456789")
    assert train.count.tolist() == [1, 3, 1, 1, 1, 1, 1, 1, 1, 1]
    assert train.x.shape == (12, 1, 28, 28)
    assert train.x[:, 0, 0, 0].tolist() == [8, 1, 3, 11, 6, 0, 2, 4, 7, 9, 10, 5]
    assert data.source == "MNIST; a subset: 12 of 60000 train and 10 of 10000 test images"
    whole = labelled()
    assert whole.test.labels.tolist() == list(range(10))
    for split, x, y in Mnist(root).parts():
        assert y.tolist() == LABELS[split]
        assert x[:, 0, 0, 0].tolist() == list(range(len(y)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_packing_and_folder_do_not_matter(root: Path, folder: str) -> None:
    first = write(root)
    fingerprint = open_mnist().fingerprint
    for path in first.iterdir():
        path.unlink()
    place = write(root, folder, packed=False)
    assert check() == root / folder
    assert open_mnist().fingerprint == open_mnist().reread() == fingerprint
    assert place.is_dir()
    assert envs.installed("mnist")


def test_what_is_missing_is_reported(root: Path) -> None:
    with pytest.raises(DataUnavailable, match=f"mnist: not found; expected below {root}") as caught:
        check()
    assert "lazybench data get mnist" in str(caught.value)
    place = write(root)
    (place / f"{FILES['test'][0]}.gz").unlink()
    with pytest.raises(DataUnavailable, match="mnist: not found"):
        open_mnist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "isn't an idx file of bytes"),
        (b"\0\0\x0d\x01" + bytes(8), "isn't an idx file of bytes"),
        (idx(np.zeros(9, np.uint8)), r"hold \[9\] and \[10\], not \[M, 28, 28\]"),
        (idx(np.zeros((10, 28, 28), np.uint8))[:-1], "holds 7839 bytes where 7840 belong"),
        (idx(np.zeros((10, 28, 28), np.uint8)) + b"x", "holds more bytes where 7840 belong"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "says it holds"),
        (idx(np.zeros((10, 14, 28), np.uint8)), r"\[10, 14, 28\]"),
    ],
)
def test_damage_is_refused(root: Path, data: bytes, message: str) -> None:
    place = write(root, packed=False)
    (place / FILES["test"][0]).write_bytes(data)
    with pytest.raises(DataUnavailable, match=message):
        open_mnist()


def test_damaged_packing_and_labels_are_refused(root: Path) -> None:
    place = write(root)
    images = place / f"{FILES['test'][0]}.gz"
    whole = images.read_bytes()
    for damaged in (whole[:-9], whole[:30] + b"\xff" * 9 + whole[39:], b"no gzip"):
        images.write_bytes(damaged)
        with pytest.raises(DataUnavailable, match=r"can't be read|holds|isn't an idx"):
            open_mnist()
    write(root)
    for wrong in ([10, *range(9)], [0] * 10):
        data = idx(np.array(wrong, np.uint8))
        (place / f"{FILES['test'][1]}.gz").write_bytes(gzip.compress(data))
        with pytest.raises(DataUnavailable, match="each digit of 0 to 9 and nothing else"):
            open_mnist()


def test_an_idx_file_of_any_axes(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "some").write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "some"), array)


@pytest.mark.data
def test_the_real_mnist() -> None:
    try:
        data = open_mnist()
    except DataUnavailable as error:
        pytest.skip(str(error))
    assert data.fingerprint == FINGERPRINT
    assert data.source == "MNIST; the known images"
    # The mean of the training images as everyone quotes it.
    assert data.pool("train").x.mean(dtype=np.float64) / 255 == pytest.approx(0.1307, abs=5e-5)
    first = next(y for split, _, y in Mnist(data_root()).parts() if split == "train")
    assert first[:5].tolist() == [5, 0, 4, 1, 9]
