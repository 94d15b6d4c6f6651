"""Few-shot environments: trials by index, streams, masks, contracts and limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lazybench.envs.fewshot.env import FewShotEnv, FewShotVectorEnv
from lazybench.errors import ContractError, UnknownName, UsageError

Register = Callable[..., str]


@pytest.fixture
def tiny(register_tiny: Register) -> str:
    return register_tiny(counts=[20] * 12)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(np.array_equal(np.asarray(left[name]), np.asarray(right[name])) for name in left)


def row(observation: dict[str, Any], index: int) -> dict[str, Any]:
    return {name: part[index] for name, part in observation.items()}


def answer_key(observation: dict[str, Any]) -> np.ndarray:
    """The right labels, read off the marked pixels as an agent with perfect eyes would."""
    names = observation["support_x"][:, 0, 0, 0].tolist()
    of = dict(zip(names, observation["support_y"].tolist(), strict=True))
    return np.array([of[name] for name in observation["query_x"][:, 0, 0, 0].tolist()])


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_trial_is_the_same_wherever_it_is_opened(tiny: str, split: Any, backend: Any) -> None:
    settings = {"data": tiny, "way": 3, "shot": 2, "split": split, "backend": backend}
    single = FewShotEnv(**settings)
    alone = {i: single.reset(options={"trial": i})[0] for i in (4, 0, 2, 3, 1, 9)}
    for rows in (1, 2, 5):
        envs = FewShotVectorEnv(rows, **settings)
        observation, info = envs.reset()
        assert info["trial"].tolist() == list(range(rows))
        assert all(same(row(observation, i), alone[i]) for i in range(rows))
    envs = FewShotVectorEnv(3, **settings)
    observation, _ = envs.reset(options={"trials": np.array([9, 4, 4])})
    assert all(same(row(observation, i), alone[t]) for i, t in enumerate((9, 4, 4)))
    assert not same(alone[0], alone[1])


def test_seed_opens_a_trial_and_reset_the_next(tiny: str) -> None:
    env = FewShotEnv(data=tiny, split="val")
    seen = [env.reset(seed=5)[1], env.reset()[1], env.reset(options={"trial": 2})[1]]
    assert [info["trial"] for info in [*seen, env.reset()[1]]] == [5, 6, 2, 3]
    envs = FewShotVectorEnv(2, data=tiny, split="val")
    assert envs.reset(seed=5)[1]["trial"].tolist() == [5, 6]
    assert envs.reset()[1]["trial"].tolist() == [7, 8]


def test_train_seeds_start_streams(tiny: str) -> None:
    env = FewShotEnv(data=tiny, split="train")
    first, info = env.reset(seed=0)
    second, _ = env.reset()
    assert info["trial"] == 0
    assert same(env.reset(seed=0)[0], first)
    assert same(env.reset()[0], second)
    other, info = env.reset(seed=1)
    assert info["trial"] == 0
    assert not same(other, first)
    assert not same(other, second), "streams don't overlap by an offset"


def test_splits_differ_and_share_their_spaces(tiny: str) -> None:
    made = {s: FewShotEnv(data=tiny, way=3, split=s) for s in ("train", "val", "test")}
    assert len({str(env.observation_space) for env in made.values()}) == 1
    assert made["train"].observation_space == made["test"].observation_space
    assert made["train"].action_space == made["val"].action_space
    classes = [env.reset(seed=0)[0]["support_x"][:, 0, 0, 0] // 12 for env in made.values()]
    assert [set(part.tolist()) for part in classes] == [{0}, {1}, {2}]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_are_hidden_off_train_and_evaluated_right(tiny: str, split: Any) -> None:
    env = FewShotEnv(data=tiny, way=3, shot=2, split=split)
    observation, _ = env.reset(seed=1)
    right = answer_key(observation)
    shown = observation["query_y"]
    assert np.array_equal(shown, right) if split == "train" else (shown == -1).all()
    assert env.observation_space.contains(observation)
    assert env.step(right)[1] == 1.0
    env.reset(seed=1)
    half = right.copy()
    half[::3] = (half[::3] + 1) % 3
    after, reward, _, _, info = env.step(half)
    assert reward == info["accuracy"] == pytest.approx(2 / 3)
    assert same(after, observation)


def test_masked_rows_move_and_the_others_stay(tiny: str) -> None:
    for backend in ("numpy", "torch"):
        envs = FewShotVectorEnv(3, data=tiny, way=3, split="train", backend=backend)
        before, _ = envs.reset(seed=4)
        kept = {name: np.asarray(part).copy() for name, part in before.items()}
        right = np.array([answer_key(row(kept, i)) for i in range(3)])
        # Another stream begins in the middle row alone; the others are evaluated by their own keys.
        mask = np.array([False, True, False])
        after, info = envs.reset(seed=9, options={"reset_mask": mask})
        assert info["trial"].tolist() == [0, 0, 2]
        assert same(before, kept), "an observation handed out doesn't change"
        assert same(row(after, 0), row(kept, 0))
        assert same(row(after, 2), row(kept, 2))
        assert not same(row(after, 1), row(kept, 1))
        right[1] = np.asarray(after["query_y"])[1]
        assert envs.step(right)[1].tolist() == [1.0, 1.0, 1.0]


def test_finished_rows_are_free_no_ops(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = FewShotVectorEnv(2, data=tiny, way=3)
    envs.reset(seed=0)
    envs.step(np.zeros((2, 45), np.int64))
    evaluated: list[int] = []
    own = envs.trials.score

    def counting(keys: Any, given: Any) -> Any:
        evaluated.append(len(keys))
        return own(keys, given)

    monkeypatch.setattr(envs.trials, "score", counting)
    _, rewards, done, truncated, info = envs.step(np.full((2, 45), 99))
    assert rewards.tolist() == [0.0, 0.0]
    assert done.tolist() == [True, True]
    assert truncated.tolist() == [False, False]
    assert "accuracy" not in info
    assert evaluated == []
    envs.reset(options={"reset_mask": np.array([False, True])})
    action = np.zeros((2, 45), np.int64)
    action[0] = 99
    _, rewards, _, _, info = envs.step(action)
    assert evaluated == [1]
    assert rewards.tolist() == pytest.approx([0.0, 1 / 3])
    assert info["_accuracy"].tolist() == [False, True]
    envs.reset(options={"reset_mask": np.zeros(2, np.bool_)})
    assert envs.step(action)[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_observations_belong_to_the_caller(tiny: str, backend: Any) -> None:
    envs = FewShotVectorEnv(2, data=tiny, way=3, backend=backend)
    first, _ = envs.reset(seed=0)
    kinds = {type(part) for part in first.values()}
    assert kinds == {torch.Tensor if backend == "torch" else np.ndarray}
    first["support_x"][:] = 0
    assert not same(envs.reset(seed=0)[0], first), "the pool is untouched"
    _, rewards, done, _, _ = envs.step(torch.zeros(2, 45, dtype=torch.int64))
    assert (type(rewards), type(done)) == (np.ndarray, np.ndarray)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(44, np.int64), r"shape \[45\] .*got \[44\]"),
        (np.zeros((1, 45), np.int64), r"shape \[45\] .*got \[1, 45\]"),
        (3, r"shape \[45\] .*got \[\]"),
        (None, r"shape \[45\] .*got \[\]"),
        ([[0], [0, 1]], r"shape \[45\] .*got \[2\]"),
        (np.zeros(45), "labels must be integers, got dtype float64"),
        (np.zeros(45, np.bool_), "labels must be integers, got dtype bool"),
        (torch.zeros(45), "labels must be integers, got dtype float32"),
        (np.full(45, 3), r"labels must lie in \[0, 3\), got 3 to 3"),
        (np.full(45, -1), r"labels must lie in \[0, 3\), got -1 to -1"),
    ],
)
def test_wrong_actions_are_named(tiny: str, action: Any, message: str) -> None:
    env = FewShotEnv(data=tiny, way=3)
    env.reset(seed=0)
    with pytest.raises(ContractError, match=message):
        env.step(action)
    # The trial is still open: a wrong answer costs an error, not the episode.
    env.step([0] * 45)


def test_steps_out_of_turn(tiny: str) -> None:
    env = FewShotEnv(data=tiny)
    with pytest.raises(UsageError, match=r"call env\.reset\(\)"):
        env.step(np.zeros(75, np.int64))
    env.reset()
    env.step(np.zeros(75, np.int64))
    with pytest.raises(UsageError, match="over after one step"):
        env.step(np.zeros(75, np.int64))
    with pytest.raises(UsageError, match="before reset"):
        FewShotVectorEnv(2, data=tiny).step(np.zeros((2, 75), np.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": [1]}, r"'trials'\] needs an integer for each of 2 rows, got shape \[1\]"),
        ({"trials": [0.5, 1]}, "dtype float64"),
        ({"trials": [-1, 1]}, "trials are numbered from 0, got -1"),
        ({"reset_mask": [1, 0]}, "'reset_mask'.* needs true or false for each of 2 rows"),
        ({"reset_mask": [True]}, r"got shape \[1\]"),
    ],
)
def test_wrong_reset_options_change_nothing(tiny: str, options: Any, message: str) -> None:
    envs = FewShotVectorEnv(2, data=tiny)
    envs.reset(seed=3)
    with pytest.raises(UsageError, match=message):
        envs.reset(options=options)
    assert envs.reset()[1]["trial"].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 1}, r"way must lie in \[2, 12\] for tiny test, got 1"),
        ({"way": 13}, r"way must lie in \[2, 12\] for tiny test, got 13"),
        ({"way": 0, "noniid": True, "split": "train"}, "got 0"),
        ({"shot": 6}, r"at most 20, .* in tiny test, .*; got 6 \+ 15"),
        ({"shots": 3}, "test trials have 1 shots and 15 queries, got shots=3"),
        ({"queries": 3}, "queries=3; set them on the train or val split"),
        ({"split": "val", "shots": 0}, "each at least 1"),
        (
            {"split": "valid"},
            "split must be one of train, val, test, got 'valid'. Did you mean: val",
        ),
        ({"order": "up"}, "order must be 'random' or 'sorted', got 'up'"),
        ({"labels": "global"}, "labels must be 'task' or 'class', got 'global'"),
        ({"labels": "class"}, "is for the train split, got split 'test'"),
        ({"labels": "class", "split": "val"}, "got split 'val'.* leave it out"),
        ({"data": "sinusoid", "labels": "class", "split": "train"}, "sinusoid has no classes"),
        ({"backend": "jax"}, "backend must be one of numpy, torch, got 'jax'"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"render_mode": "human"}, "render_mode must be one of None, rgb_array, got 'human'"),
    ],
)
def test_limits_are_named(tiny: str, settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FewShotVectorEnv(**{"data": tiny, **settings})


def test_unknown_data_is_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown data set 'glyph'\. Did you mean: glyphs"):
        FewShotEnv(data="glyph")


def test_training_may_take_other_shots_and_queries(tiny: str) -> None:
    env = FewShotEnv(data=tiny, way=3, shot=1, split="train", shots=10, queries=1)
    observation, _ = env.reset(seed=0)
    assert observation["support_x"].shape == (30, 1, 2, 2)
    assert observation["query_y"].shape == (3,)
    with pytest.raises(UsageError, match="at most 20"):
        FewShotEnv(data=tiny, split="train", shots=10, queries=11)


def test_training_may_take_class_labels(tiny: str) -> None:
    envs = FewShotVectorEnv(4, data=tiny, way=3, split="train", labels="class", queries=2)
    observation, _ = envs.reset(seed=3)
    plain = FewShotVectorEnv(4, data=tiny, way=3, split="train", queries=2)
    assert same(
        {name: observation[name] for name in ("support_x", "query_x")},
        {name: plain.reset(seed=3)[0][name] for name in ("support_x", "query_x")},
    )
    for part in ("support", "query"):
        marks = observation[f"{part}_x"][..., 0, 0, 0]
        assert np.array_equal(observation[f"{part}_y"], marks)
    assert envs.observation_space.contains(observation)
    top = np.full((4, 6), envs.task.classes - 1)
    assert envs.action_space.contains(top)
    assert not envs.action_space.contains(top + 1)
    right = observation["query_y"].copy()
    right[0, 0] = (right[0, 0] + 1) % 12
    assert envs.step(right)[1].tolist() == pytest.approx([5 / 6, 1, 1, 1])
    envs.reset()
    with pytest.raises(ContractError, match=r"labels must lie in \[0, 12\), got 11 to 12"):
        envs.step(top + np.eye(4, 6, dtype=np.int64))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_reports_how_many_classes_train_has(tiny: str, split: Any) -> None:
    assert FewShotEnv(data=tiny, way=3, split=split).train_classes == 12
    assert FewShotEnv(data="sinusoid", way=1, shot=5, split=split).train_classes == 0


@pytest.mark.parametrize("order", ["random", "sorted"])
def test_the_memorisation_trap_is_on_train_alone(tiny: str, order: Any) -> None:
    def drawn(split: Any) -> list[set[int]]:
        envs = FewShotVectorEnv(200, data=tiny, way=3, split=split, noniid=True, order=order)
        marks = envs.reset(seed=0)[0]["support_x"][:, :, 0, 0, 0]
        return [set((column % 12).tolist()) for column in marks.T]

    train = drawn("train")
    assert [len(group) for group in train] == [4, 4, 4]
    assert set().union(*train) == set(range(12))
    runs = [set(range(0, 4)), set(range(4, 8)), set(range(8, 12))]
    assert (train == runs) is (order == "sorted")
    for split in ("val", "test"):
        assert drawn(split) == [set(range(12))] * 3
