"""A stream's training batches for people who keep their own loop and loader."""

from __future__ import annotations

from typing import Any

from lazybench.batches import CountedBatches
from lazybench.checks import check_whole
from lazybench.envs.longtail import LongTailEnv
from lazybench.errors import UsageError


class LongTailDataset(CountedBatches):
    """The training batches of one run, in order: `x`, `y`, `index` and, where asked for, dev ones.

    Give it to a `DataLoader` with `batch_size=None`; workers share the batches out, and the
    loader's order is the same for any number of them.

    Example:
        >>> env = lazybench.make_env("glyphs-lt-100", split="train", epochs=30)
        >>> loader = DataLoader(LongTailDataset(env, seed=0), batch_size=None, num_workers=2)
    """

    def __init__(self, env: LongTailEnv, *, seed: int = 0, batches: int | None = None) -> None:
        """Choose the run.

        Args:
            env: a stream of the train split with numpy observations; it is the data set's own from
                now on.
            seed: the run's seed.
            batches: how many, at most those of the stream; None for all.

        Raises:
            UsageError: an environment of another split or backend, or more batches than it has.
        """
        if env.split != "train" or env.backend != "numpy":
            raise UsageError(
                f"a data set needs a stream with split='train' and backend='numpy', got split "
                f"'{env.split}' and backend '{env.backend}'"
            )
        steps = env.task.steps
        if batches is not None and check_whole("batches", batches, least=None) > steps:
            raise UsageError(f"the stream has {steps} batches, got batches={batches}; set epochs=…")
        super().__init__(env, seed=seed, batches=steps if batches is None else batches)

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the images, labels and numbers of a batch, without what only an agent needs."""
        return {name: batch[name] for name in _SHOWN if name in batch}


_SHOWN = ("x", "y", "index", "dev_x", "dev_y")
