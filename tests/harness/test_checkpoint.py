"""Checkpoints: what comes back is what went in, or an error says why not."""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple

import pytest
import torch

from lazybench.errors import ContractError, StoreError
from lazybench.harness import checkpoint
from lazybench.harness.fit import Progress


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({0: 1}, "keys of an agent's state are text"),
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


def test_a_fresh_checkpoint_stays_beside_later_damaged_ones(tmp_path) -> None:
    for step in (100, 200):
        checkpoint.save(tmp_path, step, {"n": step})
        (tmp_path / f"step-{step}" / "state.json").write_bytes(b"{}")
    assert checkpoint.load(tmp_path)[:2] == (0, None)
    checkpoint.save(tmp_path, 5, {"n": 5})
    assert checkpoint.load(tmp_path) == (5, {"n": 5}, [])
    shutil.rmtree(tmp_path / "step-5")
    assert checkpoint.load(tmp_path) is None


def test_a_checkpoint_of_another_version_is_told() -> None:
    assert Progress.of(Progress(step=3).tree()).step == 3
    with pytest.raises(StoreError, match="written by another version"):
        Progress.of({"step": 3})
