"""Archives are read whole or refused in one line that names the file."""

from __future__ import annotations

import io
import stat
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.data.archives import FolderTree, ZipTree, decode_grey, open_tree, source_key
from lazybench.errors import DataUnavailable


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return path


def test_zip_and_folder_look_the_same(tmp_path: Path) -> None:
    members = {"a/1.png": b"one", "a/b/2.png": b"two", ".DS_Store": b"x", "__MACOSX/a/1.png": b"y"}
    for name, data in members.items():
        target = tmp_path / "set" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    outside = {"other/3.png": b"three"}
    make_zip(tmp_path / "set.zip", {f"set/{n}": d for n, d in members.items()} | outside)
    for path in (tmp_path / "set", tmp_path / "set.zip"):
        with closing(open_tree(path)) as tree:
            assert tree.names() == ("a/1.png", "a/b/2.png")
            assert tree.read("a/b/2.png") == b"two"
            with pytest.raises(DataUnavailable, match=r"no\.png"):
                tree.read("no.png")


@pytest.mark.parametrize(
    "name", ["../out", "set/../../out", "/etc/out", "..\\out", "set\\..\\out", "C:/out", ".."]
)
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "set.zip", {"set/good": b"", name: b""})
    with pytest.raises(DataUnavailable, match="points outside the archive") as caught:
        ZipTree(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    member = zipfile.ZipInfo("set/link")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr(member, "/etc/passwd")
    with pytest.raises(DataUnavailable, match="link or special file"):
        ZipTree(tmp_path / "set.zip")


@pytest.mark.parametrize(
    ("caps", "message"),
    [
        ({"most_members": 1}, "2 members, at most 1"),
        ({"most_bytes": 1_000_099}, "1000100 bytes unpacked, at most 1000099"),
        ({"most_member_bytes": 999_999}, "'big' has 1000000 bytes, at most 999999"),
    ],
)
def test_caps_hold(tmp_path: Path, caps: dict[str, int], message: str) -> None:
    path = make_zip(tmp_path / "set.zip", {"big": bytes(1_000_000), "small": bytes(100)})
    ZipTree(path).close()
    with pytest.raises(DataUnavailable, match=message):
        ZipTree(path, **caps)


def test_member_that_lies_about_its_size_is_damaged(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"big": bytes(1_000_000)})
    honest = (1_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(honest, (10).to_bytes(4, "little")))
    with closing(ZipTree(path)) as tree, pytest.raises(DataUnavailable, match="damaged at 'big'"):
        tree.read("big")


def test_twice_the_same_name_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"a": b"1", "b": b"2"})
    path.write_bytes(path.read_bytes().replace(b"b", b"a"))
    with pytest.raises(DataUnavailable, match="duplicate member"):
        ZipTree(path)


def test_a_cut_or_changed_zip_never_gives_other_bytes(tmp_path: Path) -> None:
    members = {"set/a": b"some text, some text", "set/b": bytes(range(64))}
    whole = make_zip(tmp_path / "set.zip", members).read_bytes()
    path = tmp_path / "harmed.zip"
    messages = []
    for at in range(len(whole)):
        flipped = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        for harmed in (whole[:at], flipped):
            path.write_bytes(harmed)
            try:
                with closing(ZipTree(path, inner="set")) as tree:
                    for name in tree.names():
                        assert tree.read(name) in members.values()
            except DataUnavailable as error:
                messages.append(str(error))
    assert len(messages) > len(whole)
    assert all(str(path) in message for message in messages)


def test_key_follows_changes(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"a": b"1"})
    folder = tmp_path / "set" / "inner"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    keys = {source_key(path), source_key(tmp_path / "set")}
    assert keys == {source_key(path), source_key(tmp_path / "set")}
    make_zip(path, {"a": b"1", "b": b"2"})
    (folder / "b").write_bytes(b"2")
    keys |= {source_key(path), source_key(tmp_path / "set")}
    (folder / "b").unlink()
    keys |= {source_key(tmp_path / "set")}
    assert len(keys) == 5
    # A file two folders down: a flat look doesn't see it, nor pay for it.
    flat = source_key(tmp_path / "set", flat=True)
    (folder / "c").write_bytes(b"3")
    assert source_key(tmp_path / "set", flat=True) == flat
    (tmp_path / "set" / "d").write_bytes(b"4")
    assert source_key(tmp_path / "set", flat=True) != flat
    with pytest.raises(DataUnavailable, match="can't be read"):
        source_key(tmp_path / "none")


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="can't be listed"):
        FolderTree(tmp_path / "none").names()


def encode(image: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG"} | options)
    return buffer.getvalue()


def test_grey_is_the_same_from_every_lossless_mode() -> None:
    plain = np.where(np.eye(9, 7, dtype=bool), 0, 255).astype(np.uint8)
    image = Image.fromarray(plain)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        for level in (0, 9):
            data = encode(image.convert(mode), compress_level=level)
            np.testing.assert_array_equal(decode_grey(data, "it"), plain)


def test_a_cut_or_changed_png_never_gives_other_pixels() -> None:
    plain = np.arange(63, dtype=np.uint8).reshape(9, 7)
    whole = encode(Image.fromarray(plain))
    messages = []
    for at in range(len(whole)):
        for harmed in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]):
            try:
                np.testing.assert_array_equal(decode_grey(harmed, "it"), plain)
            except DataUnavailable as error:
                messages.append(str(error))
    assert len(messages) > len(whole)
    assert all(message.startswith("it isn't a whole PNG") for message in messages)


def test_other_formats_are_refused() -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    with pytest.raises(DataUnavailable, match="isn't a whole PNG"):
        decode_grey(encode(image, format="BMP"), "it")
