"""One fit judged in several ways, and training that starts from given weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lazybench
from lazybench.errors import UnknownName, UsageError
from lazybench.runner.callbacks import Callback
from lazybench.runner.run_dir import list_runs

PLAYERS = Path(__file__).with_name("players.py")
ENV = "sinusoid-5shot"


def answers(record):
    return np.array(record.trials.predictions_list())


def play(folder, agent="Movable", **more):
    options = {"budget": "smoke", "out": folder / "store", "runs": folder / "runs", **more}
    return lazybench.run(f"{PLAYERS}:{agent}", ENV, **options)


@pytest.mark.parametrize("first", ["default", "other"])
def test_two_evaluations_are_two_records_of_one_fit(tmp_path, first):
    settings = {"default": {}, "other": {"shift": 2.0}}
    order = ["default", "other"] if first == "default" else ["other", "default"]
    made = {name: play(tmp_path, settings=settings[name]) for name in order}
    default, other = made["default"], made["other"]
    assert default.key != other.key
    assert (default.fit, other.fit) == (None, default.key)
    assert default.checkpoint == other.checkpoint
    assert default.curve == other.curve
    assert default.cost.train_wall_s == other.cost.train_wall_s
    moved = answers(other) - answers(default)
    assert moved == pytest.approx(2.0, abs=1e-5)
    received: list[str] = []
    silent = Callback()
    silent.note = received.append
    play(tmp_path, settings={"shift": 3.0}, watch=silent)
    assert received == ["training is complete (6 updates): nothing is trained again"]
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status, run.key12) == ("ok", default.key12)
    # Each is a separate record: requested again, neither is evaluated again.
    assert play(tmp_path, settings=settings["other"]).started == other.started


def test_a_forced_evaluation_trains_again_and_agrees(tmp_path):
    made = play(tmp_path, settings={"shift": 2.0})
    assert play(tmp_path, settings={"shift": 2.0}, force=True).comparable() == made.comparable()


def test_a_record_reports_the_network(tmp_path):
    network = play(tmp_path).network
    assert (network.name, network.parameters, network.weights) == ("three-numbers", 3, "fresh")
    assert play(tmp_path, "Learner").network is None


def test_training_starts_from_a_file_of_weights(tmp_path):
    save_file({"w": torch.full((3,), 7.0)}, tmp_path / "seven.safetensors")
    fresh = play(tmp_path, settings={"updates": 0})
    given = play(tmp_path, settings={"updates": 0}, init=str(tmp_path / "seven.safetensors"))
    assert given.key != fresh.key
    assert answers(given) == pytest.approx(21.0)
    assert given.network.weights == "seven.safetensors"
    save_file({"w": torch.full((3,), 8.0)}, tmp_path / "seven.safetensors")
    other = play(tmp_path, settings={"updates": 0}, init=str(tmp_path / "seven.safetensors"))
    assert other.key != given.key


def test_training_starts_from_another_run(tmp_path):
    first = play(tmp_path)
    then = play(tmp_path, settings={"updates": 0}, init=first.key12)
    assert then.network.weights == f"Movable on {ENV} ({first.key12}, step {first.checkpoint.step})"
    assert (answers(then) == answers(first)).all()


@pytest.mark.parametrize(
    ("agent", "init", "error", "message"),
    [
        ("Movable", "nowhere", UnknownName, "no run in .* has a key that begins with 'nowhere'"),
        ("Movable", "absent.safetensors", UsageError, "can't read weights from absent"),
        ("Movable", str(PLAYERS), UsageError, "can't read weights from .*players.py"),
        ("Learner", "nowhere", UsageError, "can't start from given weights"),
    ],
)
def test_weights_that_cannot_be_had_are_reported_before_anything_is_written(
    tmp_path, agent, init, error, message
):
    with pytest.raises(error, match=message):
        play(tmp_path, agent, init=init)
    assert not list(tmp_path.iterdir())
