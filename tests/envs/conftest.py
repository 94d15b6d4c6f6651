"""Tiny data sets, registered for one test, and folders of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from lazybench import registry
from lazybench.data.pool import Pool, Split
from lazybench.specs import DataSpec

OPENED: dict[str, Tiny] = {}


@dataclass(frozen=True)
class Tiny:
    """A data set in memory; pixel (0, 0, 0) is the class, (0, 0, 1) the instance, on small ones."""

    name: str
    pools: dict[Split, Pool] = field(repr=False)
    fingerprint: str = "0" * 64
    prep: str = "1"
    source: str = "made up"

    def pool(self, split: Split) -> Pool:
        return self.pools[split]


def marked_pool(counts: list[int], shape: tuple[int, ...] = (1, 2, 2), first: int = 0) -> Pool:
    """`counts[c]` instances of class c, each with its class and number in the first two pixels."""
    count = np.array(counts)
    start = np.cumsum(count) - count
    x = np.zeros((int(count.sum()), *shape), np.uint8)
    for c, (begin, many) in enumerate(zip(start, count, strict=True)):
        x[begin : begin + many, 0, 0, 0] = first + c
        x[begin : begin + many, 0, 0, 1] = np.arange(many)
    x.flags.writeable = False
    names = tuple(f"class {first + c}" for c in range(len(counts)))
    return Pool(x=x, start=start, count=count, names=names, groups=names)


def open_tiny(name: str) -> Tiny:
    return OPENED[name]


Register = Callable[..., str]


@pytest.fixture
def register_tiny() -> Iterator[Register]:
    """Registers a data set of marked pools under `name` and forgets it after the test."""

    def register(
        name: str = "tiny", counts: list[int] | None = None, shape: tuple[int, ...] = (1, 2, 2)
    ) -> str:
        counts = counts or [20] * 12
        size = len(counts)
        splits: tuple[Split, ...] = ("train", "val", "test")
        pools = {
            split: marked_pool(counts, shape, first=size * at if size < 80 else 0)
            for at, split in enumerate(splits)
        }
        OPENED[name] = Tiny(name, pools)
        registry.DATASETS.register(
            DataSpec(name, f"{__name__}:open_tiny", {"name": name}, embedded=True)
        )
        return name

    yield register
    for name in OPENED:
        registry.DATASETS.forget(name)
    OPENED.clear()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty data folder; what is prepared or trained goes to a fresh cache next to it."""
    monkeypatch.setenv("LAZYBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LAZYBENCH_DATA", str(folder))
    return folder
