"""Imported data sets: found by the registries, whole or told to be damaged, removed when asked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazybench
from lazybench.data import catalogue, importing
from lazybench.data.imported import imported_root
from lazybench.data.importing import Imported, forget
from lazybench.errors import (
    DataUnavailable,
    DuplicateName,
    StoreError,
    UnknownName,
)
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
    (status,) = (each for each in catalogue.status() if each.name == "mine")
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


def test_a_full_disk_is_told(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lazybench.data.write_imported.sync", full)
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
    assert catalogue.verify("mine").verified is True
    array = imported_root() / "mine" / "test.npy"
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(data)
    found = catalogue.verify("mine")
    assert found.verified is False
    assert "test.npy is damaged (its content doesn't match its sha256)" in found.detail
    array.write_bytes(data[:-1])
    with pytest.raises(DataUnavailable, match=r"test\.npy is damaged .*import the data again"):
        lazybench.make_env("mine-2way-1shot")
    (status,) = (each for each in catalogue.status() if each.name == "mine")
    assert not status.installed


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
    monkeypatch.setattr(importing, "check_name", lambda name: None)
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
