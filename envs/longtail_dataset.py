"""A stream's training batches for people who keep their own loop and loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lazybench.envs.longtail import LongTailEnv
from lazybench.errors import UsageError


class LongTailDataset(IterableDataset[dict[str, Tensor]]):
    """The training batches of one run, in order: `x`, `y`, `index` and, where asked for, dev ones.

    Give it to a `DataLoader` with `batch_size=None`; workers share the batches out, and the
    loader's order is the same for any number of them.

    Example:
        >>> env = lazybench.make_env("glyphs-lt-100", split="train", epochs=30)
        >>> loader = DataLoader(LongTailDataset(env, seed=0), batch_size=None, num_workers=2)
    """

    def __init__(self, env: LongTailEnv, *, seed: int) -> None:
        """Choose the run.

        Args:
            env: a stream of the train split with numpy observations; it is the data set's own from
                now on.
            seed: the run's seed.

        Raises:
            UsageError: an environment of another split or backend.
        """
        if env.split != "train" or env.backend != "numpy":
            raise UsageError(
                f"a data set needs a stream with split='train' and backend='numpy', got split "
                f"'{env.split}' and backend '{env.backend}'"
            )
        self._env, self._seed = env, seed

    def __len__(self) -> int:
        """Number of batches, over all workers."""
        return self._env.task.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches, or in a worker this worker's share of them."""
        worker: Any = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self._env.reset(seed=self._seed)
        for step in range(first, len(self), stride):
            batch, _ = self._env.reset(options={"trials": np.array([step])})
            yield {name: torch.from_numpy(batch[name]) for name in _SHOWN if name in batch}


_SHOWN = ("x", "y", "index", "dev_x", "dev_y")
