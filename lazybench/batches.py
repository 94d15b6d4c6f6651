"""Training batches for people who keep their own loop and PyTorch's loader."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lazybench.checks import check_whole
from lazybench.errors import UsageError


class TrainingBatches(IterableDataset[dict[str, Tensor]]):
    """The training batches of one stream of an environment, in order: its observations as tensors.

    Give it to a `DataLoader` with `batch_size=None`; workers share the batches out, and the
    loader's order is the same for any number of them.
    """

    def __init__(self, env: Any, *, seed: int = 0, batches: int | None = None) -> None:
        """Choose the stream.

        Args:
            env: a vector environment, or a long-tailed stream, of the train split; it is the data
                set's own from now on.
            seed: the stream.
            batches: how many; None for no end.

        Raises:
            UsageError: an environment of another split or without rows, or fewer than 1 batch.
        """
        if not hasattr(env, "num_envs"):
            raise UsageError("a batch has rows: make the environment with num_envs=…")
        split = split_of(env)
        if split != "train":
            raise UsageError(
                f"training batches come from split='train', got split '{split}'; the answers of "
                "the others are hidden: judge with lazybench.evaluate"
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
    """Return the split of an environment, whatever wraps it; empty where it doesn't tell."""
    own = getattr(env, "unwrapped", env)
    return str(getattr(own, "split", ""))
