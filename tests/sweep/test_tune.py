"""A search of settings: what is drawn, what is kept, and that test tasks stay closed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import build
from lazybench.envs.single_step import SingleStepVectorEnv
from lazybench.errors import UsageError
from lazybench.records import Tuning
from lazybench.runner.request import RunRequest
from lazybench.runner.run import run
from lazybench.sweep import tune as tuning
from lazybench.sweep.tune import Axis, best, drawn, read_axis, read_tuning, step_sizes, tune

ENV = "glyphs-5way-1shot"
LEARNER = f"{Path(__file__).parents[1] / 'runner' / 'players.py'}:Learner"


@pytest.mark.parametrize(
    ("text", "name", "axis"),
    [
        ("inner_lr=0.01..1", "inner_lr", Axis(lo=0.01, hi=1.0)),
        ("lr=1e-4..1e-2", "lr", Axis(lo=1e-4, hi=1e-2)),
        ("inner_steps=1,5,10", "inner_steps", Axis((1, 5, 10))),
        ("backbone=conv4-32", "backbone", Axis(("conv4-32",))),
        ("rho=0.1,0.5", "rho", Axis((0.1, 0.5))),
        ("beta=.9, .999,-.5e1,1.", "beta", Axis((0.9, 0.999, -5.0, 1.0))),
        ("size=1.2.3,.,e5", "size", Axis(("1.2.3", ".", "e5"))),
        ("net=../a.py:f,conv4", "net", Axis(("../a.py:f", "conv4"))),
    ],
)
def test_axes_are_read(text: str, name: str, axis: Axis) -> None:
    assert read_axis(text) == (name, axis)


@pytest.mark.parametrize("text", ["lr", "lr=", "=1..2", "lr=1..0.1", "lr=0..1", "lr=a..b"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--search takes|a range is"):
        read_axis(text)


def first(many: int, axes: Any, seed: int) -> list[dict[str, Any]]:
    return list(itertools.islice(drawn(axes, seed), many))


def test_draws_lie_on_their_axes_begin_with_the_preset_and_are_repeated() -> None:
    axes = {"lr": Axis(lo=0.001, hi=0.1), "steps": Axis((1, 5, 10))}
    found = first(33, axes, seed=0)
    assert found[0] == {}
    assert all(0.001 <= each["lr"] <= 0.1 for each in found[1:])
    assert {each["steps"] for each in found[1:]} == {1, 5, 10}
    # By its logarithm: as many below the geometric mean as above it.
    assert sum(each["lr"] < 0.01 for each in found[1:]) == 16
    assert first(9, axes, seed=0) == found[:9]
    assert first(9, axes, seed=1) != found[:9]


def test_lists_of_values_give_each_combination_once_in_an_order_of_the_seed() -> None:
    axes = {"lr": Axis((0.1, 0.2, 0.1)), "steps": Axis((1, 5, 10))}
    found = list(drawn(axes, seed=0))
    assert found[0] == {}
    pairs = [(each["lr"], each["steps"]) for each in found[1:]]
    assert sorted(pairs) == sorted(itertools.product((0.1, 0.2), (1, 5, 10)))
    assert list(drawn(axes, seed=0)) == found
    assert any(list(drawn(axes, seed)) != found for seed in range(1, 4))


def test_a_range_that_rounds_to_few_values_ends() -> None:
    found = list(drawn({"lr": Axis(lo=0.1, hi=0.102)}, seed=0))
    assert sorted(each["lr"] for each in found[1:]) == [0.1, 0.101, 0.102]


def test_step_sizes_are_what_is_searched_by_default() -> None:
    config = {"lr": 0.1, "inner_lr": 0.5, "outer_lr": 0.0, "inner_steps": 5, "clip": None}
    assert step_sizes(config) == {"lr": Axis(lo=0.01, hi=1.0), "inner_lr": Axis(lo=0.05, hi=5.0)}


def request(tmp_path: Path, **changes: Any) -> RunRequest:
    given = {"agent": "protonet", "env": ENV, "budget": "smoke", "runs": tmp_path, "threads": 1}
    return RunRequest(**{**given, **changes})


def test_a_search_is_continued_and_never_opens_test_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = tuning.fit

    def fit(training: Any, watch: Any, signals: Any) -> Any:
        opened.append(training.folder.name)
        return real(training, watch, signals)

    monkeypatch.setattr(tuning, "fit", fit)
    splits: set[str] = set()
    reset = SingleStepVectorEnv.reset

    def recorded(self: Any, **options: Any) -> Any:
        splits.add(self.split)
        return reset(self, **options)

    monkeypatch.setattr(SingleStepVectorEnv, "reset", recorded)
    axes = {"iterations": Axis((2, 4)), "lr": Axis(lo=1e-3, hi=1e-2)}
    asked = request(tmp_path, overrides={"image_gradients": 0, "iterations": 2})
    folder, two = tune(asked, 2, axes)
    assert two[0].settings == {}
    assert all(tried.val is not None and 0 < tried.val < 1 for tried in two)
    again, three = tune(asked, 3, axes)
    assert again == folder
    assert three[:2] == two
    assert len(opened) == 3, "what was tried isn't tried again"
    assert splits == {"train", "val"}


def test_fewer_distinct_settings_than_trials_are_tried_and_paid_for_once(tmp_path: Path) -> None:
    asked = request(tmp_path, overrides={"iterations": 2})
    # 2 is what it has already, and 3.0 is 3.
    folder, tried = tune(asked, 9, {"iterations": Axis((2, 3, 3.0))})
    assert [each.number for each in tried] == [0, 1]
    assert tried[0].settings == {}
    assert tried[1].settings["iterations"] == 3
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 2
    tuning = read_tuning(folder).tuning
    assert tuning.trials == 2
    assert tuning.image_gradients == sum(each.image_gradients for each in tried)


def test_a_range_of_a_whole_number_is_drawn_in_whole_numbers(tmp_path: Path) -> None:
    asked = request(tmp_path, overrides={"image_gradients": 0, "iterations": 2})
    _, tried = tune(asked, 3, {"iterations": Axis(lo=3, hi=6)})
    drawn_ones = [each.settings["iterations"] for each in tried[1:]]
    assert len(set(drawn_ones)) == 2
    assert all(type(number) is int and 3 <= number <= 6 for number in drawn_ones)


def test_an_agent_without_training_is_refused_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no validation score to tune; .*--set NAME=VALUE"):
        tune(request(tmp_path, agent="nearest_pixel"), 2, None)


def test_a_training_that_diverges_has_no_score(tmp_path: Path) -> None:
    asked = request(
        tmp_path, agent="maml", overrides={"image_gradients": 0, "iterations": 2, "clip": None}
    )
    _, (preset, wild) = tune(asked, 2, {"inner_lr": Axis((1e30,))})
    assert preset.val is not None
    assert wild.val is None
    assert wild.reason


@pytest.mark.parametrize(("player", "updates"), [("Diverges", 2), ("Raises", 1)])
def test_a_training_that_fails_is_paid_for_and_the_search_goes_on(
    tmp_path: Path, player: str, updates: int
) -> None:
    players = Path(__file__).parents[1] / "runner" / "players.py"
    asked = request(tmp_path, agent=f"{players}:{player}", env="sinusoid-5shot")
    folder, (failed, other) = tune(asked, 2, {"updates": Axis((8,))})
    assert (failed.val, other.val) == (None, None)
    assert failed.reason
    if player == "Diverges":
        assert failed.step == updates
        assert failed.cpu_s > 0
    with pytest.raises(UsageError, match="has no finished search"):
        read_tuning(folder)


def test_settings_of_evaluation_are_searched_with_one_training(tmp_path: Path) -> None:
    """Their trials once had the score of the preset, and each paid for a training."""
    players = Path(__file__).parents[1] / "runner" / "players.py"
    asked = request(tmp_path, agent=f"{players}:Movable", env="sinusoid-5shot")
    folder, tried = tune(asked, 3, {"test_shift": Axis((1.0, 3.0))})
    assert len({each.val for each in tried}) == 3
    assert tried[0].cpu_s > 0
    assert [each.cpu_s for each in tried[1:]] == [0.0, 0.0]
    assert read_tuning(folder).tuning.cpu_s == tried[0].cpu_s
    assert len([*folder.glob("*/step-6")]) == 1
    # What is fixed is part of the search, also where it changes the evaluation alone.
    other, fixed = tune(replace(asked, overrides={"test_shift": 3.0}), 2, {"shift": Axis((0.1,))})
    plain, free = tune(asked, 2, {"shift": Axis((0.1,))})
    assert other != plain
    assert fixed[0].val != free[0].val == tried[0].val


def test_a_search_computes_in_the_precision_of_its_run(tmp_path: Path) -> None:
    asked = request(tmp_path, agent="reptile", overrides={"image_gradients": 0, "iterations": 2})
    _, (single,) = tune(asked, 1, None)
    half = replace(asked, precision="bf16", out=tmp_path / "store")
    _, (found,) = tune(half, 1, None)
    assert found.val != single.val
    curve = run(half).curve
    assert found.val == max(point["val"] for point in curve)


def test_any_error_of_an_agent_is_the_result_of_its_trial_and_may_be_passing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from pathlib import Path\nimport torch, lazybench\n"
        "class Mine:\n"
        "    def __init__(self, lr: float = 0.01, steps: int = 5): self.lr = lr\n"
        "    def plan(self, task): return lazybench.Plan(2, validate_every=1)\n"
        "    def init(self, env, rng): return {'n': 0}\n"
        "    def update(self, state, batch, rng):\n"
        f"        if self.lr > 0.05 and not Path({str(tmp_path / 'calm')!r}).exists():\n"
        "            raise ValueError('too large')\n"
        "        return state, {'loss': 1.0}\n"
        "    def policy(self, state):\n"
        "        return lambda seen, memory=None: (torch.zeros_like(seen['query_y']), memory)\n"
    )
    asked = request(tmp_path / "runs", agent=f"{path}:Mine", env="sinusoid-5shot")
    axes = {"lr": Axis((0.01, 0.5))}
    _, (preset, wild) = tune(asked, 2, axes)
    assert preset.val is not None
    assert (wild.val, "ValueError: too large" in wild.reason) == (None, True)
    (tmp_path / "calm").touch()
    _, (again, calm) = tune(asked, 2, axes)
    assert again == preset
    assert calm.val is not None
    # Settings that are arguments have defaults, too: step sizes, and whole numbers.
    _, by_default = tune(asked, 2, None)
    assert 0.001 <= by_default[1].settings["lr"] <= 0.1
    _, whole = tune(asked, 3, {"steps": Axis(lo=1, hi=10)})
    assert all(type(each.settings["steps"]) is int for each in whole[1:])


def test_a_search_of_other_settings_has_a_folder_of_its_own(tmp_path: Path) -> None:
    asked = request(tmp_path, overrides={"image_gradients": 0, "iterations": 2})
    one, _ = tune(asked, 2, {"lr": Axis((1e-3,))})
    found = read_tuning(one)
    other, _ = tune(asked, 2, {"temperature": Axis((2.0,))})
    assert other != one
    assert read_tuning(one) == found


@pytest.mark.parametrize(
    ("changes", "trials", "axes", "message"),
    [
        ({}, 0, None, "trials must be at least 1"),
        ({"agent": "chance"}, 2, None, "no validation score to tune"),
        ({}, 2, {}, "name what to search"),
        ({}, 3, {"lrr": Axis((1,))}, "no setting 'lrr'"),
        ({}, 3, {"lr": Axis(("x",))}, "bad value for lr"),
    ],
)
def test_what_cant_be_searched_is_reported_before_any_training(
    tmp_path: Path, changes: Any, trials: int, axes: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tune(request(tmp_path, **changes), trials, axes)
    assert not list(tmp_path.rglob("trials.jsonl"))


def test_a_run_with_what_a_search_found_reports_what_that_cost(tmp_path: Path) -> None:
    asked = request(tmp_path, overrides={"iterations": 2})
    with pytest.raises(UsageError, match="has no finished search"):
        read_tuning(tmp_path)
    folder, tried = tune(asked, 2, None)
    found = read_tuning(folder)
    assert (found.agent, found.env, found.budget) == ("protonet", ENV, "smoke")
    assert found.settings == {"iterations": 2, **best(tried)[0].settings}
    assert found.tuning.trials == 2
    assert found.tuning.image_gradients == sum(each.image_gradients for each in tried) > 0

    folders = {"out": tmp_path / "store", "runs": tmp_path / "runs", "limit": 4}
    tuned = request(tmp_path, overrides=found.settings, tuning=found.tuning, **folders)
    plain = request(tmp_path, overrides={"iterations": 3}, **folders)
    record = run(tuned)
    assert record.tuning == found.tuning
    boards = build([record, run(plain)])
    (rows,) = (board.unranked for board in boards)
    reported = {row.keys[0]: row.tuning_trials for row in rows}
    assert reported.pop(record.key12) == 2
    assert list(reported.values()) == [None]
    # How settings were found is no part of what came out.
    assert run(request(tmp_path, overrides=found.settings, **folders)).key == record.key


def test_an_agent_that_no_one_tuned_is_tuned_once_it_was_searched(tmp_path: Path) -> None:
    folders = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    asked = {"agent": LEARNER, "env": "sinusoid-5shot", "overrides": {"updates": 2}, **folders}
    found = Tuning(trials=3, cpu_s=1.0, image_gradients=0)
    tuned = run(request(tmp_path, **asked, tuning=found))
    assert not tuned.untuned
    again = run(request(tmp_path, **asked, force=True))
    assert again.untuned, "the same result, whoever chose the settings"
