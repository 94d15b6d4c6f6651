"""A made-up data set of tiny digits in a data folder of the test's own, and a cache beside it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lazybench.envs.datasets.mnist import FILES

Write = Callable[..., None]


@pytest.fixture
def write_mnist(root: Path) -> Write:
    """A function that writes images of ten classes in MNIST's form, easy to distinguish.

    Class k has a bright square in the k-th of twelve places; the top left pixel is the image's
    place in the file.
    """

    def write(train: int = 120, test: int = 30, seed: int = 0) -> None:
        place = root / "MNIST" / "raw"
        place.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        for (images, labels), many in zip(FILES.values(), (train, test), strict=True):
            y = generator.permutation(np.arange(many) % 10).astype(np.uint8)
            x = generator.integers(0, 60, (many, 28, 28), dtype=np.uint8)
            for row, k in enumerate(y):
                top, left = 2 + 8 * (k // 4), 2 + 6 * (k % 4)
                x[row, top : top + 6, left : left + 5] = 230
            x[:, 0, 0] = np.arange(many) % 256
            for name, array in ((images, x), (labels, y)):
                sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
                data = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
                (place / f"{name}.gz").write_bytes(gzip.compress(data, 1))

    return write
