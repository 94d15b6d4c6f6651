from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lazybench.boards import build, check, write
from lazybench.errors import Busy
from lazybench.records import Store
from lazybench.runtime.locks import is_held

MODULE = sys.modules["lazybench.boards.write"]
"""The package has a function of this name."""


def test_write_then_check_is_clean_and_repeatable(store: Store) -> None:
    assert len(check(store)) == 4
    paths = write(store)
    assert {path.relative_to(store.root).as_posix() for path in paths} == {
        "boards/glyphs-5way-1shot-v1.md",
        "boards/glyphs-5way-1shot-v1.csv",
        "boards/glyphs-5way-1shot-v1.json",
        "README.md",
    }
    assert check(store) == []
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    write(store)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_check_names_the_line_that_was_edited(store: Store) -> None:
    board = write(store)[0]
    text = board.read_text()
    board.write_text(text.replace("Higher is better", "Lower is better"))
    (difference,) = check(store)
    line = 1 + text[: text.index("Higher")].count("\n")
    assert difference.startswith(f"{board}:{line}: not what the records make")
    board.write_bytes(text.encode() + b"\n")
    assert len(check(store)) == 1


def test_a_new_record_makes_the_boards_stale(store: Store, make_run: Any) -> None:
    write(store)
    store.publish(make_run("c"))
    assert len(check(store)) == 4


def test_boards_without_records_are_removed_and_other_files_stay(store: Store) -> None:
    paths = write(store)
    stray = store.root / "boards" / "notes.md"
    stray.write_text("mine")
    sheet = store.root / "boards" / "sheet.csv"
    sheet.write_text("env,version,made_by\nx,1,me\n")
    old = store.root / "boards" / "old-v1.csv"
    old.write_text("# Made by `lazybench leaderboard --write` from 1 record. Don't edit.\nenv\n")
    for path in (store.root / "records").rglob("*.json"):
        path.unlink()
    assert sum("no record makes it" in line for line in check(store)) == 4
    write(store)
    assert check(store) == []
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert stray.read_text() == "mine"
    assert sheet.exists()
    assert not old.exists()
    assert "No records yet." in (store.root / "README.md").read_text()


def test_the_index_keeps_what_people_wrote(store: Store) -> None:
    index = store.root / "README.md"
    index.write_text("# Mine\n\nbefore\n")
    write(store)
    grown = index.read_text()
    assert grown.startswith("# Mine\n\nbefore\n\n<!-- boards: begin -->\n")
    index.write_text(grown + "\nafter\n")
    write(store)
    assert index.read_text() == grown + "\nafter\n"
    assert check(store) == []


def test_the_index_names_files_that_were_left_out(store: Store, tmp_path: Path) -> None:
    folder = next((store.root / "records").glob("*/*"))
    (folder / "0123456789ab.json").write_text('{"schema": 0}')
    write(store)
    text = (store.root / "README.md").read_text()
    assert "0123456789ab.json" in text
    assert str(tmp_path) not in text


def made(store: Store, monkeypatch: pytest.MonkeyPatch, **asked: bool) -> list[str]:
    """The environments whose boards a `write` makes."""
    seen: list[str] = []

    def built(records: Any, papers: Any) -> Any:
        seen.extend(record.env.id for record in records[:1])
        return build(records, papers)

    monkeypatch.setattr(MODULE, "build", built)
    write(store, **asked)
    return seen.copy()


@pytest.fixture
def two(store: Store, make_run: Any) -> Store:
    """A store with boards of two environments."""
    store.publish(make_run("a", env__id="omniglot-5way-1shot"))
    write(store)
    return store


def test_only_boards_with_other_records_are_made_again(
    two: Store, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = two.root / ".boards-index.json"
    before = index.read_bytes()
    assert made(two, monkeypatch) == []
    assert index.read_bytes() == before, "nothing is written where nothing changed"
    two.publish(make_run("c"))
    assert made(two, monkeypatch) == ["glyphs-5way-1shot"]
    assert check(two) == []
    assert made(two, monkeypatch, rebuild=True) == ["glyphs-5way-1shot", "omniglot-5way-1shot"]


@pytest.mark.parametrize("recent_s", [0.0, 5.0])
@pytest.mark.parametrize("way", ["edit", "restore", "replace", "remove", "move", "board", "gone"])
def test_a_file_that_changed_is_seen(
    two: Store, make_run: Any, monkeypatch: pytest.MonkeyPatch, way: str, recent_s: float
) -> None:
    """Also one of the same size whose time of change was set back."""
    monkeypatch.setattr(MODULE, "RECENT_S", recent_s)
    write(two, rebuild=True)
    omniglot = "omniglot-5way-1shot"
    path = next((two.root / "records").glob("omniglot*/*/*.json"))
    if way in ("board", "gone"):
        path = two.root / "boards" / "omniglot-5way-1shot-v1.json"
    reported, text = path.stat(), path.read_text()
    time.sleep(0.02)
    if way in ("remove", "gone"):
        path.unlink()
    elif way == "move":
        path.rename(path.with_name("0" * 12 + ".json"))
    elif way == "replace":
        path.unlink()
        path.write_text(text.replace("2026-01-01", "2026-01-02"))
    else:
        path.write_text(text.replace('"omniglot', '"omnigl0t'))
    if way == "restore":
        os.utime(path, ns=(reported.st_atime_ns, reported.st_mtime_ns))
    seen = made(two, monkeypatch)
    # Without its only record an environment has no board to build.
    assert seen == ([] if way in ("edit", "restore", "remove", "move") else [omniglot])
    assert check(two) == []
    assert bool(list((two.root / "boards").glob("omniglot*"))) == bool(seen)


@pytest.mark.parametrize(
    "held",
    [b"", b"x", b"{}", b"\xff" * 99, b"[" * 100_000, {}, [], {"entries": {}}, "entries", "rows"],
)
def test_an_index_that_is_damaged_is_made_again(two: Store, held: Any) -> None:
    index = two.root / ".boards-index.json"
    if not isinstance(held, bytes):
        kept = json.loads(index.read_bytes().partition(b"\n")[2])
        if held == "entries":
            held = {**kept, "entries": dict.fromkeys(kept["entries"], 1)}
        elif held == "rows":
            broken = {"lines": 3, "skipped": [[1]]}
            held = {**kept, "entries": {k: {**v, **broken} for k, v in kept["entries"].items()}}
        text = json.dumps(held).encode()
        held = hashlib.sha256(text).hexdigest().encode() + b"\n" + text
    index.write_bytes(held)
    (two.root / "boards" / "omniglot-5way-1shot-v1.csv").write_text("edited")
    write(two)
    assert check(two) == []
    assert index.read_bytes() != held


def test_an_index_of_other_code_or_papers_is_not_used(
    two: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["glyphs-5way-1shot", "omniglot-5way-1shot"]
    rows = {"env": both[0], "row": "R", "agent": None, "metric": "accuracy", "value": 1.0}
    held = {"schema_version": 1, "source": "S", "table": "T", "rows": [{**rows, "unit": "%"}]}
    (two.root / "reported").mkdir()
    (two.root / "reported" / "s.json").write_text(json.dumps(held))
    assert made(two, monkeypatch) == both
    assert check(two) == []
    monkeypatch.setattr(MODULE, "__version__", "99")
    assert made(two, monkeypatch) == both


def test_an_index_that_is_no_file_is_replaced_or_left(two: Store, tmp_path: Path) -> None:
    index, target = two.root / ".boards-index.json", tmp_path / "mine"
    target.write_text("mine")
    index.unlink()
    index.symlink_to(target)
    write(two)
    assert target.read_text() == "mine"
    assert check(two) == []


def test_boards_are_written_by_one_process_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "WAIT_S", 0.0)
    with FileLock(store.root / MODULE.LOCK), pytest.raises(Busy, match="another process writes"):
        write(store)
    assert not (store.root / "boards").exists()
    write(store)

    def built(records: Any, papers: Any) -> Any:
        assert is_held(store.root / MODULE.LOCK), "while records are read and boards made"
        return build(records, papers)

    monkeypatch.setattr(MODULE, "build", built)
    write(store, rebuild=True)
    assert not is_held(store.root / MODULE.LOCK)


def test_what_a_living_writer_of_records_has_begun_stays(store: Store) -> None:
    folder = next((store.root / "records").glob("*/*"))
    begun = [folder / ".tmp-1-aa", store.root / ".tmp-2-bb"]
    left = [folder / ".tmp-3-cc", store.root / "boards" / ".tmp-4-dd"]
    left[1].parent.mkdir()
    for path in (*begun, *left):
        path.write_bytes(b"")
    os.utime(left[0], (time.time() - 4000, time.time() - 4000))
    write(store)
    assert [path.exists() for path in (*begun, *left)] == [True, True, False, False]
