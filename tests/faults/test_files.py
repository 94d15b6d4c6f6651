"""Rows 7 to 10: lines and checkpoints that are cut, changed or malicious."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SLOW = {"LAZYBENCH_TEST_PAUSE_S": "0.1", "LAZYBENCH_TEST_ANSWER_S": "0.02"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def finished(here: Any, reference: Callable[[str], Any]) -> Any:
    """A finished run whose record was lost, so that its files are read again."""
    shutil.copytree(reference("Steady")[0].folder / "runs", here.folder / "runs")
    return here


def assert_as_whole(here: Any, reference: Callable[[str], Any], done: Any) -> None:
    assert done.code == 0, done.err
    assert here.result == reference("Steady")[0].result


@pytest.mark.parametrize(
    "left", [1, 2, 200, pytest.param(-3, id="all-but-3"), pytest.param(-1, id="all-but-1")]
)
def test_07_torn_last_line(finished: Any, reference: Callable[[str], Any], left: int) -> None:
    path = finished.run / "episodes.jsonl"
    *kept, last, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*kept, (last + b"\n")[:left]]))
    done = finished.play("Steady").wait()
    assert_as_whole(finished, reference, done)
    assert "test: 32/40" in done.err
    warnings = [line for line in done.err.splitlines() if "is incomplete" in line]
    assert len(warnings) == 1
    assert "episodes.jsonl:5: the last line is incomplete" in warnings[0]


@pytest.mark.slow
def test_07_torn_at_any_byte(
    commands: Callable[[str], Any], reference: Callable[[str], Any]
) -> None:
    whole = (reference("Steady")[0].run / "episodes.jsonl").read_bytes()
    for size in range(0, len(whole), 97):
        here = commands(f"at-{size}")
        shutil.copytree(reference("Steady")[0].folder / "runs", here.folder / "runs")
        (here.run / "episodes.jsonl").write_bytes(whole[:size])
        assert_as_whole(here, reference, here.play("Steady").wait())


def test_08_garbage_in_the_middle(finished: Any) -> None:
    path = finished.run / "episodes.jsonl"
    data = bytearray(path.read_bytes())
    data[data.index(b"\n") + 100] ^= 1
    path.write_bytes(data)
    done = finished.play("Steady").wait()
    assert done.code == 74
    assert "episodes.jsonl:2: the line doesn't match its checksum" in done.err
    assert "Traceback" not in done.err
    assert path.read_bytes() == data, "nothing is lost or mended unasked"
    assert not (finished.folder / "store" / "records").exists()


@pytest.fixture
def stopped(here: Any) -> Any:
    """A run that was interrupted with two checkpoints, those of steps 2 and 4."""
    running = here.play("Steady", **SLOW)
    running.until(lambda: list(here.folder.glob("runs/*/ckpt/step-4/manifest.json")))
    running.send(signal.SIGKILL)
    running.wait()
    assert sorted(path.name for path in (here.run / "ckpt").iterdir()) == ["step-2", "step-4"]
    return here


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("tensors.safetensors", halve),
        ("tensors.safetensors", flip),
        ("state.json", flip),
        ("manifest.json", halve),
        pytest.param("manifest.json", other_json, marks=pytest.mark.slow),
        pytest.param("manifest.json", empty, marks=pytest.mark.slow),
        pytest.param("state.json", Path.unlink, marks=pytest.mark.slow),
    ],
)
def test_09_damaged_checkpoint(
    stopped: Any, reference: Callable[[str], Any], name: str, harm: Callable[[Path], Any]
) -> None:
    harm(stopped.run / "ckpt" / "step-4" / name)
    done = stopped.play("Steady").wait()
    assert_as_whole(stopped, reference, done)
    (reported,) = [line for line in done.err.splitlines() if "using an earlier one" in line]
    assert "step-4" in reported
    assert "resuming from the checkpoint at meta-iteration 2" in done.err


def test_09_no_sound_checkpoint_is_left(stopped: Any, reference: Callable[[str], Any]) -> None:
    for step in (2, 4):
        flip(stopped.run / "ckpt" / f"step-{step}" / "tensors.safetensors")
    done = stopped.play("Steady").wait()
    assert_as_whole(stopped, reference, done)
    assert "training starts again" in done.err
    assert "train: 0/6" in done.err


def test_09_a_damaged_state_is_not_evaluated(here: Any, reference: Callable[[str], Any]) -> None:
    """`evaluate` used to evaluate an earlier checkpoint in its place, in silence."""
    shutil.copytree(reference("Steady")[0].folder / "runs", here.folder / "runs")
    flip(here.run / "ckpt" / "step-6" / "tensors.safetensors")
    done = here("evaluate", str(here.run), "--split", "val", "--runs", "runs")
    assert done.code == 74
    assert "step-6/tensors.safetensors is damaged" in done.err
    assert done.out == ""


class Evil:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def committed(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint, and its sha256 in the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_10_malicious_pickle_as_a_checkpoint(
    stopped: Any, reference: Callable[[str], Any], name: str
) -> None:
    """With a manifest that fits, as an attacker would make it."""
    ran = stopped.folder / "ran"
    committed(stopped.run / "ckpt" / "step-4", name, pickle.dumps(Evil(ran)))
    done = stopped.play("Steady").wait()
    assert_as_whole(stopped, reference, done)
    assert "step-4 has no valid state" in done.err
    assert not ran.exists()


def test_10_malicious_pickle_as_anything_else(here: Any) -> None:
    ran = here.folder / "ran"
    evil = pickle.dumps(Evil(ran))
    for name in ("w.safetensors", "w.pt", "agent.pkl", "agent.py", "a.npz", "mini.toml"):
        (here.folder / name).write_bytes(evil)
    torch.save(Evil(ran), here.folder / "w.pth")
    ran.unlink(missing_ok=True)
    sinusoid = ("-e", "sinusoid-5shot", "-b", "smoke", "--out", "store", "--runs", "runs")
    for argv in (
        ("run", "-a", "reptile", *sinusoid, "--init", "w.safetensors"),
        ("run", "-a", "reptile", *sinusoid, "--init", "w.pt"),
        ("run", "-a", "reptile", *sinusoid, "--init", "w.pth"),
        ("run", "-a", "agent.pkl:Agent", *sinusoid),
        ("run", "-a", "agent.py:Agent", *sinusoid),
        ("data", "import", "a.npz", "--name", "mine"),
        ("sweep", "mini.toml"),
        ("evaluate", "w.pt"),
        ("verify", "w.pt"),
        ("score", "w.pt", "--env", "sinusoid-5shot", "--name", "mine"),
    ):
        done = here(*argv, LAZYBENCH_DATA=str(here.folder / "data"))
        assert done.code in (1, 2, 69, 74), (argv, done)
        assert "bug" not in done.err, (argv, done)
        assert "Traceback" not in done.err, (argv, done)
        assert not ran.exists(), argv
