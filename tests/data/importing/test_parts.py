"""Folders for classification, train and test of the same classes, make long-tailed streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lazybench
from lazybench.data.importing.embed import EmbedRequest, embed_data
from lazybench.data.pool import open_labelled
from lazybench.errors import UnknownName, UsageError
from lazybench.registry import ENVS

CLASSES = ("ant", "bee", "cat", "dog")
COUNTS = {"train": (30, 24, 22, 21), "val": (2, 2, 2, 2), "test": (5, 5, 4, 6)}


def folder(path: Path, counts: Any = COUNTS) -> Any:
    """Write images below `path`; their pixels by split and class."""
    rng = np.random.default_rng(0)
    pixels: dict[tuple[str, str], Any] = {}
    for split, numbers in counts.items():
        for name, n in zip(CLASSES, numbers, strict=True):
            x = pixels[split, name] = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
            place = path / split / name
            place.mkdir(parents=True)
            for number, image in enumerate(x):
                Image.fromarray(image).save(place / f"{number}.png")
    return pixels


def contents(x: Any) -> set[bytes]:
    return {np.ascontiguousarray(image).tobytes() for image in x}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def test_a_folder_for_classification_makes_streams(data: Path) -> None:
    pixels = folder(data / "photos")
    done = lazybench.import_data(data / "photos", name="photos")
    meta = done.meta
    assert not meta.splits
    assert meta.parts["train"].classes == meta.parts["test"].classes == CLASSES
    assert meta.parts["train"].counts == (32, 26, 24, 23)
    # The test is balanced: as many images of each class as the smallest has.
    assert meta.parts["test"].counts == (4, 4, 4, 4)
    assert any("left out 4 test images" in note for note in done.notes)
    assert any("images of val join train" in note for note in done.notes)
    spec = ENVS.resolve("photos-lt-4").spec
    assert (spec.origin, spec.trials["small"]) == ("imported", 16)
    env: Any = lazybench.make_env("photos-lt-4", split="test")
    labelled = env.unwrapped._labelled
    for part, splits in (("train", ("train", "val")), ("test", ("test",))):
        held = vars(labelled)[part]
        for number, name in enumerate(CLASSES):
            rows = held.rows[held.labels == number]
            found = contents(held.x[rows].transpose(0, 2, 3, 1))
            given = set().union(*(contents(pixels[split, name]) for split in splits))
            assert found == given if part == "train" else found <= given
    # 10 of the 23 images of the smallest class are the dev set.
    assert env.unwrapped.task.class_counts[0] == 13
    assert "train and test given by the folders" in env.unwrapped.data["source"]
    with pytest.raises(UnknownName):
        ENVS.resolve("photos-2way-1shot")


def test_packaging_makes_no_difference(data: Path) -> None:
    counts = {split: COUNTS[split] for split in ("train", "test")}
    pixels = folder(data / "photos", counts)
    first = lazybench.import_data(data / "photos", name="photos").meta
    assert first.parts["train"].counts == COUNTS["train"]
    x = np.concatenate([*pixels.values()])
    y = np.concatenate([np.repeat(name, len(of)) for (_, name), of in pixels.items()])
    split = np.concatenate([np.repeat(split, len(of)) for (split, _), of in pixels.items()])
    order = np.random.default_rng(1).permutation(len(x))
    again = lazybench.import_data(
        x[order], y[order], split=split[order], name="photos", replace=True
    ).meta
    assert again.fingerprint == first.fingerprint
    assert again.parts == first.parts


def test_a_split_by_class_is_made_where_it_is_wanted(data: Path) -> None:
    counts = {split: (20,) * 4 for split in ("train", "val", "test")}
    folder(data / "photos", counts)
    with pytest.raises(UsageError, match="4 classes can't make three splits"):
        lazybench.import_data(data / "photos", name="photos", split_seed=0)


def test_small_classes_are_refused_or_left_out(data: Path) -> None:
    folder(data / "photos", COUNTS | {"train": (30, 24, 22, 8)})
    with pytest.raises(UsageError, match=r"such as 'dog' with 10: .*takes 10 for its dev set"):
        lazybench.import_data(data / "photos", name="photos")
    found = lazybench.import_data(data / "photos", name="photos", skip_small=True).meta
    assert found.parts["test"].classes == CLASSES[:3]


def test_train_and_test_of_other_classes_need_val(data: Path) -> None:
    folder(data / "photos", {"train": (20,) * 4, "test": (20,) * 4})
    (data / "photos" / "test" / "dog").rename(data / "photos" / "test" / "eel")
    with pytest.raises(UsageError, match="or train and test of the same classes"):
        lazybench.import_data(data / "photos", name="photos")


def test_features_need_images(data: Path) -> None:
    x = np.random.default_rng(0).normal(size=(120, 4))
    y, split = np.arange(120) % 6, np.array(["train", "val", "test"])[np.arange(120) // 6 % 3]
    with pytest.raises(UsageError, match="images whose train and test have all classes"):
        lazybench.import_data(x, y, split=split, name="vectors")


def test_the_parts_are_embedded(data: Path) -> None:
    folder(data / "photos")
    lazybench.import_data(data / "photos", name="photos")
    (data / "net.py").write_text("import torch\ndef flat(task):\n    return torch.nn.Flatten()\n")
    embed_data(EmbedRequest("photos", f"{data / 'net.py'}:flat"))
    images, features = open_labelled("photos"), open_labelled("photos@flat")
    assert features.test.count.tolist() == [4, 4, 4, 4]
    assert features.train.count.tolist() == [32, 26, 24, 23]
    for part in ("train", "test"):
        had, got = getattr(images, part), getattr(features, part)
        wanted = had.x[had.rows].reshape(len(had.rows), -1).astype(np.float32) / 255
        np.testing.assert_allclose(got.x[got.rows], wanted, atol=1e-7)
    assert ENVS.resolve("photos@flat-lt-natural").spec.trials["small"] == 16
    # As their images, they have no tasks of few shots.
    for data_id in ("photos", "photos@flat"):
        with pytest.raises(UnknownName):
            ENVS.resolve(f"{data_id}-5way-1shot")
