"""Checkpoints: what comes back is what went in, or an error says why not."""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple

import pytest
import torch

from lazybench.errors import ContractError, StoreError
from lazybench.runner import checkpoint
from lazybench.runner.train import Progress


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({0: 1}, "keys of an agent's state must be text"),
        ({"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}, "have the path state/a/b"),
        ({"pair": Pair(1, 2)}, "got Pair at state/pair"),
        ({"made": object()}, "got object at state/made"),
    ],
)
def test_a_state_that_would_come_back_changed_is_refused(tmp_path, state: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        checkpoint.save(tmp_path, 1, state)
    assert not list(tmp_path.iterdir())


def test_tensors_of_any_layout_come_back(tmp_path) -> None:
    images = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = {"wide": torch.arange(3.0).expand(2, 3), "images": images, "part": images[:, :2]}
    checkpoint.save(tmp_path, 1, state)
    found = checkpoint.load(tmp_path)
    assert found is not None
    for name, value in state.items():
        assert torch.equal(found[1][name], value), name
    assert found[1]["images"].stride() == images.stride()


def test_a_fresh_checkpoint_stays_before_later_damaged_ones(tmp_path) -> None:
    for step in (100, 200):
        checkpoint.save(tmp_path, step, {"n": step})
        (tmp_path / f"step-{step}" / "state.json").write_bytes(b"{}")
    assert checkpoint.load(tmp_path)[:2] == (0, None)
    checkpoint.save(tmp_path, 5, {"n": 5})
    assert checkpoint.load(tmp_path) == (5, {"n": 5}, [])
    shutil.rmtree(tmp_path / "step-5")
    assert checkpoint.load(tmp_path) is None


def test_a_second_save_of_a_step_that_fails_leaves_the_first(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped in a validation saves the same step again after it."""
    checkpoint.save(tmp_path, 40, {"n": 1})
    real = checkpoint.write_json

    def full(*args: Any, **more: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(StoreError):
        checkpoint.save(tmp_path, 40, {"n": 2})
    assert checkpoint.load(tmp_path) == (40, {"n": 1}, [])
    monkeypatch.setattr(checkpoint, "write_json", real)
    checkpoint.save(tmp_path, 40, {"n": 3})
    assert checkpoint.load(tmp_path) == (40, {"n": 3}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-40"]


def test_a_checkpoint_of_another_version_is_reported() -> None:
    assert Progress.of(Progress(step=3).tree()).step == 3
    older = Progress(step=3).tree()
    del older["peak_gpu_memory_bytes"]  # which older versions didn't measure
    assert Progress.of(older) == Progress(step=3)
    with pytest.raises(StoreError, match="written by another version"):
        Progress.of({"step": 3})


def test_steps_are_numbers_and_the_newest_two_stay(tmp_path) -> None:
    for step in (8, 9, 10, 100):
        checkpoint.save(tmp_path, step, {"n": step})
        assert checkpoint.load(tmp_path) == (step, {"n": step}, [])
    assert checkpoint.steps(tmp_path) == [10, 100]
    for name in ("step-9", "step-x", "step-007", "step-1e3"):
        (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == [9, 10, 100]
    (tmp_path / "step-100" / "state.json").write_bytes(b"[]")
    step, state, notes = checkpoint.load(tmp_path)
    assert (step, state) == (10, {"n": 10})
    assert "step-100/state.json is damaged" in notes[0]


def test_what_a_killed_process_left_goes_at_the_next_save(tmp_path) -> None:
    for left in (".new-9", ".old-3"):
        (tmp_path / left).mkdir()
    checkpoint.save(tmp_path, 12, {"n": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]


def test_a_copied_state_shares_no_memory() -> None:
    state = {"a": torch.zeros(2), "b": [torch.zeros(1)], "c": (torch.zeros(1), 3), "d": "x"}
    again = checkpoint.copied(state)
    for tensor in (again["a"], again["b"][0], again["c"][0]):
        tensor += 1
    assert (state["a"].sum(), state["b"][0].sum(), state["c"][0].sum()) == (0, 0, 0)
    assert (again["c"][1], again["d"]) == (3, "x")
