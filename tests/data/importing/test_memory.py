"""Arrays and data sets in memory give the same data as files of the same instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lazybench
from lazybench.errors import UsageError

CLASSES, EACH = 6, 17


@pytest.fixture
def pixels() -> Any:
    """uint8 `[classes * each, 8, 8, 3]` and the class of each image."""
    x = np.random.default_rng(0).integers(0, 256, (CLASSES * EACH, 8, 8, 3), dtype=np.uint8)
    return x, np.repeat(np.arange(CLASSES), EACH)


class Pairs:
    """A data set as torchvision has them: items, and names of the classes."""

    def __init__(self, images: Any, labels: Any, classes: list[str]) -> None:
        self.images, self.labels, self.classes = images, labels, classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Any:
        return self.images[number], int(self.labels[number])


class Names:
    """Hugging Face's feature of labels."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Columns(Pairs):
    """A data set as Hugging Face has them: items are dicts."""

    def __init__(self, images: Any, labels: Any, classes: list[str]) -> None:
        super().__init__(images, labels, classes)
        self.features = {"id": None, "image": None, "label": Names(classes)}

    def __getitem__(self, number: int) -> Any:
        image, label = super().__getitem__(number)
        return {"id": number, "image": image, "label": label}


NAMES = [f"bird {letter}" for letter in "abcdef"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def test_every_source_gives_the_same_data(data: Path, pixels: Any) -> None:
    x, y = pixels
    names = np.array(NAMES)[y]
    np.savez(data / "file.npz", x=x, y=names)
    floats = [torch.from_numpy(each.transpose(2, 0, 1).copy()).float() / 255 for each in x]
    sources: dict[str, Any] = {
        "file": (data / "file.npz", None),
        "arrays": (x, names),
        "tensors": (torch.from_numpy(x), list(names)),
        "pillow": (Pairs([Image.fromarray(each) for each in x], y, NAMES), None),
        "floats": (Pairs(floats, y, NAMES), None),
        "columns": (Columns([Image.fromarray(each) for each in x], y, NAMES), None),
        "pairs": ([*zip(x, names.tolist(), strict=True)], None),
    }
    # One name, so that the random splits are equal, too.
    found = {
        kind: lazybench.import_data(*source, name="birds", replace=True).meta
        for kind, source in sources.items()
    }
    assert {meta.fingerprint for meta in found.values()} == {found["file"].fingerprint}
    assert {meta.splits["train"].sha256 for meta in found.values()} == {
        found["file"].splits["train"].sha256
    }
    classes = {name for meta in found["columns"].splits.values() for name in meta.classes}
    assert classes == set(NAMES)
    env = lazybench.make_env("birds-2way-1shot")
    observation, _ = env.reset(seed=0)
    assert observation["support_x"].shape == (2, 3, 8, 8)


def test_images_are_resized_and_turned_grey(data: Path, pixels: Any) -> None:
    x, y = pixels
    images = [Image.fromarray(each).resize((8 + k % 3, 8)) for k, each in enumerate(x)]
    with pytest.raises(UsageError, match="have 3 sizes, such as"):
        lazybench.import_data(Pairs(images, y, NAMES), name="birds")
    found = lazybench.import_data(Pairs(images, y, NAMES), name="birds", size=10, grey=True)
    assert found.meta.shape == (1, 10, 10)


def test_vectors_are_features(data: Path) -> None:
    x = np.random.default_rng(0).normal(size=(CLASSES * EACH, 4)).astype("f4")
    y = np.repeat(np.arange(CLASSES), EACH)
    items = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    found = lazybench.import_data(items, name="mine")  # type: ignore[arg-type]
    arrays = lazybench.import_data(x, y, name="mine", replace=True)
    assert found.meta.fingerprint == arrays.meta.fingerprint
    assert found.meta.kind == "features"


def test_splits_and_groups_are_given_by_row(data: Path, pixels: Any) -> None:
    x, y = pixels
    split = np.array(["train", "val", "test"])[y // 2]
    group = np.array(["wood", "sea", "town"])[y // 2]
    found = lazybench.import_data(x, y, name="birds", split=split, group=group).meta
    assert found.splits["val"].classes == ("2", "3")
    assert set(found.splits["test"].groups) == {"town"}
    assert "split given by split=" in found.source


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x, y: (x, None), "item 0 of the data set is ndarray; give items"),
        (lambda x, y: (3, None), "x must be arrays with y=, a path, or a data set of items"),
        (lambda x, y: ([], None), "has no items"),
        (lambda x, y: (x, y[:-1]), "has 101 entries for 102 instances"),
        (lambda x, y: (x / 255.0, y), r"images in \[0, 1\]"),
        (lambda x, y: (Pairs(x / 200.0, y, NAMES), None), "floats that aren't k / 255"),
        (lambda x, y: ([(x[0], 0.5)], None), "label of item 0 must be a whole number or text"),
        (lambda x, y: ([(x[0][..., :2], 0)], None), r"is uint8 \[8, 8, 2\]; give Pillow images"),
        (lambda x, y: ([(Image.new("I;16", (8, 8)), 0)], None), "mode I;16"),
    ],
)
def test_wrong_data_is_refused(data: Path, pixels: Any, make: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        lazybench.import_data(*make(*pixels), name="birds")
    assert not (data / "data" / "imported" / "birds").exists()


def test_wrong_data_sets_are_refused(data: Path, pixels: Any) -> None:
    x, y = pixels
    renamed = Columns(x, y, NAMES)
    renamed.features = {"img": None, "label": None}
    with pytest.raises(UsageError, match="no feature 'image', its features are img, label"):
        lazybench.import_data(renamed, name="birds")

    with pytest.raises(UsageError, match=rf"several classes of the name '{NAMES[0]}'"):
        lazybench.import_data(Pairs(x, y, [*NAMES[:-1], NAMES[0]]), name="birds")
    unknown = y.copy()
    unknown[3] = -1
    with pytest.raises(UsageError, match=r"the label of item 3 must lie in \[0, .*, got -1; leave"):
        lazybench.import_data(Pairs(x, unknown, NAMES), name="birds")

    class Broken(Pairs):
        def __getitem__(self, number: int) -> Any:
            raise OSError("disk is gone")

    with pytest.raises(UsageError, match=r"item 0 of the data set can't be read: .*disk is gone"):
        lazybench.import_data(Broken(x, y, NAMES), name="birds")

    class Cropped(Pairs):
        reads = 0

        def __getitem__(self, number: int) -> Any:
            self.reads += 1
            edge = 8 if self.reads <= len(self) + 1 else 7
            return self.images[number][:edge], int(self.labels[number])

    with pytest.raises(UsageError, match="import it without random transforms"):
        lazybench.import_data(Cropped(x, y, NAMES), name="birds")
    with pytest.raises(UsageError, match="group go with arrays x and y"):
        lazybench.import_data(Pairs(x, y, NAMES), name="birds", group=y)
    with pytest.raises(UsageError, match="fractions must be a list of numbers"):
        lazybench.import_data(x, y, name="birds", fractions=["a"])  # type: ignore[list-item]


def test_images_of_0_and_1_are_imported_with_a_note(data: Path, pixels: Any) -> None:
    x, y = pixels
    done = lazybench.import_data(x // 255, y, name="dark")
    assert any("multiply them by 255" in note for note in done.notes)
    assert not any("by 255" in note for note in lazybench.import_data(x, y, name="bright").notes)
    # A single bright image at the end is enough.
    x = x // 255
    x[-1] = 255
    assert not any("by 255" in note for note in lazybench.import_data(x, y, name="one").notes)


def test_folders_and_data_sets_of_0_and_1_are_imported_with_a_note(
    data: Path, pixels: Any, tmp_path: Path
) -> None:
    x, y = pixels
    done = lazybench.import_data(Pairs(x // 255, y, NAMES), name="pairs")
    assert any("multiply them by 255" in note for note in done.notes)
    for number, (image, label) in enumerate(zip(x // 255, y, strict=True)):
        for part in ("train", "test"):
            path = tmp_path / "folder" / part / f"class {label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(path)
    for folder in ("folder/train", "folder"):
        done = lazybench.import_data(tmp_path / folder, name="dark", replace=True)
        assert any("multiply them by 255" in note for note in done.notes)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ([[1.0, 2.0], [3.0]], "x in the given arrays can't be an array: ValueError"),
        (torch.zeros(4, 3, dtype=torch.bfloat16), "x in the given arrays can't be an array"),
        (np.zeros((4, 0, 5), np.uint8), r"x in the given arrays is uint8 \[4, 0, 5\]"),
    ],
)
def test_what_is_no_array_is_refused(data: Path, x: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        lazybench.import_data(x, [0, 1, 2, 3][: len(x)], name="mine")


def test_vectors_of_several_lengths_are_refused(data: Path) -> None:
    ragged = Pairs([np.zeros(3), np.zeros(4)], [0, 1], [])
    with pytest.raises(UsageError, match="must have one shape, got \\[3\\] and \\[4\\]"):
        lazybench.import_data(ragged, name="mine")
    with pytest.raises(UsageError, match="item 0 can't be an array"):
        lazybench.import_data([([[1.0], [2.0, 3.0]], 0)], name="mine")
    odd = [(np.zeros(3), torch.zeros((), dtype=torch.bfloat16))]
    with pytest.raises(UsageError, match="the label of item 0 can't be an array"):
        lazybench.import_data(odd, name="mine")


@pytest.mark.parametrize("flag", ["grey", "standardise", "skip_small", "replace"])
def test_flags_are_true_or_false(data: Path, pixels: Any, flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be True or False, got 'no'"):
        lazybench.import_data(*pixels, name="mine", **{flag: "no"})
