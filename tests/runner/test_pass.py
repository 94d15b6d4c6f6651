"""Environments whose test is one pass over a whole test set, run by the same runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import lazybench
from lazybench.errors import UsageError
from lazybench.registry import ENVS
from lazybench.runner.transfer import TransferRequest, transfer
from lazybench.specs import EnvSpec

STREAMS = Path(__file__).with_name("streams.py")


@pytest.fixture(params=[False, True])
def silent(request):
    return request.param


@pytest.fixture
def env(silent):
    spec = EnvSpec(
        "parity-pass",
        "fewshot",
        f"{STREAMS}:ParityEnv",
        None,
        "parity",
        kwargs={"silent": silent},
        trials={"smoke": 10},
        val_trials={"smoke": 10},
    )
    ENVS.register(spec)
    yield spec.id
    ENVS.forget(spec.id)


def play(folder, env, agent="Learner", **more):
    options = {"budget": "smoke", "out": folder / "store", "runs": folder / "runs", **more}
    return lazybench.run(f"{STREAMS}:{agent}", env, **options)


@pytest.mark.parametrize("silent", [False], indirect=True)
def test_a_pass_gives_every_trials_score_and_the_environments_own_metric(tmp_path, env):
    record = play(tmp_path, env, seed=5)
    # Trained on 0-3, 1-4 and 2-5: knows 0, 2 and 4 to be even, not 6.
    assert record.trials.scores_array().tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    metric = record.metrics["accuracy"]
    assert metric.value == pytest.approx((1 + 2 / 3) / 2)
    # The mean over trials is another number than the mean of recalls, so its interval isn't ours.
    assert metric.ci95 is None
    assert record.diagnostics["metrics"] == {"recalls": [pytest.approx(2 / 3), 1.0], "seed": 5}
    assert record.env.protocol == {"silent": False, "batch": 4, "trials": 10}
    assert record.cost.gradient_equivalents == 4.5
    assert record.cost.image_gradients == 12
    assert [point["val"] for point in record.curve] == [metric.value] * 2
    assert (record.checkpoint.step, record.cost.outer_steps) == (3, 3)


@pytest.mark.parametrize("silent", [False], indirect=True)
def test_an_evaluated_pass_is_not_evaluated_again(tmp_path, env):
    first = play(tmp_path, env)
    next((tmp_path / "store").rglob("records/**/*.json")).unlink()
    for done in (tmp_path / "runs").rglob("done.json"):
        done.unlink()
    again = play(tmp_path, env)
    assert again.comparable() == first.comparable()
    assert again.cost.eval_wall_s == first.cost.eval_wall_s


@pytest.mark.parametrize("silent", [False], indirect=True)
def test_a_pass_has_no_limit(tmp_path, env):
    with pytest.raises(UsageError, match="scored in one pass"):
        play(tmp_path, env, limit=5)


@pytest.mark.parametrize("silent", [False], indirect=True)
def test_a_run_is_evaluated_again_by_the_network_that_it_described(tmp_path, env):
    made = play(tmp_path, env, "Movable")
    request = TransferRequest(made.key12, out=tmp_path / "store", runs=tmp_path / "runs")
    again = transfer(request).record
    assert again.metrics["accuracy"].value == made.metrics["accuracy"].value
    assert again.network == made.network
    assert (again.network.name, again.network.parameters) == ("table", 2)
    with pytest.raises(UsageError, match="doesn't score its train split"):
        transfer(replace(request, split="train"))


@pytest.mark.parametrize("silent", [True], indirect=True)
def test_an_environment_that_reveals_nothing_fails_the_run(tmp_path, env):
    record = play(tmp_path, env)
    assert record.status == "failed"
    assert "missing: accuracy, correct, predictions" in record.reason
