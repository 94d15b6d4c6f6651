"""Data files cut and flipped everywhere: one clear error or the data, never anything else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 6, 3), np.uint8)


Sample = tuple[str, Path, Path]
"""What reads it (by its name in `confined.py`), what that is given, and the file to damage."""


def alone(loader: str, path: Path, data: bytes) -> Sample:
    """A sample that is one file."""
    path.write_bytes(data)
    return loader, path, path


def zipped(folder: Path) -> Sample:
    """A zip of two members, one stored and one packed."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("x/a.txt", b"stored " * 9)
        file.writestr("x/b.txt", b"packed " * 99, zipfile.ZIP_DEFLATED)
    return alone("zip", folder / "x.zip", held.getvalue())


def tar_of(members: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar archive of plain files."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            reported = tarfile.TarInfo(name)
            reported.size = len(data)
            file.addfile(reported, io.BytesIO(data))
    return held.getvalue()


def tarred(folder: Path) -> Sample:
    """A packed tar."""
    return alone("tar", folder / "x.tar.gz", tar_of({"in/a": b"one" * 50, "in/b": b"two" * 50}))


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    """An idx file of bytes, whatever its content."""
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + content


def idx_plain(folder: Path) -> Sample:
    """An idx file."""
    return alone("idx", folder / "x-idx3-ubyte", idx((3, 4, 5), RNG.bytes(60)))


def idx_packed(folder: Path) -> Sample:
    """An idx file in gzip."""
    data = gzip.compress(idx((3, 4, 5), RNG.bytes(60)), mtime=0)
    return alone("idx", folder / "x-idx3-ubyte.gz", data)


def cifar(folder: Path) -> Sample:
    """A CIFAR batch."""
    held = {b"data": RNG.integers(0, 256, (3, 3072), np.uint8), b"labels": [1, 2, 3]}
    return alone("cifar", folder / "data_batch_1", pickle.dumps(held, 2))


def containers(folder: Path) -> Sample:
    """A pickle of plain values and small arrays."""
    held = {"a": [1, 2.5, None, "text"], "b": (np.arange(6.0).reshape(2, 3), {3, 4}), "c": b"x" * 9}
    return alone("pickle", folder / "x.pkl", pickle.dumps(held, 4))


def arrays(**held: Any) -> bytes:
    """An npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **held)
    return file.getvalue()


def features(folder: Path) -> Sample:
    """Features with labels and splits."""
    x = RNG.normal(size=(6, 4)).astype(np.float32)
    y = np.array(list("aabbcc"))
    split = np.array(["train", "train", "val", "val", "test", "test"])
    return alone("npz", folder / "x.npz", arrays(x=x, y=y, split=split))


def attacked(folder: Path) -> Sample:
    """Images of a user's own target."""
    x = RNG.integers(0, 256, (4, 1, 3, 3), np.uint8)
    return alone("pictures", folder / "x.npz", arrays(x=x, y=np.arange(4)))


def array_alone(folder: Path) -> Sample:
    """An array as predictions come."""
    return alone("arrays", folder / "x.npy", array_file(RNG.normal(size=(3, 4))))


def imported(folder: Path) -> Sample:
    """An imported data set, of which the train split is damaged."""
    data = array_file(np.ones((2, 4), np.float32))
    sha256 = hashlib.sha256(data).hexdigest()
    part = {"classes": ["a"], "groups": ["a"], "counts": [2], "bytes": len(data), "sha256": sha256}
    splits = dict.fromkeys(("train", "val", "test"), part)
    held = {"schema": 1, "name": "mine", "kind": "features", "shape": [4], "splits": splits}
    held |= {"fingerprint": "cd" * 32, "prep": "1", "source": "here", "licence": ""}
    place = folder / "imported" / "mine"
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps(held))
    for name in splits:
        (place / f"{name}.npy").write_bytes(data)
    return "imported", folder, place / "train.npy"


def user_npz(folder: Path) -> Sample:
    """Images for `lazybench attack`."""
    return "user_images", *attacked(folder)[1:]


def labels_as(name: str, text: bytes) -> Callable[[Path], Sample]:
    """Images with their labels in a file next to them."""

    def make(folder: Path) -> Sample:
        attacked(folder)
        (folder / name).write_bytes(text)
        return "user_labels", folder, folder / name

    return make


def array_file(array: Any) -> bytes:
    """An npy file."""
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def picture(kind: str) -> Callable[[Path], Sample]:
    """A folder of one image."""

    def make(folder: Path) -> Sample:
        path = folder / "class" / f"a.{kind}"
        path.parent.mkdir()
        Image.fromarray(PIXELS).save(path)
        return "images", folder, path

    return make


def user_picture(folder: Path) -> Sample:
    """The same for `lazybench attack`."""
    return "user_images", *picture("png")(folder)[1:]


def split(folder: Path) -> Sample:
    """A file that lists the classes of each split."""
    held = {"train": list("abcdefghi"), "val": list("jkl"), "test": list("mno")}
    return alone("split", folder / "split.json", json.dumps(held).encode())


CHECKED: dict[str, Callable[[Path], Sample]] = {
    "zip": zipped,
    "npz": features,
    "pictures": attacked,
    "user npz": user_npz,
    "png": picture("png"),
    "user png": user_picture,
    "idx.gz": idx_packed,
    "tar.gz": tarred,
}
"""Formats with checksums: what is read is right, or refused."""

FREE: dict[str, Callable[[Path], Sample]] = {
    "idx": idx_plain,
    "cifar": cifar,
    "pickle": containers,
    "jpeg": picture("jpg"),
    "webp": picture("webp"),
    "bmp": picture("bmp"),
    "tif": picture("tif"),
    "gif": picture("gif"),
    "ppm": picture("ppm"),
    "labels.csv": labels_as("labels.csv", b"name,label\n0,3\n1,2\n2,1\n3,0\n"),
    "labels.json": labels_as("labels.json", b'{"0": 3, "1": 2, "2": 1, "3": 0}'),
    "labels.npy": labels_as("labels.npy", array_file(np.arange(4))),
    "npy": array_alone,
    "imported": imported,
    "split": split,
}
"""Formats without: other values can come of a changed byte."""


@pytest.mark.parametrize("name", CHECKED)
def test_a_checked_file_is_read_right_or_refused(name: str, tmp_path: Path, damage: Any) -> None:
    damage(*CHECKED[name](tmp_path), right=True)


@pytest.mark.parametrize("name", FREE)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path, damage: Any) -> None:
    damage(*FREE[name](tmp_path))
