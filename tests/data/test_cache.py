"""Prepared arrays are whole or rebuilt, built once, and never stand in the way of a run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.data import cache
from lazybench.data.cache import prepared
from lazybench.errors import UsageError
from lazybench.files import put_back, remove_unfinished, replaced_folder, sync

ARRAYS: dict[str, Any] = {
    "x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "names": np.array(["Ж/a", "b"]),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 5), np.float32),
    "one": np.array("f" * 64),
}


class Builder:
    """Gives arrays and counts how often."""

    def __init__(self, arrays: dict[str, Any] = ARRAYS) -> None:
        self.arrays = arrays
        self.calls = 0

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        return dict(self.arrays)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_whole(arrays: dict[str, Any]) -> None:
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype
        assert not array.flags.writeable


def test_second_opening_maps_what_the_first_built(root: Path) -> None:
    build = Builder()
    assert_whole(prepared("set", "1", build))
    again = prepared("set", "1", build)
    assert_whole(again)
    assert build.calls == 1
    assert isinstance(again["x"], np.memmap)
    assert sorted(path.name for path in root.iterdir()) == ["set-1", "set-1.lock"]


def test_version_and_key_part_entries(root: Path) -> None:
    build = Builder()
    prepared("set", "1", build, key="a")
    prepared("set", "2", build, key="a")
    assert build.calls == 2
    old = prepared("set", "1", build, key="a")["x"]
    prepared("set", "1", build, key="b")
    assert build.calls == 3
    np.testing.assert_array_equal(old, ARRAYS["x"])
    assert not list(root.glob("*.tmp-*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
@pytest.mark.parametrize("file", ["x.npy", "names.npy", "manifest.json"])
def test_damage_is_rebuilt_with_one_warning(
    root: Path, harm: Any, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    prepared("set", "1", build)
    target = root / "set-1" / file
    if harm is flip and file == "manifest.json":
        target.write_text(target.read_text().replace('"sha256": "', '"sha256": "0', 1))
    else:
        harm(target)
    if harm is cut and file == "manifest.json":
        cut(target)  # The first byte cut was only the final newline.
    with caplog.at_level(logging.WARNING):
        assert_whole(prepared("set", "1", build))
    assert build.calls == 2
    assert [str(root / "set-1") in record.getMessage() for record in caplog.records] == [True]
    assert_whole(prepared("set", "1", build))
    assert build.calls == 2


def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as settled at once, and as large whatever their size."""
    monkeypatch.setattr(cache, "REMEMBERED_FROM", 1)
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    monkeypatch.setattr(cache, "_known", {})


def test_large_files_are_hashed_once_per_change(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    aged(monkeypatch)
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return digest(file, name)

    x = np.arange(1 << 16, dtype=np.uint32)
    build = Builder({"x": x})
    prepared("set", "1", build)
    file = root / "set-1" / "x.npy"
    size = file.stat().st_size
    monkeypatch.setattr(hashlib, "file_digest", counted)
    for _ in range(2):
        monkeypatch.setattr(cache, "_known", {})  # As in another process.
        prepared("set", "1", build)
        assert (build.calls, hashed) == (1, [])
    for at in (0, 7, 60, 128, size // 2, size - 1):
        for untouched in (False, True):
            before = file.stat()
            with file.open("r+b") as opened:
                opened.seek(at)
                (byte,) = opened.read(1)
                opened.seek(at)
                opened.write(bytes([byte ^ 1]))
            if untouched:
                os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            calls = build.calls
            np.testing.assert_array_equal(prepared("set", "1", build)["x"], x)
            assert build.calls == calls + 1
            assert "doesn't match its sha256" in caplog.text
            caplog.clear()
    os.utime(file)
    hashed.clear()
    calls = build.calls
    for _ in range(2):
        prepared("set", "1", build)
    assert (build.calls, hashed) == (calls, [str(file)]), "a file that was touched is hashed once"
    prepared("set", "1", build, whole=True)
    assert hashed == [str(file)] * 2


def test_a_file_that_was_just_written_is_not_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second write within a step of the clock would leave all times as they are.
    aged(monkeypatch)
    monkeypatch.setattr(cache, "_SETTLED_NS", 3_600_000_000_000)
    for _ in range(2):
        prepared("set", "1", Builder())
    assert not (root / "verified").exists()


def test_what_is_remembered_is_of_one_content(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(monkeypatch)
    build = Builder()
    prepared("set", "1", build)
    manifest = root / "set-1" / "manifest.json"
    held = json.loads(manifest.read_text())
    held["files"]["x"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(held))
    monkeypatch.setattr(cache, "_known", {})
    assert_whole(prepared("set", "1", build))
    assert build.calls == 2, "a file that another content is expected of was used"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": 1}', '{"sha256": "0"}'])
def test_what_is_remembered_may_be_damaged(
    root: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    aged(monkeypatch)
    build = Builder()
    prepared("set", "1", build)
    for note in (root / "verified").iterdir():
        note.write_text(text)
    flip(root / "set-1" / "x.npy")
    monkeypatch.setattr(cache, "_known", {})
    assert_whole(prepared("set", "1", build))
    assert build.calls == 2


def test_an_entry_of_an_earlier_version_is_read(root: Path) -> None:
    prepared("set", "1", Builder())
    manifest = root / "set-1" / "manifest.json"
    held = json.loads(manifest.read_text())
    for facts in held["files"].values():
        facts |= {"touched_ns": 1, "sample": "0" * 64}
    manifest.write_text(json.dumps(held))
    build = Builder()
    assert_whole(prepared("set", "1", build))
    assert build.calls == 0


def test_unwritable_cache_falls_back_to_memory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Below a file no one can write, not even root.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "file" / "cache"))
    build = Builder()
    assert_whole(prepared("set", "1", build))
    assert_whole(prepared("set", "1", build))
    assert build.calls == 1
    assert len(caplog.records) == 1
    assert "LAZYBENCH_CACHE" in caplog.text


def test_full_disk_falls_back_to_memory_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    build = Builder()
    assert_whole(prepared("set", "1", build))
    assert build.calls == 1
    assert len(caplog.records) == 1
    assert [path.name for path in root.iterdir()] == ["set-1.lock"]


def test_failing_build_keeps_nothing_and_its_error_comes_through(root: Path) -> None:
    def fail() -> dict[str, Any]:
        raise OSError("source went away")

    with pytest.raises(OSError, match="source went away"):
        prepared("set", "1", fail)
    assert [path.name for path in root.iterdir()] == ["set-1.lock"]
    assert_whole(prepared("set", "1", Builder()))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 101, "a\n"])
def test_names_that_leave_the_folder_are_refused(root: Path, name: str) -> None:
    with pytest.raises(UsageError, match="can't be a file's name"):
        prepared(name, "1", Builder())
    with pytest.raises(UsageError, match="can't be a file's name"):
        prepared("set", "1", lambda: {name: np.zeros(1)})


def test_objects_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="holds objects"):
        prepared("set", "1", lambda: {"x": np.array([{}])})


def run(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments])


def test_two_processes_build_once(root: Path, tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        import numpy as np
        from lazybench.data.cache import prepared
        out = Path(sys.argv[1])
        me = sys.argv[2]
        (out / f"ready-{me}").touch()
        while len(list(out.glob("ready-*"))) < 2:
            time.sleep(0.005)
        def build():
            (out / f"built-{me}").touch()
            time.sleep(0.4)
            return {"x": np.arange(10)}
        assert prepared("set", "1", build)["x"].sum() == 45
    """
    both = [run(code, str(tmp_path), me) for me in "ab"]
    assert [process.wait(30) for process in both] == [0, 0]
    assert len(list(tmp_path.glob("built-*"))) == 1


@pytest.mark.parametrize("victim", ["save", "fsync", "replace"])
def test_killed_builder_leaves_no_entry_and_its_litter_goes(root: Path, victim: str) -> None:
    code = """
        import os, sys
        import numpy as np
        from lazybench.data.cache import prepared
        home = np if sys.argv[1] == "save" else os
        setattr(home, sys.argv[1], lambda *_, **__: os._exit(9))
        prepared("set", "1", lambda: {"x": np.arange(10)})
    """
    assert run(code, victim).wait(30) == 9
    assert len(list(root.glob("*.tmp-*"))) == 1
    build = Builder()
    assert_whole(prepared("set", "1", build))
    assert sorted(path.name for path in root.iterdir()) == ["set-1", "set-1.lock"]


def test_read_only_cache_serves_without_lock(root: Path) -> None:
    prepared("set", "1", Builder())
    (root / "set-1.lock").unlink()
    build = Builder()
    assert_whole(prepared("set", "1", build))
    assert build.calls == 0
    assert not (root / "set-1.lock").exists()


def test_manifest_lists_size_and_sha256(root: Path) -> None:
    prepared("set", "1", Builder())
    files = json.loads((root / "set-1" / "manifest.json").read_text())["files"]
    assert files.keys() == ARRAYS.keys()
    assert files["x"]["bytes"] == (root / "set-1" / "x.npy").stat().st_size
    assert len(files["x"]["sha256"]) == 64


def test_a_folder_is_on_the_disk_before_and_after_it_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(fd: int) -> None:
        fsync(fd)
        reported = os.fstat(fd)
        names = {os.stat(path).st_ino: path.name for path in (tmp_path, *tmp_path.rglob("*"))}
        name = names[reported.st_ino]
        done.append("new folder" if ".tmp-" in name else f"{name} {reported.st_size}"[:6])

    def renamed(old: Any, new: Any) -> None:
        replace(old, new)
        done.append("renamed")

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    other = tmp_path / "sets.tmp-1"
    other.mkdir()
    with replaced_folder(tmp_path / "set") as place, (place / "abc").open("wb") as file:
        file.write(b"12345")
        sync(file)
    assert done == ["abc 5", "new folder", "renamed", f"{tmp_path.name} "[:6]]
    assert sorted(os.listdir(tmp_path)) == ["set", other.name]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "mine").write_bytes(b"old")
    replace = os.replace

    def fails(old: Any, new: Any) -> None:
        if (Path(old) / "new").exists():
            raise OSError(28, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space left"), replaced_folder(folder) as place:
        (place / "new").write_bytes(b"")
    assert (folder / "mine").read_bytes() == b"old"


def test_only_the_temporary_folders_of_the_very_name_are_removed_and_put_back(
    tmp_path: Path,
) -> None:
    own, other = tmp_path / "s[0-9]*.tmp-1", tmp_path / "s1.tmp-1"
    for each in (own, other):
        each.mkdir()
    remove_unfinished(tmp_path / "s[0-9]*")
    assert sorted(os.listdir(tmp_path)) == [other.name]
    aside = tmp_path / "s[1].tmp-2" / "old"
    aside.mkdir(parents=True)
    put_back(tmp_path / "s[1]")
    assert (tmp_path / "s[1]").is_dir()
