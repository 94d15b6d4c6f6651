"""Imported data sets: found by the registries, whole or told to be damaged, removed when asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazybench
from lazybench.data import cache, folders
from lazybench.data.importing import importer, storage
from lazybench.data.importing.catalogue import imported_root, read_meta
from lazybench.data.importing.importer import Imported, forget
from lazybench.data.importing.storage import open_imported
from lazybench.data.pool import SPLITS
from lazybench.errors import DataUnavailable, DuplicateName, StoreError, UnknownName
from lazybench.registry import DATASETS, ENVS, open_data

Bring = Callable[..., Imported]


def test_it_is_listed_like_any_other(tmp_path: Path, own: Any, bring: Bring) -> None:
    names = {spec.id for spec in ENVS.specs()}
    assert "mine" not in {spec.id for spec in DATASETS.specs()}
    bring(own.save(tmp_path / "f.npz"), fractions=(0.34, 0.33, 0.33), licence="CC0")
    (spec,) = (spec for spec in DATASETS.specs() if spec.id == "mine")
    assert (spec.origin, spec.licence, spec.embedded) == ("imported", "CC0", False)
    assert {spec.id for spec in ENVS.specs()} - names == {
        "mine-5way-1shot", "mine-5way-1shot-noniid",
    }  # fmt: skip
    assert ENVS.resolve("mine-3way-2shot").spec.data == "mine"
    (status,) = (each for each in folders.status() if each.name == "mine")
    assert (status.installed, status.path) == (True, imported_root() / "mine")
    assert status.source.startswith("imported: ")
    import gymnasium

    env: Any = gymnasium.make("lazybench/mine-5way-1shot-v1").unwrapped
    assert env.data["fingerprint"] == open_data("mine").fingerprint


def test_the_most_ways_are_listed_where_no_usual_number_fits(
    tmp_path: Path, own: Any, bring: Bring
) -> None:
    bring(own.save(tmp_path / "f.npz"))
    found = [spec.id for spec in ENVS.specs() if spec.data == "mine"]
    assert found == ["mine-2way-1shot", "mine-2way-1shot-noniid"]


TRIALS = """
import hashlib, lazybench
env = lazybench.make_env("mine-2way-1shot")
digest = hashlib.sha256()
for trial in range(5):
    for part in env.reset(seed=trial)[0].values():
        digest.update(part.tobytes())
digest = digest.hexdigest()
"""


def test_trials_are_the_same_in_another_process(tmp_path: Path, own: Any, bring: Bring) -> None:
    bring(own.save(tmp_path / "f.npz"))
    here: dict[str, Any] = {}
    exec(TRIALS, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{TRIALS}print(digest)"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert there.stdout.strip() == here["digest"]


def test_a_second_import_needs_replace(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = own.save(tmp_path / "f.npz")
    one = bring(path).meta
    with pytest.raises(DuplicateName, match=r"'mine' is imported already, in .*--replace"):
        bring(path)
    two = bring(path, replace=True, split_seed=1).meta
    assert open_data("mine").fingerprint == two.fingerprint != one.fingerprint
    assert sorted(each.name for each in imported_root().iterdir()) == [".mine.lock", "mine"]


def test_an_import_that_fails_leaves_all_as_it_was(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = own.folder(tmp_path / "p")
    before = bring(path).meta
    data = (path / "c07" / "5.png").read_bytes()
    (path / "c07" / "5.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataUnavailable, match=r"c07/5\.png isn't a whole PNG"):
        bring(path, replace=True)
    assert open_data("mine").fingerprint == before.fingerprint
    assert sorted(each.name for each in imported_root().iterdir()) == [".mine.lock", "mine"]


def test_a_full_disk_is_reported(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lazybench.data.importing.storage.sync", full)
    with pytest.raises(StoreError, match=r"mine can't be written \(No space left"):
        bring(own.save(tmp_path / "f.npz"))
    assert [each.name for each in imported_root().iterdir()] == [".mine.lock"]


def test_a_warm_opening_is_quick(tmp_path: Path, own: Any, bring: Bring) -> None:
    x = np.zeros((own.classes, 100, 512), np.float32)
    bring(own.save(tmp_path / "f.npz", x, np.repeat(own.labels, 100)))
    before = time.process_time()
    open_data("mine")
    assert time.process_time() - before < 0.3


def test_damage_is_seen(tmp_path: Path, own: Any, bring: Bring) -> None:
    bring(own.save(tmp_path / "f.npz"))
    assert folders.verify("mine").verified is True
    array = imported_root() / "mine" / "test.npy"
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(data)
    found = folders.verify("mine")
    assert found.verified is False
    assert "test.npy is damaged (its content doesn't match its sha256)" in found.detail
    array.write_bytes(data[:-1])
    with pytest.raises(DataUnavailable, match=r"test\.npy is damaged .*import the data again"):
        lazybench.make_env("mine-2way-1shot")
    (status,) = (each for each in folders.status() if each.name == "mine")
    assert not status.installed


def rewritten(path: Path, at: int) -> None:
    """Flip a bit of a file, and set its modification time back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("remembered", [False, True])
def test_any_flipped_byte_is_noticed_at_the_opening(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch, remembered: bool
) -> None:
    if remembered:
        monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(cache, "REMEMBERED_FROM", 1)
        monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    print_ = bring(own.save(tmp_path / "f.npz")).meta.fingerprint
    for split in SPLITS:
        path = imported_root() / "mine" / f"{split}.npy"
        size = path.stat().st_size
        for at in (*range(0, 128, 9), *range(128, size, size // 10), size - 1):
            assert open_imported("mine").fingerprint == print_
            rewritten(path, at)
            with pytest.raises(DataUnavailable, match=rf"{split}\.npy is damaged .*--replace"):
                open_imported("mine")
            rewritten(path, at)
    assert (tmp_path / "cache" / "verified").exists() == remembered


def test_what_moves_no_time_is_found_by_verify(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "REMEMBERED_FROM", 1)
    bring(own.save(tmp_path / "f.npz"))
    rewritten(imported_root() / "mine" / "test.npy", 200)
    # As on a disk that loses a bit: the state is the remembered one.
    monkeypatch.setattr(
        cache,
        "_remembered",
        lambda path, sha256: [cache._identity(path.stat())],
    )
    open_imported("mine")
    found = folders.verify("mine")
    assert found.verified is False
    assert "test.npy is damaged (its content doesn't match its sha256)" in found.detail


def test_flipped_facts_are_noticed(tmp_path: Path, own: Any, bring: Bring) -> None:
    meta = bring(own.save(tmp_path / "f.npz")).meta
    path = imported_root() / "mine" / "meta.json"
    text = path.read_bytes()
    refused = 0
    for at in range(0, len(text), 5):
        path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        try:
            assert read_meta(path.parent) == meta
        except DataUnavailable:
            refused += 1
    # The others are spaces that turn into nothing else.
    assert refused > len(text) // 5 * 0.7
    held = json.loads(text)
    del held["check"]
    path.write_text(json.dumps(held))
    assert read_meta(path.parent) == meta, "a set of an earlier version isn't read"


def test_a_set_that_is_replaced_while_it_is_open_stays_as_it_was(
    tmp_path: Path, own: Any, bring: Bring
) -> None:
    bring(own.save(tmp_path / "f.npz"))
    opened = open_imported("mine")
    before = np.array(opened.pool("train").x)
    bring(own.save(tmp_path / "f.npz", -own.features), replace=True)
    np.testing.assert_array_equal(opened.pool("train").x, before)
    assert open_imported("mine").fingerprint != opened.fingerprint


def test_a_set_that_is_replaced_amid_the_opening_is_one_or_the_other(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(own.save(tmp_path / "f.npz"))
    seen = []

    def late(folder: Path) -> Any:
        found = read_meta(folder)
        if not seen:
            seen.append(found)
            bring(own.save(tmp_path / "g.npz", -own.features), replace=True, split_seed=1)
        return found

    monkeypatch.setattr(storage, "read_meta", late)
    opened = open_imported("mine")
    assert opened.fingerprint == read_meta(imported_root() / "mine").fingerprint
    assert opened.fingerprint != seen[0].fingerprint


KILLED = """
import os, sys
from pathlib import Path
from lazybench.data.importing.importer import ImportRequest, import_data
at, replace, calls = int(sys.argv[2]), os.replace, []
def killed(*where):
    calls.append(where)
    if len(calls) == at:
        os._exit(9)
    replace(*where)
os.replace = killed
import_data(ImportRequest(Path(sys.argv[1]), "mine", split_seed=1, replace=True))
"""


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_killed_import_leaves_the_old_set_or_the_new_one(
    tmp_path: Path, own: Any, bring: Bring, at: int
) -> None:
    path = own.save(tmp_path / "f.npz")
    old = bring(path).meta
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(at)], timeout=120)
    assert done.returncode == 9
    assert "mine" in {spec.id for spec in DATASETS.specs()}
    assert open_imported("mine").fingerprint == old.fingerprint
    new = bring(path, replace=True, split_seed=1).meta
    assert open_imported("mine").fingerprint == new.fingerprint != old.fingerprint
    assert sorted(each.name for each in imported_root().iterdir()) == [".mine.lock", "mine"]


def test_what_was_forgotten_does_not_come_back(tmp_path: Path, own: Any, bring: Bring) -> None:
    bring(own.save(tmp_path / "f.npz"))
    left = imported_root() / "mine.tmp-1" / "old"
    left.mkdir(parents=True)
    forget("mine")
    assert "mine" not in {spec.id for spec in DATASETS.specs()}
    assert DATASETS.broken == {}
    assert [each.name for each in imported_root().iterdir()] == [".mine.lock"]


def test_a_set_that_lies_elsewhere_by_a_link(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = own.save(tmp_path / "f.npz")
    print_ = bring(path).meta.fingerprint
    (imported_root() / "mine").rename(tmp_path / "mine")
    (imported_root() / "mine").symlink_to(tmp_path / "mine")
    assert open_imported("mine").fingerprint == print_
    forget("mine")
    assert not (imported_root() / "mine").exists()
    assert (tmp_path / "mine" / "meta.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2, "name": "mine"}', "{}", "null"])
def test_damaged_facts_leave_the_others_alone(
    tmp_path: Path, own: Any, bring: Bring, text: str
) -> None:
    bring(own.save(tmp_path / "f.npz"))
    bring(tmp_path / "f.npz", "other")
    (imported_root() / "mine" / "meta.json").write_text(text)
    assert "other" in {spec.id for spec in DATASETS.specs()}
    assert "isn't whole" in DATASETS.broken["mine (imported)"]
    with pytest.raises(UnknownName, match=r"mine \(imported\)"):
        ENVS.resolve("mine-2way-1shot")
    bring(tmp_path / "f.npz", replace=True)
    assert "mine" in {spec.id for spec in DATASETS.specs()}
    assert DATASETS.broken == {}


def test_a_name_that_the_package_takes_later(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "check_name", lambda name: None)
    bring(own.save(tmp_path / "f.npz"), "glyphs")
    assert open_data("glyphs").source != "imported"
    assert "registered twice" in DATASETS.broken["glyphs (imported)"]
    assert all(spec.origin != "imported" for spec in ENVS.specs())


def test_forgetting(tmp_path: Path, own: Any, bring: Bring) -> None:
    bring(own.save(tmp_path / "f.npz"))
    forget("mine")
    assert "mine" not in {spec.id for spec in DATASETS.specs()}
    for name in ("mine", "glyphs", "..", "../data", ""):
        with pytest.raises(UnknownName, match="nothing is imported as"):
            forget(name)
