"""Which network is attacked, on which images: opened by name, or a user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.data.importing.arrays import read_arrays
from lazybench.envs.attack.oracle import Oracle, Predict
from lazybench.envs.targets import names
from lazybench.errors import DataUnavailable, UsageError
from lazybench.plugins import contained, describe
from lazybench.user_code import load, target_sha256

_SCAN = 256
"""Images that are classified together while right ones are looked for."""


class Named(NamedTuple):
    """A target and what is known of it.

    Attributes:
        predict: from images to scores; None where the target is in another process.
        classes: None for as many as its first answer has.
        sha256: over its weights, or its source file.
        accuracy: share of the test images that it gets right; None where nobody tells.
        data: name, fingerprint, preparation and source of its images; empty where nobody tells.
    """

    predict: Predict | Any
    classes: int | None
    sha256: str
    accuracy: float | None
    data: Mapping[str, str]


class Pictures(NamedTuple):
    """Images `[N, channels, height, width]` (uint8, or floats in [0, 1]) and labels `[N]`."""

    x: NDArray[Any]
    y: NDArray[np.int64]


def load_named(target: str, device: str = "cpu") -> Named:
    """Return the target of a name, or what `module:factory` or `file.py:factory` makes.

    A named one runs on `device`; where one's own runs is its own business.

    Raises:
        UnknownName: no target of that name.
        UsageError: the factory isn't there or fails.
        DataUnavailable: the target isn't trained on this machine.
    """
    if ":" not in target:
        found = names.load_target(target, device)
        return Named(found.predict, found.classes, found.sha256, found.accuracy, found.data)
    factory = load(target)
    try:
        with contained():
            predict = factory()
    except Exception as error:
        raise UsageError(f"{target}() failed: {describe(error)}") from error
    if not callable(predict):
        raise UsageError(
            f"{target}() must return a callable from images to scores, got {type(predict).__name__}"
        )
    return Named(predict, None, target_sha256(target) or "", None, {})


def load_pictures(target: str, images: str | None) -> Pictures:
    """Return the images to attack: a named target's test images, or those of an npz file.

    Raises:
        UsageError: a target of one's own without images.
        DataUnavailable: the file or the data set can't be read.
    """
    if images is not None:
        return _read(Path(images))
    if ":" in target:
        raise UsageError(
            f"{target} needs images='FILE.npz', with arrays x and y, to be attacked on"
        )
    return Pictures(*names.attack_images(target, "test"))


def whiteboxes(target: str) -> tuple[str, ...]:
    """Return the names of the networks that the train split gives gradients of; none for others."""
    found = names.WHITEBOXES.get(target)
    return () if found is None else found.train


class Official:
    """The images that an attack is judged on: those the target gets right, in file order.

    Trial i is the i-th of them.
    """

    def __init__(self, oracle: Oracle, pictures: Pictures) -> None:
        """Look at no image yet, except the first where the target's classes must be counted.

        Raises:
            UsageError: labels that the target doesn't have.
            ContractError: the target failed.
        """
        self._oracle, self._pictures = oracle, pictures
        self._right = np.zeros(0, np.int64)
        self._seen = 0
        if oracle.classes is None:
            oracle(self._images(np.zeros(1, np.int64)))
        most = int(pictures.y.max())
        if not 0 <= int(pictures.y.min()) <= most < self.classes:
            raise UsageError(
                f"labels must lie in [0, {self.classes}), the target's classes, got "
                f"{pictures.y.min()} to {most}"
            )

    @property
    def classes(self) -> int:
        """Classes of the target."""
        return self._oracle.classes or 0

    @property
    def instance(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self._pictures.x.shape[1:])

    @property
    def sha256(self) -> str:
        """64 hex digits over the images, their order and their labels."""
        x, y = self._pictures
        digest = hashlib.sha256(f"lazybench attacked 1 {x.dtype.str} {x.shape}\n".encode())
        digest.update(np.ascontiguousarray(x).data)
        digest.update(y.astype("<i8").tobytes())
        return digest.hexdigest()

    def open(self, trials: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the images of these trials, `[n, …]` float32 in [0, 1], and their labels `[n]`.

        Raises:
            UsageError: more trials than images that the target gets right.
            ContractError: the target failed.
        """
        most = int(trials.max(initial=-1))
        self._reach(most)
        if len(self._right) <= most:
            raise UsageError(
                f"trial {most} isn't there: the target classifies {len(self._right)} of "
                f"{len(self._pictures.y)} images correctly, so trials go up to "
                f"{len(self._right) - 1}"
            )
        places = self._right[trials]
        return self._images(places), torch.from_numpy(self._pictures.y[places])

    def within(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return trials as they are where they are all there, else counted around.

        Raises:
            UsageError: the target gets no image right.
            ContractError: the target failed.
        """
        most = int(trials.max(initial=-1))
        self._reach(most)
        if not len(self._right):
            raise UsageError(
                f"the target classifies none of {len(self._pictures.y)} images correctly, so there "
                "is nothing to attack; are images and labels those that it was trained for?"
            )
        return trials if most < len(self._right) else trials % len(self._right)

    def _reach(self, trial: int) -> None:
        while len(self._right) <= trial and self._seen < len(self._pictures.y):
            self._scan()

    def _scan(self) -> None:
        places = np.arange(self._seen, min(self._seen + _SCAN, len(self._pictures.y)))
        top = self._oracle(self._images(places)).argmax(1).cpu().numpy()
        right = places[top == self._pictures.y[places]]
        self._right = np.concatenate([self._right, right])
        self._seen += len(places)

    def _images(self, places: NDArray[np.int64]) -> Tensor:
        x = self._pictures.x[places]
        scale = 255.0 if x.dtype == np.uint8 else 1.0
        return torch.from_numpy((x / np.float32(scale)).astype(np.float32))


def _read(path: Path) -> Pictures:
    try:
        held = read_arrays(path)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"can't read {path} as an npz file of arrays x and y: {error}"
        ) from error
    missing = [name for name in ("x", "y") if name not in held]
    if missing:
        raise DataUnavailable(
            f"can't read {path} as an npz file of arrays x and y: it has no {missing[0]}"
        )
    x, y = held["x"], held["y"]
    if x.ndim != 4 or not len(x) or y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise DataUnavailable(
            f"{path}: x must be images [N, channels, height, width] and y integers [N], got "
            f"{list(x.shape)} and {y.dtype} {list(y.shape)}"
        )
    if x.dtype != np.uint8 and not (x.dtype.kind == "f" and 0 <= x.min() <= x.max() <= 1):
        raise DataUnavailable(f"{path}: x must be uint8, or floats in [0, 1], got {x.dtype}")
    return Pictures(x, y.astype(np.int64))
