from __future__ import annotations

from pathlib import Path
from typing import Any

from lazybench.boards import check, write
from lazybench.records import Store


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
