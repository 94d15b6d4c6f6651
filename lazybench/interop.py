"""Doors to other people's loops and loaders: PyTorch data sets, and tasks in torchmeta's form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from torch import Tensor

from lazybench.batches import CountedBatches, TrainingBatches
from lazybench.user_code import load

TorchmetaBatch = dict[str, tuple[Tensor, Tensor]]


def as_dataset(env: Any, *, seed: int = 0, batches: int | None = None) -> TrainingBatches:
    """Return the training batches of an environment as a PyTorch `IterableDataset`.

    An item is one observation: a meta-batch of labelled tasks, or a mini-batch of a long-tailed
    stream. It is a function of seed and number alone, so loaders give the same batches in the same
    order for any number of workers.

    Args:
        env: of the train split: `lazybench.make_env(…, split="train", num_envs=4)`, or a
            long-tailed stream. It is the data set's own from now on.
        seed: the stream.
        batches: how many; None for no end (long-tailed streams: for all that they have).

    Raises:
        UsageError: an environment of another split or without rows, or a number of batches that
            isn't there.
    """
    if hasattr(getattr(env, "task", None), "steps"):
        streamed: TrainingBatches = load("lazybench.envs.longtail_dataset:LongTailDataset")(
            env, seed=seed, batches=batches
        )
        return streamed
    kind = TrainingBatches if batches is None else CountedBatches
    return kind(env, seed=seed, batches=batches)


def as_torchmeta(
    env: Any, *, seed: int = 0, batches: int | None = None
) -> Iterable[TorchmetaBatch]:
    """Return the training batches of a few-shot environment in torchmeta's form.

    A batch is `{"train": (x, y), "test": (x, y)}`, as `BatchMetaDataLoader` gives it: tasks first,
    rows second, images float32 in [0, 1]. Test answers are hidden, so only the train split has
    batches; `lazybench.evaluate` judges what was learned.

    Args:
        env: `lazybench.make_env(…, split="train", num_envs=TASKS)`.
        seed: the stream.
        batches: how many; None for no end.

    Raises:
        UsageError: an environment of another split, family or form.
    """
    found: Iterable[TorchmetaBatch] = load("lazybench.envs.torchmeta:TorchmetaBatches")(
        env, seed=seed, batches=batches
    )
    return found


def from_torchmeta(  # noqa: PLR0913 - what is taken, how much of it, and how it is shown
    loader: Iterable[Any] | Iterator[Any],
    *,
    num_envs: int = 1,
    split: Literal["train", "val", "test"] = "test",
    tasks: int | None = None,
    name: str = "torchmeta",
    backend: Literal["numpy", "torch"] = "numpy",
    device: str = "cpu",
) -> Any:
    """Return a vector environment whose trials are the tasks of batches in torchmeta's form.

    The tasks are taken into memory once, so that trial i is the same task each time; what gives
    the batches can be any iterable of `{"train": (x, y), "test": (x, y)}`. Labels are any integers
    from 0 on, or one-hot: in each task they become 0 to way - 1 in their order. Floats are targets
    of a regression.

    Args:
        loader: the batches.
        num_envs: rows of the environment.
        split: on `train` the query targets are shown, and tasks begin again after the last one.
        tasks: how many to take; None for all, up to 100,000.
        name: of the data, for records.
        backend: `numpy`, or `torch` for observations as tensors.
        device: where torch observations live.

    Raises:
        UsageError: batches of another form, no task, tasks of different shapes, labels that don't
            name as many rows of each class, or too many tasks.
    """
    return load("lazybench.envs.torchmeta:TorchmetaVectorEnv")(
        loader,
        num_envs=num_envs,
        split=split,
        tasks=tasks,
        name=name,
        backend=backend,
        device=device,
    )
