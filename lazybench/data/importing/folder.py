"""Image folders: `class/image`, `super/class/image`, or either below `train`, `val` and `test`.

Folders `train` and `test` (and maybe `val`) of the same classes make long-tailed streams.

`list_images` lists a folder for every command that accepts one; `read_image_folder` reads it for
`lazybench data import`.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.data.archives import MOST_MEMBERS, FolderTree, decoded, is_hidden
from lazybench.data.fingerprint import instance_hash
from lazybench.data.importing.split import (
    GREY_MODES,
    MODES,
    Preparation,
    Read,
    Rows,
    channels_first,
    stacked,
)
from lazybench.data.splits import SPLITS, Split
from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import open_file

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif",
)  # fmt: skip
"""Suffixes of image files, in any case; the actual format is read from the content."""

LOSSLESS = ("PNG", "BMP", "GIF", "PPM")
FORMATS = (*LOSSLESS, "JPEG", "WEBP", "TIFF", "JPEG2000", "AVIF")
"""Pillow's names of allowed formats: those with a signature that run no other program."""

MOST_PIXELS = 1 << 26
"""Largest number of pixels; a larger image is a mistake or a decompression bomb."""

MOST_IMAGE_BYTES = 256 << 20
"""Largest size of an image file in bytes."""

T = TypeVar("T")
_THREADS = 4
_LAYOUT = "lay images out as class/image or super/class/image, or either below train, val and test"
_LOSSLESS_TIFF = ("raw", "tiff_lzw", "packbits", "tiff_deflate", "tiff_adobe_deflate")


class Header(NamedTuple):
    """Facts in the header of an image file.

    Attributes:
        kind: Pillow's name of the format; that of a phone's multi-picture JPEG is `JPEG`.
        grey: whether the image has no colours; palettes count as colours.
        edges: height and width in pixels.
        exact: whether every decoder returns the same pixels.
        frames: whether there are further frames; only the first one is read.
    """

    kind: str
    grey: bool
    edges: tuple[int, int]
    exact: bool
    frames: bool


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, listed but not yet read.

    Attributes:
        path: the folder.
        names: names of the images relative to `path`, with `/` between their parts, sorted.
        empty: class folders without an image.
        others: names of the other files, sorted, without hidden ones.
        notes: lines on what was left out.
    """

    path: Path
    names: tuple[str, ...]
    empty: tuple[str, ...]
    others: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...]

    def check_classes(self) -> None:
        """Check that each class folder holds an image.

        Raises:
            UsageError: one holds none, so its class would be missing and the numbers of later
                classes would change.
        """
        if self.empty:
            first = self.empty[0]
            inside = [name for name in self.others if name.startswith(f"{first}/")]
            held = f"{len(inside)} other files, such as {inside[0]}" if inside else "it is empty"
            more = len(self.empty) - 1
            and_more = f", and {more} more folders hold none" if more else ""
            raise UsageError(
                f"{self.path / first} holds no image that can be read ({held}){and_more}, so a "
                f"class would be missing; images end in {', '.join(SUFFIXES)}; add or convert "
                "images, or remove the folder"
            )

    def classes(self) -> tuple[str, ...]:
        """The class of each image: the folders that hold it.

        Raises:
            UsageError: an image is in no folder, or images are at several depths.
        """
        depths: dict[int, str] = {}
        for name in self.names:
            depths.setdefault(name.count("/"), name)
        if 0 in depths:
            raise UsageError(f"{self.path / depths[0]} is in no class folder; {_LAYOUT}")
        if len(depths) > 1:
            one, other = list(depths.values())[:2]
            raise UsageError(f"{self.path} mixes depths, as in {one} and {other}; {_LAYOUT}")
        return tuple(name.rpartition("/")[0] for name in self.names)

    def headers(self, names: Sequence[str] | None = None) -> tuple[Header, ...]:
        """The headers of the images called `names`, or of all.

        Raises:
            UsageError: an image of more than 8 bits a channel, or of too many pixels.
            DataUnavailable: a file isn't an image or can't be read.
        """
        with _quiet(), ThreadPoolExecutor(_THREADS) as threads:
            paths = [self.path / name for name in (self.names if names is None else names)]
            return tuple(threads.map(_header, paths))

    def pictures(
        self, names: Sequence[str], headers: Sequence[Header]
    ) -> list[tuple[NDArray[np.uint8], bytes]]:
        """Pixels uint8 `[1 or 3, height, width]` and 32 bytes over the content of each image.

        Grey images have 1 channel. Transparency is dropped, and an EXIF orientation isn't applied.

        Raises:
            DataUnavailable: a file is damaged or can't be read.

        Choice: the content of lossless formats is their pixels, that of others their bytes, since
            decoders differ.
        """

        def known(
            pixels: NDArray[np.uint8], data: bytes, header: Header
        ) -> tuple[NDArray[np.uint8], bytes]:
            exact = header.exact
            return pixels, instance_hash(pixels) if exact else hashlib.sha256(data).digest()

        return self._each(names, headers, known)

    def _each(
        self,
        names: Sequence[str],
        headers: Sequence[Header],
        use: Callable[[NDArray[np.uint8], bytes, Header], T],
    ) -> list[T]:
        """What `use` makes of each image's pixels, file and header, in several threads."""
        tree = FolderTree(self.path)

        def one(name: str, header: Header) -> T:
            data = tree.read(name)
            image = decoded(data, str(self.path / name), header.kind)
            if (image.height, image.width) != header.edges:
                raise DataUnavailable(f"{self.path / name} changed while it was read; try again")
            pixels = channels_first(np.asarray(image.convert("L" if header.grey else "RGB")))
            return use(pixels, data, header)

        with _quiet(), ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(one, names, headers))

    def pixels(
        self,
        names: Sequence[str],
        resize: Callable[[NDArray[np.uint8]], NDArray[Any]] | None = None,
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        """The images called `names`, `[N, channels, height, width]`, and notes.

        There is 1 channel if all of them are grey, else 3. The notes are lines on ignored frames
        and on formats that differ.

        Args:
            names: images, relative to the folder.
            resize: takes an image, uint8 `[channels, height, width]`, and returns it in the size
                that all get; None for uint8 images that must have one size.

        Raises:
            UsageError: images of several sizes without `resize`, of more than 8 bits a channel, or
                of too many pixels.
            DataUnavailable: a file isn't a whole image or can't be read.
        """
        headers = self.headers(names)
        sizes = {header.edges: name for header, name in zip(headers, names, strict=True)}
        if len(sizes) > 1 and resize is None:
            odd = [f"{name} {_text(edges)}" for edges, name in list(sizes.items())[:2]]
            raise UsageError(
                f"images in {self.path} must have one size, got {' and '.join(odd)}; resize them, "
                "for example with --size 224"
            )
        channels = 1 if all(header.grey for header in headers) else 3
        # Resized one by one as they are decoded, so that photographs needn't all be in memory.
        pictures: list[NDArray[Any]] = self._each(
            names, headers, lambda pixels, *_: pixels if resize is None else resize(pixels)
        )
        if not pictures:
            return np.zeros((0, channels, 1, 1), np.uint8), ()
        shape = (channels, *pictures[0].shape[1:])
        x = np.stack([np.broadcast_to(pixels, shape) for pixels in pictures])
        return x, tuple(_file_notes(names, headers))


def list_images(path: Path) -> ImageFolder:
    """List the images of a folder by their names; nothing is decoded.

    Links to files and folders are followed, each folder once. Hidden files and folders are left
    out.

    Raises:
        UsageError: it holds no images, or the same folder twice by links.
        DataUnavailable: a folder can't be listed, or an image isn't a regular file.
    """
    names: list[str] = []
    others: list[str] = []
    links: list[str] = []
    loops: list[str] = []
    leaves: list[str] = []
    for head, files, inner in _folders(path, links, loops):
        for name in files:
            (names if name.lower().endswith(SUFFIXES) else others).append(f"{head}{name}")
        if head and not inner:
            leaves.append(head[:-1])
        if len(names) + len(others) > MOST_MEMBERS:
            raise UsageError(f"{path} holds more than {MOST_MEMBERS} files; give a smaller folder")
    if not names:
        raise UsageError(
            f"{path} holds no images ({', '.join(SUFFIXES)}) among {len(others)} files; {_LAYOUT}"
        )
    holding = {name.rpartition("/")[0] for name in names}
    empty = [leaf for leaf in leaves if not any(each in holding for each in _and_above(leaf))]
    notes = [f"left out {link}, a link to a folder that holds it" for link in sorted(loops)]
    followed = sorted(set(links) - set(loops))
    if followed:
        notes.append(f"followed {len(followed)} links to folders, such as {followed[0]}")
    if others:
        notes.append(f"left out {len(others)} files that are no images, such as {min(others)}")
    return ImageFolder(
        path, tuple(sorted(names)), tuple(sorted(empty)), tuple(sorted(others)), tuple(notes)
    )


def read_image_folder(path: Path, preparation: Preparation, *, skip_empty: bool = False) -> Rows:
    """Return the images of a folder as a source; a class is `class` or `super/class`.

    Images are grey if all sources are, else RGB.

    Args:
        path: the folder.
        preparation: preparation of the images.
        skip_empty: leave out class folders without images, instead of refusing them.

    Raises:
        UsageError: no images, a class without images, a layout that names no classes, or images of
            several sizes and none to resize them to.
        DataUnavailable: a file isn't an image or can't be read.
    """
    folder = list_images(path)
    notes = folder.notes
    if not skip_empty:
        folder.check_classes()
    elif folder.empty:
        many = f"left out {len(folder.empty)} class folders without images"
        notes = (f"{many}, such as {folder.empty[0]}", *notes)
    labels, groups, splits = _laid_out(folder)
    names, headers = folder.names, folder.headers()
    sizes = Counter(header.edges for header in headers)
    if len(sizes) > 1 and preparation.size is None:
        (first, _), (other, _) = sizes.most_common(2)
        odd = names[[header.edges for header in headers].index(other)]
        raise UsageError(
            f"images in {path} have {len(sizes)} sizes, such as {_text(first)} and {_text(other)} "
            f"({odd}); resize them all with --size, for example --size 84"
        )
    notes = (*notes, *_file_notes(names, headers))
    channels = 1 if all(header.grey for header in headers) else 3
    shape = preparation.shape(channels, headers[0].edges)

    def read(numbers: NDArray[np.int64]) -> Read:
        pictures = folder.pictures([names[at] for at in numbers], [headers[at] for at in numbers])
        return stacked([(preparation(pixels, shape[0]), digest) for pixels, digest in pictures])

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
        notes=notes,
    )


def _file_notes(names: Sequence[str], headers: Sequence[Header]) -> Iterator[str]:
    """Lines on ignored frames, and on formats if there are several, which may reveal classes."""
    several = [name for name, header in zip(names, headers, strict=True) if header.frames]
    if several:
        yield f"took the first frame of {len(several)} images of several, such as {several[0]}"
    kinds = Counter(header.kind for header in headers).most_common()
    if len(kinds) > 1:
        rarest = names[[header.kind for header in headers].index(kinds[-1][0])]
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
        yield f"images are of {len(kinds)} formats ({counts}, such as {rarest})"


_LIKE_SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
)


def _laid_out(
    folder: ImageFolder,
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[Split, ...] | None]:
    """Class, super-category and split of each image, by the folders that hold it."""
    folders = [name.split("/") for name in folder.classes()]
    tops = {above[0] for above in folders}
    splits: tuple[Split, ...] | None = None
    if tops <= set(SPLITS) or tops >= {"train", "test"}:
        inside = {top: {"/".join(each[1:]) for each in folders if each[0] == top} for top in tops}
        ordinary = tops == {"train", "test"} and inside["train"] == inside["test"]
        if tops != set(SPLITS) and not ordinary:
            raise UsageError(
                f"{folder.path} holds images below {', '.join(sorted(tops))}; a given split has "
                f"exactly the folders {', '.join(SPLITS)}, or train and test of the same classes; "
                "else rename the folders"
            )
        splits = tuple(cast(Split, above[0]) for above in folders)
        folders = [above[1:] for above in folders]
    elif len(tops) > 1 and {top.casefold() for top in tops} <= _LIKE_SPLITS:
        raise UsageError(
            f"{folder.path} holds {', '.join(sorted(tops))}, which look like the parts of a split; "
            f"call them {', '.join(SPLITS)} for a given split (train and test where both have the "
            "same classes), or other names if they are classes or super-categories"
        )
    depth = len(folders[0])
    if depth not in (1, 2):
        why = "is in no class folder" if depth == 0 else "is too deep"
        raise UsageError(f"{folder.path / folder.names[0]} {why}; {_LAYOUT}")
    labels = tuple("/".join(above) for above in folders)
    return labels, tuple(above[0] for above in folders) if depth == 2 else None, splits


def _folders(
    root: Path, links: list[str], loops: list[str]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Relative name of each folder with a `/` after it, and the names of its files and folders.

    Links to folders are added to `links`, and those that lead back to a folder above to `loops`.
    """
    seen: dict[tuple[int, int], str] = {}
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        head, above = waiting.pop()
        folder = root / head
        files: list[str] = []
        inner: list[str] = []
        try:
            state = folder.stat()
            identity = (state.st_dev, state.st_ino)
            if identity in above:
                loops.append(head[:-1])
                continue
            if identity in seen:
                raise UsageError(
                    f"{folder} and {root / seen[identity]} are the same folder by a link, so its "
                    "images would be in two classes; remove one of them"
                )
            seen[identity] = head
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if _is_folder(entry):
                        inner.append(entry.name)
                        if entry.is_symlink():
                            links.append(f"{head}{entry.name}")
                    else:
                        _check_plain(folder, entry)
                        files.append(entry.name)
        except OSError as error:
            why = f"{folder} can't be listed ({error}); make it readable"
            raise DataUnavailable(why) from error
        for name in sorted(inner, reverse=True):
            waiting.append((f"{head}{name}/", (*above, identity)))
        yield head, files, inner


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def _check_plain(folder: Path, entry: os.DirEntry[str]) -> None:
    """Check that an entry with the name of an image or a folder is a regular file.

    Raises:
        DataUnavailable: it is a pipe, a device or a broken link.
    """
    if os.path.isfile(entry.path):
        return
    broken = not os.path.exists(entry.path)
    if entry.name.lower().endswith(SUFFIXES) or (broken and not Path(entry.name).suffix):
        why = "is a broken link" if broken else "isn't a regular file"
        raise DataUnavailable(f"{folder / entry.name} {why}; repair or remove it")


def _and_above(name: str) -> Iterator[str]:
    """A folder and all folders above it, by their relative names."""
    yield name
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings of large images, which are refused here, and of transparency."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _header(path: Path) -> Header:
    try:
        with open_file(path, None) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_IMAGE_BYTES:
                raise UsageError(
                    f"{path} has {size} bytes, at most {MOST_IMAGE_BYTES} are read; convert or "
                    "remove it"
                )
            start = file.read(_START_BYTES)
            file.seek(0)
            with Image.open(file, formats=_formats()) as image:
                bits = _bits(start, image)
                kind, mode, (width, height) = str(image.format), image.mode, image.size
                exact = kind in LOSSLESS or image.info.get("compression") in _LOSSLESS_TIFF
                frames = kind != "MPO" and _has_frames(image)
    except UsageError:
        raise
    # What Pillow's readers raise on a damaged file is no fixed list.
    except Exception as error:
        raise DataUnavailable(
            f"{path} isn't an image that can be read ({error}); replace or remove it"
        ) from error
    if mode not in MODES or bits > 8 or width * height > MOST_PIXELS:
        raise UsageError(
            f"{path} is {width}x{height} in Pillow's mode {mode}; allowed are 8 bits a channel and "
            f"{MOST_PIXELS} pixels{f', it has {bits} bits' if bits > 8 else ''}; convert or remove "
            "it"
        )
    # A phone's photograph has further images after the JPEG; Pillow calls this format MPO.
    return Header(
        "JPEG" if kind == "MPO" else kind, mode in GREY_MODES, (height, width), exact, frames
    )


_START_BYTES = 1 << 10
_TIFF_BITS_PER_SAMPLE = 258


def _bits(start: bytes, image: Image.Image) -> int:
    """The bits of a channel in a file, where Pillow would cut them to 8; else 8.

    Args:
        start: the first bytes of the file.
        image: the opened file.
    """
    if image.format == "PNG":
        # In the header chunk, after the signature, its length and name, width and height.
        return max(8, start[24])
    if image.format == "TIFF":
        tags: Mapping[int, Any] = vars(image).get("tag_v2", {})
        return max(8, *map(int, tags.get(_TIFF_BITS_PER_SAMPLE, (8,))))
    if image.format == "PPM":
        numbers = re.sub(rb"#[^\n]*", b"", start).split()[1:4]
        return 16 if start[:2] in (b"P5", b"P6") and int(numbers[2]) > 255 else 8
    return 8


def _formats() -> tuple[str, ...]:
    """The `FORMATS` that this version of Pillow can read."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _has_frames(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _text(edges: tuple[int, int]) -> str:
    return f"{edges[1]}x{edges[0]}"
