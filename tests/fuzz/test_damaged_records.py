"""Records, suites, checkpoints and logs cut and flipped everywhere: one clear error, or sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from lazybench.envs.own_target.journal import Journal
from lazybench.envs.targets.nets import Trained, write_nets
from lazybench.records import Record, Store, append_line
from lazybench.runner import checkpoint
from lazybench.runner.train import Progress

Sample = tuple[str, Path, Path]
"""What reads it (by its name in `confined.py`), what that is given, and the file to damage."""


SUITE = """name = "mine"
about = "a line"
[[cells]]
agents = ["reptile", "maml"]
envs = ["glyphs-5way-1shot"]
seeds = [0, 1]
budget = "smoke"
set = { inner_lr = 0.5 }
[cells.grid]
inner_steps = [2, 5]
"""


def suite(folder: Path) -> Sample:
    """A suite."""
    path = folder / "mine.toml"
    path.write_text(SUITE)
    return "suite", path, path


def record(folder: Path, made: Record) -> Sample:
    """A record in a store."""
    return "store", folder, Store(folder).publish(made)


def reported(folder: Path) -> Sample:
    """Rows that a paper prints."""
    row = {"row": "MAML", "agent": "maml", "env": "e", "metric": "accuracy", "value": 1.5}
    held = {"schema_version": 1, "source": "s", "table": "t", "rows": [row | {"unit": "%"}]}
    path = folder / "reported" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps(held))
    return "reported", folder, path


def lines(folder: Path) -> Sample:
    """A log of checked lines."""
    for number in range(4):
        append_line(folder / "x.jsonl", {"first": number, "scores": [0.5, 0.25]})
    return "lines", folder / "x.jsonl", folder / "x.jsonl"


def journal(folder: Path) -> Sample:
    """Answers of a target."""
    path = folder / "queries.jsonl"
    held = Journal(path, {"url": "here"})
    for number in range(3):
        held.keep(f"{number:032x}", [0.5, 0.5])
    return "journal", path, path


THETA = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3)}
TREE = {"theta": THETA, "step": 3, "t": (1, 2)}


def checkpoint_file(name: str) -> Callable[[Path], Sample]:
    """A checkpoint, of which one file is damaged."""

    def make(folder: Path) -> Sample:
        checkpoint.save(folder, 3, TREE)
        return "checkpoint", folder / "step-3", folder / "step-3" / name

    return make


def weights(folder: Path) -> Sample:
    """Weights to start from."""
    path = folder / "x.safetensors"
    path.write_bytes(save(THETA))
    return "weights", path, path


def nets(folder: Path) -> Sample:
    """A trained target."""
    params = {"w": torch.arange(6.0), "b": torch.zeros(2, 3)}
    held = Trained("mnist-x", params, 0.9, "ab" * 32, "small", 0, 1.5)
    path = write_nets(folder / "x.safetensors", {"mnist-x": held})
    return "nets", path, path


def meta(folder: Path) -> Sample:
    """What is known of an imported data set."""
    part = {"classes": ["a", "b"], "groups": ["a", "b"], "counts": [20, 20], "bytes": 9}
    splits = {name: part | {"sha256": "ab" * 32} for name in ("train", "val", "test")}
    held = {"schema": 1, "name": "mine", "kind": "features", "shape": [4], "splits": splits}
    held |= {"fingerprint": "cd" * 32, "prep": "1", "source": "here", "licence": ""}
    path = folder / "mine" / "meta.json"
    path.parent.mkdir()
    path.write_text(json.dumps(held))
    return "meta", path.parent, path


CONFIG = {
    "key": "ab" * 32,
    "asked": "reptile",
    "overrides": {"inner_lr": 0.5},
    "network_facts": {"name": "conv4-32", "parameters": 9},
    "agent": "reptile",
    "env": "glyphs-5way-1shot",
    "budget": "smoke",
    "seed": 0,
}


def run_file(loader: str, name: str) -> Callable[[Path], Sample]:
    """A run's folder, of which one file is damaged."""

    def make(folder: Path) -> Sample:
        run = folder / "runs" / "reptile-x"
        progress = Progress(state=TREE, step=3, best=TREE, best_step=3)
        checkpoint.save(run / "ckpt", 3, progress.tree())
        (run / "config.json").write_text(json.dumps(CONFIG))
        (run / "done.json").write_text('{"record": "somewhere", "status": "ok"}')
        return loader, run.parent if loader == "runs" else run, run / name

    return make


CHECKED: dict[str, Callable[[Path], Sample]] = {
    "state": checkpoint_file("state.json"),
    "tensors": checkpoint_file("tensors.safetensors"),
    "manifest": checkpoint_file("manifest.json"),
    "lines": lines,
}
FREE: dict[str, Callable[[Path], Sample]] = {
    "suite": suite,
    "reported": reported,
    "journal": journal,
    "weights": weights,
    "nets": nets,
    "meta": meta,
    "config": run_file("run", "config.json"),
    "tensors of a run": run_file("run", "ckpt/step-3/tensors.safetensors"),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_checked_file_is_read_right_or_refused(name: str, tmp_path: Path, damage: Any) -> None:
    damage(*CHECKED[name](tmp_path), right=name != "lines")


@pytest.mark.parametrize("name", FREE)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path, damage: Any) -> None:
    damage(*FREE[name](tmp_path))


def test_a_damaged_record_is_left_out(
    tmp_path: Path, damage: Any, record_fields: Callable[..., dict[str, Any]]
) -> None:
    damage(*record(tmp_path, Record.keyed(**record_fields())), refuses=False)


@pytest.mark.parametrize("name", ["config.json", "done.json"])
def test_a_damaged_run_is_listed_or_left_out(name: str, tmp_path: Path, damage: Any) -> None:
    damage(*run_file("runs", name)(tmp_path), refuses=False)
