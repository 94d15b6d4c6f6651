"""`lazybench leaderboard`: prints what the records make, writes it, checks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import build, to_csv, to_html, to_json, to_latex, to_markdown
from lazybench.records import Store


@pytest.fixture
def store(lazybench: Any, make_record: Any) -> Store:
    store = Store("leaderboards")
    store.publish(make_record("reptile"))
    store.publish(make_record("chance", budget="paper"))
    return store


def test_empty_store_says_what_to_do(lazybench: Any) -> None:
    done = lazybench("leaderboard", "--env", "tiered-20way")
    assert done.code == 0
    assert (
        "no records in leaderboards for --env tiered-20way; create one with: lazybench run"
        in done.out
    )


@pytest.mark.parametrize(
    ("form", "render"),
    [("md", to_markdown), ("csv", to_csv), ("json", to_json), ("latex", to_latex)],
)
def test_formats(lazybench: Any, store: Store, form: str, render: Any) -> None:
    command = f"lazybench leaderboard --format {form}"
    text = render(build(store.records()), command=command)
    assert lazybench("leaderboard", "--format", form).out == text


def test_a_printed_board_names_the_command_that_made_it(lazybench: Any, store: Store) -> None:
    asked = ("--env", "glyphs-5way-1shot", "--budget", "small")
    done = lazybench("leaderboard", "--format", "md", *asked)
    command = f"lazybench leaderboard {' '.join(asked)} --format md"
    assert f"Made by `{command}` from 1 record." in done.out.splitlines()[0]
    lazybench("leaderboard", "--html", "page.html", "--budget", "paper")
    reported = "lazybench leaderboard --budget paper --html page.html"
    assert f"Made by `{reported}` from 1 record." in Path("page.html").read_text()


def test_budget_and_alias_filter(lazybench: Any, store: Store) -> None:
    for env in ("glyphs-5way-1shot", "tiered-5way-1shot", "glyphs-5way-1shot-v1"):
        out = lazybench("leaderboard", "--env", env, "--budget", "paper").out
        assert "chance" in out
        assert "reptile" not in out
    assert "no records" in lazybench("leaderboard", "--env", "glyphs-20way-5shot").out


def test_env_that_only_the_store_knows(lazybench: Any, store: Store, make_record: Any) -> None:
    record = make_record()
    theirs = record.env.model_copy(update={"id": "theirs"})
    store.publish(make_record(env=theirs.model_dump()))
    for name in ("theirs", "theirs-v1"):
        assert "theirs-v1, budget small" in lazybench("leaderboard", "-e", name).out


def test_write_then_check(lazybench: Any, store: Store) -> None:
    before = lazybench("leaderboard", "--check")
    assert before.code == 1
    assert "missing" in before.out
    written = lazybench("leaderboard", "--write").out.split()
    assert all(Path(path).is_file() for path in written)
    assert lazybench("leaderboard", "--check").code == 0
    board = Path("leaderboards/boards/glyphs-5way-1shot-v1.md")
    board.write_text(board.read_text() + " ")
    done = lazybench("leaderboard", "--check")
    assert done.code == 1
    assert str(board) in done.out


def test_damaged_record_is_named_and_left_out(lazybench: Any, store: Store) -> None:
    damaged = Path("leaderboards/records/glyphs-5way-1shot-v1/x/0123456789ab.json")
    damaged.parent.mkdir()
    damaged.write_text("{")
    done = lazybench("leaderboard", "--format", "json")
    assert len(json.loads(done.out)["boards"]) == 2
    assert str(damaged) in done.err


def test_out_below_a_file(lazybench: Any) -> None:
    Path("file").write_text("")
    assert lazybench("leaderboard", "--out", "file/x").code == 73


def test_no_escape_of_a_record_reaches_the_terminal(
    lazybench: Any, store: Store, make_record: Any
) -> None:
    store.publish(make_record("other", status="failed", reason="\x1b]0;owned\x07 bad"))
    shown = lazybench("leaderboard").out
    assert "failed: ]0;owned bad" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("option", ["--html", "--plots"])
def test_nothing_is_written_without_records(lazybench: Any, option: str) -> None:
    done = lazybench("leaderboard", "--out", "nowhere", option, "page")
    assert (done.code, "no records in nowhere; create one" in done.err) == (2, True), done.err
    assert not Path("page").exists()


def test_one_page_of_all_boards_or_some(lazybench: Any, store: Store) -> None:
    done = lazybench("leaderboard", "--html", "page.html")
    assert done.out == "page.html\n"
    records = store.records()
    command = "lazybench leaderboard --html page.html"
    assert Path("page.html").read_text() == to_html(build(records), records, command=command)
    lazybench("leaderboard", "--html", "page.html", "--budget", "paper")
    assert "reptile" not in Path("page.html").read_text()
    assert lazybench("leaderboard", "--check", "--html", "page.html").code == 2
    Path("file").write_text("")
    assert lazybench("leaderboard", "--html", "file/page.html").code == 73
    Path("mine.html").write_text("<!DOCTYPE html>")
    done = lazybench("leaderboard", "--html", "mine.html")
    assert (done.code, "has no mark of lazybench" in done.err) == (73, True)
    assert Path("mine.html").read_text() == "<!DOCTYPE html>"


def test_pages_link_records_of_a_store_that_moves_with_them(
    lazybench: Any, tmp_path: Path, make_run: Any
) -> None:
    path = Store("kept/leaderboards").publish(make_run("a"))
    for page, link in (
        ("kept/page.html", path.relative_to("kept").as_posix()),
        ("kept/docs/page.html", Path("..", path.relative_to("kept")).as_posix()),
        ("page.html", path.as_posix()),
    ):
        Path(page).parent.mkdir(exist_ok=True)
        assert lazybench("leaderboard", "--out", "kept/leaderboards", "--html", page).code == 0
        assert f'<a href="{link}"' in Path(page).read_text("utf-8")
    Path("other").mkdir()
    lazybench("leaderboard", "--out", "kept/leaderboards", "--html", "other/page.html")
    assert ".json" not in Path("other/page.html").read_text("utf-8")


def test_pictures_go_to_a_folder(lazybench: Any, store: Store) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    argv = ("--plots", "pictures", "--plot-format", "svg", "--budget", "small")
    done = lazybench("leaderboard", *argv)
    assert done.out.split() == ["pictures/glyphs-5way-1shot-v1-small-scores.svg"]
    assert Path(done.out.strip()).read_bytes().startswith(b"<?xml")


def test_blocks_of_a_file_are_filled_and_checked(lazybench: Any, store: Store) -> None:
    end = "<!-- lazybench board: end -->\n"
    mine = Path("mine.md")
    mine.write_text(f"# Mine\n<!-- lazybench board: glyphs-5way-1shot small 3 -->\n{end}")
    lazybench("leaderboard", "--write")
    stale = lazybench("leaderboard", "--check", "--into", "mine.md")
    assert stale.code == 1
    assert "lazybench leaderboard --into mine.md" in stale.out
    assert lazybench("leaderboard", "--into", "mine.md").out == "mine.md\n"
    assert "| reptile" in mine.read_text()
    assert lazybench("leaderboard", "--check", "--into", "mine.md").code == 0
    assert "up to date" in lazybench("leaderboard", "--into", "mine.md").out
    other = Path("other.md")
    other.write_text(f"<!-- lazybench board: glyphs-5way-1shot small 1 -->\n{end}")
    both = ("--into", "mine.md", "--into", "other.md")
    stale = lazybench("leaderboard", "--check", *both)
    assert stale.code == 1
    assert "mine.md" not in stale.out
    assert lazybench("leaderboard", *both).out.endswith("\nother.md\n")
    assert lazybench("leaderboard", "--check", *both).code == 0


def test_what_cant_be_filled_ends_with_its_code(lazybench: Any, store: Store) -> None:
    assert lazybench("leaderboard", "--into", "missing.md").code == 69
    assert lazybench("leaderboard", "--into", "x.md", "--write").code == 2
    Path("bad.md").write_text("<!-- lazybench board: nothing -->\n<!-- lazybench board: end -->\n")
    done = lazybench("leaderboard", "--into", "bad.md")
    assert done.code == 2
    assert "form" in done.err
