"""Reads arrays from users' .npz and .npy files, without pickles."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lazybench.data.archives import MOST_BYTES, is_hidden
from lazybench.data.fingerprint import instance_hash
from lazybench.data.importing.split import Preparation, Read, Rows, stacked
from lazybench.data.splits import SPLITS, Split
from lazybench.errors import DataUnavailable, UsageError, nearest
from lazybench.files import open_file
from lazybench.plugins import describe

Arrays = dict[str, NDArray[Any]]

_MOST_TEXT = 200


def read_arrays(path: Path, *, single: bool = False, most_bytes: int = MOST_BYTES) -> Arrays:
    """Return the arrays of an `.npz` file by name; arrays of Python objects, which run code, fail.

    Args:
        path: the file.
        single: whether a `.npy` file is allowed, too; its array has an empty string as its name.
        most_bytes: largest unpacked size of all arrays together.

    Raises:
        DataUnavailable: it is missing, damaged, too large, or something else; the message is only
            the reason, to which callers add the file's purpose.
    """
    try:
        # Opened here, since numpy doesn't close a file that isn't a zip.
        with open_file(path, most_bytes) as handle:
            held = np.load(handle, allow_pickle=False)
            if not isinstance(held, np.ndarray):
                with held:
                    _check_size(held.zip, most_bytes)
                    _check_names(held.files)
                    return {name: _array(name, held[name]) for name in held.files}
    except DataUnavailable:
        raise
    # Any error inside numpy's reader is caused by the file, parts of which (headers) are parsed as
    # Python, so no list of errors is complete.
    except Exception as error:
        known = isinstance(error, OSError) and error.strerror
        raise DataUnavailable(known or _short(error)) from error
    if not single:
        raise DataUnavailable("it holds a single array, as .npy files do")
    return {"": held}


def _array(name: str, value: Any) -> NDArray[Any]:
    # For other members, numpy returns the bytes.
    if not isinstance(value, np.ndarray):
        raise DataUnavailable(f"'{name}' in it isn't an array")
    return value


def _check_size(file: zipfile.ZipFile, most_bytes: int) -> None:
    # zipfile stops at the declared size of a member, so a zip bomb can't unpack to more.
    total = sum(member.file_size for member in file.infolist())
    if total > most_bytes:
        raise DataUnavailable(f"it unpacks to {total} bytes, at most {most_bytes} are allowed")


def _check_names(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataUnavailable(f"it holds '{twice[0][:_MOST_TEXT]}' more than once")


def _short(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."


KEYS = ("x", "y", "group", "split")
MOST_FEATURE = 1e6
"""Largest magnitude of a feature, as environments declare it."""

_MOST_LOST = 0.01
"""Largest rounding error of float32, as a share of a feature's deviation."""

FEATURES_PREP = "float32-1"
_FORM = "give x [M,d] features, or uint8 images [M,H,W], [M,H,W,C] or [M,C,H,W] of 1 or 3 channels"


@dataclass(frozen=True)
class _Part:
    """The content of one file, labels as text."""

    x: NDArray[Any]
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    splits: tuple[Split, ...] | None


def is_split_folder(path: Path) -> bool:
    """True if a folder holds `.npz` files, which then must be train, val and test.

    Raises:
        UsageError: it holds some other `.npz` files.
    """
    stems = {each.stem for each in path.glob("*.npz") if not each.name.startswith(".")}
    if stems and stems != set(SPLITS):
        raise UsageError(
            f"{path} holds {', '.join(f'{stem}.npz' for stem in sorted(stems))}; a folder of npz "
            "files has exactly train.npz, val.npz and test.npz, or give one file"
        )
    return bool(stems)


def read_npz(path: Path, preparation: Preparation) -> Rows:
    """The instances of one `.npz` file, or of `train.npz`, `val.npz` and `test.npz` in a folder.

    Features of any number type become float32, and are hashed as such; features whose differences
    float32 can't represent are refused.

    Raises:
        UsageError: keys, shapes, types or values that aren't allowed.
        DataUnavailable: a file is damaged, or holds Python objects.
    """
    if path.is_dir():
        files: list[tuple[Path, Split | None]] = [(path / f"{each}.npz", each) for each in SPLITS]
    else:
        files = [(path, None)]
    return _rows(
        [_part(_load(file), str(file), split) for file, split in files],
        str(path),
        preparation,
        split_by="train.npz, val.npz and test.npz" if path.is_dir() else "the key 'split'",
        what=f"in '{path.resolve().name}'",
        notes=_others(path),
    )


def read_memory(held: Mapping[str, Any], preparation: Preparation) -> Rows:
    """The instances of arrays in memory, as `read_npz` reads those of a file.

    Args:
        held: `x` and `y`, and `group` and `split` where they are given: arrays, tensors or lists.
        preparation: preparation of images.

    Raises:
        UsageError: shapes, types or values that aren't allowed.
    """
    arrays = {name: as_array(value, f"{name} in the given arrays") for name, value in held.items()}
    return _rows(
        [_part(arrays, "the given arrays", None)],
        "the given arrays",
        preparation,
        split_by="split=",
        what="from memory",
    )


def as_array(value: Any, what: str) -> NDArray[Any]:
    """Return an array, tensor or list as a NumPy array.

    Raises:
        UsageError: it has no one shape, or a type that NumPy lacks; `what` names it.
    """
    try:
        return np.asarray(value)
    except Exception as error:
        raise UsageError(
            f"{what} can't be an array: {describe(error)}; give values of one shape and of a type "
            "that NumPy has, on the CPU"
        ) from error


def _rows(
    parts: Sequence[_Part],
    where: str,
    preparation: Preparation,
    *,
    split_by: str,
    what: str,
    notes: tuple[str, ...] = (),
) -> Rows:
    """The instances of all parts, which must agree in their shape."""
    shapes = {part.x.shape[1:] for part in parts}
    if len(shapes) > 1 or len({part.groups is None for part in parts}) > 1:
        got = ", ".join(str(list(part.x.shape[1:])) for part in parts)
        raise UsageError(
            f"train, val and test in {where} must hold instances of one shape, with group in all "
            f"or none; got shapes {got}"
        )
    (shape,) = shapes
    images = len(shape) == 3
    if not images and preparation != Preparation():
        raise UsageError(
            f"--size and --grey go with images; {where} holds features, leave them out"
        )
    if images:
        shape = preparation.shape(shape[0], shape[1:])
    arrays = [part.x for part in parts]
    first = np.cumsum([0] + [len(x) for x in arrays])

    def row(number: np.int64) -> NDArray[Any]:
        at = int(np.searchsorted(first, number, side="right")) - 1
        values: NDArray[Any] = arrays[at][number - first[at]]
        return values

    def read(numbers: NDArray[np.int64]) -> Read:
        rows = [row(number) for number in numbers]
        hashes = [instance_hash(each) for each in rows]
        if not images:
            return Read(np.stack(rows), hashes)
        pictures = [preparation(each, shape[0]) for each in rows]
        return stacked(list(zip(pictures, hashes, strict=True)))

    return Rows(
        kind="images" if images else "features",
        labels=_joined([part.labels for part in parts]),
        groups=None if parts[0].groups is None else _joined([part.groups or () for part in parts]),
        splits=None if parts[0].splits is None else _joined([part.splits or () for part in parts]),
        split_by=split_by,
        shape=shape,
        prep=preparation.name if images else FEATURES_PREP,
        what=f"{'images' if images else 'features'} {what}",
        read=read,
        notes=(*notes, *(() if images else _constant(arrays))),
    )


def _others(path: Path) -> tuple[str, ...]:
    """A line on the files in a folder other than `train.npz`, `val.npz` and `test.npz`."""
    if not path.is_dir():
        return ()
    taken = {f"{split}.npz" for split in SPLITS}
    others = sorted(each.name for each in path.iterdir() if each.name not in taken)
    others = [name for name in others if not is_hidden(name)]
    if not others:
        return ()
    return (f"left out {len(others)} other files and folders, such as {others[0]}",)


def _joined(parts: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(value for part in parts for value in part)


def _part(arrays: Mapping[str, NDArray[Any]], path: str, split: Split | None) -> _Part:
    allowed = KEYS if split is None else KEYS[:3]
    unknown = sorted(set(arrays) - set(allowed))
    if unknown:
        raise UsageError(
            f"{path} holds '{unknown[0]}'; keys are {', '.join(allowed)}."
            f"{nearest(unknown[0], allowed)}"
        )
    for key in ("x", "y"):
        if key not in arrays:
            raise UsageError(f"{path} has no '{key}'; it needs x (instances) and y (labels)")
    x = arrays["x"]
    rows = len(x) if x.ndim else 0
    if rows == 0:
        raise UsageError(f"x in {path} is {list(x.shape)}, without instances; {_FORM}")
    texts = {key: _texts(arrays[key], f"{key} in {path}", rows) for key in arrays if key != "x"}
    given = (split,) * rows if split is not None else texts.get("split")
    if given is not None and not set(given) <= set(SPLITS):
        wrong = next(value for value in given if value not in SPLITS)
        raise UsageError(f"split in {path} must be train, val or test, got '{wrong}'")
    labels, groups = texts["y"], texts.get("group")
    held = _instances(x, labels, path)
    return _Part(held, labels, groups, cast("tuple[Split, ...] | None", given))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(path)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"{path} can't be read as an npz of plain arrays ({error}); save it with "
            "numpy.savez(FILE, x=x, y=y), labels as numbers or text"
        ) from error


def _texts(values: NDArray[Any], what: str, rows: int) -> tuple[str, ...]:
    """Labels as text, one for each row."""
    if values.dtype.kind not in "iuU" or values.ndim != 1:
        raise UsageError(
            f"{what} must be integers or text [M], got {values.dtype} {list(values.shape)}; "
            "convert it, for example with numpy.asarray(labels).astype(str)"
        )
    if len(values) != rows:
        raise UsageError(f"{what} has {len(values)} entries for {rows} instances in x; give one")
    return tuple(map(str, values.tolist()))


def _instances(x: NDArray[Any], labels: tuple[str, ...], path: str) -> NDArray[Any]:
    """`x` as features float32 `[M, d]`, or as images uint8 `[M, C, H, W]`."""
    if x.ndim == 2 and x.shape[1] and x.dtype.kind in "iufb":
        return _features(x, labels, path)
    pixels = x.dtype == np.uint8 and 0 not in x.shape
    if pixels and x.ndim == 3:
        return x[:, None]
    if pixels and x.ndim == 4:
        # Most tools write channels last, so that is assumed if both layouts are possible.
        if x.shape[3] in (1, 3):
            return x.transpose(0, 3, 1, 2)
        if x.shape[1] in (1, 3):
            return x
    raise UsageError(
        f"x in {path} is {x.dtype} {list(x.shape)}; {_FORM} (images in [0, 1]: "
        "(255 * x).astype('uint8'))"
    )


def _features(x: NDArray[Any], labels: tuple[str, ...], path: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        held = x.astype(np.float32)
    sound = np.isfinite(held)
    if not sound.all():
        row, column = (int(at) for at in np.argwhere(~sound)[0])
        raise UsageError(
            f"x in {path} must be finite in float32: row {row} (class '{labels[row]}') holds "
            f"{x[row, column]} in column {column}, {int((~sound).any(axis=1).sum())} rows in all "
            "hold such; fill them in or leave them out"
        )
    if x.dtype.itemsize > held.dtype.itemsize:
        deviation = x.std(axis=0, dtype=np.float64)
        lost = np.abs(x - held.astype(np.float64)).max(axis=0) > _MOST_LOST * deviation
        lost &= x.min(axis=0) < x.max(axis=0)
        if lost.any():
            column = int(lost.argmax())
            raise UsageError(
                f"x in {path} loses differences in float32: column {column} holds values such as "
                f"{x[0, column]} with a deviation of {deviation[column]:.3g}, {int(lost.sum())} "
                "columns in all do so; subtract their means and scale them first"
            )
    return held


def _constant(arrays: list[NDArray[Any]]) -> tuple[str, ...]:
    low = np.min([x.min(axis=0) for x in arrays], axis=0)
    high = np.max([x.max(axis=0) for x in arrays], axis=0)
    same = int((low == high).sum())
    return (f"{same} of {len(low)} features are constant: they are no help",) if same else ()
