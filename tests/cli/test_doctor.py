"""`lazybench doctor` on real damage: what it says, what it repairs, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from filelock import FileLock

from lazybench.boards.write import write
from lazybench.data.cache import prepared
from lazybench.records import Store, append_line, read_lines, write_json


class Places(NamedTuple):
    """Where a sound installation of one record and one run lies."""

    store: Path
    runs: Path
    cache: Path
    data: Path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record: Any) -> Places:
    found = Places(*(tmp_path / name for name in ("leaderboards", "runs", "cache", "data")))
    monkeypatch.setenv("LAZYBENCH_CACHE", str(found.cache))
    store = Store(found.store)
    store.publish(make_record())
    store.publish(make_record(seed=1))
    write(store)
    run = found.runs / "reptile-x"
    write_json(run / "config.json", {"key": "ab" * 32, "agent": "reptile"})
    write_json(run / "done.json", {"status": "ok", "record": "x"})
    for step in (1, 2):
        checkpoint(run / "ckpt" / f"step-{step}", b"weights %d" % step)
    for first in (0, 8, 16):
        append_line(run / "episodes.jsonl", {"first": first, "scores": [0.5]})
    prepared("mine", "1", lambda: {"x": np.arange(9)})
    return found


@pytest.fixture
def doctor(lazybench: Any, places: Places, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from options to exit code and what `--json` reports, without what is well."""
    monkeypatch.setenv("LAZYBENCH_DATA", str(places.data))

    def run(*options: str) -> tuple[int, list[dict[str, Any]], list[str]]:
        folders = ("--out", str(places.store), "--runs", str(places.runs))
        done = lazybench("doctor", "--json", *folders, *options)
        reported = json.loads(done.out)
        assert reported["well"] is (done.code == 0)
        wrong = [each for each in reported["findings"] if each["state"] != "ok"]
        # Tests run from a checkout, installed or not.
        wrong = [each for each in wrong if each["area"] != "installation"]
        return done.code, wrong, reported["repaired"]

    return run


def checkpoint(folder: Path, content: bytes) -> None:
    import hashlib

    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_bytes(content)
    reported = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(folder / "manifest.json", {"tensors.safetensors": reported})


def all_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def old(path: Path) -> None:
    os.utime(path, (time.time() - 9000,) * 2)


def test_where_all_is_well_it_says_so_and_changes_nothing(
    doctor: Any, lazybench: Any, places: Places
) -> None:
    (places.cache / "targets").mkdir()
    (places.cache / "targets" / "net.safetensors").write_bytes(b"not prepared, not mine")
    before = {place: all_files(place) for place in places if place.exists()}
    assert doctor("--repair") == (0, [], [])
    # A lock is made where one is tried; nothing else.
    for place, files in before.items():
        now = all_files(place)
        assert {name: now[name] for name in files} == files
        assert all(name.endswith("lock") for name in set(now) - set(files))
    shown = lazybench("doctor")
    assert shown.code == 0
    assert "2 records are intact" in shown.out
    assert "1 of 1 runs are intact" in shown.out
    assert "all is well" in shown.out.splitlines()[-1]
    quiet = lazybench("doctor", "--quiet").out
    assert " ok " not in quiet
    assert "all is well" in quiet.splitlines()[-1]


def test_an_empty_machine_is_well(lazybench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYBENCH_CACHE", "nothing-here")
    assert lazybench("doctor", "--quiet").code == 0
    assert lazybench("doctor", "--repair", "--quiet").code == 0


def test_a_damaged_record_goes_and_its_boards_follow(doctor: Any, places: Places) -> None:
    (first, second) = sorted(places.store.glob("records/*/*/*.json"))
    whole = first.read_bytes()
    first.write_bytes(whole[:200])
    code, wrong, _ = doctor()
    assert code == 3
    assert [(each["area"], each["state"]) for each in wrong] == [("store", "bad")] * 2
    assert str(first) in wrong[0]["subject"]
    assert "not a record of schema 1" in wrong[0]["detail"]
    assert "--repair moves it" in wrong[0]["repair"]
    assert wrong[1]["repair"] is None, "not without that record"
    assert first.read_bytes() == whole[:200]

    boards = all_files(places.store / "boards")
    code, wrong, repaired = doctor("--repair")
    assert (code, wrong) == (0, [])
    assert len(repaired) == 2
    assert not first.exists()
    assert second.exists()
    (kept,) = (places.store / "quarantine").iterdir()
    assert (kept / first.relative_to(places.store)).read_bytes() == whole[:200]
    now = all_files(places.store / "boards")
    assert now != boards
    changed = {name for name in boards if now.get(name) != boards[name]}
    assert all_files(kept / "boards") == {name: boards[name] for name in changed}
    assert Store(places.store).records().skipped == []


def test_a_board_that_was_edited_is_regenerated(doctor: Any, places: Places) -> None:
    board = next((places.store / "boards").glob("*.md"))
    sound = board.read_bytes()
    board.write_bytes(sound.replace(b"reptile", b"mine"))
    (places.store / "boards" / "notes.md").write_text("somebody's own")
    code, wrong, _ = doctor()
    assert code == 3
    assert board.name in wrong[0]["detail"]
    assert doctor("--repair")[:2] == (0, [])
    assert board.read_bytes() == sound
    (copy,) = (places.store / "quarantine").rglob(board.name)
    assert b"mine" in copy.read_bytes()
    assert (places.store / "boards" / "notes.md").read_text() == "somebody's own"


def test_checkpoints_and_logs_of_runs(doctor: Any, places: Places) -> None:
    run = places.runs / "reptile-x"
    newest, log = run / "ckpt" / "step-2", run / "episodes.jsonl"
    (newest / "tensors.safetensors").write_bytes(b"weights 3")
    (run / "ckpt" / "step-1" / "tensors.safetensors").unlink()
    lines = log.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + lines[1].replace(b"0.5", b"0.9") + lines[2]
    log.write_bytes(damaged)
    code, wrong, _ = doctor()
    assert code == 3
    reported = {Path(each["subject"]).name: each["detail"] for each in wrong}
    assert "tensors.safetensors is missing" in reported["step-1"]
    assert "doesn't match its sha256" in reported["step-2"]
    assert reported["episodes.jsonl"].startswith("line 2 ")
    assert doctor("--repair")[:2] == (0, [])
    assert read_lines(log) == [{"first": 0, "scores": [0.5]}]
    (kept,) = (places.runs / "quarantine").iterdir()
    assert (kept / "reptile-x" / "episodes.jsonl").read_bytes() == damaged
    assert (kept / "reptile-x/ckpt/step-2/tensors.safetensors").read_bytes() == b"weights 3"
    assert (kept / "reptile-x/ckpt/step-1/manifest.json").is_file()


def test_a_torn_line_is_reported_and_left_to_the_run(doctor: Any, places: Places) -> None:
    log = places.runs / "reptile-x" / "episodes.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    before = log.read_bytes()
    code, wrong, repaired = doctor("--repair")
    assert (code, repaired) == (0, [])
    assert [each["state"] for each in wrong] == ["warn"]
    assert log.read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "done.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_files_of_a_run_that_hold_something_else(
    doctor: Any, places: Places, name: str, content: bytes
) -> None:
    path = places.runs / "reptile-x" / name
    path.write_bytes(content)
    code, (wrong,), _ = doctor()
    assert (code, wrong["subject"]) == (3, str(path))
    assert doctor("--repair")[:2] == (0, [])
    (kept,) = (places.runs / "quarantine").rglob(name)
    assert kept.read_bytes() == content


def test_a_run_at_work_is_left_alone(doctor: Any, places: Places) -> None:
    run = places.runs / "reptile-x"
    (run / "config.json").write_bytes(b"{")
    with FileLock(run / "lock"):
        assert doctor("--repair") == (0, [], [])
    assert doctor()[0] == 3


def test_what_killed_processes_left_is_quarantined_once_it_is_old(
    doctor: Any, places: Places
) -> None:
    record = next(places.store.glob("records/*/*"))
    left = [record / ".tmp-1-ab", places.runs / "reptile-x" / ".tmp-7-ef"]
    left += [places.runs / "reptile-x" / "ckpt" / ".tmp-2-cd", places.cache / "mine-1.tmp-x"]
    for path in left:
        path.write_bytes(b"half")
    assert doctor() == (0, [], []), "they may be at work still"
    for path in left:
        old(path)
    code, wrong, _ = doctor()
    assert code == 0
    assert {each["subject"] for each in wrong} == set(map(str, left))
    assert {each["state"] for each in wrong} == {"warn"}
    code, wrong, repaired = doctor("--repair")
    assert (code, wrong, len(repaired)) == (0, [], 4)
    assert not any(path.exists() for path in left)


def test_a_cache_entry_that_is_cut_is_prepared_again(doctor: Any, places: Places) -> None:
    array = places.cache / "mine-1" / "x.npy"
    array.write_bytes(array.read_bytes()[:-8])
    code, (wrong,), _ = doctor()
    assert (code, wrong["area"]) == (3, "cache")
    assert "x.npy has" in wrong["detail"]
    assert doctor("--repair")[:2] == (0, [])
    assert prepared("mine", "1", lambda: {"x": np.arange(9)})["x"].tolist() == list(range(9))
    assert len(list((places.cache / "quarantine").rglob("x.npy"))) == 1


def test_imported_data_that_is_damaged(doctor: Any, places: Places, lazybench: Any) -> None:
    x = np.random.default_rng(0).normal(size=(15 * 17, 4)).astype(np.float32)
    np.savez("mine.npz", x=x, y=np.repeat(np.arange(15), 17))
    assert lazybench("data", "import", "mine.npz", "--name", "mine").code == 0
    assert doctor()[0] == 0
    train = places.data / "imported" / "mine" / "train.npy"
    data = train.read_bytes()
    train.write_bytes(data[:-4])
    code, (wrong,), _ = doctor()
    assert code == 3
    assert (wrong["area"], wrong["subject"]) == ("data", "mine")
    (train.parent / "meta.json").write_text("{")
    code, wrong, repaired = doctor("--repair")
    assert (code, repaired) == (3, [])
    assert any(each["state"] == "bad" and "isn't whole" in each["detail"] for each in wrong)


def test_other_packages_in_a_process_of_their_own(tmp_path: Path, places: Places) -> None:
    site = tmp_path / "site"
    facts = site / "broken-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[lazybench.agents]\nmine = broken_agent:AGENT\n")
    (site / "broken_agent.py").write_text("import no_such_library\n")
    # What the package asks for, and one file of it that isn't as it was installed.
    own = site / "lazybench-0.1.dist-info"
    own.mkdir()
    (own / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lazybench\nVersion: 0.1\nRequires-Python: >=3.11.4\n"
        "Requires-Dist: numpy>=2\nRequires-Dist: rich>=99\nRequires-Dist: no-such-thing>=1\n"
        'Requires-Dist: matplotlib>=99; extra == "plots"\n'
    )
    (site / "lazybench" / "suites").mkdir(parents=True)
    (site / "lazybench" / "suites" / "a.toml").write_text("changed")
    (own / "RECORD").write_text(f"lazybench/suites/a.toml,sha256={'A' * 43},7\n")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "lazybench", "doctor", "--json"],
        cwd=tmp_path,
        # What was made here comes before the facts that an install of the checkout leaves in it.
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    found = {each["subject"]: each for each in json.loads(done.stdout)["findings"]}
    (broken,) = (each for name, each in found.items() if "broken_agent:AGENT" in name)
    assert "no_such_library" in broken["detail"]
    assert found["numpy"]["state"] == "ok"
    assert found["rich"]["state"] == "bad"
    assert "pip install 'rich>=99'" in found["rich"]["advice"]
    assert found["no-such-thing"]["state"] == "bad"
    assert found["matplotlib"]["state"] == "warn"
    assert found["files"]["detail"] == "lazybench/suites/a.toml was changed"


@pytest.mark.slow
def test_deep_reads_all_and_makes_torch_compute(lazybench: Any, places: Places) -> None:
    array = places.cache / "mine-1" / "x.npy"
    data = array.read_bytes()
    array.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert lazybench("doctor", "--quiet").code == 0, "the size is right"
    done = lazybench("doctor", "--deep", "--json")
    assert done.code == 3
    found = {each["subject"]: each for each in json.loads(done.out)["findings"]}
    assert "doesn't match its sha256" in found[str(places.cache / "mine-1")]["detail"]
    assert found["torch computes"]["state"] == "ok"
    assert found["embedded targets"]["state"] == "ok"
    assert found["glyphs"]["state"] == "ok"


def test_it_loads_no_torch(places: Places) -> None:
    code = (
        "import sys\nfrom lazybench.cli import main\n"
        "code = main(['doctor', '--quiet'])\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=places.store.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
