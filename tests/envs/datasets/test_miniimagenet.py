"""miniImageNet: from JPEG files or pickles, subsets named as such, damage refused in one line."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lazybench.data.pool import SPLITS, Split
from lazybench.envs.datasets import image_set
from lazybench.envs.datasets.image_set import ImageSet, Named, few_shot_roster, open_images
from lazybench.envs.datasets.miniimagenet import EACH, MiniImageNet, check, open_miniimagenet
from lazybench.errors import DataUnavailable

CLASSES: dict[Split, tuple[str, ...]] = {
    "train": ("n00000001", "n00000003"),
    "val": ("n00000002",),
    "test": ("n00000004",),
}
ROSTER = {split: tuple(Named(name, name) for name in CLASSES[split]) for split in SPLITS}


def picture(name: str, number: int, side: int = 84) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them nearly; another picture for each image."""
    shades = np.linspace(0, 100, side)
    levels = np.array([20 * int(name[-1]), 30 * number, 70])
    return (shades[:, None, None] + levels[None, None] + np.zeros((1, side, 1))).astype(np.uint8)


def write_files(root: Path, *, each: int = 2, side: int = 84) -> Path:
    folder = root / "mini-imagenet"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = ["filename,label"]
        for name in CLASSES[split]:
            for number in range(each):
                file = f"{name}{number:08d}.jpg"
                image = Image.fromarray(picture(name, number, side))
                image.save(folder / "images" / file, quality=98)
                lines.append(f"{file},{name}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_pickles(root: Path, *, each: int = 2, val: str = "val") -> Path:
    folder = root / "miniimagenet"
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        # Classes mixed in file order, as the dict of rows allows.
        pairs = [(name, number) for number in range(each) for name in reversed(CLASSES[split])]
        content = {
            "image_data": np.stack([picture(*pair) for pair in pairs]),
            "class_dict": {
                name: [row for row, pair in enumerate(pairs) if pair[0] == name]
                for name in CLASSES[split]
            },
        }
        name = {"val": val}.get(split, split)
        (folder / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(content, 2))
    return folder


def opened(root: Path, each: int = 2) -> ImageSet:
    return open_images("miniimagenet", "1", MiniImageNet(root, ROSTER, each))


def test_files_and_pickles_hold_the_same_pictures(root: Path) -> None:
    write_files(root)
    files = opened(root)
    assert files.source == "miniImageNet, Ravi & Larochelle's split, JPEG files"
    assert files.reread() == files.fingerprint
    write_pickles(root, val="validation")
    pickles = opened(root)
    assert pickles.reread() == pickles.fingerprint
    assert pickles.source == "miniImageNet, Ravi & Larochelle's split, the pickled cache"
    # Another JPEG encoding is other data.
    assert pickles.fingerprint != files.fingerprint
    for data in (files, pickles):
        train = data.pool("train")
        assert (train.names, train.groups) == (CLASSES["train"], CLASSES["train"])
        assert train.count.tolist() == [2, 2]
        assert isinstance(train.x, np.memmap)
        for row, (name, number) in enumerate((name, n) for name in train.names for n in (0, 1)):
            wanted = picture(name, number).transpose(2, 0, 1).astype(int)
            assert np.abs(train.x[row] - wanted).max() <= (0 if data is pickles else 12)


def test_a_subset_says_so(root: Path) -> None:
    write_files(root)
    assert opened(root, EACH).source.endswith("; a subset: 2 of 600 images a class")
    lines = (root / "mini-imagenet" / "val.csv").read_text().splitlines()
    (root / "mini-imagenet" / "val.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert opened(root, EACH).source.endswith("; a subset: 1 to 2 of 600 images a class")


def test_other_sizes_are_resized_smoothly(root: Path) -> None:
    write_files(root, side=168)
    small = opened(root).pool("test").x[1].astype(int)
    assert small.shape == (3, 84, 84)
    assert np.abs(small - picture("n00000004", 1).transpose(2, 0, 1)).max() <= 12


def test_packaging_of_a_jpeg_counts_not_its_name_or_order(root: Path) -> None:
    folder = write_files(root)
    first = opened(root)
    lines = (folder / "test.csv").read_text().splitlines()
    (folder / "images" / "n0000000400000001.jpg").rename(folder / "images" / "renamed.jpg")
    (folder / "test.csv").write_text(f"{lines[0]}\r\nrenamed.jpg,n00000004\r\n{lines[1]}\r\n")
    again = opened(root)
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.pool("test").x, first.pool("test").x[::-1])


def test_warm_opening_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(root)
    first = opened(root)

    def fail(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(image_set, "decoded", fail)
    assert opened(root).fingerprint == first.fingerprint


def lose_image(folder: Path) -> None:
    (folder / "images" / "n0000000300000001.jpg").unlink()


def cut_image(folder: Path) -> None:
    path = folder / "images" / "n0000000300000001.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def another_class(folder: Path) -> None:
    text = (folder / "val.csv").read_text()
    (folder / "val.csv").write_text(text.replace(",n00000002", ",n00000009"))


def another_table(folder: Path) -> None:
    (folder / "val.csv").write_text("a,b\n1,2\n")


def outside(folder: Path) -> None:
    (folder / "val.csv").write_text("filename,label\n../../secret.jpg,n00000002\n")


def no_list(folder: Path) -> None:
    (folder / "val.csv").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lose_image, r"n0000000300000001\.jpg can't be read"),
        (cut_image, r"n0000000300000001\.jpg isn't a whole JPEG image"),
        (another_class, r"val\.csv has other classes than its split: n00000002 is missing"),
        (another_table, r"val\.csv isn't a list with the columns filename and label"),
        (outside, r"val\.csv names the file '\.\./\.\./secret\.jpg' outside of"),
        (no_list, "not found"),
    ],
)
def test_damage_to_files(root: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(write_files(root))
    refused(root, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_data": np.zeros((2, 84, 84, 3), np.uint8)}, "lacks class_dict"),
        (
            {"image_data": np.zeros((2, 84, 84), np.uint8), "class_dict": {"n00000002": [0]}},
            r"uint8 \[2, 84, 84\], not uint8 \[n, 84, 84, 3\]",
        ),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"n00000002": [2]}},
            "name missing ones",
        ),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"n00000002": [1, 1]}},
            "share images",
        ),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"n00000002": []}},
            "no list of images for n00000002",
        ),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": [1]},
            r"isn't \{class: \[rows\]\}",
        ),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"n00000007": [1]}},
            "n00000002 is missing",
        ),
        ({"image_data": io.BytesIO(), "class_dict": {}}, "_io.BytesIO, which isn't data"),
    ],
)
def test_damage_to_pickles(root: Path, content: dict[str, object], message: str) -> None:
    path = write_pickles(root) / "mini-imagenet-cache-val.pkl"
    path.write_bytes(pickle.dumps(content))
    refused(root, message)


def refused(root: Path, message: str) -> None:
    with pytest.raises(DataUnavailable, match=message) as caught:
        opened(root)
    for part in (str(root), "lazybench data get miniimagenet", "LAZYBENCH_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_installed(root: Path) -> None:
    del root
    with pytest.raises(DataUnavailable, match="miniimagenet: not found; expected below"):
        open_miniimagenet()
    with pytest.raises(DataUnavailable, match="not found"):
        check()


def test_published_list() -> None:
    roster = few_shot_roster("miniimagenet")
    assert [len(roster[split]) for split in SPLITS] == [64, 16, 20]
    assert len({each.name for split in SPLITS for each in roster[split]}) == 100


@pytest.mark.data
def test_the_real_one() -> None:
    try:
        data = open_miniimagenet()
    except DataUnavailable as error:
        pytest.skip(str(error))
    for split, classes in (("train", 64), ("val", 16), ("test", 20)):
        pool = data.pool(split)  # type: ignore[arg-type]
        assert pool.classes == classes
        assert pool.shape == (3, 84, 84)
    assert (int(pool.count.max()) < EACH) == ("a subset: " in data.source)
