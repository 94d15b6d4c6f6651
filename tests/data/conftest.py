"""Somebody's own data, in every packaging that can be imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lazybench.data.importing.importer import Imported, ImportRequest, import_data


class Own:
    """Images and features of 15 classes with 17 instances each, and ways to pack them.

    `x` arrays lead with class and instance; `y` has one label an instance.
    """

    classes, each = 15, 17
    labels = tuple(f"c{at:02d}" for at in range(classes))
    pixels = np.random.default_rng(0).integers(0, 256, (classes, each, 6, 5, 3), np.uint8)
    features = np.random.default_rng(1).normal(size=(classes, each, 4)).astype(np.float32)
    y = np.repeat(labels, each)

    def save(self, path: Path, x: Any = None, y: Any = None, **more: Any) -> Path:
        """Save an npz; `x` may lead with class and instance."""
        x = self.features if x is None else x
        x = x.reshape(-1, *x.shape[2:]) if len(x) == self.classes else x
        np.savez(path, x=x, y=self.y if y is None else y, **more)
        return path

    def folder(
        self,
        path: Path,
        where: Callable[[int], str] = labels.__getitem__,
        kind: str = "png",
        images: Any = pixels,
    ) -> Path:
        """Save the images below `path`, those of class i in the folder `where(i)`."""
        for at in range(self.classes):
            place = path / where(at)
            place.mkdir(parents=True)
            for number, pixels in enumerate(images[at]):
                Image.fromarray(pixels).save(place / f"{number}.{kind}")
        return path


Bring = Callable[..., Imported]


@pytest.fixture
def own() -> Own:
    """The data."""
    return Own()


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """A function from a path and options to what was imported, as `mine` unless named."""
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))

    def run(path: Path, name: str = "mine", **options: Any) -> Imported:
        return import_data(ImportRequest(path, name, **options))

    return run
