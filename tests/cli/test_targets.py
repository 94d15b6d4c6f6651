"""`targets list` tells what is trained; `targets train` trains a target with its white boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lazybench.envs.targets.nets import Trained, names, read_nets


def made(name: str, budget: str, seed: int) -> Trained:
    """A network that is trained at once."""
    return Trained(name, {"w": torch.ones(2)}, 0.9876, "f" * 64, budget, seed, 3.0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The trainings that are requested; each answers at once, white boxes as trained before."""
    calls: list[tuple[Any, ...]] = []

    def keep(
        name: str, *, budget: str, seed: int, replace: bool, watch: Any
    ) -> tuple[Trained, bool]:
        calls.append((name, budget, seed, replace))
        watch.stage(f"train {name}", 2)
        return made(name, budget, seed), name == "mnist-net4"

    def train(name: str, *, budget: str, seed: int, watch: Any) -> Trained:
        calls.append((name, budget, seed))
        return made(name, budget, seed)

    monkeypatch.setattr("lazybench.envs.targets.training.keep_net", keep)
    monkeypatch.setattr("lazybench.envs.targets.training.train_net", train)
    return calls


def test_a_target_comes_with_its_white_boxes(lazybench: Any, asked: list[Any]) -> None:
    done = lazybench("targets", "train", "mnist-net4", "mnist-lenet5", "--seed", "2")
    assert done.code == 0
    assert [call[0] for call in asked] == [
        *("mnist-net4", "mnist-lenet5", "mnist-net1", "mnist-net6", "mnist-net2-small"),
    ]
    assert {call[1:] for call in asked} == {("small", 2, False)}
    first, second, *_ = done.out.splitlines()
    assert first == "mnist-net4: 98.76 % accuracy on the test images (small, 3 epochs, seed 2)"
    assert second.endswith("; already trained, --replace trains it again")
    assert "train mnist-net4: 0/2" in done.err
    asked.clear()
    quiet = lazybench("targets", "train", "mnist-net4", "--only", "--replace", "--quiet")
    assert asked == [("mnist-net4", "small", 0, True)]
    assert quiet.err == ""


def test_into_a_file(lazybench: Any, asked: list[Any], tmp_path: Path) -> None:
    done = lazybench("targets", "train", "glyphs-net4", "--only", "--out", "nets.safetensors")
    assert done.code == 0
    assert asked == [("glyphs-net4", "small", 0)]
    found = read_nets(tmp_path / "nets.safetensors", remedy="none")
    assert found["glyphs-net4"].accuracy == 0.9876
    asked.clear()
    again = lazybench("targets", "train", "glyphs-net4", "--only", "--out", "nets.safetensors")
    assert (again.code, asked) == (73, [])
    assert "exists already" in again.err
    assert "--replace" in again.err
    (tmp_path / "file").touch()
    below = lazybench("targets", "train", "glyphs-net4", "--out", "file/nets.safetensors")
    assert (below.code, asked) == (73, [])
    more = ("--only", "--out", "file/nets.safetensors", "--replace")
    assert (lazybench("targets", "train", "glyphs-net4", *more).code, asked) == (73, [])
    more = ("--only", "--out", "nets.safetensors", "--replace")
    assert lazybench("targets", "train", "glyphs-net4", *more).code == 0


def test_a_file_that_appears_during_the_training_stays(
    lazybench: Any, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> Trained:
        (tmp_path / "nets.safetensors").write_text("mine")
        return made("glyphs-net4", "small", 0)

    monkeypatch.setattr("lazybench.envs.targets.training.train_net", train)
    done = lazybench("targets", "train", "glyphs-net4", "--only", "--out", "nets.safetensors")
    assert done.code == 0, done.err
    assert (tmp_path / "nets.safetensors").read_text() == "mine"
    assert "nets-1.safetensors" in done.err
    assert "glyphs-net4" in read_nets(tmp_path / "nets-1.safetensors", remedy="none")


def test_json(lazybench: Any, asked: list[Any]) -> None:
    facts = json.loads(lazybench("targets", "train", "mnist-net4", "--json").out)["targets"]
    assert facts[0]["name"] == "mnist-net4"
    assert len(facts[0]["sha256"]) == 64
    assert "params" not in facts[0]


def test_what_is_not_there_is_refused(lazybench: Any) -> None:
    done = lazybench("targets", "train", "mnist-net5")
    assert done.code == 2
    assert "no target 'mnist-net5'" in done.err
    assert lazybench("targets", "train", "glyphs-net4", "--replace").code == 2
    # The data folder is empty.
    assert lazybench("targets", "train", "mnist-net4").code == 69


def test_list(lazybench: Any) -> None:
    done = lazybench("targets", "list", "--json")
    assert done.code == 0
    found = {each["name"]: each for each in json.loads(done.out)["targets"]}
    assert list(found) == list(names())
    assert found["glyphs-net4"]["trained"] is True
    assert found["glyphs-net4"]["accuracy"] > 0.97
    assert found["mnist-net4"]["trained"] is False
    assert "lazybench data get mnist" in found["mnist-net4"]["detail"]
    assert "glyphs-net4" in lazybench("targets", "list").out
