"""Omniglot: equal from zip and folder, refused when anything is missing, split by fixed lists."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lazybench.envs.datasets import omniglot
from lazybench.envs.datasets.omniglot import (
    HELD_OUT,
    PARTS,
    Omniglot,
    Protocol,
    Roster,
    open_below,
    open_omniglot,
)
from lazybench.errors import DataUnavailable, UsageError

EACH = 3
BACKGROUND = ("Elf/character01", "Elf/character02", "Orc/character01")
EVALUATION = ("Ent/character01", "Ent/character02")
TINY = Roster(
    parts={"background": BACKGROUND, "evaluation": EVALUATION},
    splits={
        "random": {
            "train": ("Elf/character02", "Ent/character01"),
            "val": ("Orc/character01",),
            "test": ("Elf/character01", "Ent/character02"),
        },
        "alphabet": {"train": BACKGROUND[:2], "val": BACKGROUND[2:], "test": EVALUATION},
    },
    each=EACH,
)


def strokes(name: str, number: int) -> np.ndarray:
    """Black line on white, 105x105 bool, another one for each image."""
    image = np.ones((105, 105), bool)
    at = hashlib.sha256(f"{name} {number}".encode()).digest()
    down, right = 10 + at[0] % 80, 10 + at[1] % 80
    image[down : down + 3, 5 : 20 + at[2] % 80] = False
    image[5 : 20 + at[3] % 80, right : right + 3] = False
    return image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Data folder with a whole tiny Omniglot, unpacked."""
    for part in PARTS:
        for name in TINY.parts[part]:
            folder = tmp_path / "data" / "omniglot-py" / f"images_{part}" / name
            folder.mkdir(parents=True)
            for number in range(EACH):
                Image.fromarray(strokes(name, number)).save(folder / f"07_{number:02d}.png")
    return tmp_path / "data"


def zipped(root: Path, to: Path, *, repacked: bool = False) -> Path:
    """Data folder with the same images as zips; `again`: grey, uncompressed, backwards."""
    to.mkdir(parents=True)
    for part in PARTS:
        source = root / "omniglot-py" / f"images_{part}"
        files = sorted(source.rglob("*.png"), reverse=repacked)
        with zipfile.ZipFile(to / f"images_{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                data = file.read_bytes()
                if repacked:
                    buffer = io.BytesIO()
                    Image.open(file).convert("L").save(buffer, "PNG", compress_level=0)
                    data = buffer.getvalue()
                archive.writestr(f"images_{part}/{file.relative_to(source).as_posix()}", data)
    return to


def opened(root: Path, protocol: Protocol = "random") -> Omniglot:
    return open_below(root, protocol, TINY)


def test_every_packaging_gives_the_same_data(root: Path, tmp_path: Path) -> None:
    first = opened(root)
    packed = [
        zipped(root, tmp_path / "a" / "omniglot-py").parent,
        zipped(root, tmp_path / "b" / "omniglot" / "raw").parent.parent,
        zipped(root, tmp_path / "c", repacked=True),
    ]
    mixed = tmp_path / "d"
    shutil.copytree(root / "omniglot-py" / "images_background", mixed / "images_background")
    shutil.copy(tmp_path / "c" / "images_evaluation.zip", mixed)
    for other in (opened(place) for place in [*packed, mixed]):
        assert other.fingerprint == first.fingerprint
        for split in ("train", "val", "test"):
            np.testing.assert_array_equal(other.pool(split).x, first.pool(split).x)
    assert opened(root, "alphabet").fingerprint != first.fingerprint


def test_pools_have_the_documented_form(root: Path) -> None:
    data = opened(root)
    train, test = data.pool("train"), data.pool("test")
    assert train.x.shape == (2 * 4 * EACH, 1, 28, 28)
    assert train.x.dtype == np.uint8
    assert train.names[:4] == tuple(
        f"Elf/character02{turn}" for turn in ("", "/rot090", "/rot180", "/rot270")
    )
    assert list(train.names) == sorted(train.names)
    assert train.groups == ("Elf",) * 4 + ("Ent",) * 4
    assert test.names == ("Elf/character01", "Ent/character02")
    assert not train.x.flags.writeable
    rows = [train.x[start : start + EACH, 0] for start in train.start]
    for quarter in range(4):
        np.testing.assert_array_equal(rows[quarter], np.rot90(rows[0], quarter, axes=(1, 2)))
    assert list(train.count) == [EACH] * 8
    with pytest.raises(UsageError, match="isn't one of train, val, test"):
        data.pool("dev")  # type: ignore[arg-type]


def test_strokes_are_bright_smooth_and_in_place(root: Path) -> None:
    image = opened(root).pool("test").x[1, 0].astype(float)
    ink = ~strokes("Elf/character01", 1)
    assert image[0].max() == 0
    assert image.max() > 100
    assert len(np.unique(image)) > 4, "two-level images resized by nearest pixel"
    # LANCZOS keeps the mean, but for its overshoot next to strokes, which is cut off at 0.
    assert 1.0 < image.mean() / (ink.mean() * 255) < 1.25
    for axis in (0, 1):
        before = np.average(np.arange(105) + 0.5, weights=ink.sum(axis))
        after = np.average(np.arange(28) + 0.5, weights=image.sum(axis))
        assert after == pytest.approx(before / 3.75, abs=0.5)


def test_warm_opening_reads_no_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(root)

    def fail(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(omniglot, "decode_grey", fail)
    assert opened(root).fingerprint == first.fingerprint
    # The other protocol shares the decoded characters.
    opened(root, "alphabet")


def test_changed_content_changes_the_fingerprint_and_is_said(root: Path) -> None:
    before = opened(root)
    file = root / "omniglot-py" / "images_background" / BACKGROUND[0] / "07_00.png"
    file.unlink()
    Image.fromarray(strokes("another", 0)).save(file)
    after = opened(root)
    assert after.fingerprint != before.fingerprint
    assert "differ from the known" in after.source
    assert before.reread() == after.fingerprint


def cut_zip(place: Path) -> None:
    path = place / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-40])


def flip_byte(place: Path) -> None:
    path = place / "images_evaluation.zip"
    data = bytearray(path.read_bytes())
    data[150] ^= 1
    path.write_bytes(data)


def lose_part(place: Path) -> None:
    (place / "images_evaluation.zip").unlink()


def lose_all(place: Path) -> None:
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (cut_zip, "isn't a whole zip file"),
        (flip_byte, "is damaged at"),
        (lose_part, r"images_evaluation\(.zip\) not found, found .*images_background.zip"),
        (lose_all, "not found, found nothing"),
    ],
)
def test_damage_to_zips_names_file_and_remedy(
    root: Path, tmp_path: Path, harm: Callable[[Path], None], found: str
) -> None:
    place = zipped(root, tmp_path / "zips" / "omniglot")
    harm(place)
    with pytest.raises(DataUnavailable, match=found) as caught:
        opened(place.parent)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(place.parent), "images_evaluation", "LAZYBENCH_DATA"):
        assert part in message
    for url, md5 in omniglot.SOURCES:
        assert url in message
        assert md5 in message


def lose_character(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_image(folder: Path) -> None:
    (folder / "07_02.png").unlink()


def add_image(folder: Path) -> None:
    shutil.copy(folder / "07_02.png", folder / "07_03.png")


def add_character(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("character99"))


def cut_image(folder: Path) -> None:
    path = folder / "07_02.png"
    path.write_bytes(path.read_bytes()[:-20])


def shrink_image(folder: Path) -> None:
    Image.fromarray(np.zeros((28, 28), bool)).save(folder / "07_02.png")


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose_character, "2 of 3 characters, Orc/character01 is the first missing"),
        (lose_image, "holds 2 images of Orc/character01, not 3"),
        (add_image, "holds 4 images of Orc/character01, not 3"),
        (add_character, "holds 4 characters, not 3: Orc/character99 isn't one of Omniglot"),
        (cut_image, r"Orc/character01/07_02.png in .* isn't a whole PNG"),
        (shrink_image, "has 28x28 pixels, not 105x105"),
    ],
)
def test_incomplete_folder_is_refused_even_when_prepared_before(
    root: Path, harm: Callable[[Path], None], found: str
) -> None:
    data = opened(root)
    folder = root / "omniglot-py" / "images_background" / "Orc" / "character01"
    before = folder.stat().st_mtime_ns
    harm(folder)
    if folder.exists():
        # As a file that was replaced, not overwritten in place, would leave its folder.
        os.utime(folder, ns=(before + 1, before + 1))
    with pytest.raises(DataUnavailable, match=found):
        opened(root)
    with pytest.raises(DataUnavailable, match=found):
        data.reread()
    if harm not in (cut_image, shrink_image):
        with pytest.raises(DataUnavailable, match=found):
            data.check()


def test_unknown_protocol() -> None:
    with pytest.raises(UsageError, match="isn't one of random, alphabet"):
        open_omniglot("vinyals")  # type: ignore[arg-type]


def test_official_lists_are_the_documented_ones() -> None:
    roster = omniglot.official_roster()
    everything = sorted([*roster.parts["background"], *roster.parts["evaluation"]])
    assert [len(roster.parts[part]) for part in PARTS] == [964, 659]
    assert len(set(everything)) == 1623
    ranked = sorted(
        everything,
        key=lambda name: hashlib.sha256(f"lazybench omniglot 1:{name}".encode()).digest(),
    )
    assert roster.splits["random"] == {
        "train": tuple(sorted(ranked[:1100])),
        "val": tuple(sorted(ranked[1100:1200])),
        "test": tuple(sorted(ranked[1200:])),
    }
    alphabets = {name.split("/")[0] for name in roster.parts["background"]}
    first = sorted(
        alphabets,
        key=lambda name: hashlib.sha256(f"lazybench omniglot-alphabet 1:{name}".encode()).digest(),
    )
    assert sorted(first[:5]) == list(HELD_OUT)
    sizes = {split: len(names) for split, names in roster.splits["alphabet"].items()}
    assert sizes == {"train": 827, "val": 137, "test": 659}
    assert roster.splits["alphabet"]["test"] == roster.parts["evaluation"]


def test_damaged_list_says_reinstall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omniglot, "_CLASSES_SHA256", "0" * 64)
    with pytest.raises(DataUnavailable, match="reinstall lazybench"):
        omniglot.official_roster.__wrapped__()


@pytest.mark.data
@pytest.mark.slow
def test_the_real_thing(cache: Path) -> None:
    try:
        omniglot.check()
    except DataUnavailable as error:
        pytest.skip(str(error))
    data = open_omniglot()
    assert data.fingerprint == omniglot.FINGERPRINTS["random"]
    classes = [data.pool(split).classes for split in ("train", "val", "test")]
    assert classes == [4400, 100, 423]
    digest = hashlib.sha256(data.pool("test").x.tobytes()).hexdigest()
    assert digest == "9422b066c7328e54feed4e110327c378841a60d5109a47b7c3e31b5319e36864"
    alphabet = open_omniglot("alphabet")
    assert alphabet.fingerprint == omniglot.FINGERPRINTS["alphabet"]
    classes = [alphabet.pool(split).classes for split in ("train", "val", "test")]
    assert classes == [3308, 137, 659]
