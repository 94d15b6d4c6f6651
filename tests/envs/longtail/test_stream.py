"""The environment: streaming, seeking, the pass at the end, and every setting that is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import lazybench
from lazybench import gymnasium_ids
from lazybench.envs.longtail.env import EVAL, TRAIN, LongTailEnv
from lazybench.errors import ContractError, UsageError
from lazybench.tasks import LongTailTask

Register = Callable[..., str]
Make = Callable[..., LongTailEnv]


@pytest.fixture
def make(register_tiny: Register) -> Make:
    """Opens streams on 6 classes: 20 images each, of which 4 are the test, 3 the dev set.

    The first pixel of an image is its class, the second its number in the class.
    """
    data = register_tiny(counts=[20] * 6)

    def opened(**settings: Any) -> LongTailEnv:
        given = {"imbalance": 4, "dev_per_class": 3, "batch": 5} | settings
        return LongTailEnv(data=data, **given)

    return opened


def images(x: Any) -> list[tuple[int, int]]:
    return [(int(each[0, 0, 0]), int(each[0, 0, 1])) for each in x]


def seek(env: LongTailEnv, step: int) -> dict[str, Any]:
    return env.reset(options={"trials": np.array([step])})[0]


def test_the_task_is_known_before_anything_is_drawn(make: Make) -> None:
    env = make(epochs=2.5)
    assert env.task == LongTailTask(6, (1, 2, 2), "uint8", (13, 9, 7, 5, 4, 3), 21, 5, 3)
    assert env.task.images == 41
    assert make(epochs=2.5, split="test").task == env.task
    assert LongTailTask(**env.task.fields()) == env.task
    assert (env.num_envs, env.track, make(dev_batch=4).track) == (1, "LT", "LT+dev")
    assert env.protocol == {"head": 13, "dev_per_class": 3, "subset": None}
    assert env.data["prep"] == "1-heldout1"
    assert env.task.train_steps(0.01, 100) == 1


def test_a_whole_episode(make: Make) -> None:
    env = make(dev_batch=1)
    obs, info = env.reset(seed=3)
    np.testing.assert_array_equal(info["class_counts"], env.task.class_counts)
    assert info["steps"] == env.task.steps == 9
    assert info["dev_x"].shape == (18, 1, 2, 2)
    np.testing.assert_array_equal(info["dev_x"][:, 0, 0, 0], info["dev_y"])
    train, test = [], []
    steps, done, last = 0, False, {}
    while not done:
        assert env.observation_space.contains(obs)
        if obs["phase"] == TRAIN:
            np.testing.assert_array_equal(obs["x"][:, 0, 0, 0], obs["y"])
            assert obs["mask"].all()
            assert obs["remaining"][0] == 9 - steps
            train += images(obs["x"])
        else:
            assert (obs["y"] == -1).all()
            assert (obs["index"] == -1).all()
            test += images(obs["x"][obs["mask"]])
            assert not obs["x"][~obs["mask"]].any()
        # Right whenever the class is 0 to 2, no answer for the others.
        seen = obs["x"][:, 0, 0, 0].astype(np.int64)
        obs, reward, done, truncated, last = env.step(np.where(seen < 3, seen, -1))
        assert not truncated
        assert reward == (0.5 if done else 0.0)
        assert bool(last) is done
        steps += 1
    assert steps == 9 + 5
    # The stream is one epoch and the start of another; no test or dev image is in it.
    assert len(set(train[:41])) == 41
    assert len(set(test)) == len(test) == 24
    assert not set(train) & set(test)
    assert not (set(train) | set(test)) & set(images(info["dev_x"]))
    assert last["accuracy"] == last["metrics"]["accuracy"] == 0.5
    assert last["correct"].dtype == np.uint8
    np.testing.assert_array_equal(last["correct"], np.repeat([1, 1, 1, 0, 0, 0], 4))
    np.testing.assert_array_equal(last["predictions"], np.repeat([0, 1, 2, -1, -1, -1], 4))
    assert last["metrics"]["zero_recall_count"] == 3
    with pytest.raises(UsageError, match="the pass is over"):
        env.step(np.zeros(5, np.int64))


def test_the_runner_seeks_any_batch(make: Make) -> None:
    env = make(dev_batch=4, epochs=3)
    first, info = env.reset(seed=5)
    assert "trial" not in info
    batches = [first] + [env.step(0)[0] for _ in range(6)]
    other = make(dev_batch=4, epochs=3)
    other.reset(seed=5)
    for step in (6, 0, 3):
        obs, info = other.reset(options={"trials": np.array([step])})
        assert info == {"trial": step}
        for name, part in batches[step].items():
            np.testing.assert_array_equal(part, obs[name])
    assert not np.array_equal(seek(other, 1)["dev_x"], batches[0]["dev_x"])
    # Batches have no end: a plan that counts epochs otherwise finds its last one.
    assert seek(other, 1000)["remaining"][0] == 0
    other.reset(seed=6)
    assert not np.array_equal(seek(other, 3)["index"], batches[3]["index"])


def test_an_episode_from_its_middle_has_no_pass(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    seek(env, 7)
    assert env.step(0)[1:4] == (0.0, False, False)
    obs, reward, terminated, truncated, info = env.step(0)
    assert (obs["phase"], reward, terminated, truncated, info) == (TRAIN, 0.0, False, True, {})


def test_reset_starts_the_same_run_again(make: Make) -> None:
    env = make()
    first = env.reset(seed=2)[0]
    env.step(0)
    again = env.reset()[0]
    np.testing.assert_array_equal(first["index"], again["index"])


def test_a_subset_of_its_own_seed(make: Make) -> None:
    one, two = (make(subset=1, dev_batch=1) for _ in range(2))
    dev = [env.reset(seed=seed)[1]["dev_x"] for seed, env in ((1, one), (2, two))]
    np.testing.assert_array_equal(*dev)
    assert not np.array_equal(seek(one, 0)["index"], seek(two, 0)["index"])


def test_val_is_the_dev_set_of_the_seed(make: Make) -> None:
    env, train = make(split="val"), make(dev_batch=1)
    obs = env.reset(seed=8)[0]
    dev = train.reset(seed=8)[1]
    assert "dev_x" not in env.reset(seed=8)[1]
    seen, done, info = [], False, {}
    while not done:
        assert obs["phase"] == EVAL
        seen += images(obs["x"][obs["mask"]])
        obs, reward, done, _, info = env.step(obs["x"][:, 0, 0, 0].astype(np.int64))
    assert sorted(seen) == sorted(images(dev["dev_x"]))
    assert seen != sorted(seen)
    assert (reward, info["correct"].tolist()) == (1.0, [1] * 18)
    assert obs["remaining"][0] == 0
    with pytest.raises(UsageError, match="val is one pass without trials"):
        env.reset(options={"trials": np.array([0])})


def test_another_pass_needs_a_reset_and_has_another_order(make: Make) -> None:
    env = make(split="test", batch=24)
    orders = [images(env.reset(seed=1)[0]["x"]) for _ in range(4)]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}
    assert len({tuple(order) for order in orders}) > 1


def test_tensors_show_what_arrays_show(make: Make) -> None:
    arrays, tensors = make(dev_batch=3), make(dev_batch=3, backend="torch")
    one, two = arrays.reset(seed=1)[0], tensors.reset(seed=1)[0]
    assert set(one) == set(two)
    for name in ("x", "y", "index", "mask", "dev_x", "dev_y"):
        assert isinstance(two[name], torch.Tensor)
        np.testing.assert_array_equal(one[name], two[name].numpy())
    assert (two["phase"], two["remaining"]) == (TRAIN, 9)
    assert (two["x"].dtype, two["y"].dtype, two["mask"].dtype) == (
        torch.uint8,
        torch.int64,
        torch.bool,
    )
    passing = make(split="test", backend="torch", batch=24)
    obs = passing.reset()[0]
    info = passing.step(obs["x"][:, 0, 0, 0].long())[4]
    assert info["accuracy"] == 1.0


def test_probabilities_bring_calibration(make: Make) -> None:
    env = make(split="test", batch=20)
    obs, done, info = env.reset()[0], False, {}
    while not done:
        labels = obs["x"][:, 0, 0, 0].astype(np.int64)
        probs = torch.full((20, 6), 0.1)
        probs[torch.arange(20), torch.from_numpy(labels)] = 0.5
        obs, _, done, _, info = env.step({"labels": labels, "probs": probs})
    assert info["metrics"]["nll"] == pytest.approx(-np.log(0.5), rel=1e-6)
    assert info["metrics"]["ece"] == pytest.approx(0.5, rel=1e-6)
    env.reset()
    env.step({"labels": labels, "probs": probs})
    assert "nll" not in env.step(labels)[4]["metrics"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(4, np.int64), r"integers of shape \[5\].*got int64 \[4\]"),
        (np.zeros(5), "got float64"),
        (np.full(5, 6), r"\[0, 6\), or be -1 for none; got 6 to 6"),
        (np.full(5, -2), "got -2 to -2"),
        ("labels", "got <U6"),
        ({"probs": np.zeros((5, 6), np.float32)}, "a dict of labels and probs, got probs"),
        ({"labels": np.zeros(5, np.int64), "probs": np.zeros((5, 5))}, r"shape \[5, 6\]"),
        ({"labels": np.zeros(5, np.int64), "probs": np.ones((5, 6))}, "sum to 1.*softmax"),
        ({"labels": np.zeros(5, np.int64), "probs": np.full((5, 6), np.nan)}, "softmax"),
        *(
            ({"labels": np.zeros(5, np.int64), "probs": np.tile([*row, 0, 0, 0], (5, 1))}, result)
            for row, result in (
                ((1.2, -0.2, 0.0), "at least 0 and sum to 1, got a least of -0.2"),
                ((1.0, 1e-6, -1e-6), "got a least of -1e-06"),
                ((0.6, 0.5, 0.0), "sums from 1.1 to 1.1"),
                ((0.5, 0.498, 0.0), "sums from 0.998 to 0.998"),
                ((0.5, 0.502, 0.0), "sums from 1.002 to 1.002"),
            )
        ),
    ],
)
def test_answers_of_another_form_are_refused(make: Make, action: Any, message: str) -> None:
    env = make(split="test")
    env.reset()
    with pytest.raises(ContractError, match=message):
        env.step(action)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imbalance": 0.5}, "at least 1; got 0.5"),
        ({"imbalance": 14}, "leaves 1 of 6 classes without an image"),
        ({"dev_per_class": 16}, r"dev_per_class must lie in \[0, 15\] for tiny"),
        ({"head": 14}, r"head must lie in \[1, 13\] for tiny with 3 dev images"),
        ({"head": 0}, "head must lie in"),
        ({"sampler": [("instance", 0.8)]}, "must sum to 1, got 0.8"),
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"split": "val", "dev_per_class": 0}, "the val split is the dev set"),
        ({"dev_per_class": 1.5}, "dev_per_class must be a whole number"),
        ({"head": 2.5}, "head must be a whole number"),
        ({"subset": "a"}, "subset must be a whole number"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"batch": 2.5}, "batch must be a whole number"),
        ({"epochs": 0}, "epochs must be a number above 0, got 0"),
        ({"dev_batch": 19}, "dev_batch must be a whole number of at least 0 and at most 18"),
        ({"backend": "jax"}, "backend must be one of numpy, torch"),
        ({"render_mode": "human"}, "render_mode must be one of None, rgb_array"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    make: Make, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make(**settings)


@pytest.mark.parametrize("trials", [[-1], [0, 1], [], [1.5], "now"])
def test_trials_are_one_number(make: Make, trials: Any) -> None:
    env = make()
    with pytest.raises(UsageError, match="one number of at least 0"):
        env.reset(options={"trials": trials})


def test_step_needs_reset(make: Make) -> None:
    with pytest.raises(UsageError, match=r"call env.reset\(\) first"):
        make().step(0)


def test_data_without_classes_or_images_is_refused() -> None:
    with pytest.raises(UsageError, match="sinusoid has no classes"):
        LongTailEnv(data="sinusoid", imbalance=10)


@pytest.mark.parametrize(
    "settings", [{}, {"dev_batch": 70, "sampler": "class"}, {"split": "val"}], ids=str
)
def test_gymnasiums_checks_pass(settings: dict[str, Any]) -> None:
    gymnasium_ids.register_all()
    env = gymnasium.make(
        "lazybench/glyphs-lt-100-v1", render_mode="rgb_array", disable_env_checker=True, **settings
    )
    check_env(env.unwrapped)
    assert env.spec is not None
    assert env.spec.max_episode_steps is None
    env.reset(seed=1)
    picture: Any = env.render()
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)


def test_wrappers_of_gymnasium_work() -> None:
    gymnasium_ids.register_all()
    env = gymnasium.make("lazybench/glyphs-lt-100-v1", batch=1000)
    env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    env.reset(seed=1)
    done, info = False, {}
    while not done:
        _, _, done, _, info = env.step(np.zeros(1000, np.int64))
    # One class of 60 is right.
    assert info["episode"]["r"] == pytest.approx(1 / 60)
    assert info["episode"]["l"] == 3 + 2


def test_batches_are_the_same_in_every_process_and_version() -> None:
    env = LongTailEnv(
        data="glyphs", imbalance=50, dev_batch=60, sampler=[("instance", 0.6), ("sqrt", 0.4)]
    )
    env.reset(seed=4)
    digest = hashlib.sha256()
    for step in (0, 19, 40):
        obs = seek(env, step)
        for name in ("y", "index", "dev_y"):
            digest.update(obs[name].astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "4b6cee95df321443"


def test_the_public_door_opens_a_pass() -> None:
    env = lazybench.make_env("glyphs-lt-20")
    assert env.reset()[0]["phase"] == EVAL
    with pytest.raises(UsageError, match="has no vector form"):
        lazybench.make_env("glyphs-lt-20", num_envs=2)


def passed(env: LongTailEnv) -> tuple[list[Any], float, bool, dict[str, Any]]:
    """Images of the pass after a training, and how it ended."""
    obs, _ = env.reset(seed=8)
    seen: list[Any] = []
    done = truncated = False
    while not (done or truncated):
        if obs["phase"] == EVAL:
            assert (obs["y"] == -1).all()
            seen += images(obs["x"][obs["mask"]])
        obs, reward, done, truncated, info = env.step(obs["x"][:, 0, 0, 0].astype(np.int64))
    return seen, reward, truncated, info


def test_the_track_decides_what_a_training_shows(make: Make) -> None:
    """Without the track LT+dev no label of the dev set is shown, and the test never is."""
    dev = images(make(dev_batch=1).reset(seed=8)[1]["dev_x"])
    plain = make(eval_split="val")
    assert set(plain.reset(seed=8)[1]) == {"class_counts", "steps"}
    for turn in range(22):
        seen, reward, truncated, info = passed(plain)
        if turn < 20:
            assert (sorted(seen), reward, info) == (sorted(dev), 1.0, {"accuracy": 1.0})
        else:
            assert (seen, truncated, info) == ([], True, {})
    shown = make(eval_split="val", dev_batch=1)
    for _ in range(22):
        seen, reward, truncated, info = passed(shown)
        assert (sorted(seen), reward, truncated) == (sorted(dev), 1.0, False)
    assert info["correct"].tolist() == [1] * 18
    assert passed(make(eval_split="val", dev_per_class=0))[:3] == ([], 0.0, True)
    assert set(make().reset(seed=8)[1]) == {"class_counts", "steps"}
    assert make(split="test", eval_split="val").reset(seed=8)[0]["remaining"][0] == 5
    with pytest.raises(UsageError, match="eval_split must be one of val, test, got 'train'"):
        make(eval_split="train")
