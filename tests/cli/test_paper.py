"""`lazybench reproduce`: a paper's table run and put beside what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    {
        "row": "Chance",
        "agent": "chance",
        "env": "glyphs-5way-1shot",
        "metric": "accuracy",
        "value": 20.0,
        "unit": "%",
    },
    {
        "row": "MAML",
        "agent": "maml",
        "env": "tieredimagenet-5way-1shot",
        "metric": "accuracy",
        "value": 51.0,
        "unit": "%",
    },
    {
        "row": "Another",
        "agent": None,
        "env": "glyphs-5way-1shot",
        "metric": "accuracy",
        "value": None,
        "unit": "%",
    },
]


@pytest.fixture
def reported(lazybench: Any) -> Path:
    """A store whose `reported` has a Table 6 of three rows."""
    folder = Path("leaderboards/reported")
    folder.mkdir(parents=True)
    table = {"schema_version": 1, "source": "A paper", "table": "Table 6", "rows": ROWS}
    path = folder / "table6.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def test_a_dry_run_reports_what_is_missing(lazybench: Any, reported: Path) -> None:
    done = lazybench("reproduce", "table6", "--dry-run", "--budget", "smoke")
    assert done.code == 0, done.err
    assert "not measured yet" in done.out
    assert "lazybench has no such agent" in done.out
    assert "not measured: images missing: tieredimagenet: not found" in done.out
    assert "1 absent, 1 missing" in done.err
    assert not Path("leaderboards/records").exists()


def test_pages_are_written_where_asked_and_not_on_a_dry_run(lazybench: Any) -> None:
    for name, head in (("claims", "# The lazy paper's claims"), ("validity", "# Do the boards")):
        assert lazybench("reproduce", name, "--dry-run").code == 0
        assert not Path(f"docs/{name}.md").exists()
        assert lazybench("reproduce", name).code == 0
        assert not Path("docs").exists()
        done = lazybench("reproduce", name, "--page", f"{name}-page.md", "--json")
        assert done.code == 0, done.err
        assert isinstance(json.loads(done.out), list)
        assert Path(f"{name}-page.md").read_text("utf-8").startswith(head)


def test_a_page_replaces_its_like_and_no_other_file(lazybench: Any) -> None:
    Path("docs").mkdir()
    for name, other in (("claims", "validity"), ("validity", "claims")):
        mine = Path(f"docs/{name}.md")
        mine.write_text(f"# Mine\n\nAs `lazybench reproduce {name}` has it.\n", "utf-8")
        before = mine.read_bytes()
        assert lazybench("reproduce", name).code == 0
        done = lazybench("reproduce", name, "--page", str(mine))
        assert (done.code, "has no mark of lazybench" in done.err) == (73, True)
        assert mine.read_bytes() == before
        made = f"made-{name}.md"
        assert lazybench("reproduce", name, "--page", made).code == 0
        text = Path(made).read_text("utf-8")
        Path(made).write_text(text + "an older end\n", "utf-8")
        assert lazybench("reproduce", other, "--page", made).code == 73
        assert lazybench("reproduce", name, "--page", made).code == 0
        assert Path(made).read_text("utf-8") == text


def test_what_isnt_a_file_is_no_page(lazybench: Any) -> None:
    made = Path("made.md")
    assert lazybench("reproduce", "claims", "--page", str(made)).code == 0
    Path("link.md").symlink_to(made)
    Path("folder.md").mkdir()
    Path("gone.md").symlink_to("nowhere")
    for path in ("link.md", "folder.md", "gone.md"):
        done = lazybench("reproduce", "claims", "--page", path)
        assert (done.code, path in done.err) == (73, True)
    done = lazybench("reproduce", "table6", "--page", "page.md", "--dry-run")
    assert (done.code, "--page goes with claims and validity" in done.err) == (2, True)


def test_missing_cells_run_and_are_shown(lazybench: Any, reported: Path) -> None:
    done = lazybench("reproduce", "table6", "--budget", "smoke", "--json", "--quiet")
    assert done.code == 3, "one cell's images are absent"
    chance, maml, other = json.loads(done.out)
    assert abs(chance["difference"]) < 8
    assert chance["measured"]["seeds"] == [0]
    assert chance["same_protocol"] is False
    assert "budget smoke" in chance["note"]
    assert maml["measured"] is None
    assert maml["note"].startswith("not measured: images missing: ")
    assert other["reported"]["value"] is None
    again = lazybench("reproduce", "table6", "--budget", "smoke", "--quiet")
    assert "1 done" in again.err
    assert "figure only" in again.out


def test_a_table_that_is_whole_ends_well(lazybench: Any, reported: Path) -> None:
    table = json.loads(reported.read_text(encoding="utf-8"))
    reported.write_text(json.dumps(table | {"rows": [ROWS[0], ROWS[2]]}), encoding="utf-8")
    done = lazybench("reproduce", "table6", "--budget", "smoke", "--quiet")
    assert done.code == 0, done.err


def test_the_papers_numbers_come_with_the_package(lazybench: Any) -> None:
    done = lazybench("reproduce", "table2", "--dry-run")
    assert "Lazy two-component weighting (ours)" in done.out
    assert "53.46" in done.out
    assert "absent" in done.err


def test_names(lazybench: Any, reported: Path) -> None:
    done = lazybench("reproduce", "tabel6")
    assert done.code == 2
    assert "Did you mean: table" in done.err
    assert "docs/cost.md" in lazybench("reproduce", "fig3", "--dry-run").out
    assert lazybench("reproduce", "table6", "--budget", "huge").code == 2
    assert lazybench("reproduce", "table6", "--seeds", "x").code == 2


def test_claims_are_printed_and_written(lazybench: Any, tmp_path: Path) -> None:
    Path("leaderboards").mkdir()
    done = lazybench("reproduce", "claims", "--page", "pages/claims.md")
    assert done.code == 0, done.err
    assert "not tested: no records" in done.out
    assert "none has a verdict" in " ".join(done.out.split())
    page = Path("pages/claims.md").read_text("utf-8")
    assert "| 7 | Memory is flat" in page
    assert "see docs/cost.md" in page
    message = json.loads(lazybench("reproduce", "claims", "--json", "--dry-run").out)
    assert {each["verdict"] for each in message} == {"not tested"}
