"""Members of a tar file are read whole or refused in one line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from lazybench.data.archives import read_members
from lazybench.errors import DataUnavailable


def make_tar(path: Path, members: dict[str, bytes], *, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


def test_members_are_read_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    members = {"set/train": b"one", "../out": b"bad", "./set/test": b"two", "set/meta": b"three"}
    path = make_tar(tmp_path / "set.tar.gz", members)
    wanted = ("set/train", "set/test")
    assert read_members(path, wanted) == {"set/train": b"one", "set/test": b"two"}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataUnavailable, match=r"set\.tar\.gz has no member 'set/val'"):
        read_members(path, ["set/val"])
    with pytest.raises(DataUnavailable, match="'set/test' has too many bytes"):
        read_members(path, wanted, most_bytes=5)


def test_links_are_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set.tar.gz", {}, link="set/train")
    with pytest.raises(DataUnavailable, match="isn't a regular file"):
        read_members(path, ["set/train"])


def test_a_cut_or_changed_archive_says_so(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set.tar.gz", {"set/train": bytes(range(256)) * 40})
    whole = path.read_bytes()
    for harmed in (whole[: len(whole) // 2], b"", b"<html>", whole[:60] + b"xx" + whole[62:]):
        path.write_bytes(harmed)
        with pytest.raises(DataUnavailable, match="isn't a whole tar file"):
            read_members(path, ["set/train"])
    path.unlink()
    with pytest.raises(DataUnavailable, match="No such file"):
        read_members(path, ["set/train"])
