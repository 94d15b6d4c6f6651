"""Image folders: all that Pillow reads, links followed once, and no class missing in silence."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.data.importing.folder import FORMATS, ImageFolder, list_images, read_image_folder
from lazybench.data.importing.split import Preparation
from lazybench.errors import DataUnavailable, LazybenchError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def picture(path: Path, pixels: Any = PIXELS, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def four(root: Path) -> Path:
    """Classes a to d of two images each."""
    for at, name in enumerate("abcd"):
        for number in range(2):
            picture(root / name / f"{number}.png", np.full((6, 5, 3), 40 * at + number, np.uint8))
    return root


ENDS = ("png", "PNG", "apng", "bmp", "tif", "TIFF", "ppm", "gif", "webp", "jpg", "JPEG", "jp2")


@pytest.mark.parametrize("end", [*ENDS, "jfif"])
def test_each_format_is_read_as_pillow_reads_it(tmp_path: Path, end: str) -> None:
    kind = {"jfif": "JPEG", "apng": "PNG"}.get(end)
    path = picture(tmp_path / "c" / f"a.{end}", format=kind)
    folder = list_images(tmp_path)
    assert folder.names == (f"c/a.{end}",)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(folder.pixels(folder.names)[0][0], expected)
    if end.lower() in ("png", "apng", "bmp", "tif", "tiff", "ppm"):
        np.testing.assert_array_equal(expected, PIXELS.transpose(2, 0, 1))


def test_lossless_formats_of_the_same_pixels_are_the_same_content(tmp_path: Path) -> None:
    seen = set()
    for end, options in {
        "png": {}, "bmp": {}, "ppm": {}, "tif": {"compression": "tiff_lzw"}, "tiff": {},
    }.items():  # fmt: skip
        picture(tmp_path / end / "c" / f"a.{end}", **options)
        rows = read_image_folder(tmp_path / end, Preparation())
        seen.add(rows.read(np.array([0])).hashes[0])
    assert len(seen) == 1


def test_a_compressed_tiff_counts_by_its_bytes(tmp_path: Path) -> None:
    picture(tmp_path / "c" / "a.tif", compression="jpeg")
    (header,) = list_images(tmp_path).headers()
    assert (header.kind, header.exact) == ("TIFF", False)


def test_a_photograph_of_several_pictures_is_its_first(tmp_path: Path) -> None:
    with Image.open(picture(tmp_path / "c" / "a.jpg")) as image:
        first = image.copy()
    expected = np.asarray(first).transpose(2, 0, 1)
    small = first.resize((3, 3))
    first.save(
        tmp_path / "c" / "a.jpg", format="MPO", save_all=True, append_images=[small], quality=100
    )
    with Image.open(tmp_path / "c" / "a.jpg") as image:
        assert image.format == "MPO"
        expected = np.asarray(image).transpose(2, 0, 1)
    rows = read_image_folder(tmp_path, Preparation())
    assert (rows.shape, rows.notes) == ((3, 6, 5), ())
    np.testing.assert_array_equal(rows.read(np.array([0])).x[0], expected)


@pytest.mark.parametrize("end", ["gif", "tif", "webp", "png"])
def test_of_several_frames_the_first_is_taken_and_said(tmp_path: Path, end: str) -> None:
    path = tmp_path / "c" / f"a.{end}"
    path.parent.mkdir()
    one, two = (Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (10, 200))
    exact = {"lossless": True} if end == "webp" else {}
    one.save(path, save_all=True, append_images=[two], **exact)
    rows = read_image_folder(tmp_path, Preparation())
    assert rows.notes == (f"took the first frame of 1 images of several, such as c/a.{end}",)
    assert list_images(tmp_path).pixels([f"c/a.{end}"])[1] == rows.notes
    assert set(np.unique(rows.read(np.array([0])).x)) == {10}


def test_palettes_and_bits(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    Image.fromarray(grey).save(picture(tmp_path / "c" / "grey.png"))
    Image.fromarray(grey > 100).save(tmp_path / "c" / "bits.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "c" / "palette.png")
    folder = list_images(tmp_path)
    bits, plain, palette = folder.pictures(folder.names, folder.headers())
    np.testing.assert_array_equal(bits[0][0], np.where(grey > 100, 255, 0))
    np.testing.assert_array_equal(plain[0], grey[None])
    np.testing.assert_array_equal(palette[0], np.stack([grey] * 3))
    assert folder.pixels(["c/bits.png", "c/grey.png"])[0].shape == (2, 1, 6, 5)
    found, _ = folder.pixels(["c/grey.png", "c/palette.png"])
    np.testing.assert_array_equal(found, np.broadcast_to(grey, (2, 3, 6, 5)))


@pytest.mark.parametrize(
    ("end", "dtype"),
    [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32), ("tif", np.float32)],
)
def test_deep_images_are_refused_and_never_cut_off(tmp_path: Path, end: str, dtype: Any) -> None:
    picture(tmp_path / "c" / f"a.{end}", np.full((6, 5), 300, dtype))
    with pytest.raises(UsageError, match=r"Pillow's mode (I|I;16|F); allowed are 8 bits a channel"):
        list_images(tmp_path).headers()


def deep_png(channels: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow opens as one of 8."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    colour = {2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", 5, 6, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + np.full(5 * channels, 300, ">u2").tobytes() for _ in range(6))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


DEEP_PPM = b"P6 # a comment\n5 6 4095\n" + np.full((6, 5, 3), 300, ">u2").tobytes()


@pytest.mark.parametrize("data", [deep_png(2), deep_png(3), deep_png(4), DEEP_PPM])
def test_deep_colours_that_pillow_cuts_off_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.png").write_bytes(data)
    with pytest.raises(UsageError, match=r"allowed are 8 bits a channel.* it has 16 bits"):
        list_images(tmp_path).headers()


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    root = four(tmp_path / "data")
    plain = list_images(root)
    (root / "b").rename(tmp_path / "elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "top").symlink_to(root)
    for path in (root, tmp_path / "top"):
        linked = list_images(path)
        assert (linked.names, linked.classes()) == (plain.names, plain.classes())
        assert linked.notes == ("followed 1 links to folders, such as b",)
        np.testing.assert_array_equal(linked.pixels(linked.names)[0], plain_pixels(root))


def plain_pixels(root: Path) -> Any:
    return np.stack([
        np.asarray(Image.open(root / name / f"{number}.png")).transpose(2, 0, 1)
        for name in "abcd"
        for number in range(2)
    ])  # fmt: skip


def test_links_that_lead_back_are_left_out_and_said(tmp_path: Path) -> None:
    root = four(tmp_path / "data")
    (root / "a" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    with pytest.raises(DataUnavailable, match="self is a broken link"):
        list_images(root)
    (root / "self").unlink()
    (root / "here").symlink_to(".")
    found = list_images(root)
    assert len(found.names) == 8
    assert found.notes == tuple(
        f"left out {link}, a link to a folder that holds it" for link in ("a/up", "here")
    )


@pytest.mark.parametrize("link", ["copy", "b/copy", "A"])
def test_a_folder_in_two_places_is_refused(tmp_path: Path, link: str) -> None:
    root = four(tmp_path / "data")
    (root / link).symlink_to(root / "a")
    with pytest.raises(UsageError, match="are the same folder by a link"):
        list_images(root)


def nothing(folder: Path) -> None:
    """Leave the folder empty."""


def unread(folder: Path) -> None:
    (folder / "photo.heic").write_bytes(b"0")
    (folder / "notes.txt").write_bytes(b"0")


def hidden(folder: Path) -> None:
    picture(folder / ".0.png")


def nested(folder: Path) -> None:
    (folder / "deep").mkdir()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (nothing, r"b holds no image that can be read \(it is empty\)"),
        (unread, r"b holds no image that can be read \(2 other files, such as b/notes.txt\)"),
        (hidden, r"b holds no image that can be read \(it is empty\)"),
        (nested, r"b/deep holds no image that can be read"),
    ],
)
def test_a_class_without_images_is_refused(tmp_path: Path, harm: Any, message: str) -> None:
    root = four(tmp_path / "data")
    for image in (root / "b").iterdir():
        image.unlink()
    harm(root / "b")
    folder = list_images(root)
    with pytest.raises(UsageError, match=message) as caught:
        folder.check_classes()
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="a class would be missing"):
        read_image_folder(root, Preparation())
    rows = read_image_folder(root, Preparation(), skip_empty=True)
    assert sorted(set(rows.labels)) == ["a", "c", "d"]
    assert "left out 1 class folders without images, such as b" in rows.notes[0]


def test_a_folder_inside_a_class_is_no_class(tmp_path: Path) -> None:
    root = four(tmp_path / "data")
    (root / "a" / "thumbs").mkdir()
    (root / "a" / "thumbs" / "x.db").write_text("")
    found = list_images(root)
    found.check_classes()
    assert found.notes == ("left out 1 files that are no images, such as a/thumbs/x.db",)
    (root / "a" / "1.png").rename(root / "a" / "thumbs" / "1.png")
    with pytest.raises(UsageError, match="mixes depths"):
        list_images(root).classes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_devices_and_dead_links_are_refused(tmp_path: Path) -> None:
    root = four(tmp_path / "data")

    def refused(message: str) -> None:
        with pytest.raises(LazybenchError, match=message) as caught:
            list_images(root)
        assert "\n" not in str(caught.value)

    odd = root / "b" / "odd.png"
    os.mkfifo(odd)
    refused(r"odd\.png isn't a regular file")
    odd.unlink()
    odd.symlink_to("/dev/zero")
    refused(r"odd\.png isn't a regular file")
    odd.unlink()
    odd.symlink_to(root / "nowhere")
    refused(r"odd\.png is a broken link")
    odd.unlink()
    (root / "e").symlink_to(tmp_path / "unmounted")
    refused("e is a broken link; repair or remove it")


def test_large_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "c" / "a.png")
    monkeypatch.setattr("lazybench.data.importing.folder.MOST_IMAGE_BYTES", 20)
    with pytest.raises(UsageError, match=r"a\.png has \d+ bytes, at most 20 are read"):
        list_images(tmp_path).headers()


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazybench.data.importing.folder.MOST_MEMBERS", 7)
    with pytest.raises(UsageError, match="holds more than 7 files"):
        list_images(four(tmp_path))


def test_formats_that_differ_are_said(tmp_path: Path) -> None:
    root = four(tmp_path)
    picture(root / "d" / "0.tif")
    assert read_image_folder(root, Preparation()).notes == (
        "images are of 2 formats (8 PNG, 1 TIFF, such as d/0.tif)",
    )


def test_images_of_several_sizes_do_not_stack(tmp_path: Path) -> None:
    folder: ImageFolder = list_images(four(tmp_path))
    picture(tmp_path / "b" / "0.png", PIXELS[:4])
    with pytest.raises(UsageError, match=r"one size, got a/0\.png 5x6 and b/0\.png 5x4"):
        folder.pixels(["a/0.png", "b/0.png"])


def test_no_format_runs_another_program() -> None:
    assert not {"EPS", "PDF", "WMF", "FPX", "MIC"} & set(FORMATS)


def test_an_image_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    root = four(tmp_path)
    rows = read_image_folder(root, Preparation())
    picture(root / "b" / "0.png", PIXELS[:4])
    with pytest.raises(DataUnavailable, match=r"b/0\.png changed while it was read"):
        rows.read(np.arange(8))


@pytest.mark.parametrize("parts", [("Train", "Test"), ("training", "validation", "testing")])
def test_folders_that_look_like_a_split_are_no_super_categories(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    for part in parts:
        four(tmp_path / part)
    with pytest.raises(UsageError, match="look like the parts of a split; call them train, val"):
        read_image_folder(tmp_path, Preparation())
