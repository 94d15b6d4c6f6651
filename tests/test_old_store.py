"""A store, runs and imported data of the code before the modules moved open in this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lazybench.cli import main
from lazybench.records import Record, Store

OLD = Path(__file__).parent / "fixtures" / "old_store"
KEYS = {
    "nearest_pixel": "69ddb5aa13d0",
    "protonet-glyphs": "519981a76cd8",
    "protonet-tiny": "2262aae17334",
    "cross_entropy": "c02b184c1b51",
    "square": "30bab859ba39",
    "reptile": "a590ecc4f892",
}
RECORDS = sorted(set(KEYS) - {"reptile"})


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old store, runs and data, in the folder that commands run in."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "old" / "data"))
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "old"


@pytest.fixture
def facts(old: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function from a command line, and its exit code, to the JSON that it prints."""

    def call(*argv: str, code: int | None = 0) -> Any:
        ended = main(argv)
        out, err = capsys.readouterr()
        assert code is None or ended == code, err
        return json.loads(out)

    return call


def test_runs_and_records_are_listed(old: Path, facts: Any) -> None:
    runs = {run["key12"]: run["status"] for run in facts("list", "runs", "--json")["runs"]}
    expected = {KEYS[name]: "ok" for name in ("nearest_pixel", "protonet-tiny", "square")}
    assert runs == expected | {KEYS["reptile"]: "interrupted"}
    stored = {record.key[:12] for record in Store(old / "leaderboards").records()}
    assert stored == {KEYS[name] for name in RECORDS}
    for key in stored:
        assert facts("show", key, "--json")["key"].startswith(key)


def test_imported_data_are_opened_and_verified(old: Path, facts: Any) -> None:
    (tiny,) = [each for each in facts("list", "data", "--json")["data"] if each["name"] == "tiny"]
    assert tiny["installed"]
    assert main(["data", "verify", "tiny"]) == 0


@pytest.mark.parametrize("name", RECORDS)
def test_records_verify(old: Path, facts: Any, name: str) -> None:
    # Without the run's folder only the stored answers can be scored.
    if list(old.glob(f"runs/*-{KEYS[name]}")):
        reported = facts("verify", KEYS[name], "--trials", "2", "--json", code=None)
        # On another processor than the record's, rounding may move some of the trials drawn.
        elsewhere = "not reproducible here" if not reported["exact"] else "reproduced"
        assert reported["verdict"] in ("reproduced", elsewhere)
    else:
        reported = facts("verify", KEYS[name], "--trials", "0", "--json", code=3)
        assert reported["verdict"] == "not reproducible here"
    assert [each for each in reported["findings"] if each["ok"] is False] == []


def test_an_interrupted_run_is_resumed(old: Path, facts: Any) -> None:
    reported = facts(
        *("run", "-a", "reptile", "-e", "tiny-5way-1shot", "-b", "smoke", "-t", "1"),
        *("--quiet", "--json", "--no-boards"),
    )
    expected = Record.model_validate_json((old / "uninterrupted.json").read_text())
    assert reported["key"] == expected.key
    assert reported["cost"]["outer_steps"] == expected.cost.outer_steps == 15
    score = expected.metrics["accuracy"].value
    # Another processor may round otherwise.
    assert reported["metrics"]["accuracy"]["value"] == pytest.approx(score, abs=0.02)


def test_what_is_recorded_is_not_run_again(old: Path, facts: Any) -> None:
    before = (old / "leaderboards/records/tiny-5way-1shot-v1/protonet").iterdir()
    path, content = next((path, path.read_bytes()) for path in before)
    reported = facts(
        *("run", "-a", "protonet", "-e", "tiny-5way-1shot", "-b", "smoke"), "--quiet", "--json"
    )
    assert reported["key"].startswith(KEYS["protonet-tiny"])
    assert path.read_bytes() == content


def test_a_trained_run_is_evaluated_elsewhere(old: Path, facts: Any) -> None:
    reported = facts(
        *("evaluate", KEYS["protonet-tiny"], "--env", "tiny-5way-5shot", "--limit", "10"),
        *("--json", "--quiet"),
    )
    assert reported["env"]["id"] == "tiny-5way-5shot"
    assert reported["trained_on"].startswith("tiny-5way-1shot")


def test_boards_are_written_and_hold_the_scores(old: Path) -> None:
    store = Store(old / "leaderboards")
    assert main(["leaderboard", "--write"]) == 0
    assert main(["leaderboard", "--check"]) == 0
    for record in store.records():
        text = (store.root / "boards" / f"{record.env.id}-v{record.env.version}.md").read_text()
        assert f"| {record.agent.id} " in text
