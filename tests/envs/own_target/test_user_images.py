"""Images and labels of one's own: folders, npz files, files of labels, and what doesn't fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.envs.user_images import read_user_images
from lazybench.errors import DataUnavailable, UsageError


def picture(path: Path, value: int, size: tuple[int, int] = (4, 3), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def test_folders_name_classes(tmp_path: Path) -> None:
    for place, name in enumerate(("dog/1.png", "cat/2.png", "cat/10.png")):
        picture(tmp_path / name, place)
    found = read_user_images(tmp_path)
    assert found.names == ("cat/10.png", "cat/2.png", "dog/1.png")
    assert found.y.tolist() == [0, 0, 1]
    assert found.x.shape == (3, 1, 3, 4)
    assert found.x[:, 0, 0, 0].tolist() == [2, 1, 0]
    assert read_user_images(tmp_path, limit=2).y.tolist() == [0, 0]


def test_folders_that_are_numbers_are_their_classes(tmp_path: Path) -> None:
    for name in ("10/a.png", "2/b.png"):
        picture(tmp_path / name, 7, mode="RGB")
    found = read_user_images(tmp_path)
    assert found.y.tolist() == [10, 2]
    assert found.x.shape == (2, 3, 3, 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "name,label\nb.png,5\na.png,3\n"),
        ("labels.csv", "a.png, 3\nb.png, 5"),
        ("labels.txt", "3\n5\n"),
        ("labels.json", json.dumps({"a.png": 3, "b.png": 5})),
        ("labels.json", "[3, 5]"),
    ],
)
def test_labels_in_a_file(tmp_path: Path, name: str, text: str) -> None:
    for each in ("b.png", "a.png"):
        picture(tmp_path / "images" / each, 0)
    (tmp_path / name).write_text(text)
    assert read_user_images(tmp_path / "images", tmp_path / name).y.tolist() == [3, 5]


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 5, 4, 3), (2, 5, 4)])
def test_npz_in_any_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(shape, np.uint8), y=[1, 0])
    found = read_user_images(tmp_path / "a.npz")
    assert found.x.shape == (2, 3 if len(shape) == 4 else 1, 5, 4)
    assert found.y.tolist() == [1, 0]
    np.save(tmp_path / "y.npy", np.array([4, 4]))
    assert read_user_images(tmp_path / "a.npz", tmp_path / "y.npy").y.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 1, 2, 2), np.uint8)}, "arrays x"),
        ({"x": np.full((2, 1, 2, 2), 1.5), "y": [0, 1]}, r"floats in \[0, 1\]"),
        ({"x": np.full((2, 1, 2, 2), np.nan), "y": [0, 1]}, r"floats in \[0, 1\]"),
        ({"x": np.zeros((2, 2), np.uint8), "y": [0, 1]}, "must be images"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [0]}, "2 images need as many"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [0.5, 1]}, "need as many integers"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [-1, 1]}, "0 or more"),
        ({"x": np.zeros((0, 1, 2, 2), np.uint8), "y": []}, "no images"),
    ],
)
def test_arrays_that_dont_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        read_user_images(tmp_path / "a.npz")


def test_folders_that_dont_fit(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="can't be read"):
        read_user_images(tmp_path / "none")
    with pytest.raises(UsageError, match="no images"):
        read_user_images(tmp_path)
    picture(tmp_path / "a.png", 0)
    with pytest.raises(UsageError, match="lies in no folder"):
        read_user_images(tmp_path)
    (tmp_path / "labels.csv").write_text("b.png,1")
    with pytest.raises(UsageError, match=r"no label for 1 of 1 images, such as a\.png"):
        read_user_images(tmp_path, tmp_path / "labels.csv")
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow")
    with pytest.raises(UsageError, match="must be integers"):
        read_user_images(tmp_path, tmp_path / "labels.txt")
    picture(tmp_path / "b.png", 0, size=(5, 5))
    (tmp_path / "labels.txt").write_text("1\n1")
    with pytest.raises(UsageError, match=r"one size, got a\.png 3x4 and b\.png 5x5"):
        read_user_images(tmp_path, tmp_path / "labels.txt")
    (tmp_path / "b.png").write_bytes(b"\x89PNG, it seems")
    with pytest.raises(DataUnavailable, match="isn't an image"):
        read_user_images(tmp_path, tmp_path / "labels.txt")
