"""miniImageNet: 100 classes of ImageNet, 600 images each, 84x84, in Ravi & Larochelle's split.

Reference: O. Vinyals et al., "Matching networks for one shot learning", NeurIPS 2016; S. Ravi &
    H. Larochelle, "Optimization as a model for few-shot learning", ICLR 2017 (64/16/20 classes).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.data.archives import FolderTree
from lazybench.data.cache import scratch
from lazybench.data.folders import data_root
from lazybench.data.pickles import as_text, load_pickle, text_keys
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.datasets.image_set import (
    Images,
    ImageSet,
    Named,
    Roster,
    checker,
    decode_all,
    few_shot_roster,
    hash_all,
    missing,
    open_images,
)
from lazybench.errors import DataUnavailable
from lazybench.files import read_file

NAME = "miniimagenet"
PREP = "84-lanczos-1"
SIDE = 84
EACH = 600
EXPECTED = (
    "mini-imagenet-cache-{train,val|validation,test}.pkl, or images/ with the JPEG files and "
    "train.csv, val.csv and test.csv (filename,label), in miniimagenet/ or mini-imagenet/"
)

_FOLDERS = ("miniimagenet", "mini-imagenet", "miniimagenet/mini-imagenet")
_SPELT: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "validation"),
    "test": ("test",),
}


@dataclass(frozen=True)
class MiniImageNet:
    """miniImageNet's files below a data folder: the pickles where they are there, else JPEGs.

    Attributes:
        root: data folder.
        roster: the split.
        each: images that a class of the whole data set has.
    """

    root: Path
    roster: Roster
    each: int = EACH

    def find(self) -> tuple[Path, ...]:
        """The three pickles; or the three lists, then the folder of images.

        Raises:
            DataUnavailable: neither is there.
        """
        for folder in _FOLDERS:
            place = self.root / folder
            pickles = [
                next((path for path in paths if path.is_file()), None)
                for paths in (
                    [place / f"mini-imagenet-cache-{name}.pkl" for name in _SPELT[split]]
                    for split in SPLITS
                )
            ]
            if None not in pickles:
                return tuple(path for path in pickles if path is not None)
            lists = [place / f"{split}.csv" for split in SPLITS]
            if (place / "images").is_dir() and all(path.is_file() for path in lists):
                return (*lists, place / "images")
        raise self._missing("not found")

    def read(self) -> Iterator[tuple[Split, Images]]:
        """Each split, classes by name.

        Raises:
            DataUnavailable: missing, incomplete or damaged.
        """
        found = self.find()
        try:
            for split, path in zip(SPLITS, found, strict=False):
                classes = self.roster[split]
                if len(found) > len(SPLITS):
                    yield split, _from_files(path, FolderTree(found[-1]), classes)
                else:
                    yield split, _from_pickle(path, classes)
        except DataUnavailable as error:
            raise self._missing(str(error)) from error

    def about(self, fingerprint: str, counts: Mapping[Split, NDArray[np.int64]]) -> str:
        """The split, the packaging, and how much of the whole it is."""
        del fingerprint  # No copy's pixels are known to be the published ones.
        form = "JPEG files" if len(self.find()) > len(SPLITS) else "the pickled cache"
        least = min(int(each.min()) for each in counts.values())
        most = max(int(each.max()) for each in counts.values())
        text = f"miniImageNet, Ravi & Larochelle's split, {form}"
        if least == most == self.each:
            return text
        many = f"{most}" if least == most else f"{least} to {most}"
        return f"{text}; a subset: {many} of {self.each} images a class"

    def _missing(self, what: str) -> DataUnavailable:
        return missing(NAME, what, EXPECTED, self.root)


def open_miniimagenet() -> ImageSet:
    """miniImageNet: 64/16/20 classes, images `[3, 84, 84]` uint8; each class is its own group.

    Raises:
        DataUnavailable: the files are missing, incomplete or damaged.

    Choice: the pickled cache is taken where both packagings are there; it is what most published
        numbers come from. Images of another size are resized by LANCZOS, as Ravi & Larochelle do.
    """
    return open_images(NAME, PREP, _official())


def _official() -> MiniImageNet:
    return MiniImageNet(data_root(), few_shot_roster(NAME))


check = checker(_official)


def _from_files(path: Path, tree: FolderTree, classes: tuple[Named, ...]) -> Images:
    files: dict[str, list[str]] = {}
    try:
        text = read_file(path).decode("utf-8-sig")
        for row in csv.DictReader(io.StringIO(text)):
            files.setdefault(row["label"], []).append(row["filename"])
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataUnavailable(
            f"{path} isn't a list with the columns filename and label ({error}); fetch it again"
        ) from error
    _same_classes(path, files, classes)
    listed = [file for each in classes for file in files[each.name]]
    strange = next((file for file in listed if not file or Path(file).name != file), None)
    if strange is not None:
        raise DataUnavailable(f"{path} names the file {strange!r} outside of {tree.path}")

    def read(row: int) -> tuple[bytes, str]:
        return tree.read(listed[row]), f"{tree.path / listed[row]}"

    x, hashes = decode_all(len(listed), read, kind="JPEG", side=SIDE)
    counts = np.array([len(files[each.name]) for each in classes], np.int64)
    return Images(x, hashes, counts, classes)


def _from_pickle(path: Path, classes: tuple[Named, ...]) -> Images:
    entries = text_keys(load_pickle(path), str(path), ("image_data", "class_dict"))
    rows = _rows(path, entries["class_dict"])
    _same_classes(path, rows, classes)
    order = np.concatenate([rows[each.name] for each in classes])
    try:
        images = np.asarray(entries["image_data"])
    except ValueError as error:
        raise DataUnavailable(f"{path} holds images of several shapes ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3):
        raise DataUnavailable(
            f"{path} holds images as {images.dtype} {list(images.shape)}, not uint8 "
            f"[n, {SIDE}, {SIDE}, 3]"
        )
    if not (order.min() >= 0 and order.max() < len(images)) or len(np.unique(order)) < len(order):
        raise DataUnavailable(f"{path} has classes that share images or name missing ones")
    x: NDArray[np.uint8] = scratch((len(order), 3, SIDE, SIDE), np.uint8)
    for at, row in enumerate(order):
        x[at] = images[row].transpose(2, 0, 1)
    counts = np.array([len(rows[each.name]) for each in classes], np.int64)
    return Images(x, hash_all(x), counts, classes)


def _rows(path: Path, class_dict: Any) -> dict[str, NDArray[np.int64]]:
    try:
        found = {as_text(name): np.asarray(rows, np.int64) for name, rows in class_dict.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataUnavailable(
            f"{path} has a class_dict that isn't {{class: [rows]}} ({error})"
        ) from error
    empty = next((name for name, rows in found.items() if rows.ndim != 1 or not len(rows)), None)
    if empty is not None:
        raise DataUnavailable(f"{path} has no list of images for {empty}")
    return found


def _same_classes(path: Path, found: Mapping[str, Any], classes: tuple[Named, ...]) -> None:
    wanted = {each.name for each in classes}
    if set(found) != wanted:
        odd = sorted(set(found) ^ wanted)[0]
        raise DataUnavailable(
            f"{path} has other classes than its split: {odd} is "
            + ("missing" if odd in wanted else "not one of them")
        )
