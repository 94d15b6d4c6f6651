"""Other people's loops and loaders: PyTorch data sets, torchmeta's form, policies of runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lazybench
from lazybench.envs.interop import as_dataset, as_torchmeta, from_torchmeta
from lazybench.errors import UnknownName, UsageError


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


LABELS = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0]])
"""Two tasks of 2 ways and 2 shots."""


def labelled(support: Any, query: Any = None) -> dict[str, Any]:
    query = support if query is None else query
    x = torch.arange(2 * support.shape[1] * 3.0).reshape(2, -1, 3)
    z = torch.arange(2 * query.shape[1] * 3.0).reshape(2, -1, 3)
    return {"train": (x, support), "test": (z, query)}


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y + 1,
        lambda y: 7 * y + 12,
        lambda y: y + torch.tensor([[3], [90]]),
        lambda y: y.bool(),
        lambda y: y.to(torch.uint8),
        lambda y: y[..., None],
        lambda y: torch.nn.functional.one_hot(y, 2),
        lambda y: torch.nn.functional.one_hot(y, 2).float(),
        lambda y: torch.nn.functional.one_hot(y + 3, 8),
        lambda y: y.numpy() + 1,
    ],
)
def test_labels_of_any_numbers_are_the_classes_of_their_task(change: Any) -> None:
    env = from_torchmeta([labelled(change(LABELS))], num_envs=2, backend="torch")
    assert (env.task.way, env.task.shot, env.task.query) == (2, 2, 2)
    assert env.task.target == "class"
    observation, _ = env.reset(seed=0)
    assert torch.equal(observation["support_y"], LABELS)
    assert env.step(LABELS)[1].tolist() == [1.0, 1.0]


def test_classes_numbered_from_1_are_never_six() -> None:
    # 30 rows are 5 ways of 6 shots, and divide by 6 as well.
    y = torch.arange(1, 6).repeat_interleave(6)[None].repeat(2, 1)
    env = from_torchmeta([labelled(y)], num_envs=2)
    assert (env.task.way, env.task.shot) == (5, 6)


@pytest.mark.parametrize(
    ("support", "query", "words"),
    [
        ([[-1, 0, -1, 0]], None, "labels must be 0 or more, got -1"),
        ([[0, 0, 1, 1]], [[0, 1, -1, 1]], "labels must be 0 or more, got -1"),
        ([[0, 0, 0, 1]], [[0, 0, 1, 1]], r"task 0 train has 3 of label 0, 1 of label 1"),
        ([[0, 0, 1, 1]], [[0, 1, 1, 1]], r"task 0 test has 1 of label 0, 3 of label 1"),
        ([[0, 0, 1, 1]], [[0, 0, 2, 2]], r"task 0 test has label 2, train has \[0, 1\]"),
        ([[0, 0, 1, 1]], [[1, 1, 1, 1]], r"task 0 test has 4 of label 1"),
        ([[0, 0, 2, 2]], [[0, 0, 1, 1]], r"task 0 test has label 1, train has \[0, 2\]"),
        ([[3, 3, 3, 3]], None, "4 rows of one class"),
        ([[0.0, 0.0, 1.0, 1.0]], None, "give labels as integers: y.long()"),
        ([[1.0, 2.0, 3.0, 4.0]], [[4.0, 3.0, 2.0, 1.0]], "give labels as integers"),
        ([[0, 0, 1, 1]], [[0.0, 0.0, 1.0, 1.0]], "targets must be of one kind"),
        ([[[1, 1], [0, 1], [1, 0], [0, 1]]], None, "one integer a row, or one-hot"),
        ([[[2, 0], [0, 2], [2, 0], [0, 2]]], None, "one integer a row, or one-hot"),
        ([[float("nan"), 0.1, 0.2, 0.3]], None, "must be finite"),
    ],
)
def test_labels_that_would_be_misread_are_refused(support: Any, query: Any, words: str) -> None:
    y = torch.tensor(support).repeat_interleave(2, 0)
    z = y if query is None else torch.tensor(query).repeat_interleave(2, 0)
    with pytest.raises(UsageError, match=words) as caught:
        from_torchmeta([labelled(y, z)])
    assert "\n" not in str(caught.value)


def test_tasks_of_other_ways_or_types_are_refused() -> None:
    four = torch.arange(4).repeat(2, 1)
    with pytest.raises(UsageError, match="task 0 has 2 classes in train, task 2 has 4"):
        from_torchmeta([labelled(LABELS), labelled(four)])
    with pytest.raises(UsageError, match="one shape and type"):
        from_torchmeta([labelled(LABELS), labelled(LABELS.float() + 0.5)])
    bytes_ = {name: (x.byte(), y) for name, (x, y) in labelled(LABELS).items()}
    with pytest.raises(UsageError, match="one shape and type"):
        from_torchmeta([labelled(LABELS), bytes_])


def test_targets_of_a_regression_stay_as_they_are() -> None:
    y = torch.tensor([[0.5, 1, 2, 3], [4, 4, 4, 4]])
    env = from_torchmeta([labelled(y)], split="train", num_envs=2)
    assert env.task.target == "array"
    np.testing.assert_array_equal(env.reset(seed=0)[0]["query_y"], y)


def test_the_policy_of_a_run_answers_as_it_was_evaluated(tmp_path: Any) -> None:
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
