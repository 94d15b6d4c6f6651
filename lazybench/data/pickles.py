"""Reads pickles of published data sets with an unpickler that only allows data.

Python's unpickler in C has no hook for the keys that it hashes, and a tuple is hashed completely
each time that it becomes a key: forty instructions can nest each tuple twice in the next one, so
hashing the last one never ends. So this is a subclass of `pickle`'s unpickler in Python, which
checks each key first.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from lazybench.errors import DataUnavailable
from lazybench.files import open_file

MOST_BYTES = 16 << 30

_BUFFER = 1 << 20
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}|O8?)")
_MOST_AXES = 32
_ATOMS = (str, bytes, int, float, complex, type(None), np.generic)


def load_pickle(source: Path | bytes, where: str = "", *, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a pickle of containers, numbers, text, bytes, numpy arrays and scalars.

    Byte strings of Python 2 are returned as text, one character per byte; `text_keys` converts the
    keys of a dict to text. Arrays are a subclass of `ndarray`. Python 2's oldest protocol (0, as
    text) is read only if its strings are ASCII.

    Args:
        source: the file, or its content.
        where: its name in messages; the path if empty.
        most_bytes: largest size of the pickle.

    Raises:
        DataUnavailable: it can't be read, is too long, incomplete or damaged, or contains anything
            else than data; the message names file and class.
    """
    where = where or str(source if isinstance(source, Path) else "pickle")
    try:
        if isinstance(source, bytes):
            return _load(io.BytesIO(source), where, len(source), most_bytes)
        with open_file(source, None, buffer_bytes=_BUFFER) as file:
            return _load(file, where, os.fstat(file.fileno()).st_size, most_bytes)
    except OSError as error:
        raise DataUnavailable(
            f"{where} can't be read ({error}); make it readable or fetch it again"
        ) from error


def text_keys(value: Any, where: str, needed: Iterable[str]) -> dict[str, Any]:
    """Return a dict's entries under text keys, after a check that the needed ones exist.

    Raises:
        DataUnavailable: not a dict, or a key is missing.
    """
    if not isinstance(value, Mapping):
        raise DataUnavailable(f"{where} holds a {type(value).__name__}, not a dict; fetch it again")
    found = {as_text(key): entry for key, entry in value.items()}
    missing = [key for key in needed if key not in found]
    if missing:
        raise DataUnavailable(
            f"{where} lacks {', '.join(missing)}; it holds {', '.join(sorted(found)[:9])}; it "
            "isn't the file that it is named as, fetch it again"
        )
    return found


def as_text(value: Any) -> str:
    """Return text unchanged, bytes as text, and the `str` of anything else."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class _Refused(Exception):
    """The pickle contains something that isn't data."""


class _Maker:
    """A function that a pickle may call; a pickle can't set its attributes."""

    __slots__ = ("_make",)

    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _Refused(f"it sets {name} on a function")

    def __setstate__(self, state: object) -> NoReturn:
        raise _Refused("it sets the state of a function")


class _DType:
    """Type of an array under construction; only byte order may be set on it."""

    __slots__ = ("dtype",)

    def __init__(self, name: object, *_: object) -> None:
        name = _word(name)
        if not _DTYPE.fullmatch(name):
            raise _Refused(f"it asks for the array type {name[:40]!r}")
        self.dtype = np.dtype("O" if name.endswith(("O", "O8")) else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = _word(state[1])
        if order not in ("<", ">", "|", "=") or any(state[2:5]):
            raise _Refused("it asks for a structured array")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """Array that only accepts as many bytes as the pickle contains."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, fortran, content = state[-4:]
        dtype = _shaped(shape, kind, content)
        order: Any = bool(fortran)
        super().__setstate__((1, shape, dtype, order, _bytes_or_list(content)))


def _word(value: object) -> str:
    """Text or bytes as text; anything else is refused, since writing it may never end."""
    if not isinstance(value, str | bytes):
        raise _Refused(f"it gives a {type(value).__name__} in place of a name")
    return as_text(value)


def _need_keys(values: Iterable[Any]) -> None:
    """Check that values are text, numbers, or flat tuples of them, which are cheap to hash.

    Raises:
        _Refused: another one.
    """
    for value in values:
        parts = value if isinstance(value, tuple | frozenset) else (value,)
        if not all(isinstance(part, _ATOMS) for part in parts):
            raise _Refused(f"it has a key of type {type(value).__name__} that isn't flat")


def _bytes_or_list(content: Any) -> Any:
    return content.encode("latin-1") if isinstance(content, str) else content


def _shaped(shape: Any, kind: Any, content: Any) -> np.dtype[Any]:
    """The type of an array of `shape`, after a check that `content` has its size."""
    if not isinstance(kind, _DType) or not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        raise _Refused("it holds an array without type or shape")
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise _Refused("it holds an array of a shape that isn't sizes")
    dtype, values = kind.dtype, math.prod(shape)
    if dtype.hasobject != isinstance(content, list):
        raise _Refused("it holds an array whose content isn't of its type")
    # Without this a few bytes could ask for terabytes.
    if len(content) != values * (1 if dtype.hasobject else dtype.itemsize):
        raise _Refused(f"it holds an array of shape {shape} with {len(content)} bytes")
    return dtype


def _reconstruct(*_: object) -> NDArray[Any]:
    return _Array((0,), np.uint8)


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    dtype = _shaped(shape, kind, content)
    if dtype.hasobject or order not in ("C", "F"):
        raise _Refused("it holds an array whose content isn't of its type")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _scalar(kind: Any, content: Any = b"") -> Any:
    return np.frombuffer(_bytes_or_list(content), _shaped((), kind, content))[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # Python 3 writes bytes this way for protocols that have none.
    if not isinstance(text, str) or _word(encoding) not in ("latin1", "latin-1"):
        raise _Refused("it encodes text otherwise than as latin-1")
    return text.encode("latin-1")


def _bytes(content: Any = b"", *encoding: Any) -> bytes:
    # Never a number: `bytes(n)` would allocate n bytes.
    return _encode(content, *encoding) if isinstance(content, str) else b"".join([content])


def _plain(container: Callable[..., Any]) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | dict | set):
            raise _Refused(f"it makes a container from a {type(items).__name__}")
        if container is dict and not isinstance(items, dict):
            if not all(isinstance(pair, list | tuple) for pair in items):
                raise _Refused("it makes a dict from what isn't pairs")
            _need_keys(key for pair in items for key in pair[:1])
        elif container in (set, frozenset):
            _need_keys(items)
        return container(items)

    return make


def _never(*_: object) -> NoReturn:
    raise _Refused("it makes an array by other means than numpy's")


_CONTAINERS = {kind.__name__: _Maker(_plain(kind)) for kind in (list, tuple, dict, set, frozenset)}
_BUILTINS = _CONTAINERS | {
    "bytes": _Maker(_bytes),
    "bytearray": _Maker(lambda *given: bytearray(_bytes(*given))),
}
_ALLOWED: dict[tuple[str, str], _Maker] = {
    **{
        (module, name): made
        for module in ("builtins", "__builtin__")
        for name, made in _BUILTINS.items()
    },
    **{
        (f"{core}.{module}", name): _Maker(make)
        for core in ("numpy.core", "numpy._core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    ("numpy", "ndarray"): _Maker(_never),
    ("numpy", "dtype"): _Maker(_DType),
    ("_codecs", "encode"): _Maker(_encode),
    ("collections", "OrderedDict"): _CONTAINERS["dict"],
}


class _Reader(pickle._Unpickler):
    """An unpickler that only allows names of data, and only hashes flat keys."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return the allowed function of a name."""
        found = _ALLOWED.get((module, name))
        if found is None:
            raise _Refused(f"it asks for {module}.{name}, which isn't data")
        return found


def _checked(opcode: bytes, first: int, step: int) -> None:
    """Make an instruction check its keys: every `step`-th entry of the stack from `first` on."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def check(reader: Any) -> None:
        _need_keys(reader.stack[first::step])
        load(reader)

    _Reader.dispatch[opcode[0]] = check


# After a mark, the unpickler's stack holds the entries since that mark alone.
_checked(pickle.SETITEM, -2, 2)
_checked(pickle.SETITEMS, 0, 2)
_checked(pickle.DICT, 0, 2)
_checked(pickle.ADDITEMS, 0, 1)
_checked(pickle.FROZENSET, 0, 1)


def _load(file: BinaryIO, where: str, size: int, most_bytes: int) -> Any:
    if size > most_bytes:
        raise DataUnavailable(
            f"{where} has {size} bytes, at most {most_bytes} are allowed; fetch it from its "
            "official source"
        )
    try:
        reader: Any = _Reader(file, encoding="latin1")
        found = reader.load()
        # The unpickler in C would allocate a table up to the highest number of an object.
        if (most := max(reader.memo, default=0)) > size:
            raise _Refused(f"it numbers an object {most}, in {size} bytes")
        return found
    except _Refused as error:
        raise DataUnavailable(
            f"{where} is refused: {error}; nothing in it was run; fetch it from its official source"
        ) from error
    # Any other error inside an unpickler is caused by the file, its only input.
    except Exception as error:
        raise DataUnavailable(
            f"{where} isn't a whole pickle ({type(error).__name__}: {error}); delete it and fetch "
            "it again"
        ) from error
