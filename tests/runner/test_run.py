"""Runs: the same command continues, repeats nothing, and says what went wrong."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import lazybench
from lazybench.errors import (
    Busy,
    ContractError,
    DeviceUnavailable,
    Interrupted,
    OutputUnavailable,
    StoreError,
    UnknownName,
    UsageError,
)
from lazybench.nets import training_passes
from lazybench.registry import AGENTS
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import make, resolve_env
from lazybench.runner.run_dir import list_runs
from lazybench.seeding import Rng
from lazybench.user_code import load

PLAYERS = Path(__file__).with_name("players.py")
ENV = "sinusoid-5shot"


def play(folder, agent="Learner", **more):
    options = {"budget": "smoke", "out": folder / "store", "runs": folder / "runs", **more}
    return lazybench.run(f"{PLAYERS}:{agent}", ENV, **options)


def test_a_run_gives_a_record_of_what_happened(tmp_path):
    record = play(tmp_path)
    assert record.status == "ok"
    assert record.cost.outer_steps == 6
    assert [point["step"] for point in record.curve] == [2, 4, 6]
    assert record.metrics["mse"].n == len(record.trials.scores_array()) == 40
    assert record.metrics["mse"].value == pytest.approx(record.trials.scores_array().mean())
    assert record.agent.source_sha256
    assert record.untuned
    assert record.checkpoint is not None
    assert lazybench.load_records(ENV, out=tmp_path / "store")[0].key == record.key


def test_each_validation_knows_what_training_had_cost(tmp_path):
    stores = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    record = lazybench.run("maml", ENV, budget="smoke", settings={"validations": 3}, **stores)
    steps = [point["step"] for point in record.curve]
    spent = [point["image_gradients"] for point in record.curve]
    each = record.cost.image_gradients / record.cost.outer_steps
    assert spent == [each * step for step in steps]
    assert spent[-1] == record.cost.image_gradients
    seconds = [point["train_cpu_s"] for point in record.curve]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2] <= record.cost.train_cpu_s + 1e-3
    points = record.comparable()["curve"]
    assert not any({"image_gradients", "train_cpu_s"} & set(point) for point in points)


def test_a_finished_run_is_not_repeated(tmp_path):
    first = play(tmp_path)
    files = sorted((tmp_path / "store").rglob("*.json"))
    before = [path.stat().st_mtime_ns for path in files]
    assert play(tmp_path).started == first.started
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_forced_run_repeats_and_must_agree(tmp_path):
    first = play(tmp_path)
    again = play(tmp_path, force=True)
    assert again.comparable() == first.comparable()
    # A folder of its own has the status of a finished run, too.
    play(tmp_path, force=True, runs=tmp_path / "elsewhere")
    assert [run.status for run in list_runs(tmp_path / "elsewhere")] == ["ok"]
    path = next((tmp_path / "store").rglob("records/**/*.json"))
    doctored = first.model_copy(update={"curve": []})
    path.write_text(doctored.to_json())
    with pytest.raises(StoreError, match="another result than the stored record"):
        play(tmp_path, force=True)


def test_settings_seed_limit_and_budget_make_other_runs(tmp_path):
    keys = {
        play(tmp_path).key,
        play(tmp_path, seed=1).key,
        play(tmp_path, settings={"updates": 4}).key,
        play(tmp_path, limit=5).key,
        play(tmp_path, limit=6).key,
    }
    assert len(keys) == 5
    assert [r.limited for r in lazybench.load_records(out=tmp_path / "store")].count(True) == 2


def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch):
    with pytest.raises(Interrupted, match="meta-iteration 3 of 6") as stopped:
        play(tmp_path, "Interrupts")
    assert stopped.value.exit_code == 130
    assert [(run.status, run.step) for run in list_runs(tmp_path / "runs")] == [("interrupted", 3)]
    resumed = play(tmp_path, "Interrupts")
    monkeypatch.setenv("LAZYBENCH_TEST_CALM", "1")
    whole = play(tmp_path / "calm", "Interrupts")
    assert resumed.comparable() == whole.comparable()
    assert [run.status for run in list_runs(tmp_path / "runs")] == ["ok"]


def test_an_agent_with_a_loop_of_its_own(tmp_path):
    record = play(tmp_path, "Whole")
    assert record.status == "ok"
    assert not record.agent.resumable
    assert record.metrics["mse"].n == 40


def test_diagnostics_are_in_the_record(tmp_path):
    reported = play(tmp_path, "Talks").diagnostics
    assert reported["seen"] == 6
    assert len(reported["w"]) == 3


def test_a_run_leaves_torch_as_it_was(tmp_path):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        play(tmp_path, threads=1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_divergence_is_a_row_with_its_reason(tmp_path):
    record = play(tmp_path, "Diverges")
    assert record.status == "diverged"
    assert record.reason == "the loss is nan at meta-iteration 3; last finite loss: 0.5"
    assert record.metrics == {}
    assert play(tmp_path, "Diverges").started == record.started


def test_an_agent_that_raises_is_recorded_and_may_try_again(tmp_path):
    record = play(tmp_path, "Raises")
    assert record.status == "failed"
    assert record.reason.startswith("RuntimeError: out of ideas (players.py:")


def test_running_out_of_memory_is_a_result(tmp_path):
    record = play(tmp_path, "Hungry")
    assert record.status == "oom"
    assert "peak memory" in record.reason


def test_an_agent_that_ends_its_process_has_failed(tmp_path):
    before = os._exit
    record = play(tmp_path, "Leaves")
    assert record.status == "failed"
    assert "os._exit was called inside a run, with (0,) (players.py:" in record.reason
    assert os._exit is before


def test_a_wrong_answer_names_both_shapes(tmp_path):
    record = play(tmp_path, "WrongShape")
    assert record.status == "failed"
    assert "must have shape [15, 1] for a trial" in record.reason
    assert "got [14, 1]" in record.reason


def test_two_processes_cannot_be_at_one_run(tmp_path):
    from filelock import FileLock

    with pytest.raises(Interrupted):
        play(tmp_path, "Interrupts")
    folder = next((tmp_path / "runs").iterdir())
    with FileLock(folder / "lock"):
        assert [run.status for run in list_runs(tmp_path / "runs")] == ["running"]
        with pytest.raises(Busy, match="another process is executing this run"):
            play(tmp_path, "Interrupts")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"budget": "smal"}, UsageError, "one of smoke, small, medium, paper, got 'smal'"),
        ({"limit": 0}, UsageError, "limit must be at least 1 trial, got 0"),
        ({"threads": 0}, UsageError, "threads must be at least 1, got 0"),
        ({"device": "cuda"}, DeviceUnavailable, "device cuda isn't available"),
        ({"device": "gpu"}, UsageError, "device must be one of auto, cpu, cuda, mps, got 'gpu'"),
        ({"settings": {"update": 3}}, UsageError, "no setting 'update'. Did you mean: updates?"),
        ({"agent": "NotAnAgent"}, ContractError, "has no method 'init'"),
        ({"agent": "Unplanned"}, ContractError, "has only one of the methods plan"),
        ({"settings": {"updates": 101}, "agent": "Picky"}, UsageError, "can't be created with"),
        ({"settings": {"updates": "many"}, "agent": "Picky"}, UsageError, "bad value for updates"),
        ({"agent": "Lerner"}, UsageError, "Did you mean: Learner?"),
    ],
)
def test_bad_requests_are_reported_before_anything_is_written(tmp_path, change, error, words):
    if "cuda" in words:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
    with pytest.raises(error, match=words.replace("?", r"\?").replace(".", r"\.")):
        play(tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_unknown_names_offer_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean: lazy_reptile"):
        lazybench.run("lazy_reptil", ENV, out=tmp_path, runs=tmp_path)
    with pytest.raises(UnknownName, match=r"Did you mean: .*glyphs-20way-5shot"):
        lazybench.run("chance", "glyph-20way-5shot", out=tmp_path, runs=tmp_path)


def test_settings_of_builtin_agents_are_checked(tmp_path):
    def bad(settings, words):
        with pytest.raises(UsageError, match=words):
            lazybench.run("reptile", ENV, settings=settings, out=tmp_path, runs=tmp_path)

    bad({"inner_stepz": 3}, "no setting 'inner_stepz'. Did you mean: inner_steps")
    bad({"inner_steps": "many"}, r"bad value for inner_steps: .*integer.*, got 'many'")
    bad({"inner_lr": "0"}, "bad value for inner_lr: .*greater than 0")
    bad({"hull": 9}, "hull must be at most inner_steps")
    bad({"backbone": "conv5"}, "backbone must be auto, one of")
    bad({"train_queries": 0}, "bad value for train_queries")
    assert not list(tmp_path.iterdir())


def test_a_floor_stays_a_floor(tmp_path):
    with pytest.raises(UsageError, match="is a baseline that learns nothing before the test"):
        lazybench.run(
            "finetune", ENV, settings={"iterations": 3}, out=tmp_path / "o", runs=tmp_path / "r"
        )


def test_shots_that_the_data_cannot_serve_are_reported_first(tmp_path):
    with pytest.raises(UsageError, match=r"shots \+ queries must be at most 20.*got 20 \+ 1"):
        lazybench.run(
            "reptile",
            "glyphs-5way-1shot",
            settings={"train_shots": 20},
            out=tmp_path,
            runs=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_stops_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnavailable, match=r"can't write to .*file"):
        play(tmp_path, out=tmp_path / "file" / "store")


def test_predictions_are_kept(tmp_path):
    record = lazybench.run(
        "nearest_pixel",
        "glyphs-5way-1shot",
        budget="smoke",
        out=tmp_path / "o",
        runs=tmp_path / "r",
    )
    answers = record.trials.predictions_list()
    assert len(answers) == 40
    assert set(map(len, answers)) == {75}
    text = next((tmp_path / "o").rglob("*.json")).read_text()
    assert json.loads(text)["schema"] == 1


def test_settings_of_a_registered_agent_reach_its_config(tmp_path):
    kwargs = {"algorithm": "reptile", "inner_steps": 2}
    target = "lazybench.agents.fewshot.gradient:GradientAgent"
    lazybench.register_agent(lazybench.AgentSpec("two_steps", ("fewshot",), target, kwargs))
    try:
        agent = lazybench.make_agent("two_steps", ENV, budget="smoke")
        assert agent.config.inner_steps == 2
        assert lazybench.make_agent("two_steps", ENV, inner_steps=3).config.inner_steps == 3
    finally:
        AGENTS.forget("two_steps")


def test_parameters_that_overflow_at_the_last_update_are_reported(tmp_path):
    settings = {"iterations": 1, "outer_lr": 1e300, "inner_steps": 1}
    folders = {"out": tmp_path / "o", "runs": tmp_path / "r"}
    record = lazybench.run("reptile", ENV, budget="smoke", settings=settings, **folders)
    assert record.status == "diverged"
    assert record.reason == "a parameter isn't finite after meta-iteration 1"


def test_an_agent_that_works_in_place_spoils_nothing(tmp_path):
    plain = play(tmp_path, "Steady")
    spoiled = play(tmp_path, "InPlace", tracker=load(f"{PLAYERS}:Spoils")())
    assert plain.checkpoint.step == 2, "the first validation stays the best of equals"
    assert spoiled.checkpoint == plain.checkpoint
    assert spoiled.metrics == plain.metrics
    assert spoiled.curve[0]["val"] == plain.curve[0]["val"]


SECOND_ORDER = [
    *[("glyphs-5way-1shot", name, {}) for name in ("maml", "meta_sgd", "anil", "meta_curvature")],
    *[("glyphs-5way-1shot", name, {}) for name in ("taml", "mr_maml", "imaml")],
    ("glyphs-5way-1shot", "maml", {"inner": "replayed"}),
    *[
        ("glyphs-lt-50", name, {"products": products, "late": 0.0})
        for name in ("l2rw", "meta_weight_net", "two_component")
        for products in ("jvp", "vjp")
    ],
]


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    """A file with a backbone whose attention would take a kernel without second derivatives."""
    path = tmp_path_factory.mktemp("attention") / "net.py"
    path.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, task):\n"
        "        super().__init__()\n"
        "        self.embed = nn.Linear(task.instance[-1], 16)\n"
        "        self.block = nn.TransformerEncoderLayer(16, 2, 16, 0.0, batch_first=True)\n"
        "    def forward(self, x):\n"
        "        return self.block(self.embed(x.flatten(1, 2))).mean(1)\n"
    )
    return path


@pytest.mark.parametrize(("env", "agent", "settings"), SECOND_ORDER)
def test_second_order_agents_train_attention(attention, env, agent, settings):
    spec = resolve_env(env)[0]
    agent = make(agent, spec, "smoke", {"backbone": f"{attention}:Net", **settings}).instance
    evaluated = open_env(spec, 1, "val")
    plan = agent.plan(evaluated.task)
    train = open_env(spec, min(plan.meta_batch, 2), "train", **plan.env)
    train.reset(seed=0)
    batch, _ = train.reset(options={"trials": np.arange(train.num_envs)})
    state = agent.init(evaluated, Rng(0).at("init"))
    with training_passes():
        after, logs = agent.update(state, batch, Rng(0).at("update", 0))
    assert math.isfinite(logs["loss"])
    assert not torch.equal(after["theta"]["body.embed.weight"], state["theta"]["body.embed.weight"])


def test_a_test_that_is_read_from_the_runs_folder_has_every_metric(tmp_path) -> None:
    options = {"budget": "smoke", "settings": {"probabilities": True}, "runs": tmp_path / "runs"}
    made = [
        lazybench.run("ridge", "glyphs-5way-1shot", out=tmp_path / store, **options)
        for store in ("one", "other")
    ]
    assert {"accuracy", "ece", "brier"} <= made[0].metrics.keys()
    assert made[1].comparable() == made[0].comparable()
