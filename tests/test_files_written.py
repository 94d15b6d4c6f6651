from __future__ import annotations

import errno
import json
import math
import os
import resource
import secrets
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazybench.errors import OutputUnavailable, StoreError, UsageError
from lazybench.files import check_new, need_folder
from lazybench.records import (
    append_line,
    canonical_json,
    read_lines,
    remove_leftovers,
    write_bytes,
    write_json,
)


def test_canonical_json_is_sorted_indented_and_free_of_nan() -> None:
    text = canonical_json({"b": (math.nan,), "a": {"y": math.inf, "x": "é"}})
    assert text == (
        '{\n  "a": {\n    "x": "\\u00e9",\n    "y": null\n  },\n  "b": [\n    null\n  ]\n}\n'
    )


def test_canonical_json_takes_numpy_and_refuses_objects() -> None:
    import numpy as np

    assert json.loads(canonical_json({"x": np.float32(0.5), "y": np.arange(2)})) == {
        "x": 0.5,
        "y": [0, 1],
    }
    with pytest.raises(UsageError, match="JSON can't hold a object"):
        canonical_json({"x": object()})
    with pytest.raises(UsageError, match="JSON key must be text"):
        canonical_json({(1, 2): 3})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_canonical_json_is_a_fixed_point(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / f"{'x' * 250}.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(FileExistsError):
        write_bytes(path, b"other", replace=False)
    assert os.listdir(path.parent) == [path.name]


def test_a_death_before_the_rename_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bytes(tmp_path / "a", b"old")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_path_below_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputUnavailable, match=r"can't create .*file/below.*choose a folder"
    ) as caught:
        write_json(tmp_path / "file" / "below", {})
    assert caught.value.exit_code == 73


_FULL = """
import sys
from lazybench.errors import StoreError
from lazybench.records import append_line, write_bytes
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for call in (lambda: write_bytes(sys.argv[1], b"x" * 9000),
             lambda: append_line(sys.argv[2], {"x": "y" * 5000})):
    try:
        call()
    except StoreError as error:
        print(error)
"""


def test_a_full_disk_names_the_path_and_keeps_earlier_files(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    whole, lines = tmp_path / "whole", tmp_path / "lines"
    write_bytes(whole, b"old")
    append_line(lines, {"i": 0})
    done = subprocess.run(
        [sys.executable, "-c", _FULL, whole, lines], capture_output=True, text=True, check=True
    )
    assert f"can't write 9000 bytes to {whole}" in done.stdout
    assert str(lines) in done.stdout
    assert whole.read_bytes() == b"old"
    assert read_lines(lines) == [{"i": 0}]
    append_line(lines, {"i": 1})
    assert read_lines(lines) == [{"i": 0}, {"i": 1}]
    assert sorted(os.listdir(tmp_path)) == ["lines", "whole"]


def test_lines_survive_a_cut_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    assert read_lines(path) == []
    for i in range(3):
        append_line(path, {"i": i, "score": i / 3, "note": "a\rb"})
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends)
        assert [line["i"] for line in read_lines(path)] == list(range(whole))
        append_line(path, {"i": 9})
        assert [line["i"] for line in read_lines(path)] == [*range(whole), 9]


def test_a_damaged_last_line_is_dropped_and_a_damaged_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for i in range(3):
        append_line(path, {"i": i, "score": 0.5})
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[2].replace(b"0.5", b"0.6"), b""]))
    assert [line["i"] for line in read_lines(path)] == [0, 1]
    path.write_bytes(b"\n".join([lines[0], lines[1].replace(b"0.5", b"\r.5"), *lines[2:]]))
    with pytest.raises(StoreError, match=r"episodes\.jsonl:2: .*checksum"):
        read_lines(path)


def test_a_line_longer_than_the_tail_that_is_read_first(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for i in range(3):
        append_line(path, {"i": i, "text": "x" * 200_000})
    path.write_bytes(path.read_bytes()[:-1])
    append_line(path, {"i": 3}, sync=True)
    assert [line["i"] for line in read_lines(path)] == [0, 1, 3]


def test_the_crc_field_is_reserved(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without 'crc'"):
        append_line(tmp_path / "x", {"crc": 1})


def test_a_planted_temporary_file_is_neither_written_through_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / "mine").write_bytes(b"mine")
    planted = tmp_path / f".tmp-{os.getpid()}-00000000"
    for plant in (
        lambda: planted.symlink_to(tmp_path / "mine"),
        lambda: planted.symlink_to(tmp_path / "not there"),
        lambda: planted.write_bytes(b"somebody's"),
    ):
        plant()
        with pytest.raises(OutputUnavailable, match="File exists"):
            write_bytes(tmp_path / "a", b"new")
        assert os.path.lexists(planted)
        assert sorted(os.listdir(tmp_path)) == [planted.name, "mine"]
        assert (tmp_path / "mine").read_bytes() == b"mine"
        planted.unlink()


def test_leftovers_of_living_writers_stay(tmp_path: Path) -> None:
    old, young, other = tmp_path / "x" / ".tmp-1-a", tmp_path / ".tmp-2-b", tmp_path / "tmp-3"
    old.parent.mkdir()
    for path in (old, young, other):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 100, time.time() - 100))
    remove_leftovers(tmp_path, older_than_s=3600)
    assert old.exists()
    assert young.exists()
    remove_leftovers(tmp_path, older_than_s=50)
    assert not old.exists()
    assert young.exists()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["tmp-3"]


@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("part", [0, 5])
def test_a_full_disk_file_or_quota_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int, part: int
) -> None:
    lines = tmp_path / "lines"
    append_line(lines, {"i": 0})
    before = lines.read_bytes()
    write = os.write
    room = [part]

    def stops(fd: int, data: bytes) -> int:
        size = room[0]
        if not size:
            raise OSError(full, os.strerror(full))
        room[0] = 0
        return write(fd, data[:size])

    monkeypatch.setattr(os, "write", stops)
    with pytest.raises(StoreError, match="free some space") as caught:
        write_bytes(tmp_path / "a", b"x" * 20)
    assert caught.value.exit_code == 74
    room[0] = part
    with pytest.raises(StoreError, match="free some space"):
        append_line(lines, {"i": 1})
    assert lines.read_bytes() == before, "no part of the line is left"
    assert os.listdir(tmp_path) == ["lines"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was flushed to the disk or renamed, in order: the name, and the bytes it had then."""
    done: list[tuple[str, int]] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def flushed(fd: int) -> None:
        fsync(fd)
        reported = os.fstat(fd)
        done.append(("folder", 0) if stat.S_ISDIR(reported.st_mode) else ("file", reported.st_size))

    def renamed(move: Any) -> Any:
        def moved(old: Any, new: Any) -> None:
            move(old, new)
            done.append(("renamed", os.stat(new).st_size))

        return moved

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed(replace))
    monkeypatch.setattr(os, "link", renamed(link))
    return done


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, synced: list[tuple[str, int]], replace: bool
) -> None:
    write_bytes(tmp_path / "a", b"12345", replace=replace)
    assert synced == [("file", 5), ("renamed", 5), ("folder", 0)]


def test_a_line_is_on_the_disk_where_it_must_be(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    lines = tmp_path / "lines"
    append_line(lines, {"i": 0})
    assert synced == []
    append_line(lines, {"i": 1}, sync=True)
    assert synced == [("file", lines.stat().st_size)]


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {tmp_path}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in refused)
    assert need_folder(tmp_path, "--out") == tmp_path
    with pytest.raises(OutputUnavailable, match=r"--out .*can't be written to; choose another"):
        need_folder(tmp_path / "new", "--out", writes=True)
    with pytest.raises(OutputUnavailable, match="can't be written to"):
        check_new(tmp_path / "new", "no advice")
    refused.clear()
    check_new(tmp_path / "new", "no advice")
    (tmp_path / "new").touch()
    with pytest.raises(OutputUnavailable, match="exists already, so nothing is written; no advice"):
        check_new(tmp_path / "new", "no advice")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_picture_replaces_pictures_of_lazybench_only(tmp_path: Path, form: str) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from lazybench.boards.plots import as_bytes, write_picture

    path = tmp_path / f"a.{form}"
    for _ in range(2):
        write_picture(path, as_bytes(Figure(), form))
    Figure().savefig(path)
    before = path.read_bytes()
    with pytest.raises(OutputUnavailable, match="give another path"):
        write_picture(path, as_bytes(Figure(), form))
    assert path.read_bytes() == before
