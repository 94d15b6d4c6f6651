"""Random streams that are a pure function of a seed and a path of names and numbers.

No stream has a position that must be saved: the randomness of meta-iteration 117 is
`rng.at("update", 117)`, whatever ran before it and wherever it runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Rng:
    """A named random stream.

    Attributes:
        seed: the run's seed, any integer.
        path: names and numbers that lead from the seed to this stream.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> Rng:
        """Return the stream below this one; equal paths give equal streams."""
        return Rng(self.seed, (*self.path, *path))

    @property
    def integer(self) -> int:
        """A 63-bit integer that depends on seed and path alone."""
        # numpy's whole numbers have a text of their own, and must lead where the same int leads.
        path = [part if isinstance(part, str) else index(part) for part in (self.seed, *self.path)]
        text = repr(tuple(path)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def torch(self, device: str | torch.device = "cpu") -> torch.Generator:
        """Return a fresh torch generator, placed at the start of this stream."""
        import torch

        return torch.Generator(device=device).manual_seed(self.integer)

    def numpy(self) -> np.random.Generator:
        """Return a fresh counter-based numpy generator, placed at the start of this stream."""
        import numpy as np

        return np.random.Generator(np.random.Philox(key=self.integer))
