"""tieredImageNet: read from its true format, in small; whole or refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.data.pool import SPLITS
from lazybench.envs.datasets.image_set import ImageSet, Named, few_shot_roster, open_images
from lazybench.envs.datasets.tieredimagenet import (
    IMAGES,
    TieredImageNet,
    check,
    open_tieredimagenet,
)
from lazybench.errors import DataUnavailable

ROSTER = {
    "train": (Named("n00000001", "dogs"), Named("n00000002", "cups"), Named("n00000005", "dogs")),
    "val": (Named("n00000003", "cars"),),
    "test": (Named("n00000004", "trees"),),
}
EACH = 3


def picture(name: str, number: int) -> np.ndarray:
    return np.random.default_rng([int(name[-1]), number]).integers(0, 256, (84, 84, 3), np.uint8)


def png(pixels: np.ndarray) -> np.ndarray:
    """The buffer that OpenCV's encoder gives: bytes of a PNG as uint8 `[n, 1]`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return np.frombuffer(buffer.getvalue(), np.uint8)[:, None]


def contents(split: str) -> tuple[Any, dict[str, Any]]:
    """Images and labels of a split, mixed, with the classes' numbers in no order of names."""
    classes = ROSTER[split][::-1]
    groups = sorted({each.group for each in classes})
    rows = [(label, number) for number in range(EACH) for label in range(len(classes))]
    return [png(picture(classes[label].name, number)) for label, number in rows], {
        "label_specific": np.array([label for label, _ in rows]),
        "label_general": np.array([groups.index(classes[label].group) for label, _ in rows]),
        "label_specific_str": [each.name for each in classes],
        "label_general_str": groups,
    }


def write(root: Path, *, prefix: str = "", folder: str = "tieredimagenet") -> Path:
    place = root / folder
    place.mkdir(parents=True)
    for split in SPLITS:
        images, labels = contents(split)
        (place / f"{prefix}{split}_images_png.pkl").write_bytes(pickle.dumps(images, 2))
        (place / f"{prefix}{split}_labels.pkl").write_bytes(pickle.dumps(labels, 2))
    return place


def opened(root: Path) -> ImageSet:
    return open_images("tieredimagenet", "1", TieredImageNet(root, ROSTER, (9, 3, 3)))


def test_pools_hold_the_images_by_class_with_their_categories(root: Path) -> None:
    write(root)
    data = opened(root)
    train = data.pool("train")
    assert train.names == ("n00000001", "n00000002", "n00000005")
    assert train.groups == ("dogs", "cups", "dogs")
    assert train.count.tolist() == [EACH] * 3
    assert isinstance(train.x, np.memmap)
    for at, name in enumerate(train.names):
        for number in range(EACH):
            wanted = picture(name, number).transpose(2, 0, 1)
            np.testing.assert_array_equal(train.x[train.start[at] + number], wanted)
    assert data.source == "tieredImageNet, the pickled PNG images"
    assert data.reread() == data.fingerprint


def test_other_spellings_give_the_same_data(root: Path) -> None:
    write(root / "a", prefix="tiered-imagenet-", folder="tiered-imagenet")
    first = opened(root / "a")
    place = write(root / "b", folder="tieredimagenet/tiered-imagenet")
    for split in SPLITS:
        images, labels = contents(split)
        ragged = np.empty(len(images), object)
        ragged[:] = [each[:, 0] for each in images]
        (place / f"{split}_images_png.pkl").write_bytes(pickle.dumps(ragged, 4))
        plain = {key.encode(): list(value) for key, value in labels.items()}
        (place / f"{split}_labels.pkl").write_bytes(pickle.dumps(plain, 2))
    assert opened(root / "b").fingerprint == first.fingerprint


def change(split: str, **changes: Any) -> Callable[[Path], None]:
    def harm(place: Path) -> None:
        images, labels = contents(split)
        images = changes.get("images", images)
        labels |= {key: value for key, value in changes.items() if key != "images"}
        (place / f"{split}_images_png.pkl").write_bytes(pickle.dumps(images, 2))
        (place / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels, 2))

    return harm


def test_words_as_names_are_taken_as_they_are(root: Path) -> None:
    place = write(root)
    crane = {"label_specific_str": ["crane", "cup", "crane"], "label_general_str": ["things"]}
    change("train", **crane)(place)
    train = opened(root).pool("train")
    assert train.names == ("crane", "crane (2)", "cup")
    assert train.groups == ("category 1", "category 1", "things")


def test_a_subset_says_so(root: Path) -> None:
    place = write(root)
    images, labels = contents("val")
    short = {key: labels[key][:2] for key in ("label_specific", "label_general")}
    change("val", images=images[:2], **short)(place)
    assert opened(root).source.endswith("; a subset: 9/2/3 of 9/3/3 images")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change("val", images=[b"no image"] * 3), r"image 0 of .*val_images_png\.pkl isn't"),
        (change("val", images=[7] * 3), "is a int, not the bytes of a PNG"),
        (change("val", images=contents("val")[0][:2]), "don't hold an image for each label"),
        (change("val", label_specific=[0, 0, 7]), "labels without a class"),
        (change("val", label_general=[0, 1, 0]), "classes in two categories"),
        (change("val", label_specific_str=["n00000009"]), "n00000009 isn't one of them"),
        (change("train", label_specific=[0, 0, 0, 1, 1, 1, 0, 0, 0], label_general=[0] * 9),
         "has 2 classes, not the 3 of its split"),
        (lambda place: (place / "test_labels.pkl").unlink(), "not found"),
        (lambda place: (place / "test_labels.pkl").write_bytes(b"<html>"), "test_labels.pkl is"),
    ],
)  # fmt: skip
def test_damage_names_file_and_remedy(
    root: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(write(root))
    with pytest.raises(DataUnavailable, match=message) as caught:
        opened(root)
    for part in (str(root), "lazybench data get tieredimagenet", "LAZYBENCH_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_installed(root: Path) -> None:
    del root
    with pytest.raises(DataUnavailable, match="tieredimagenet: not found; expected below"):
        open_tieredimagenet()
    with pytest.raises(DataUnavailable, match="not found"):
        check()


def test_published_list() -> None:
    roster = few_shot_roster("tieredimagenet")
    assert [len(roster[split]) for split in SPLITS] == [351, 97, 160]
    groups = [{each.group for each in roster[split]} for split in SPLITS]
    assert [len(each) for each in groups] == [20, 6, 8]
    assert len(set.union(*groups)) == 34
    assert sum(IMAGES.values()) == 779_165
