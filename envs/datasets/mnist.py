"""MNIST: ten handwritten digits in a train and a test part, 28x28.

Reference: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to
    document recognition", 1998.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lazybench.data.folders import data_root
from lazybench.data.pool import Labelled, Split
from lazybench.envs.datasets.image_set import (
    Images,
    ImageSet,
    Named,
    checker,
    hash_all,
    missing,
    official_parts,
    open_images,
)
from lazybench.errors import DataUnavailable
from lazybench.files import open_file

NAME = "mnist"
PREP = "28-1"
SIDE = 28
CLASSES = 10
FOLDERS = ("MNIST/raw", "mnist", "MNIST", "mnist/raw", "")
FILES: Mapping[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Files of images and of labels, without the `.gz` that they may carry."""

WHOLE: Mapping[Split, int] = {"train": 60_000, "test": 10_000}
"""Images of each part, as given out."""
FINGERPRINT = "c8821e96be24d70d553ac94b62c5bbac9a048b548aa8a6312a9ae6d8a79eb168"
"""Of the authors' images, however they are packed."""

_UINT8 = 0x08
_MOST = 1 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Mnist:
    """The files below a data folder.

    Attributes:
        root: data folder.
    """

    root: Path

    def find(self) -> tuple[Path, ...]:
        """The four files: images and labels of train, then of test.

        Raises:
            DataUnavailable: some aren't there.
        """
        wanted = [file for pair in FILES.values() for file in pair]
        for folder in FOLDERS:
            found = [_either(self.root / folder, file) for file in wanted]
            if all(found):
                return tuple(path for path in found if path)
        raise self._missing("not found")

    def read(self) -> Iterator[tuple[Split, Images]]:
        """The train and the test part, class after class; inside a class the files' order stays.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        for split, x, y in self.parts():
            counts = np.bincount(y, minlength=CLASSES)
            x = x[np.argsort(y, kind="stable")]
            digits = tuple(Named(str(digit), str(digit)) for digit in range(CLASSES))
            yield split, Images(x, hash_all(x), counts, digits)

    def parts(self) -> Iterator[tuple[Split, NDArray[np.uint8], NDArray[np.int64]]]:
        """Each part's images `[M, 1, 28, 28]` and labels `[M]`, in the files' order.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        found = self.find()
        try:
            for split, images, labels in zip(FILES, found[::2], found[1::2], strict=True):
                yield split, *_part(images, labels)
        except DataUnavailable as error:
            raise self._missing(str(error)) from error

    def about(self, fingerprint: str, counts: Mapping[Split, NDArray[np.int64]]) -> str:
        """The share of the images found, and whether they are the known ones."""
        held = {split: int(count.sum()) for split, count in counts.items()}
        if held != WHOLE:
            counted = (f"{held[split]} of {WHOLE[split]} {split}" for split in held)
            return f"MNIST; a subset: {' and '.join(counted)} images"
        known = fingerprint == FINGERPRINT
        return f"MNIST; {'the known images' if known else 'the images differ from the known ones'}"

    def _missing(self, what: str) -> DataUnavailable:
        expected = f"{', '.join(file for pair in FILES.values() for file in pair)} (or .gz) in "
        return missing(NAME, what, expected + " or ".join(filter(None, FOLDERS)), self.root)


def open_mnist() -> ImageSet:
    """MNIST with pools `train` and `test` of the ten digits, images `[1, 28, 28]` uint8.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
    """
    return open_images(NAME, PREP, Mnist(data_root()))


def labelled() -> Labelled:
    """Return the set as a long-tailed stream uses it: the official parts.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.
    """
    return official_parts(open_mnist())


check = checker(lambda: Mnist(data_root()))


def _either(folder: Path, file: str) -> Path | None:
    """The file, or the same packed, or None."""
    paths = (folder / file, folder / f"{file}.gz")
    return next((path for path in paths if path.is_file()), None)


def _part(images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or x.shape[1:] != (SIDE, SIDE) or y.shape != x.shape[:1] or not len(x):
        raise DataUnavailable(
            f"{images} and {labels} hold {list(x.shape)} and {list(y.shape)}, not [M, {SIDE}, "
            f"{SIDE}] and [M]"
        )
    if int(y.max()) >= CLASSES or len(np.unique(y)) != CLASSES:
        raise DataUnavailable(f"{labels} must hold each digit of 0 to 9 and nothing else")
    return x[:, None], y.astype(np.int64)


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    """Read at most `size` bytes, without allocating more than there are."""
    held = bytearray()
    while len(held) < size and (block := read(min(_BLOCK_BYTES, size - len(held)))):
        held += block
    return bytes(held)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of bytes of an idx file, packed by gzip or not.

    Raises:
        DataUnavailable: it can't be read, or isn't a whole idx file of bytes.
    """
    try:
        with (
            open_file(path, None) as packed,
            gzip.open(packed) if path.suffix == ".gz" else packed as file,
        ):
            head = file.read(4)
            axes = head[3] if len(head) == 4 else 0
            if head[:2] != b"\0\0" or head[2:3] != bytes([_UINT8]) or not 1 <= axes <= 4:
                raise DataUnavailable(f"{path} isn't an idx file of bytes; fetch it again")
            shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(axes))
            # The size in a hostile header is checked before allocation: images of at most a
            # million pixels, a hundred of MNIST's size in all.
            size = math.prod(shape)
            if size > 100 * SIDE * SIDE * WHOLE["train"] or max(shape) > _MOST:
                raise DataUnavailable(f"{path} says it holds {list(shape)} bytes; fetch it again")
            data = _read(file.read, size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataUnavailable(f"{path} can't be read ({error}); fetch it again") from error
    if len(data) != size:
        more = "more" if len(data) > size else str(len(data))
        raise DataUnavailable(f"{path} holds {more} bytes where {size} belong; fetch it again")
    return cast(NDArray[np.uint8], np.frombuffer(data, np.uint8).reshape(shape))
