"""The environments of attacks: trials, actions of both forms, ends, verdicts and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from lazybench.envs.attack.env import AttackEnv, AttackVectorEnv
from lazybench.errors import ContractError, DataUnavailable, UsageError
from lazybench.tasks import Queries

RIGHT = [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]


def made(scripted: SimpleNamespace, images: int = 2, target: str = "make", **given: Any) -> Any:
    settings = {"eps": 1.0, "query_budget": 4, **given}
    return AttackVectorEnv(
        images, target=f"{scripted.file}:{target}", images=scripted.images, **settings
    )


def bright(*values: float) -> np.ndarray:
    return np.stack([np.full((1, 2, 2), value, np.float32) for value in values])


def ask(owner: list[int], *values: float) -> Queries:
    return Queries(torch.from_numpy(bright(*values)), torch.tensor(owner))


NOTHING = Queries(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))


def test_trials_are_the_images_that_the_target_gets_right_in_order(
    scripted: SimpleNamespace,
) -> None:
    env = made(scripted, 3)
    observation, info = env.reset(seed=1)
    assert info["trial"].tolist() == observation["trial"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(observation["x"], scripted.x[RIGHT[1:4]])
    assert observation["label"].tolist() == [0, 0, 0]
    assert observation["goal"].tolist() == [-1, -1, -1]
    assert env.reset()[1]["trial"].tolist() == [4, 5, 6]
    observation, _ = env.reset(options={"trials": np.array([9, 0, 9])})
    np.testing.assert_array_equal(observation["x"], scripted.x[[11, 0, 11]])
    with pytest.raises(UsageError, match=r"10 of 12 images correctly, so trials go up to 9"):
        env.reset(options={"trials": np.array([8, 9, 10])})
    assert env.reset(seed=8)[1]["trial"].tolist() == [8, 9, 0]
    assert env.reset(seed=123456)[1]["trial"].tolist() == [6, 7, 8]


@pytest.mark.parametrize("rule", ["next", "random"])
def test_goals_are_other_classes_and_a_function_of_the_trial(
    scripted: SimpleNamespace, rule: str
) -> None:
    env = made(scripted, 10, targeted=True, target_rule=rule)
    goals = env.reset(seed=0)[0]["goal"]
    assert set(goals.tolist()) == ({1} if rule == "next" else {1, 2})
    order = np.arange(9, -1, -1)
    np.testing.assert_array_equal(env.reset(options={"trials": order})[0]["goal"], goals[order])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_an_attack_in_lock_step_from_reset_to_verdict(
    scripted: SimpleNamespace, backend: Any
) -> None:
    env = made(scripted, 3, backend=backend)
    observation, _ = env.reset(seed=0)
    assert isinstance(observation["x"], np.ndarray if backend == "numpy" else torch.Tensor)
    observation, rewards, terminated, truncated, info = env.step(ask([0, 1, 0], 0.55, 0.7, 0.5))
    assert observation["labels"].tolist() == [0, 1, 0]
    assert observation["scores"].shape == (3, 3)
    assert observation["left"].tolist() == [2, 3, 4]
    assert rewards.tolist() == [0, 1, 0]
    assert terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert info["_success"].tolist() == [False, True, False]
    assert info["success"][1] == 1
    assert info["l2_at_100"][1] == info["best_l2"][1] == pytest.approx(0.38)
    assert observation["best_distance"].tolist() == pytest.approx([-1, 0.38, -1])
    observation, rewards, terminated, truncated, info = env.step(ask([0, 1, 0, 0], *[0.55] * 4))
    assert observation["served"].tolist() == [True, False, True, False]
    assert rewards.tolist() == [0, 0, 0]
    assert terminated.tolist() == [False, True, False], "what is finished stays so"
    assert truncated.tolist() == [True, False, False]
    assert info["_success"].tolist() == [True, False, False]
    assert (info["success"][0], info["queries"][0], info["best_l2"][0]) == (0, 4, -1)
    assert info["l2_at_10000"][0] == -1
    _, _, terminated, truncated, info = env.step(NOTHING)
    assert truncated.tolist() == [True, False, True], "no row gives the rest up"
    assert info["_queries"].tolist() == [False, False, True]
    assert info["queries"][2] == 0
    assert "success" not in env.step(NOTHING)[-1]


def test_a_fixed_size_action_is_the_same_attack(scripted: SimpleNamespace) -> None:
    env = made(scripted, 2, rows=3)
    first, _ = env.reset(seed=0)
    assert env.observation_space.contains(first)
    action = {
        "rows": bright(0.55, 0.7, 0.9, 0.5, 0.55, 0.5).reshape(2, 3, 1, 2, 2),
        "mask": np.array([[1, 1, 0], [0, 1, 0]], np.int8),
    }
    assert env.action_space.contains(action)
    observation, rewards, terminated, _, info = env.step(action)
    assert env.observation_space.contains(observation)
    assert observation["labels"].tolist() == [[0, 1, -1], [-1, 0, -1]]
    assert observation["served"].tolist() == action["mask"].astype(bool).tolist()
    assert rewards.tolist() == [1, 0]
    ragged = made(scripted, 2)
    ragged.reset(seed=0)
    other, _, _, _, result = ragged.step(ask([0, 0, 1], 0.55, 0.7, 0.55))
    np.testing.assert_array_equal(observation["scores"][0, :2], other["scores"][:2])
    for name in ("success", "queries", "success_query", "best_l2"):
        np.testing.assert_array_equal(info[name], result[name])
    assert terminated.tolist() == [True, False]
    empty = {**action, "mask": np.zeros((2, 3), np.int8)}
    assert not env.step(empty)[3].any(), "a step without a query isn't a surrender"


def test_minimising_goes_on_to_the_budget(scripted: SimpleNamespace) -> None:
    env = made(scripted, 1, access="label", query_budget=301)
    assert env.task.mode == "minimise"
    env.reset(seed=0)
    for value, reward in ((0.9, 1.0), (0.7, 0.0)):
        observation, rewards, terminated, truncated, _ = env.step(ask([0] * 100, *[value] * 100))
        assert (rewards[0], bool(terminated[0]), bool(truncated[0])) == (reward, False, False)
        assert observation["scores"].shape == (100, 0)
    _, _, terminated, truncated, info = env.step(ask([0] * 101, *[0.65] * 101))
    assert (bool(terminated[0]), bool(truncated[0])) == (False, True)
    least = [info[f"l2_at_{by}"][0] for by in (100, 300, 1000)]
    assert least == pytest.approx([0.8, 0.3, 0.3])
    assert info["success_query"][0] == 1
    single = AttackEnv(
        target=f"{scripted.file}:make", images=scripted.images, access="label", eps=1.0
    )
    assert "scores" not in single.reset(seed=0)[0]


def test_what_was_found_outside_the_ball_is_reported_and_no_success(
    scripted: SimpleNamespace,
) -> None:
    env = made(scripted, 1, eps=0.1)
    env.reset(seed=0)
    _, rewards, _, _, info = env.step(ask([0] * 4, 0.7, 0.9, 0.65, 0.7))
    assert (rewards[0], info["success"][0], info["success_query"][0]) == (0, 0, 0)
    assert info["best_l2"][0] == pytest.approx(0.3)


def test_a_loop_of_refused_rows_ends(scripted: SimpleNamespace) -> None:
    env = made(scripted, 2)
    env.reset(seed=0)
    env.step(ask([0], 0.7))
    for _ in range(1001):
        observation, _, terminated, truncated, info = env.step(ask([0], 0.7))
    assert (terminated | truncated).all()
    assert observation["done"].all()
    assert info["queries"][1] == 0


def test_some_rows_can_be_opened_again(scripted: SimpleNamespace) -> None:
    env = made(scripted, 2, targeted=True)
    env.reset(seed=0)
    env.step(ask([0, 1], 0.7, 0.55))
    observation, info = env.reset(options={"reset_mask": np.array([True, False])})
    assert info["trial"].tolist() == [2, 1]
    assert observation["left"].tolist() == [4, 3]
    assert observation["goal"].tolist() == [1, 1]
    _, rewards, terminated, _, _ = env.step(ask([0, 1], 0.7, 0.7))
    assert rewards.tolist() == [1, 1]
    assert terminated.all()


def test_changing_what_was_seen_changes_nothing(scripted: SimpleNamespace) -> None:
    env = made(scripted, 1, backend="torch", mode="minimise")
    observation, _ = env.reset(seed=0)
    for part in observation.values():
        part.zero_()
    observation, *_ = env.step(ask([0], 0.7))
    assert float(observation["x"].mean()) == 0.5
    observation["label"].fill_(1)
    observation["left"].fill_(99)
    observation, _, _, _, _ = env.step(ask([0], 0.65))
    assert observation["hit"].tolist() == [True]
    assert observation["left"].tolist() == [2]
    assert float(observation["best_distance"]) == pytest.approx(0.3)


def test_rows_that_are_not_numbers_are_reported(scripted: SimpleNamespace) -> None:
    env = made(scripted, 2)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(ask([1, 1], float("nan"), 0.5))
    assert info["invalid"].tolist() == [0, 1]
    assert observation["left"].tolist() == [4, 2]
    assert env.step(NOTHING)[-1]["invalid"].tolist() == [0, 0]


@pytest.fixture
def registered(scripted: SimpleNamespace) -> Iterator[str]:
    name = "lazybench-test/Attack-v0"
    gymnasium.register(
        name,
        entry_point="lazybench.envs.attack.env:AttackEnv",
        vector_entry_point="lazybench.envs.attack.env:AttackVectorEnv",
        kwargs={"target": f"{scripted.file}:net", "images": scripted.images},
    )
    yield name
    del gymnasium.registry[name]


@pytest.mark.parametrize(
    "given", [{}, {"access": "label"}, {"targeted": True, "norm": "linf", "rows": 3}]
)
def test_gymnasiums_checks_pass(registered: str, given: dict[str, Any]) -> None:
    env = gymnasium.make(registered, disable_env_checker=True, render_mode="rgb_array", **given)
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (4, 10, 3)


def test_one_image_at_a_time(registered: str) -> None:
    env: Any = gymnasium.make(registered, eps=1.0)
    env.reset(seed=0)
    action = {"rows": bright(0.9), "mask": np.ones(1, np.int8)}
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert type(reward) is float
    assert info["success"] == 1
    assert all(type(value) in (int, float) for value in info.values())
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(action)
    assert env.reset(options={"trial": 7})[1] == {"trial": 7}
    observation, *_ = env.unwrapped.step(ask([0, 0], 0.5, 0.52))
    assert observation["labels"].shape == (2,)
    assert observation["x"].shape == (1, 2, 2)
    env.close()


def test_gymnasium_makes_blocks_and_wraps_them(registered: str) -> None:
    envs = gymnasium.make_vec(registered, num_envs=2, rows=2)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=3)
    envs.step(envs.action_space.sample())
    envs.close()
    with pytest.raises(UsageError, match="make another environment"):
        envs.reset()


def test_the_protocol_and_the_data_tell_what_was_attacked(scripted: SimpleNamespace) -> None:
    env = made(scripted, norm="linf", eps="8/255", mode="minimise")
    assert env.protocol == {
        "norm": "linf",
        "eps": 8 / 255,
        "query_budget": 4,
        "mode": "minimise",
        "targeted": False,
        "access": "scores",
        "target_rule": "next",
        "images": scripted.images,
        "strict": False,
        "target_sha256": env.protocol["target_sha256"],
        "target_accuracy": None,
    }
    assert env.task.eps == 8 / 255
    assert (env.task.classes, env.task.instance, env.task.maps.outputs) == (3, (1, 2, 2), 4)
    assert set(env.data) == {"name", "fingerprint", "prep", "source"}
    assert made(scripted, eps=float("inf")).protocol["eps"] == "inf"
    assert made(scripted, eps="inf", norm="linf").protocol["eps"] == "inf"
    assert made(scripted, eps=8).task.eps == 8.0
    assert made(scripted, eps=1, norm="linf").task.eps == 1.0
    assert made(scripted, eps=None).task.eps == 3.0
    assert made(scripted, eps=None, norm="linf").task.eps == 0.3
    assert made(scripted, target="net").data["fingerprint"] == env.data["fingerprint"]


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({"eps": 0}, UsageError, "eps must be a number above 0"),
        ({"eps": "8", "norm": "linf"}, UsageError, r"must lie in \(0, 1\].+Did you mean 8/255\?"),
        ({"eps": 1.001, "norm": "linf"}, UsageError, r"got 1.001\.$"),
        ({"eps": -1.0}, UsageError, "eps must be"),
        ({"eps": float("nan")}, UsageError, "eps must be"),
        ({"eps": "8/0"}, UsageError, "eps must be"),
        ({"query_budget": 0}, UsageError, "query_budget must be a whole number of at least 1"),
        ({"norm": "l1"}, UsageError, "norm must be one of l2, linf"),
        ({"mode": "second"}, UsageError, "mode must be"),
        ({"access": "logits"}, UsageError, "access must be"),
        ({"targeted": "yes"}, UsageError, "targeted must be true or false"),
        ({"target_rule": "any"}, UsageError, "target_rule must be"),
        ({"images": None}, UsageError, "needs images='FILE.npz'"),
        ({"images": "nowhere.npz"}, DataUnavailable, "nowhere.npz"),
        ({"images": __file__}, DataUnavailable, "as an npz file"),
        ({"target": "number"}, UsageError, "must return a callable"),
        ({"target": "failing"}, UsageError, "no weights here"),
        ({"rows": 0}, UsageError, "rows must be"),
        ({"split": "dev"}, UsageError, "split must be"),
    ],
)
def test_settings_that_are_not_allowed(
    scripted: SimpleNamespace, given: dict[str, Any], error: type[Exception], why: str
) -> None:
    settings = {
        "images": scripted.images,
        **given,
        "target": f"{scripted.file}:{given.get('target', 'make')}",
    }
    with pytest.raises(error, match=why):
        AttackVectorEnv(2, **settings)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (np.zeros((2, 1, 1, 2, 2)), "Queries"),
        ({"rows": np.zeros((2, 1, 1, 2, 2))}, "got rows"),
        ({"rows": np.zeros((2, 2, 1, 2, 2)), "mask": np.zeros((2, 2))}, "1 rows for each of 2"),
        (Queries(torch.zeros(1, 1, 2, 2), torch.tensor([2])), r"\[0, 2\)"),
    ],
)
def test_actions_that_are_none_are_refused_uncharged(
    scripted: SimpleNamespace, action: Any, why: str
) -> None:
    env = made(scripted)
    with pytest.raises(UsageError, match="no attack is open"):
        env.step(NOTHING)
    env.reset(seed=0)
    with pytest.raises(ContractError, match=why):
        env.step(action)
    assert env.box.ledger.queries.tolist() == [0, 0]


def test_labels_that_the_target_does_not_have(scripted: SimpleNamespace, tmp_path: Any) -> None:
    np.savez(tmp_path / "odd.npz", x=scripted.x, y=np.full(12, 3))
    with pytest.raises(UsageError, match=r"\[0, 3\), the target's classes, got 3 to 3"):
        AttackVectorEnv(1, target=f"{scripted.file}:make", images=str(tmp_path / "odd.npz"))


def test_a_target_that_gets_nothing_right(scripted: SimpleNamespace, tmp_path: Any) -> None:
    np.savez(tmp_path / "wrong.npz", x=scripted.x, y=np.full(12, 2))
    env = AttackVectorEnv(1, target=f"{scripted.file}:make", images=str(tmp_path / "wrong.npz"))
    with pytest.raises(UsageError, match="none of 12 images"):
        env.reset(seed=0)


def test_a_failing_target_is_reported_and_its_rows_stay_charged(scripted: SimpleNamespace) -> None:
    env = made(scripted, target="raising")
    env.reset(seed=0)
    with pytest.raises(ContractError, match=r"RuntimeError: too bright \(.*scripted.py:"):
        env.step(ask([0, 0], 1.0, 0.5))
    observation, *_ = env.step(ask([0], 0.5))
    assert observation["left"].tolist() == [1, 4]
    with pytest.raises(UsageError, match="take split val or train"):
        env.whiteboxes()
