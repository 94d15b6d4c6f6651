"""Image data sets in general: what is said while they are prepared."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.data.pool import Split
from lazybench.envs.datasets.image_set import Images, Named, hash_all, open_images


class Drawn:
    """Two classes of three images in each split, one of them doubled in train."""

    def __repr__(self) -> str:
        return "Drawn()"

    def find(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> Iterator[tuple[Split, Images]]:
        splits: tuple[Split, ...] = ("train", "val", "test")
        for number, split in enumerate(splits):
            x = np.random.default_rng(number).integers(0, 256, (6, 3, 4, 4), np.uint8)
            if split == "train":
                x[2] = x[1]
            classes = tuple(Named(f"{split}{at}", f"{split}{at}") for at in range(2))
            yield split, Images(x, hash_all(x), np.array([3, 3]), classes)

    def about(self, fingerprint: str, counts: Any) -> str:
        return "drawn"


def test_doubled_images_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            open_images("drawn", "1", Drawn())
    assert [record.getMessage() for record in caplog.records] == [
        "drawn: 1 instances of train repeat one of their class, equal to the bit, as in 'train0': "
        "a query may be in the support"
    ]
