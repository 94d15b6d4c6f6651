"""`lazybench forget`: what goes, what stays, and that it asks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import check, write
from lazybench.records import Store, append_line, write_bytes, write_json
from lazybench.runner.run_dir import locked

KEY = "abcdef" + "0" * 58


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "reptile-x"
    facts = {"key": KEY, "agent": "reptile", "env": "x", "budget": "small", "seed": 0}
    write_json(folder / "config.json", facts)
    write_json(folder / "done.json", {"status": "ok", "record": "x"})
    append_line(folder / "episodes-123456789012.jsonl", {"first": 0})
    for name in ("run.toml", "error.txt", "ckpt/step-2/state.json", "ckpt/step-2/manifest.json"):
        write_bytes(folder / name, b"x")
    # A process that was killed while it saved leaves these.
    for name in ("ckpt/.new-4/state.json", "ckpt/.old-2/tensors.safetensors"):
        write_bytes(folder / name, b"x")
    return folder


@pytest.fixture
def store(tmp_path: Path, make_record: Any) -> Any:
    found = Store(tmp_path / "leaderboards")
    for seed in (0, 1):
        found.publish(make_record(seed=seed))
    write(found)
    return found


@pytest.mark.parametrize("target", ["abcdef", "runs/reptile-x"])
def test_a_run_goes_once_it_is_confirmed(lazybench: Any, run: Path, target: str) -> None:
    asked = lazybench("forget", target)
    assert asked.code == 2
    assert "this removes the run" in asked.err
    assert run.is_dir()
    done = lazybench("forget", target, "--yes")
    assert done.code == 0, done.err
    assert "reptile-x" in done.out
    assert len(done.out.splitlines()) == 1
    assert not run.exists()
    assert run.parent.is_dir()


def test_files_of_others_stay(lazybench: Any, run: Path) -> None:
    for name in ("notes.md", "ckpt/step-2/mine.txt", "ckpt/best.pt"):
        write_bytes(run / name, b"mine")
    done = lazybench("forget", str(run), "--yes")
    assert "but not what lazybench didn't write:" in done.out
    kept = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert kept == {"notes.md", "ckpt/step-2/mine.txt", "ckpt/best.pt"}


def test_a_running_run_and_links_stay(lazybench: Any, run: Path, tmp_path: Path) -> None:
    with locked(run):
        assert lazybench("forget", str(run), "--yes").code == 75
    (tmp_path / "theirs").mkdir()
    (run / "ckpt" / "step-3").symlink_to(tmp_path / "theirs")
    assert lazybench("forget", str(run), "--yes").code == 73
    assert (run / "config.json").is_file()
    assert (run / "ckpt" / "step-2" / "state.json").is_file()


def test_a_record_is_quarantined_and_boards_follow(lazybench: Any, store: Any) -> None:
    first, second = store.records()
    path = store.path(first)
    assert "add --yes to do it" in lazybench("forget", first.key12).err
    done = lazybench("forget", first.key12, "--yes")
    assert done.code == 0, done.err
    assert not path.exists()
    (moved,) = store.root.glob("quarantine/*/records/*/*/*.json")
    assert moved.name == path.name
    assert [record.key for record in store.records()] == [second.key]
    assert check(store) == []
    # By its path, too.
    file = str(store.path(second))
    assert lazybench("forget", file, "--yes").code == 0
    assert list(store.records()) == []


def test_a_key_of_both_is_the_records(lazybench: Any, run: Path, store: Any) -> None:
    """Every finished run has a folder and a record of its key."""
    record = store.records()[0]
    facts = {"key": record.key, "agent": "a", "env": "x", "budget": "small", "seed": 0}
    write_json(run / "config.json", facts)
    done = lazybench("forget", record.key12)
    assert done.code == 2
    assert store.path(record).is_file()
    done = lazybench("forget", record.key12, "--yes")
    assert done.code == 0, done.err
    shown = run.relative_to(Path.cwd())
    assert f"the run's folder stays: {shown}; remove it with: lazybench forget {shown}" in done.err
    assert not store.path(record).exists()
    assert run.is_dir()
    # Now the key is that of the run alone.
    assert lazybench("forget", record.key12, "--yes").code == 0
    assert not run.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("fedcba", "no run in runs and no record in leaderboards"),
        ("abc", "at least 6 hex digits of a key"),
        ("theirs", "isn't a run's folder"),
        ("theirs/x.json", "isn't a record of leaderboards"),
    ],
)
def test_what_is_no_run_or_record_is_refused(
    lazybench: Any, tmp_path: Path, target: str, message: str
) -> None:
    write_bytes(tmp_path / "theirs" / "x.json", b"{}")
    done = lazybench("forget", target, "--yes")
    assert done.code == 2
    assert message in done.err
    assert (tmp_path / "theirs" / "x.json").is_file()
