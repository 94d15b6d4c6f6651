"""Training batches for other training loops: PyTorch data loaders and torchmeta."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lazybench.arguments import check_whole
from lazybench.errors import UsageError


class TrainingBatches(IterableDataset[dict[str, Tensor]]):
    """The training batches of one stream of an environment, in order: its observations as tensors.

    Give it to a `DataLoader` with `batch_size=None`; workers share the batches out, and the
    loader's order is the same for any number of them.
    """

    def __init__(self, env: Any, *, seed: int = 0, batches: int | None = None) -> None:
        """Choose the stream.

        Args:
            env: a vector environment, or a long-tailed stream, of the train split; don't use it
                elsewhere from now on.
            seed: number of the stream.
            batches: number of batches; None for no end.

        Raises:
            UsageError: an environment of another split or without rows, or fewer than 1 batch.
        """
        if not hasattr(env, "num_envs"):
            raise UsageError("a batch has rows: make the environment with num_envs=…")
        split = split_of(env)
        if split != "train":
            raise UsageError(
                f"training batches come from split='train', got split '{split}'; the answers of "
                "the others are hidden: evaluate with lazybench.evaluate"
            )
        seed = check_whole("seed", seed)
        if batches is not None and check_whole("batches", batches, least=None) < 1:
            raise UsageError(f"batches must be at least 1, or None for no end; got {batches}")
        self._env, self._seed, self._batches = env, seed, batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches, or in a worker this worker's share of them."""
        worker: Any = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rows = self._env.num_envs
        self._env.reset(seed=self._seed)
        for step in count(first, stride):
            if self._batches is not None and step >= self._batches:
                return
            trials = np.arange(step * rows, (step + 1) * rows)
            batch, _ = self._env.reset(options={"trials": trials})
            yield {name: torch.as_tensor(part) for name, part in self.shown(batch).items()}

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the entries of an observation that a batch has."""
        return batch


class CountedBatches(TrainingBatches):
    """Training batches that come to an end, and have a length."""

    _batches: int

    def __len__(self) -> int:
        """Number of batches, over all workers."""
        return self._batches


def split_of(env: Any) -> str:
    """Return the split of an environment, whatever wraps it; empty if it has none."""
    own = getattr(env, "unwrapped", env)
    return str(getattr(own, "split", ""))


TorchmetaBatch = dict[str, tuple[Tensor, Tensor]]


def as_dataset(env: Any, *, seed: int = 0, batches: int | None = None) -> TrainingBatches:
    """Return the training batches of an environment as a PyTorch `IterableDataset`.

    An item is one observation: a meta-batch of labelled tasks, or a mini-batch of a long-tailed
    stream. It is a function of seed and number alone, so loaders give the same batches in the same
    order for any number of workers.

    Args:
        env: of the train split: `lazybench.make_env(…, split="train", num_envs=4)`, or a
            long-tailed stream. Don't use it elsewhere from now on.
        seed: number of the stream.
        batches: number of batches; None for no end (long-tailed streams: for all their batches).

    Raises:
        UsageError: an environment of another split or without rows, or an invalid number of
            batches.
    """
    if hasattr(getattr(env, "task", None), "steps"):
        # That module imports this one.
        from lazybench.envs.longtail.env import LongTailDataset

        return LongTailDataset(env, seed=seed, batches=batches)
    kind = TrainingBatches if batches is None else CountedBatches
    return kind(env, seed=seed, batches=batches)


def as_torchmeta(
    env: Any, *, seed: int = 0, batches: int | None = None
) -> Iterable[TorchmetaBatch]:
    """Return the training batches of a few-shot environment in torchmeta's form.

    A batch is `{"train": (x, y), "test": (x, y)}`, as `BatchMetaDataLoader` gives it: tasks first,
    rows second, images float32 in [0, 1]. Test answers are hidden, so only the train split has
    batches; `lazybench.evaluate` scores the trained agent.

    Args:
        env: `lazybench.make_env(…, split="train", num_envs=TASKS)`.
        seed: the stream.
        batches: how many; None for no end.

    Raises:
        UsageError: an environment of another split, family or form.
    """
    # That module imports this one.
    from lazybench.envs.fewshot.torchmeta import TorchmetaBatches

    return TorchmetaBatches(env, seed=seed, batches=batches)


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

    The tasks are copied into memory once, so that trial i is always the same task; `loader` can be
    any iterable of `{"train": (x, y), "test": (x, y)}`. Labels are any integers
    from 0 on, or one-hot: in each task they become 0 to way - 1 in their order. Floats are targets
    of a regression.

    Args:
        loader: the batches.
        num_envs: rows of the environment.
        split: on `train` the query targets are shown, and tasks begin again after the last one.
        tasks: number of tasks; None for all, up to 100,000.
        name: name of the data, for records.
        backend: `numpy`, or `torch` for observations as tensors.
        device: device of torch observations.

    Raises:
        UsageError: batches of another form, no task, tasks of different shapes, labels that don't
            name as many rows of each class, or too many tasks.
    """
    # That module imports this one.
    from lazybench.envs.fewshot.torchmeta import TorchmetaVectorEnv

    return TorchmetaVectorEnv(
        loader,
        num_envs=num_envs,
        split=split,
        tasks=tasks,
        name=name,
        backend=backend,
        device=device,
    )
