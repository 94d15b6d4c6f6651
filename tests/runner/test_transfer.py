"""Finished runs judged on other tasks, on other splits and at other steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lazybench
from lazybench.errors import UnknownName, UsageError
from lazybench.runner.request import RunRequest
from lazybench.runner.run import run
from lazybench.runner.trained import find_run
from lazybench.runner.transfer import TransferRequest, in_shape, load_policy, transfer

PLAYERS = Path(__file__).with_name("players.py")
ENV, OTHER = "sinusoid-5shot", "sinusoid-10shot"


def play(folder, agent="Movable", **more):
    options = {"budget": "smoke", "out": folder / "store", "runs": folder / "runs", **more}
    return lazybench.run(f"{PLAYERS}:{agent}", ENV, **options)


def evaluate(folder, run, **more):
    return transfer(TransferRequest(run=run, out=folder / "store", runs=folder / "runs", **more))


def test_another_environment_gives_a_record_that_reports_where_it_was_trained(tmp_path):
    made = play(tmp_path)
    record = evaluate(tmp_path, made.key12, env=OTHER).record
    assert record.env.id == OTHER
    assert record.trained_on == f"{ENV} {made.key12} best (step {made.checkpoint.step})"
    assert record.fit == made.key
    assert record.config == made.config
    assert record.network == made.network
    assert record.checkpoint == made.checkpoint
    assert record.cost.train_wall_s is None
    assert {r.key for r in lazybench.load_records(out=tmp_path / "store")} == {
        made.key,
        record.key,
    }


def test_the_same_environment_gives_the_scores_of_the_run(tmp_path):
    made = play(tmp_path)
    again = evaluate(tmp_path, str(next((tmp_path / "runs").iterdir()))).record
    assert (again.trials.scores_array() == made.trials.scores_array()).all()
    assert again.key != made.key


def test_steps_and_settings_of_evaluation_can_be_chosen(tmp_path):
    made = play(tmp_path)
    best = evaluate(tmp_path, made.key12).metric.value
    last = evaluate(tmp_path, made.key12, step="last")
    assert "last (step 6)" in last.trained_on
    assert evaluate(tmp_path, made.key12, step="4").record.checkpoint.step == 4
    shifted = evaluate(tmp_path, made.key12, overrides={"test_shift": 3.0}).record
    assert shifted.metrics["mse"].value != best
    assert shifted.overrides == {"test_shift": 3.0}


def test_a_record_has_the_overrides_of_the_run_and_of_evaluation(tmp_path):
    made = play(tmp_path, settings={"updates": 4})
    assert evaluate(tmp_path, made.key12).record.overrides == {"updates": 4}
    shifted = evaluate(tmp_path, made.key12, overrides={"test_shift": 3.0}).record
    assert shifted.overrides == {"updates": 4, "test_shift": 3.0}


def test_other_splits_give_numbers_and_no_record(tmp_path):
    made = play(tmp_path)
    for split in ("val", "train"):
        evaluated = evaluate(tmp_path, made.key12, split=split, limit=8)
        assert (evaluated.record, evaluated.metric.n, evaluated.split) == (None, 8, split)
    assert len(lazybench.load_records(out=tmp_path / "store")) == 1


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"run": "abcdef123456"}, UnknownName, "no run in"),
        ({"env": "glyphs-5way-1shot"}, UsageError, "trained on 1 way, got 5"),
        ({"step": "5"}, UsageError, r"stored checkpoints \(4, 6\), got '5'"),
        ({"overrides": {"updates": 3}}, UsageError, "'updates' isn't a setting of evaluation"),
        ({"protocol": {"concentration": 3}}, UsageError, "has no setting 'concentration'"),
        ({"overrides": {"tst_shift": 3}}, UsageError, "'tst_shift' isn.*Did you mean: test_shift"),
        ({"split": "all"}, UsageError, "split must be"),
        ({"limit": 0}, UsageError, "limit must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_reported(tmp_path, request_, error, message):
    made = play(tmp_path)
    with pytest.raises(error, match=message):
        evaluate(tmp_path, **{"run": made.key12, **request_})


def test_a_training_setting_that_was_left_at_its_default_cannot_be_changed(tmp_path):
    """A class without Config has only the settings that were given."""
    made = play(tmp_path, agent="Learner")
    for name in ("updates", "upd"):
        with pytest.raises(UsageError, match=f"'{name}' isn't a setting of evaluation.*: none"):
            evaluate(tmp_path, made.key12, overrides={name: 3})
    assert len(lazybench.load_records(out=tmp_path / "store")) == 1


def test_a_run_is_evaluated_under_its_own_protocol(tmp_path):
    env = "glyphs-5way-1shot-dirichlet"
    folders = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    request = RunRequest(
        agent="protonet",
        env=env,
        budget="smoke",
        overrides={"iterations": 1},
        protocol={"concentration": 20},
        **folders,
    )
    made = run(request)
    again = evaluate(tmp_path, made.key12).record
    assert again.env.protocol == made.env.protocol
    assert again.env.protocol["concentration"] == 20
    assert (again.trials.scores_array() == made.trials.scores_array()).all()
    other = evaluate(tmp_path, made.key12, protocol={"concentration": 3}).record
    assert other.env.protocol["concentration"] == 3
    assert evaluate(tmp_path, made.key12, env=env).record.env.protocol["concentration"] == 2


def test_images_are_shown_in_the_shape_of_the_training(tmp_path):
    """A colour is its luminance, a grey three equal channels, and the mean brightness stays."""
    grey = torch.arange(2 * 3 * 28 * 28).reshape(2, 3, 1, 28, 28).remainder(256).to(torch.uint8)
    coloured = in_shape(grey, (3, 32, 32))
    assert (coloured.shape, coloured.dtype) == ((2, 3, 3, 32, 32), torch.uint8)
    assert (coloured[:, :, 0] == coloured[:, :, 2]).all()
    flat = torch.full((4, 3, 32, 32), 7, dtype=torch.uint8)
    flat[:, 1] = 200
    found = in_shape(flat, (1, 28, 28))
    assert found.unique().tolist() == [round(0.299 * 7 + 0.587 * 200 + 0.114 * 7)]
    assert torch.equal(in_shape(grey, (1, 28, 28)), grey)


def test_an_agent_sees_images_of_other_data_in_its_own_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    x, y = np.random.default_rng(0).integers(0, 256, (800, 3, 9, 9)), np.repeat(range(40), 20)
    lazybench.import_data(x.astype(np.uint8), y, name="colours")
    options = {"budget": "smoke", "out": tmp_path / "store", "runs": tmp_path / "runs"}
    made = lazybench.run("protonet", "glyphs-5way-1shot", settings={"iterations": 1}, **options)
    moved = evaluate(tmp_path, made.key12, env="colours-5way-1shot", limit=8)
    assert moved.metric.n == 8
    policy = load_policy(made.key12, env="colours-5way-1shot", runs=tmp_path / "runs")
    again = lazybench.evaluate(policy, "colours-5way-1shot", name="moved", limit=8)
    assert again.metrics["accuracy"].value == moved.metric.value


def test_an_agent_without_the_method_takes_tasks_of_its_own_shape(tmp_path):
    made = play(tmp_path, "Learner")
    for split in ("train", "val"):
        assert evaluate(tmp_path, made.key12, split=split, limit=8).metric.n == 8
    same = evaluate(tmp_path, made.key12, env="sinusoid-5shot", limit=8)
    assert same.metric.n == 8


def test_an_agent_without_the_method_is_refused_other_shapes(tmp_path):
    made = play(tmp_path, "Learner")
    with pytest.raises(UsageError, match="no method transfer"):
        evaluate(tmp_path, made.key12, env=OTHER)


def test_an_agent_whose_source_changed_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLAYERS.read_text())
    options = {"budget": "smoke", "out": tmp_path / "store", "runs": tmp_path / "runs"}
    made = lazybench.run(f"{file}:Movable", ENV, **options)
    file.write_text(PLAYERS.read_text() + "\n# changed\n")
    with pytest.raises(UsageError, match="has changed since this run"):
        evaluate(tmp_path, made.key12)


def test_a_backbone_whose_source_changed_is_refused(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\n\n\ndef net(task):\n    return nn.Linear(1, 3)\n")
    settings = {"backbone": f"{file}:net", "iterations": 1}
    options = {"budget": "smoke", "out": tmp_path / "store", "runs": tmp_path / "runs"}
    made = lazybench.run("r2d2", ENV, settings=settings, limit=8, **options)
    assert evaluate(tmp_path, made.key12, limit=8).record.network == made.network
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(UsageError, match=r"backbone .* has changed since this run"):
        evaluate(tmp_path, made.key12, limit=8)


def test_an_agent_of_another_version_is_refused(tmp_path):
    made = play(tmp_path)
    (config,) = (tmp_path / "runs").glob("*/config.json")
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({**facts, "agent_version": facts["agent_version"] + 1}))
    with pytest.raises(UsageError, match="has version 1, but this run is of version 2"):
        evaluate(tmp_path, made.key12)


@pytest.mark.parametrize("name", ["**", "done-**", "[", "0" * 64])
def test_a_name_that_is_neither_a_folder_nor_a_key_names_no_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="no run in"):
        find_run(name, tmp_path)


def test_all_given_digits_of_a_key_count(tmp_path: Path) -> None:
    made = play(tmp_path)
    assert find_run(made.key, tmp_path / "runs").key == made.key
    other = made.key[:-1] + ("1" if made.key[-1] == "0" else "0")
    with pytest.raises(UnknownName, match="no run in"):
        find_run(other, tmp_path / "runs")
