"""Files that are made to harm: refused in one line, within memory and time, and nothing is run."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DEEP = 100_000
"""Brackets inside each other; Python's own stack ends long before."""


def zip_of(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return held.getvalue()


def link() -> zipfile.ZipInfo:
    reported = zipfile.ZipInfo("passwd")
    reported.external_attr = 0o120777 << 16
    return reported


def bomb(member: str) -> bytes:
    """A zip whose one member unpacks to a thousand times its size; an array says it is 2 GB."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file, file.open(member, "w") as place:
        place.write(array_head("<f4", (1 << 29,)) if member.endswith("npy") else b"")
        place.write(bytes(80 << 20))
    return held.getvalue()


def lying(data: bytes) -> bytes:
    """A zip that says that its one member unpacks to a few bytes."""
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", 9) + data[at + 4 :]


def array_head(kind: str, shape: tuple[int, ...], version: int = 1) -> bytes:
    """The head of an npy file, without content."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def tar_head(name: str, size: int, kind: bytes) -> bytes:
    """The head of a tar member that says what it likes."""
    reported = tarfile.TarInfo(name)
    reported.size, reported.type = size, kind
    return reported.tobuf(tarfile.GNU_FORMAT)


def idx(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(99)


def safetensors(head: Any, content: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + content


def doubling(depth: int = 60) -> Any:
    """A list that a pickle holds in a kilobyte and that has 2 to the 60 entries when walked."""
    found: Any = [1]
    for _ in range(depth):
        found = [found, found]
    return found


def png(width: int, height: int) -> bytes:
    """A PNG whose head says that it is so large."""
    held = io.BytesIO()
    Image.new("L", (3, 3)).save(held, "PNG")
    data = held.getvalue()
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def batch_of(**changes: Any) -> bytes:
    held = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    return pickle.dumps(held | changes, 4)


PAX = tar_head("x", 1 << 33, tarfile.XHDTYPE)
EIGHT = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
DEEP_JSON = b"[" * DEEP + b"]" * DEEP
HOSTILE: dict[str, tuple[str, str, bytes | Callable[[], bytes], str]] = {
    "a zip that climbs": ("zip", "x.zip", zip_of(("../../out", b"bad")), "points outside"),
    "a zip from the root": ("zip", "x.zip", zip_of(("/etc/out", b"bad")), "points outside"),
    "a zip with a link": ("zip", "x.zip", zip_of((link(), b"/etc/passwd")), "is a link"),
    "a zip bomb": ("zip", "x.zip", lambda: bomb("x/zeros"), "at most"),
    "a zip bomb that lies": ("zip", "x.zip", lambda: lying(bomb("x/zeros")), "damaged"),
    "an npz bomb": ("arrays", "x.npz", lambda: bomb("x.npy"), "MemoryError"),
    "an npz with a link": ("arrays", "x.npz", zip_of((link(), b"/etc/passwd")), ""),
    "an npy of terabytes": ("arrays", "x.npy", array_head("<f8", (1 << 40,)), "MemoryError"),
    "an npy past 64 bits": ("arrays", "x.npy", array_head("<f8", (1 << 40, 1 << 40)), ""),
    "an npy below zero": ("arrays", "x.npy", array_head("<f8", (-1,)), ""),
    "an npy of objects": ("arrays", "x.npy", array_head("|O", (1,)), "Object arrays"),
    "an npy that is long": (
        "arrays",
        "x.npy",
        array_head("<f8", (1,) * 9999, 2),
        "max_header_size",
    ),
    "a tar comment of gigabytes": ("tar", "x.tar", PAX, "a name or comment of"),
    "the same, packed": ("tar", "x.tar.gz", gzip.compress(PAX), "a name or comment of"),
    "a tar member of petabytes": (
        "tar",
        "x.tar",
        tar_head("in/a", 1 << 50, b"0"),
        "refused",
    ),
    "a tar member below zero": ("tar", "x.tar", tar_head("in/a", -1, b"0"), ""),
    "a tar with a link": (
        "tar",
        "x.tar",
        tar_head("in/a", 0, tarfile.SYMTYPE),
        "isn't a regular file",
    ),
    "an idx of terabytes": ("idx", "x", idx(1 << 31, 1 << 10), "says it holds"),
    "an idx of nothing much": ("idx", "x", idx(1 << 31, 0), "says it holds"),
    "an idx bomb": ("idx", "x.gz", lambda: gzip.compress(idx(3) + bytes(1 << 28)), "more"),
    "a pickle that counts": ("pickle", "x", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40), ""),
    "a batch of brackets": (
        "cifar",
        "x",
        b"\x80\x04" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        "",
    ),
    "a batch that doubles": ("cifar", "x", lambda: batch_of(data=doubling()), "holds"),
    "labels that double": ("cifar", "x", lambda: batch_of(labels=doubling()), "labels"),
    "labels past 64 bits": ("cifar", "x", lambda: batch_of(labels=[1, 2**70]), "labels"),
    "a split of brackets": ("split", "x.json", DEEP_JSON, "isn't a JSON file"),
    "a suite of brackets": ("suite", "x.toml", b"x = " + DEEP_JSON, "TOML"),
    "a suite of commas": ("suite", "x.toml", b'name = "a"\ncells = [{agents = 3}]', "agents"),
    "a record of brackets": ("record", "x.json", DEEP_JSON, "not a record"),
    "a line of brackets": ("lines", "x.jsonl", DEEP_JSON + b"\n{}\n", "checksum"),
    "weights without end": ("weights", "x.safetensors", safetensors(b"{" * 9), "safetensors"),
    "weights of terabytes": (
        "weights",
        "x.safetensors",
        safetensors({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        "safetensors",
    ),
    "weights over each other": (
        "weights",
        "x.safetensors",
        safetensors(
            {n: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)
        ),
        "safetensors",
    ),
    "a net of brackets": ("nets", "x.safetensors", safetensors(DEEP_JSON), "networks"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_one_line(name: str, tmp_path: Path, read: Any) -> None:
    loader, file, made, words = HOSTILE[name]
    path = tmp_path / "folder" / file
    path.parent.mkdir()
    path.write_bytes(made() if callable(made) else made)
    found = read(loader, path)
    assert "error" in found, found
    assert words in found["message"], found
    assert found["code"] in (2, 69, 74)
    assert len(found["message"]) < 1000
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [file]


@pytest.mark.parametrize(
    ("loader", "file", "content"),
    [
        ("meta", "mine/meta.json", DEEP_JSON),
        ("user_labels", "labels.json", DEEP_JSON),
        ("user_labels", "labels.csv", b'"' + b"a" * (1 << 20)),
        ("user_labels", "labels.csv", b"9" * 5000 + b"\n" * 4),
        ("user_labels", "labels.npy", array_head("<f8", (1 << 40,))),
        ("user_labels", "labels.csv", b"\0\n1\n2\n3\n"),
        ("reported", "reported/x.json", DEEP_JSON),
        ("checkpoint", "manifest.json", DEEP_JSON),
        ("checkpoint", "manifest.json", b'{"../../x": {"sha256": "0"}}'),
        ("run", "config.json", DEEP_JSON),
        ("images", "a/b.png", png(1 << 20, 1 << 20)),
        ("images", "a/b.png", png(0, 0)),
        ("images", "a/b.png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 1 << 31) + b"IHDR"),
        ("user_images", "a/b.png", png(1 << 15, 1 << 15)),
        ("user_images", "a/b.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff"),
    ],
)
def test_a_folder_that_holds_it_is_refused(
    loader: str, file: str, content: bytes, tmp_path: Path, read: Any
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if loader == "user_labels":
        np.savez(tmp_path / "x.npz", x=np.zeros((4, 1, 3, 3), np.uint8))
    found = read(loader, path.parent if loader == "meta" else tmp_path)
    assert "error" in found, found
    assert found["code"] in (2, 69, 74)
    assert len(found["message"]) < 1000


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mknod, (str(self.path),)


@pytest.mark.parametrize("loader", ["pickle", "cifar", "arrays", "weights", "nets", "record"])
def test_no_pickle_runs_whatever_it_is_named(loader: str, tmp_path: Path, read: Any) -> None:
    path, ran = tmp_path / "x.npz", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"data": Touch(ran), "labels": [1]}))
    assert read(loader, path).get("code") in (2, 69, 74)
    objects = np.array([Touch(ran)], dtype=object)
    np.savez(path, x=objects, y=objects)
    assert read(loader, path).get("code") in (2, 69, 74)
    assert not ran.exists()


def test_runs_of_brackets_are_left_out_of_the_listing(tmp_path: Path, read: Any) -> None:
    for name in ("config.json", "done.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(
            '{"key": "0", "agent": "a", "env": "e", "budget": "b", "seed": 0}'
        )
        (folder / name).write_bytes(DEEP_JSON)
    assert "value" in read("runs", tmp_path)
