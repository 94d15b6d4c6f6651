"""Images and labels of one's own: folders, npz files, files of labels, and what doesn't fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.envs.own_target.images import drawn, read_user_images
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
    # Both classes, where the first two images are of one.
    assert read_user_images(tmp_path, limit=2).y.tolist() == [0, 1]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 11, 12, 99])
def test_a_limit_draws_evenly_over_the_classes(limit: int) -> None:
    y = np.repeat([0, 1, 2, 7], [6, 1, 3, 2])
    at = drawn(y, limit)
    assert len(at) == len(set(at.tolist())) == min(limit, len(y))
    assert (np.diff(at) > 0).all()
    assert (at == drawn(y, limit)).all()
    taken = [int((y[at] == label).sum()) for label in (0, 1, 2, 7)]
    for count, held in zip(taken, (6, 1, 3, 2), strict=True):
        assert count == held or count >= max(taken) - 1
    # Nor the first classes, where there are fewer images than classes.
    assert drawn(np.repeat(np.arange(100), 5), 10).max() > 100


def test_a_limit_holds_for_npz_files_too(tmp_path: Path) -> None:
    x = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1)
    np.savez(tmp_path / "a.npz", x=x, y=np.repeat([0, 1, 2], 3))
    found = read_user_images(tmp_path / "a.npz", limit=3)
    assert found.y.tolist() == [0, 1, 2]
    assert found.names == tuple(map(str, found.x[:, 0, 0, 0].tolist()))


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


@pytest.mark.parametrize(
    ("name", "data"),
    [
        # As spreadsheets and editors write them.
        ("labels.csv", b"\xef\xbb\xbfa.png,3\nb.png,5\n"),
        ("labels.csv", b"\xef\xbb\xbfname;label\r\na.png;3\r\nb.png;5\r\n"),
        ("labels.txt", "a.png\t3\nb.png\t5\n".encode("utf-16")),
        ("labels.txt", b"\xef\xbb\xbf3\n5\n\n"),
        ("labels.json", b'\xef\xbb\xbf{"a.png": 3, "b.png": 5}'),
        ("labels.JSON", b'{"a.png": 3.0, "b.png": "5"}'),
        # As pandas writes integers of a column with gaps; a first line that is data.
        ("labels.csv", b"a.png,3.0\nb.png,5.0\n"),
        ("labels.txt", b"3.0\n5.0\n"),
        ("labels.csv", b"b.png,00000000000000000005\nlabel,1\na.png,+3\n"),
    ],
)
def test_labels_as_other_programs_write_them(tmp_path: Path, name: str, data: bytes) -> None:
    for each in ("b.png", "a.png"):
        picture(tmp_path / "images" / each, 0)
    (tmp_path / name).write_bytes(data)
    assert read_user_images(tmp_path / "images", tmp_path / name).y.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "a.png,3\nb.png,5\na.png,4\n", r"twice, such as a\.png"),
        ("labels.csv", "a.png,3\nb.png,5\na.png,3\n", r"twice, such as a\.png"),
        ("labels.json", '{"a.png": 3, "b.png": 5, "a.png": 4}', r"twice, such as a\.png"),
        ("labels.csv", "a.png,cat\nb.png,5\n", "must be integers.*'cat'"),
        ("labels.txt", "cat\n5\n", "must be integers.*'cat'"),
        ("labels.csv", "a.png,99999999999999999999\nb.png,5\n", "at most 2147483647"),
        ("labels.csv", "a.png," + "9" * 5000 + "\nb.png,5\n", "at most 2147483647"),
        ("labels.json", "[3, 99999999999999999999]", "at most 2147483647"),
        ("labels.json", "[3, 1e400]", "must be integers.*inf"),
        ("labels.json", "[3, NaN]", "must be integers.*nan"),
        ("labels.json", '{"a.png": 3, "b.png": {"c": 1, "c": 2}}', "twice, such as c"),
        ("labels.json", "[3, true]", "must be integers.*True"),
        ("labels.json", "[3, [5]]", "must be integers"),
        ("labels.json", '"35"', "must be integers"),
        ("labels.csv", "a.png,3,x\nb.png,5,x\n", "each line must be"),
    ],
)
def test_labels_that_would_be_misread(tmp_path: Path, name: str, text: str, message: str) -> None:
    for each in ("b.png", "a.png"):
        picture(tmp_path / "images" / each, 0)
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_user_images(tmp_path / "images", tmp_path / name)


def test_labels_of_no_image_are_noted(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 0)
    (tmp_path / "images" / "notes.txt").write_text("about")
    (tmp_path / "labels.csv").write_text("a.png,3\nc.png,5\n")
    found = read_user_images(tmp_path / "images", tmp_path / "labels.csv")
    assert found.y.tolist() == [3]
    assert any("1 labels of no image here, such as c.png" in note for note in found.notes)
    assert any("left out 1 files" in note for note in found.notes)


def test_no_class_folder_vanishes(tmp_path: Path) -> None:
    for place, name in enumerate(("a/0.png", "b/0.png", "c/0.png")):
        picture(tmp_path / "images" / name, place)
    # A link to a folder and a TIFF are images as others are.
    (tmp_path / "images" / "b").rename(tmp_path / "elsewhere")
    (tmp_path / "images" / "b").symlink_to(tmp_path / "elsewhere")
    with Image.open(tmp_path / "images" / "c" / "0.png") as held:
        held.save(tmp_path / "images" / "c" / "0.TIF")
    (tmp_path / "images" / "c" / "0.png").unlink()
    found = read_user_images(tmp_path / "images")
    assert found.y.tolist() == found.x[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert found.classes == ("a", "b", "c")
    assert any("followed 1 links" in note for note in found.notes)
    (tmp_path / "elsewhere" / "0.png").rename(tmp_path / "elsewhere" / "0.txt")
    with pytest.raises(UsageError, match=r"b holds no image.*a class would be missing"):
        read_user_images(tmp_path / "images")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0/a.png", "1/a.png", "cat/a.png"), "by numbers, such as 0, and others, such as cat"),
        (("1/a.png", "01/a.png"), "both name class 1"),
        (("99999999999999999999/a.png",), "at most 2147483647"),
        (("train/cat/a.png", "test/cat/a.png"), r"a class of its own; give one.*test"),
        (("val/cat/a.png", "val/dog/a.png"), r"a class of its own; give one.*val"),
    ],
)
def test_folders_whose_numbers_mislead(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        picture(tmp_path / name, 0)
    with pytest.raises(UsageError, match=message):
        read_user_images(tmp_path)


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
        (
            {"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [0.5, 1]},
            r"labels must be integers.+got 0\.5",
        ),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [-1, 1]}, "0 or more"),
        ({"x": np.zeros((0, 1, 2, 2), np.uint8), "y": []}, "no images"),
        ({"x": np.zeros((2, 1, 0, 2), np.uint8), "y": [0, 1]}, "no pixels"),
        ({"x": np.zeros((2, 9, 9, 4), np.uint8), "y": [0, 1]}, "channels first"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [1 << 40, 1]}, "at most 2147483647"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": np.uint64([1 << 63, 1])}, "at most"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": ["cat", "dog"]}, "integers.+got 'cat'"),
        ({"x": np.zeros((2, 1, 2, 2), np.uint8), "y": [[0], [1]]}, "need as many integers"),
    ],
)
def test_arrays_that_dont_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        read_user_images(tmp_path / "a.npz")


def test_folders_that_dont_fit(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"no such file or folder: .*none; give a folder"):
        read_user_images(tmp_path / "none")
    (tmp_path / "none.npz").write_text("")
    with pytest.raises(DataUnavailable, match="can't be read as an npz file"):
        read_user_images(tmp_path / "none.npz")
    (tmp_path / "none.npz").unlink()
    with pytest.raises(UsageError, match="no images"):
        read_user_images(tmp_path)
    picture(tmp_path / "a.png", 0)
    with pytest.raises(UsageError, match="isn't in a folder"):
        read_user_images(tmp_path)
    (tmp_path / "labels.csv").write_text("b.png,1")
    with pytest.raises(UsageError, match=r"no label for 1 of 1 images, such as a\.png"):
        read_user_images(tmp_path, tmp_path / "labels.csv")
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow")
    with pytest.raises(UsageError, match="must be integers"):
        read_user_images(tmp_path, tmp_path / "labels.txt")
    picture(tmp_path / "b.png", 0, size=(5, 5))
    (tmp_path / "labels.txt").write_text("1\n1")
    with pytest.raises(UsageError, match=r"one size, got a\.png 4x3 and b\.png 5x5"):
        read_user_images(tmp_path, tmp_path / "labels.txt")
    (tmp_path / "b.png").write_bytes(b"\x89PNG, it seems")
    with pytest.raises(DataUnavailable, match="isn't an image"):
        read_user_images(tmp_path, tmp_path / "labels.txt")
