"""Image folders: `class/image`, `super/class/image`, or either below `train`, `val` and `test`."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.archive import FolderTree, decoded
from lazybench.data.fingerprint import instance_hash
from lazybench.data.rows import GREY_MODES, MODES, Preparation, Read, Rows, channels_first, stacked
from lazybench.data.splits import SPLITS, Split
from lazybench.errors import DataUnavailable, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LOSSLESS = ("PNG", "BMP")
FORMATS = (*LOSSLESS, "JPEG", "WEBP")
MOST_PIXELS = 1 << 26
"""A larger image is taken for a mistake, or for a bomb that is small only on the disk."""

_THREADS = 4
_LAYOUT = "lay images out as class/image or super/class/image, or either below train, val and test"


@dataclass(frozen=True)
class _Header:
    """What the head of an image file tells."""

    kind: str
    grey: bool
    edges: tuple[int, int]


def read_image_folder(path: Path, preparation: Preparation) -> Rows:
    """The images of a folder; hidden files are left out, links to folders aren't followed.

    A class is `class` or `super/class`. Images are grey where all sources are, else RGB.

    Raises:
        UsageError: no images, a layout that names no classes, or images of several sizes and none
            to resize them to.
        DataUnavailable: a file isn't an image or can't be read.

    Choice: the content of PNG and BMP is what they show, that of JPEG and WebP their bytes, since
        decoders differ.
    """
    tree = FolderTree(path)
    files = tree.names()
    names = [name for name in files if name.lower().endswith(SUFFIXES)]
    if not names:
        raise UsageError(
            f"{path} holds no images ({', '.join(SUFFIXES)}) among {len(files)} files; {_LAYOUT}"
        )
    labels, groups, splits = _laid_out(path, names)
    with _quiet(), ThreadPoolExecutor(_THREADS) as threads:
        headers = list(threads.map(lambda name: _header(path / name), names))
    sizes = Counter(header.edges for header in headers)
    if len(sizes) > 1 and preparation.size is None:
        (first, _), (other, _) = sizes.most_common(2)
        odd = names[[header.edges for header in headers].index(other)]
        raise UsageError(
            f"images in {path} have {len(sizes)} sizes, such as {_text(first)} and {_text(other)} "
            f"({odd}); resize them all with --size, for example --size 84"
        )
    channels = 1 if all(header.grey for header in headers) else 3
    shape = preparation.shape(channels, headers[0].edges)

    def one(number: np.int64) -> tuple[NDArray[np.uint8], bytes]:
        header, name = headers[number], names[number]
        data = tree.read(name)
        image = decoded(data, str(path / name), header.kind)
        pixels = channels_first(np.asarray(image.convert("L" if header.grey else "RGB")))
        lossless = header.kind in LOSSLESS
        digest = instance_hash(pixels) if lossless else hashlib.sha256(data).digest()
        return preparation(pixels, shape[0]), digest

    def read(numbers: NDArray[np.int64]) -> Read:
        with _quiet(), ThreadPoolExecutor(_THREADS) as threads:
            return stacked(list(threads.map(one, numbers)))

    others = len(files) - len(names)
    return Rows(
        kind="images",
        labels=labels,
        groups=groups,
        splits=splits,
        split_by="the folders",
        shape=shape,
        prep=preparation.name,
        what=f"image folder '{path.resolve().name}'",
        read=read,
        notes=(f"left out {others} files that are no images",) if others else (),
    )


def _laid_out(
    path: Path, names: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[Split, ...] | None]:
    """Class, super-category and split of each image, by the folders it lies in."""
    folders = [name.split("/")[:-1] for name in names]
    for name, above in zip(names, folders, strict=True):
        if not above:
            raise UsageError(f"{path / name} lies in no class folder; {_LAYOUT}")
    tops = {above[0] for above in folders}
    splits: tuple[Split, ...] | None = None
    if tops <= set(SPLITS) or tops >= {"train", "test"}:
        if tops != set(SPLITS):
            raise UsageError(
                f"{path} holds images below {', '.join(sorted(tops))}; a given split has exactly "
                f"the folders {', '.join(SPLITS)}, else rename the folders"
            )
        splits = tuple(cast(Split, above[0]) for above in folders)
        folders = [above[1:] for above in folders]
    depths = {len(above): name for above, name in zip(folders, names, strict=True)}
    if len(depths) > 1:
        one, other = list(depths.values())[:2]
        raise UsageError(f"{path} mixes depths, as in {one} and {other}; {_LAYOUT}")
    (depth,) = depths
    if depth not in (1, 2):
        why = "lies in no class folder" if depth == 0 else "lies too deep"
        raise UsageError(f"{path / names[0]} {why}; {_LAYOUT}")
    labels = tuple("/".join(above) for above in folders)
    return labels, tuple(above[0] for above in folders) if depth == 2 else None, splits


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Pillow says of large images, refused here, and of transparency, dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        yield


def _header(path: Path) -> _Header:
    try:
        with Image.open(path, formats=FORMATS) as image:
            kind, mode, (width, height) = str(image.format), image.mode, image.size
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataUnavailable(
            f"{path} isn't an image that can be read ({error}); replace or remove it"
        ) from error
    if mode not in MODES or width * height > MOST_PIXELS:
        raise UsageError(
            f"{path} is {width}x{height} in Pillow's mode {mode}; allowed are 8 bits a channel and "
            f"{MOST_PIXELS} pixels; convert or remove it"
        )
    return _Header(kind, mode in GREY_MODES, (height, width))


def _text(edges: tuple[int, int]) -> str:
    return f"{edges[1]}x{edges[0]}"
