"""Other people's loops and loaders: PyTorch data sets, torchmeta's form, policies of runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lazybench
from lazybench.errors import UnknownName, UsageError
from lazybench.interop import as_dataset, as_torchmeta, from_torchmeta


def few_shot(**settings: Any) -> Any:
    return lazybench.make_env("glyphs-5way-1shot", **{"split": "train", "num_envs": 3, **settings})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_batches_for_any_number_of_workers(workers: int) -> None:
    data = as_dataset(few_shot(), seed=4, batches=5)
    found = list(DataLoader(data, batch_size=None, num_workers=workers))
    assert len(found) == len(data) == 5
    env = few_shot()
    env.reset(seed=4)
    for step, batch in enumerate(found):
        expected, _ = env.reset(options={"trials": np.arange(3 * step, 3 * step + 3)})
        assert set(batch) == set(expected)
        for name, part in batch.items():
            np.testing.assert_array_equal(part.numpy(), expected[name])
    assert len({int(batch["support_x"].sum()) for batch in found}) == 5, "disjoint"


def test_without_a_number_of_batches_there_is_no_end() -> None:
    data = as_dataset(few_shot(backend="torch"))
    first = [int(batch["query_x"].sum()) for batch in itertools.islice(data, 7)]
    again = [int(batch["query_x"].sum()) for batch in itertools.islice(data, 7)]
    assert first == again
    with pytest.raises(TypeError):
        len(data)


def test_a_long_tailed_stream_ends_with_its_batches() -> None:
    def stream() -> Any:
        return lazybench.make_env("glyphs-lt-100", split="train", epochs=0.2)

    data = as_dataset(stream())
    assert len(list(data)) == len(data) == stream().task.steps
    assert len(list(as_dataset(stream(), batches=2))) == 2
    with pytest.raises(UsageError, match="the stream has"):
        as_dataset(stream(), batches=10_000)


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"split": "test"}, {}, "training batches come from split='train', got split 'test'"),
        ({"num_envs": None}, {}, "make the environment with num_envs="),
        ({}, {"batches": 0}, "batches must be at least 1"),
    ],
)
def test_what_has_no_training_batches(settings: Any, options: Any, words: str) -> None:
    for door in (as_dataset, as_torchmeta):
        with pytest.raises(UsageError, match=words):
            door(few_shot(**settings), **options)


def test_torchmetas_form_holds_the_same_tasks_there_and_back() -> None:
    batches = list(as_torchmeta(few_shot(), seed=1, batches=4))
    x, y = batches[0]["train"]
    assert (x.shape, x.dtype, y.shape, y.dtype) == (
        (3, 5, 1, 28, 28),
        torch.float32,
        (3, 5),
        torch.int64,
    )
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert batches[0]["test"][0].shape == (3, 75, 1, 28, 28)
    env = from_torchmeta(batches, num_envs=2, backend="torch")
    assert (env.task.way, env.task.shot, env.task.query) == (5, 1, 15)
    observation, _ = env.reset(options={"trials": np.array([4, 1])})
    assert torch.equal(observation["support_x"][0], batches[1]["train"][0][1])
    assert bool((observation["query_y"] == -1).all()), "answers are hidden"
    right = torch.stack([batches[1]["test"][1][1], batches[0]["test"][1][1]])
    _, reward, done, _, _ = env.step(right)
    assert reward.tolist() == [1.0, 1.0]
    assert done.all()
    shown, _ = from_torchmeta(batches, split="train", num_envs=2).reset(seed=0)
    np.testing.assert_array_equal(shown["query_y"][1], batches[0]["test"][1][1])


def test_any_iterable_of_that_form_will_do() -> None:
    def endless() -> Any:
        for number in itertools.count():
            x = torch.full((2, 4, 3), float(number))
            y = torch.zeros(2, 4, 1)
            yield {"train": (x, y), "test": (x.numpy(), y)}

    env = from_torchmeta(endless(), tasks=5, num_envs=5)
    assert env.task.target == "array"
    observation, _ = env.reset(seed=0)
    assert observation["support_x"][:, 0, 0].tolist() == [0, 0, 1, 1, 2]
    with pytest.raises(UsageError, match="there are 5 tasks, so trials go up to 4; got 9"):
        env.reset()


def batch(**changes: Any) -> dict[str, Any]:
    x, y = torch.zeros(2, 4, 3), torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0]])
    return {"train": (x, y), "test": (x, y), **changes}


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "the batches hold no task"),
        ([3], "batch 0 is int"),
        ([{"support": 1}], r"batch 0 is \['support'\]"),
        ([batch(test=(torch.zeros(2, 4, 3),))], "batch 0 has"),
        ([batch(test=(torch.zeros(3, 4, 3), torch.zeros(2, 4)))], "in batch 0 x has"),
        ([batch(), batch(test=(torch.zeros(2, 6, 3), torch.zeros(2, 6, dtype=int)))], "one shape"),
        ([batch(train=(torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=int)))], "as many rows of"),
    ],
)
def test_batches_of_another_form_are_refused(batches: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        from_torchmeta(batches)


def test_the_policy_of_a_run_answers_as_it_was_judged(tmp_path: Any) -> None:
    out, runs = tmp_path / "boards", tmp_path / "runs"
    record = lazybench.run(
        "lazy_maml",
        "sinusoid-5shot",
        budget="smoke",
        out=out,
        runs=runs,
        settings={"iterations": 4},
    )
    for name in (record, record.key[:8]):
        policy = lazybench.load_policy(name, runs=runs)
        again = lazybench.evaluate(policy, "sinusoid-5shot", name="loaded", budget="smoke")
        assert again.trials is not None
        assert record.trials is not None
        assert again.trials.scores_array().tolist() == record.trials.scores_array().tolist()
    other = lazybench.load_policy(record, env="sinusoid-10shot", step="last", runs=runs)
    env = lazybench.make_env("sinusoid-10shot", num_envs=2, backend="torch")
    observation, _ = env.reset(seed=0)
    assert env.step(other(observation)[0])[1].shape == (2,)
    with pytest.raises(UnknownName, match="no run in"):
        lazybench.load_policy("abcdef12", runs=runs)
    with pytest.raises(UsageError, match="step must be best, last"):
        lazybench.load_policy(record, step="9999", runs=runs)
