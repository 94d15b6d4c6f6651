from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazybench.errors import RecordConflict, StoreError, UsageError
from lazybench.records import Record, Store, slug
from lazybench.records import store as store_module
from lazybench.records.store import first_difference

HOSTILE = [
    "../x",
    "<script>",
    "|",
    "_%&",
    "🙂",
    "x" * 300,
    "",
    ".",
    "..",
    "CON",
    "con",
    "a/b",
    "\0",
]


def test_publish_find_and_list(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    record, other = make_record(), make_record(agent__id="maml", seed=1)
    path = store.publish(record)
    store.publish(other)
    place = f"records/glyphs-5way-1shot-v1/reptile/{record.key12}.json"
    assert path == tmp_path / place
    assert store.find(record.key) == store.find(record.key[:6]) == record
    assert store.find("0" * 12) is None
    assert {r.key for r in store.records()} == {record.key, other.key}
    assert store.records(agent="maml") == [other]
    assert len(store.records(env="glyphs-5way-1shot-v1")) == 2
    assert store.records(env="glyphs-5way-1shot-v2") == []
    with pytest.raises(UsageError, match="6 to 64 hex digits"):
        store.find("../../x")


def test_the_same_content_again_changes_nothing(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    path = store.publish(make_record())
    before = path.read_bytes()
    assert store.publish(make_record(cost__wall_s=77.0, machine__threads=4)) == path
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_other_content_under_the_same_key_is_a_conflict(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    path = store.publish(make_record())
    before = path.read_bytes()
    metric = {"value": 0.5, "n": 4, "unit": "fraction", "better": "higher"}
    with pytest.raises(RecordConflict, match=r"accuracy.value is 0.4375 there and 0.5 here"):
        store.publish(make_record(metrics={"accuracy": metric}))
    assert path.read_bytes() == before


@pytest.mark.parametrize("status", ["failed", "oom", "timeout"])
def test_a_failed_try_gives_way_to_a_result(tmp_path: Path, make_record: Any, status: str) -> None:
    store = Store(tmp_path)
    lost, won = make_record(status=status, reason="x"), make_record()
    store.publish(lost)
    store.publish(won)
    assert store.records() == [won]
    with pytest.raises(RecordConflict):
        store.publish(lost)


def test_a_result_that_replaced_a_failed_try_meanwhile_is_kept(
    tmp_path: Path, make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes its result after this one has seen the failed try."""
    metric = {"value": 0.5, "n": 4, "unit": "fraction", "better": "higher"}
    won, other = make_record(), make_record(metrics={"accuracy": metric})
    here = Store(tmp_path)
    path = here.publish(make_record(status="oom", reason="x"))
    real, seen = store_module._load, []

    def load(of: Path) -> Any:
        stored = real(of)
        if not seen:
            seen.append(stored)
            path.write_bytes(won.to_json().encode("ascii"))
        return stored

    monkeypatch.setattr(store_module, "_load", load)
    with pytest.raises(RecordConflict):
        here.publish(other)
    assert here.records() == [won]


def test_a_divergence_is_a_result(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    store.publish(make_record(status="diverged"))
    with pytest.raises(RecordConflict, match="status is"):
        store.publish(make_record())


def test_a_key_that_is_not_of_its_content_is_refused(tmp_path: Path, make_record: Any) -> None:
    record = make_record().model_copy(update={"seed": 7})
    with pytest.raises(StoreError, match="doesn't match the record's content"):
        Store(tmp_path).publish(record)


def test_broken_files_are_left_out_and_named(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    good = make_record()
    path = store.publish(good)
    facts = json.loads(path.read_text())
    faults = {
        "a" * 12: "{torn",
        "b" * 12: json.dumps(facts | {"schema": 0}),
        "c" * 12: json.dumps(facts | {"config": {"lr": 9}}),
        "d" * 12: path.read_text(),
        "e" * 12: "[" * 100_000,
    }
    for name, text in faults.items():
        (path.parent / f"{name}.json").write_text(text)
    found = store.records()
    assert found == [good]
    reasons = {skip.path.stem: str(skip) for skip in found.skipped}
    assert set(reasons) == set(faults)
    assert "schema 1: schema" in reasons["b" * 12]
    assert "doesn't match" in reasons["c" * 12]
    assert "don't copy records" in reasons["d" * 12]


@pytest.mark.parametrize("name", HOSTILE[:6] + HOSTILE[7:])
def test_hostile_names_stay_inside_the_store(tmp_path: Path, make_record: Any, name: str) -> None:
    store = Store(tmp_path / "store")
    if not name:
        with pytest.raises(ValueError, match="at least 1 character"):
            make_record(agent__id=name)
        return
    record = make_record(env__id=name, agent__id=name)
    path = store.publish(record).resolve()
    assert path.is_relative_to(tmp_path / "store" / "records")
    assert len(path.relative_to(tmp_path).parts) == 5
    assert store.records() == [record]


@given(st.lists(st.text(max_size=60), min_size=2, max_size=2, unique=True))
def test_two_names_never_share_a_slug(names: list[str]) -> None:
    one, two = map(slug, names)
    assert one != two
    assert set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert 0 < len(one) <= 49
    assert one not in {".", ".."}


def test_slugs_of_hostile_names_differ() -> None:
    assert len({slug(name) for name in HOSTILE}) == len(HOSTILE)
    assert slug("lazy_reptile") == "lazy_reptile"
    assert slug("reptile") != slug("Reptile")


def test_the_packaged_reported_rows_are_sound() -> None:
    rows = Store(Path(__file__).parents[2] / "leaderboards").reported()
    by_place = {(r.table, r.row, r.env, r.batch_norm): r for r in rows}
    lazy = by_place["Table 5", "Ours (Reptile)", "tieredimagenet-5way-5shot", "transductive"]
    assert (lazy.value, lazy.ci95_half, lazy.agent) == (72.21, 0.94, "lazy_reptile")
    assert sum(r.table == "Table 5" for r in rows) == 49
    assert sum(r.table == "Table 6" for r in rows) == 24
    assert all(r.value is None or 0 < r.value <= 100 for r in rows if r.unit == "%")


def test_a_damaged_reported_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "reported").mkdir()
    (tmp_path / "reported" / "x.json").write_text('{"schema_version": 1}')
    with pytest.raises(StoreError, match=r"reported/x\.json: not a file of reported rows"):
        Store(tmp_path).reported()


def test_a_record_is_frozen(make_record: Any) -> None:
    record: Record = make_record()
    with pytest.raises(ValueError, match="frozen"):
        record.seed = 3


def test_the_first_of_two_failed_tries_stays(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    path = store.publish(make_record(status="failed", reason="first"))
    before = path.read_bytes()
    for status in ("failed", "oom", "timeout"):
        assert store.publish(make_record(status=status, reason="second")) == path
        assert path.read_bytes() == before


@pytest.mark.parametrize("status", ["failed", "ok"])
def test_a_failed_record_of_another_key_is_not_overwritten(
    tmp_path: Path, make_record: Any, status: str
) -> None:
    """As where two keys have the same first 12 digits, which is all that a file's name holds."""
    store = Store(tmp_path)
    record, other = make_record(), make_record(seed=9, status=status)
    path = store.path(record)
    path.parent.mkdir(parents=True)
    path.write_text(other.to_json())
    for again in (record, make_record(status="failed", reason="x")):
        with pytest.raises(RecordConflict, match="never overwritten"):
            store.publish(again)
        assert path.read_text() == other.to_json()


@pytest.mark.parametrize(
    ("old", "new"),
    [(True, 1), (1, True), (False, 0), (0.0, False), (True, "true"), (None, False), (1, 2)],
)
def test_values_of_other_kinds_differ(old: Any, new: Any) -> None:
    assert first_difference({"a": {"b": old}}, {"a": {"b": new}}) == ("a.b", old, new)
    assert first_difference([0, old], [0, new]) == ("1", old, new)


def test_values_that_are_alike() -> None:
    for value in (True, False, 1, 0.5, "x", None, [1, {"a": 2}]):
        assert first_difference({"a": value}, {"a": value}) is None
    assert first_difference({"a": 1}, {"a": 1.0}) is None
    assert first_difference({"a": 1}, {"b": 1}) == ("a", 1, "(absent)")
    assert first_difference([1], [1, 2]) == ("1", "(absent)", 2)


@pytest.mark.parametrize("device", ["con", "prn", "aux", "nul", "com1", "com9", "lpt1", "lpt9"])
@pytest.mark.parametrize("ending", ["", ".txt", ".tar.gz", "."])
def test_names_of_windows_devices_are_no_folders(device: str, ending: str) -> None:
    for name in (device + ending, device.upper() + ending):
        made = slug(name)
        # What counts there is all before the first dot.
        assert made.partition(".")[0] != device, made
        assert made.startswith(device), "but it stays readable"
    for name in (f"{device}sole", f"my{device}", f"{device}_1.txt"):
        assert slug(name) == name


def test_keys_have_at_least_six_digits(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    record = make_record()
    store.publish(record)
    for digits in (6, 12, 13, 64):
        assert store.find(record.key[:digits]) == record
    for key in (record.key[:5], record.key + "0", record.key[:6].upper() + "A", ""):
        with pytest.raises(UsageError, match="6 to 64 hex digits"):
            store.find(key)


def test_records_in_a_folder_are_those_of_the_environment(tmp_path: Path, make_record: Any) -> None:
    store = Store(tmp_path)
    record = make_record()
    store.publish(record)
    (folder,) = store.folders()
    env = record.env.id
    assert store.records_in(folder, env) == store.records_in(folder, f"{env}-v1") == [record]
    assert store.records_in(folder, "other") == store.records_in(folder, env, "other") == []
