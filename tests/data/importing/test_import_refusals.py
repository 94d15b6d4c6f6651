"""What can't be imported, each with one line that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.data.importing.catalogue import metas
from lazybench.data.importing.importer import Imported, check_name
from lazybench.errors import DataUnavailable, DuplicateName, LazybenchError, UsageError

Bring = Callable[..., Imported]


def test_classes_of_too_few_instances(tmp_path: Path, own: Any, bring: Bring) -> None:
    keep = np.r_[3:40, 50 : own.classes * own.each]
    path = own.save(tmp_path / "f.npz", own.features.reshape(-1, 4)[keep], own.y[keep])
    message = r"2 of 15 classes have too few instances \('c02' 7, 'c00' 14\): .*1 shot takes 16"
    with pytest.raises(UsageError, match=message):
        bring(path)
    done = bring(path, skip_small=True)
    assert done.meta.source.endswith("a subset: 2 of 15 classes left out")
    assert done.notes == ("left out 2 classes of fewer than 16 instances, such as 'c00'",)
    assert sum(len(split.classes) for split in done.meta.splits.values()) == 13


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", UsageError, "--name takes"),
        ("Birds", UsageError, "got 'Birds'"),
        ("../up", UsageError, "--name takes"),
        ("a/b", UsageError, "--name takes"),
        ("a\n", UsageError, "--name takes"),
        ("-a", UsageError, "--name takes"),
        ("a--b", UsageError, "--name takes"),
        ("a" * 41, UsageError, "at most 40"),
        ("a-5way", UsageError, "no end that environment ids read"),
        ("a-5way-1shot", UsageError, "no end"),
        ("a-noniid", UsageError, "no end"),
        ("a-lt-100", UsageError, "no end"),
        ("a-lt-natural", UsageError, "no end"),
        ("a-targeted-label", UsageError, "no end"),
        ("a-fewshot", UsageError, "no end"),
        ("glyphs", DuplicateName, "'glyphs' is a data set of lazybench already"),
        ("tiered", DuplicateName, "an alias of other data"),
        ("mini", DuplicateName, "an alias"),
        ("maml", DuplicateName, "an agent"),
    ],
)
def test_names_that_are_refused(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_name(name)


def test_names_that_are_fine() -> None:
    for name in ("birds", "clip-v2", "x1", "my-5ways", "imagenet-1k"):
        check_name(name)


def as_names(y: Any, one: str, two: str) -> Any:
    """Labels in which two classes have other names."""
    return np.where(y == "c01", one, np.where(y == "c02", two, y))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda own: {"z": own.y}, "holds 'z'; keys are x, y, group, split"),
        (lambda own: {"y": None}, "has no 'y'"),
        (lambda own: {"y": own.y[1:]}, "254 entries for 255 instances"),
        (lambda own: {"y": own.y[:, None]}, r"y in .* must be integers or text \[M\]"),
        (lambda own: {"y": np.zeros(255)}, "got float64"),
        (lambda own: {"y": np.zeros(255, int)}, "1 classes can't make three splits"),
        (lambda own: {"y": np.arange(255)}, "255 of 255 classes have too few"),
        (lambda own: {"x": own.features[:0]}, "without instances"),
        (lambda own: {"x": np.float32(1)}, "without instances"),
        (lambda own: {"x": own.pixels / 255}, r"float64 \[255, 6, 5, 3\]; .*astype\('uint8'\)"),
        (lambda own: {"x": own.pixels[..., :2]}, "1 or 3 channels"),
        (lambda own: {"x": own.features.astype(complex)}, "x in .* is complex128"),
        (lambda own: {"split": own.y}, "split in .* must be train, val or test"),
        (lambda own: {"group": np.arange(255)}, "class 'c00' is in two groups"),
        (lambda own: {"y": np.where(own.y == "c01", "a\nb", own.y)}, "printable characters"),
        (lambda own: {"y": np.where(own.y == "c01", "", own.y)}, "printable characters"),
        (lambda own: {"y": np.where(own.y == "c01", " c02", own.y)}, "' c02' and 'c02' look the"),
        (lambda own: {"y": as_names(own.y, "\u00e9", "e\u0301")}, "look the same"),
    ],
)
def test_arrays_that_are_refused(
    tmp_path: Path, own: Any, bring: Bring, changed: Any, message: str
) -> None:
    arrays = {"x": own.features, "y": own.y} | changed(own)
    x = arrays["x"]
    arrays["x"] = x.reshape(-1, *x.shape[2:]) if x.ndim > 2 else x
    path = tmp_path / "f.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UsageError, match=message) as caught:
        bring(path)
    assert "\n" not in str(caught.value)
    assert metas() == ([], {})


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (False, {"size": 8}, "--size and --grey go with images"),
        (False, {"grey": True}, "--size and --grey go with images"),
        (True, {"standardise": True}, "--standardise goes with features"),
        (True, {"size": 0}, r"--size takes pixels in \[1, 1024\]"),
        (False, {"split_seed": 1, "split_file": Path("x")}, "either --split or --split-seed"),
        (False, {"split_file": Path("x"), "fractions": (0.6, 0.2, 0.2)}, "--fractions goes with"),
    ],
)
def test_options_that_do_not_go(
    tmp_path: Path, own: Any, bring: Bring, images: bool, options: Any, message: str
) -> None:
    path = own.save(tmp_path / "f.npz", own.pixels if images else own.features)
    with pytest.raises(UsageError, match=message):
        bring(path, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_features_that_are_not_finite(tmp_path: Path, own: Any, bring: Bring, value: float) -> None:
    x = own.features.astype(np.float64)
    x[2, 1, 3] = value
    with pytest.raises(UsageError, match=r"row 35 \(class 'c02'\) holds .* in column 3, 1 rows"):
        bring(own.save(tmp_path / "f.npz", x))


@pytest.mark.parametrize(
    "big",
    [lambda x: x + 1.7e9, lambda x: (1e6 * x).astype(np.int64) + (1 << 60), lambda x: 1e-44 * x],
)
def test_features_that_float32_cannot_hold(
    tmp_path: Path, own: Any, bring: Bring, big: Any
) -> None:
    x = own.features.astype(np.float64)
    x[..., 2] = 5
    path = own.save(tmp_path / "f.npz", big(x))
    with pytest.raises(UsageError, match=r"loses differences in float32: column 0 .* 3 columns"):
        bring(path, standardise=True)


def test_files_that_are_no_arrays(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, x=own.features, y=np.array([object()] * 3))
    whole = own.save(tmp_path / "w.npz").read_bytes()
    for content in (path.read_bytes(), b"", b"text", whole[:-200], b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(DataUnavailable, match="can't be read as an npz of plain arrays"):
            bring(path)
    with path.open("wb") as file:
        np.save(file, own.features)
    with pytest.raises(DataUnavailable, match="can't be read as an npz"):
        bring(path)


def test_sources_that_are_refused(tmp_path: Path, own: Any, bring: Bring) -> None:
    def refused(path: Path, message: str, error: type[LazybenchError] = UsageError) -> None:
        with pytest.raises(error, match=message) as caught:
            bring(path)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "no", "no such file or folder")
    refused(tmp_path / "a\0b", "can't be opened|no such file")
    (tmp_path / "t.txt").write_text("")
    refused(tmp_path / "t.txt", "neither a folder nor an .npz")
    empty = tmp_path / "empty"
    (empty / "cat").mkdir(parents=True)
    (empty / "cat" / "a.txt").write_text("")
    refused(empty, r"holds no images .* among 1 files")
    path = own.folder(tmp_path / "p")
    (path / "top.png").write_bytes((path / "c00" / "0.png").read_bytes())
    refused(path, "top.png is in no class folder")
    (path / "top.png").unlink()
    (path / "c00" / "deep").mkdir()
    (path / "c00" / "0.png").rename(path / "c00" / "deep" / "0.png")
    refused(path, "mixes depths")
    (path / "c00" / "deep" / "0.png").rename(path / "c00" / "0.png")
    (path / "c00" / "0.png").write_text("no image")
    refused(path, r"c00/0\.png isn't an image", DataUnavailable)
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(path / "c00" / "0.png")
    refused(path, r"c00/0\.png is 5x6 in Pillow's mode I;16")
    refused(
        own.folder(tmp_path / "s", lambda at: f"{('train', 'test')[at % 2]}/{at}"), "exactly the f"
    )
    refused(own.folder(tmp_path / "d", lambda at: f"a/b/c/{at}"), "is too deep")
    one = tmp_path / "one"
    one.mkdir()
    own.save(one / "train.npz")
    refused(one, r"holds train.npz; a folder of npz files has exactly")
    own.save(one / "val.npz")
    own.save(one / "test.npz", own.pixels)
    refused(one, "instances of one shape")
    own.save(one / "test.npz")
    refused(one, "class 'c00' is in both train and val by train.npz.*--split-seed 0")


def test_images_of_too_many_pixels(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own.folder(tmp_path / "p")
    monkeypatch.setattr("lazybench.data.importing.folder.MOST_PIXELS", 29)
    with pytest.raises(UsageError, match=r"0\.png is 5x6 .* and 29 pixels; convert or remove it"):
        bring(path)
