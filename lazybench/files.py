"""Reading and writing files: regular files within a size, atomic writes, lines with checksums.

A path may be a named pipe, a device, a folder, a file of terabytes or a link. Readers accept only
regular files up to a size. Writers never follow links in folders that lazybench made, and never
leave a partial file or folder.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from lazybench.errors import DataUnavailable, OutputUnavailable, StoreError, UsageError

MOST_BYTES = 1 << 30
"""Default size limit in bytes of a file that is read as a whole."""

_CHUNK_BYTES = 1 << 20


def _flags(*names: str) -> int:
    """Return the sum of those flags of `os.open` that this system has."""
    return sum(int(vars(os).get(name, 0)) for name in names)


# Opening a named pipe would wait for a writer; on a regular file these flags do nothing.
_READ = _flags("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_file(
    path: str | os.PathLike[str],
    most_bytes: int | None = MOST_BYTES,
    *,
    buffer_bytes: int = 1 << 17,
) -> BufferedReader:
    """Open a regular file to read bytes.

    The opened file itself is checked, so it can't be replaced between the check and the reading.

    Args:
        path: the file; a link to one is followed.
        most_bytes: largest size; None for no limit.
        buffer_bytes: size of the read buffer.

    Raises:
        OSError: it can't be opened, isn't a regular file, or is too large.
    """
    raw = FileIO(os.fspath(path), "rb", opener=lambda name, _: os.open(name, _READ))
    file: BufferedReader = BufferedReader(raw, buffer_bytes)
    try:
        state = os.fstat(file.fileno())
        need_regular(state, path)
        if most_bytes is not None and state.st_size > most_bytes:
            size = f"it has {state.st_size} bytes, more than the limit of {most_bytes}"
            raise OSError(errno.EINVAL, size, str(path))
    except BaseException:
        file.close()
        raise
    return file


def read_file(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it can't be read, isn't a regular file, or is too large.
    """
    with open_file(path, most_bytes) as file:
        parts = [file.read(os.fstat(file.fileno()).st_size + 1)]
        total = len(parts[0])
        # System files report no size, and other files may grow.
        while total <= most_bytes and parts[-1]:
            parts.append(file.read(_CHUNK_BYTES))
            total += len(parts[-1])
    if total > most_bytes:
        raise OSError(errno.EINVAL, f"it has more than {most_bytes} bytes", str(path))
    return parts[0] if len(parts) <= 2 else b"".join(parts)


def file_digest(path: str | os.PathLike[str], kind: str = "sha256") -> str:
    """Return the hash of a regular file of any size, in hex digits.

    Raises:
        OSError: it can't be read, or isn't a regular file.
    """
    with open_file(path, None) as file:
        return hashlib.file_digest(file, kind).hexdigest()


def need_regular(state: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Check that an opened file is a regular one.

    Raises:
        OSError: it isn't; the message names its kind.
    """
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for test, name in _KINDS if test(state.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def refuse_links(folder: Path, path: Path | None = None) -> None:
    """Check that no link leads out of a folder that is written to.

    Args:
        folder: a folder that lazybench makes; with a `path`, one that the user chose, which may
            be a link itself.
        path: file to write below `folder`; no part of its path may be a link. None checks `folder`
            and everything in it.

    Raises:
        OutputUnavailable: one of the paths is a symbolic link.
    """
    if path is not None:
        places = [folder / part for part in _steps(path.relative_to(folder))]
    else:
        below = os.walk(folder, followlinks=False)
        places = [folder, *(Path(at, name) for at, some, more in below for name in (*some, *more))]
    for place in places:
        if place.is_symlink():
            raise OutputUnavailable(
                f"{place} is a symbolic link, and lazybench doesn't write through links in its own "
                "folders; remove it, or choose another folder"
            )


def _steps(relative: Path) -> list[Path]:
    return [*reversed([each for each in relative.parents if each.parts]), relative]


FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
"""Error numbers of a full disk, a full quota and a file at its size limit."""
_TAIL_BYTES = 1 << 16
_HEAD_BYTES = 1 << 10
TEMPORARY = ".tmp-"
"""Prefix of a temporary file's name; in a temporary folder's name it follows the final name."""

_ASIDE = "old"
MOST_LINES_BYTES = 1 << 33
# A link isn't followed, and a named pipe doesn't wait for a reader.
_APPEND = _flags("O_RDWR", "O_CREAT", "O_APPEND", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")


@runtime_checkable
class _Model(Protocol):
    """A pydantic model."""

    def model_dump(self, *, mode: str, by_alias: bool) -> dict[str, Any]: ...


@runtime_checkable
class _Array(Protocol):
    """An array, a tensor, or a scalar of one."""

    def tolist(self) -> Any: ...


def first_free(folder: Path, name: str, ending: str = "") -> Path:
    """Return the first of `NAME-1ENDING`, `NAME-2ENDING`, … in a folder that isn't there."""
    number = 1
    while os.path.lexists(path := folder / f"{name}-{number}{ending}"):
        number += 1
    return path


def plain(obj: Any) -> Any:
    """Return `obj` with JSON's types: text keys, lists, and None for floats that aren't finite.

    Arrays and their scalars are converted by `tolist`, models by `model_dump`.

    Raises:
        UsageError: a value that JSON can't hold.
    """
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {_key(name): plain(value) for name, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, _Model):
        return plain(obj.model_dump(mode="json", by_alias=True))
    if isinstance(obj, _Array):
        return plain(obj.tolist())
    raise UsageError(
        f"JSON can't hold a {type(obj).__name__}; allowed are None, bool, int, float, str, lists "
        "and mappings of them; convert the value first"
    )


def _key(name: Any) -> str:
    if isinstance(name, str):
        return name
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    raise UsageError(f"a JSON key must be text or an integer, got {name!r}; rename the key")


def canonical_json(obj: Any) -> str:
    """Return canonical JSON: sorted keys, 2 spaces, ASCII, final newline, null for NaN and inf.

    Raises:
        UsageError: a value that JSON can't hold.
    """
    return json.dumps(plain(obj), sort_keys=True, indent=2, allow_nan=False) + "\n"


def _compact(obj: Any) -> str:
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _store_error(path: Path, error: OSError, size: int) -> StoreError | OutputUnavailable:
    """The error to raise after an `OSError` while `size` bytes were written to `path`."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return StoreError(
            f"can't write {size} bytes to {path}: {why}; earlier files are intact; free some "
            "space and run the same command again"
        )
    if error.errno == errno.EIO:
        return StoreError(f"can't write {path}: {why}; check the disk")
    return OutputUnavailable(f"can't create {path}: {why}; choose a folder that can be written to")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync(file: IO[Any]) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows can't open a folder to sync it.
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: str | os.PathLike[str], data: bytes, *, replace: bool = True) -> Path:
    """Write a file atomically and return its path; missing folders are created.

    Args:
        path: the file to write.
        data: its whole content.
        replace: whether an existing file is replaced.

    Raises:
        FileExistsError: `replace` is false and the file exists already.
        StoreError: the disk is full or a size limit is reached; the message names the path.
        OutputUnavailable: the folder can't be created or written to.
    """
    target = Path(path)
    # A short name that doesn't contain the target's, which may have the maximum length.
    temporary = target.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        # Another program owns the file of that name, so it stays.
        raise _store_error(target, error, len(data)) from error
    try:
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _store_error(target, error, len(data)) from error
    try:
        if replace:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        raise _store_error(target, error, len(data)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    # Some systems and network folders refuse to sync a folder; the rename is atomic all the same.
    with contextlib.suppress(OSError):
        _sync_folder(target.parent)
    return target


def replace_ours(path: str | os.PathLike[str], data: bytes, *, mark: bytes, instead: str) -> Path:
    """Write a file atomically, but never over a file that lazybench didn't make.

    Args:
        path: the file to write.
        data: its whole content, with `mark` near its beginning.
        mark: bytes near the beginning of every such file, and of no other.
        instead: for the message, what to do if another file has the path.

    Raises:
        OutputUnavailable: another file has the path, or the folder can't be created or written to.
        StoreError: the disk is full or a size limit is reached; the message names the path.
    """
    target = Path(path)
    if check_replaceable(target, mark=mark, instead=instead):
        return write_bytes(target, data)
    try:
        return write_bytes(target, data, replace=False)
    except FileExistsError:
        raise _theirs(target, instead) from None


def check_replaceable(path: str | os.PathLike[str], *, mark: bytes, instead: str) -> bool:
    """Check that `replace_ours` may write a file, and return whether there is one to replace.

    It is called before the work whose result goes there, too.

    Args:
        path: the file to write.
        mark: bytes near the beginning of every such file, and of no other.
        instead: for the message, what to do if another file has the path.

    Raises:
        OutputUnavailable: another file has the path, or the folder can't be created or written to.
    """
    target = Path(path)
    there = os.path.lexists(target)
    if there:
        if target.is_symlink() or not target.is_file():
            raise _theirs(target, instead)
        try:
            with open_file(target) as file:
                ours = mark in file.read(_HEAD_BYTES)
        except OSError as error:
            raise _store_error(target, error, 0) from error
        if not ours:
            raise _theirs(target, instead)
    need_folder(target.absolute().parent, "the output's folder", writes=True)
    return there


def need_folder(path: Path, option: str, *, writes: bool = False) -> Path:
    """Return `path` if it is a folder or could be created as one.

    Args:
        path: the folder.
        option: what gave it, for the message.
        writes: whether files will be written there.

    Raises:
        OutputUnavailable: it or one of its parents is a file, or it can't be written to.
    """
    for place in (path, *path.parents):
        try:
            if place.is_dir():
                if writes and not os.access(place, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, f"{place} can't be written to")
                return path
            blocked = place.exists() or place.is_symlink()
        except OSError as error:
            raise OutputUnavailable(
                f"{option} {path} can't be used: {error.strerror}; choose another folder"
            ) from error
        if blocked:
            raise OutputUnavailable(
                f"{option} {path} can't be a folder: {place} is a file; choose another folder"
            )
    return path


def check_new(path: Path, instead: str) -> None:
    """Check that a new file can be written, before the work whose result goes there.

    Args:
        path: the file to write.
        instead: for the message, what to do if the path is taken.

    Raises:
        OutputUnavailable: the path is taken, or its folder can't be created or written to.
    """
    if os.path.lexists(path):
        raise OutputUnavailable(f"{path} exists already, so nothing is written; {instead}")
    need_folder(path.absolute().parent, "the output's folder", writes=True)


def _theirs(target: Path, instead: str) -> OutputUnavailable:
    return OutputUnavailable(
        f"{target} exists already and has no mark of lazybench, so it isn't replaced; {instead}"
    )


def remove_leftovers(folder: Path, *, older_than_s: float = 0.0) -> None:
    """Remove temporary files that killed writers left in a folder and below.

    Args:
        folder: where to look.
        older_than_s: age in seconds of the youngest file to remove; 0 only if no other process can
            be writing.
    """
    latest = time.time() - older_than_s
    for path in folder.rglob(f"{TEMPORARY}*"):
        # Another process may remove it first.
        with contextlib.suppress(OSError):
            if older_than_s <= 0 or path.stat().st_mtime < latest:
                path.unlink()


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that replaces `folder` when the block ends without an error.

    A reader sees the old folder or the new one, whole. Only one process may write `folder`: hold
    its lock. The parent folder must exist.

    Raises:
        OSError: the folder can't be created or moved; the old one stays in place.
    """
    remove_unfinished(folder)
    place = Path(tempfile.mkdtemp(prefix=f"{folder.name}{TEMPORARY}", dir=folder.parent))
    try:
        yield place
        # mkdtemp sets mode 0700; the folder gets the mode that the user's umask allows.
        place.chmod(folder.parent.stat().st_mode & 0o777)
        _sync_folder(place)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{folder.name}{TEMPORARY}", dir=folder.parent))
            os.replace(folder, old / _ASIDE)
            try:
                os.replace(place, folder)
            except OSError:
                os.replace(old / _ASIDE, folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(place, folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def put_back(folder: Path) -> None:
    """Restore `folder` if a process was killed after moving it away; the caller holds its lock.

    Raises:
        OSError: it can't be moved.
    """
    if not folder.exists():
        for aside in (stale / _ASIDE for stale in _unfinished(folder)):
            if aside.is_dir():
                os.replace(aside, folder)
                return


def remove_unfinished(folder: Path) -> None:
    """Remove temporary folders that killed writers of `folder` left; the caller holds its lock."""
    for stale in _unfinished(folder):
        shutil.rmtree(stale, ignore_errors=True)


def _unfinished(folder: Path) -> list[Path]:
    """The temporary folders of `folder`, whose name may hold characters such as `*` or `[`."""
    mark = f"{folder.name}{TEMPORARY}"
    return sorted(path for path in folder.parent.glob("*") if path.name.startswith(mark))


def _rename_to_new(temporary: Path, target: Path) -> None:
    try:
        # A hard link fails if the name is taken; a rename would replace the file.
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(target)) from None
        os.replace(temporary, target)


def write_json(path: str | os.PathLike[str], obj: Any, *, replace: bool = True) -> Path:
    """Write the canonical JSON of `obj` atomically and return the path.

    Raises:
        UsageError: a value that JSON can't hold.
        FileExistsError: `replace` is false and the file exists already.
        StoreError: the disk is full or a size limit is reached.
        OutputUnavailable: the folder can't be created or written to.
    """
    return write_bytes(path, canonical_json(obj).encode("ascii"), replace=replace)


def append_line(
    path: str | os.PathLike[str], obj: Mapping[str, Any], *, sync: bool = False
) -> None:
    """Append `obj` to a file as one JSON line with a `crc` field, in a single write.

    An incomplete last line, left by a killed writer, is removed first. A file must have only one
    writer at a time.

    Args:
        path: the file; created with its folders if missing.
        obj: the line's fields; `crc` is reserved.
        sync: whether the line must be on the disk before this returns (takes milliseconds; without
            it, a power cut may lose lines, a killed process loses none).

    Raises:
        UsageError: `obj` has a `crc` field or a value that JSON can't hold.
        StoreError: the disk is full or a size limit is reached; no part of the line is left.
        OutputUnavailable: the file can't be created or opened.
    """
    fields = plain(obj)
    if not isinstance(fields, dict) or "crc" in fields:
        raise UsageError(f"a line for {path} must be a mapping without 'crc'; rename the field")
    line = _compact(fields | {"crc": _crc(fields)}).encode("ascii") + b"\n"
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(target, _APPEND, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            refuse_links(target.parent, target)
        raise _store_error(target, error, len(line)) from error
    try:
        try:
            need_regular(os.fstat(fd), target)
        except OSError as error:
            raise _store_error(target, error, len(line)) from error
        end = _sound_end(fd)
        try:
            written = os.write(fd, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise _store_error(target, error, len(line)) from error
    finally:
        os.close(fd)


def _sound_end(fd: int) -> int:
    """Cut the file after its last valid line, and return its new size in bytes."""
    size = os.fstat(fd).st_size
    span = _TAIL_BYTES
    while size:
        start = max(0, size - span)
        os.lseek(fd, start, os.SEEK_SET)
        tail = os.read(fd, size - start)
        before = tail.rfind(b"\n", 0, len(tail) - 1)
        if before < 0 and start > 0:
            span *= 4
            continue
        if _parse(tail[before + 1 :]) is not None:
            return size
        end = start + before + 1
        os.ftruncate(fd, end)
        return end
    return 0


def _crc(fields: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(_compact(fields).encode('ascii')):08x}"


def _parse(line: bytes) -> dict[str, Any] | None:
    """The fields of a complete line with a matching crc, else None."""
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            return None
        crc = fields.pop("crc", None)
        return fields if crc == _crc(fields) else None
    except (ValueError, RecursionError):
        return None


def read_stored(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the content of a file that lazybench wrote.

    Raises:
        StoreError: it can't be read, isn't a regular file, or is too large.
    """
    try:
        return read_file(path, most_bytes)
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}; check the path") from error


def sound_bytes(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the size in bytes of the valid lines at the beginning of a file, and of the file.

    Raises:
        StoreError: it can't be read.
    """
    data = read_stored(path, MOST_LINES_BYTES)
    sound = 0
    while sound < len(data):
        end = data.find(b"\n", sound) + 1
        if not end or _parse(data[sound:end]) is None:
            break
        sound = end
    return sound, len(data)


def read_lines(
    path: str | os.PathLike[str], *, torn: Callable[[int], None] = lambda number: None
) -> list[dict[str, Any]]:
    """Return the objects that `append_line` wrote, in order, without an incomplete last line.

    A missing file has no lines. `torn` is called with the number of a line that was left out.

    Raises:
        StoreError: a line before the last doesn't verify (the message names file and line), or the
            file can't be read.
    """
    if not os.path.exists(path):
        return []
    data = read_stored(path, MOST_LINES_BYTES)
    # Only b"\n" ends a line: bytes.splitlines would cut damaged ones at b"\r" as well.
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    if last:
        lines.append(last)
    objects = []
    for number, line in enumerate(lines, start=1):
        fields = _parse(line)
        if fields is not None:
            objects.append(fields)
        elif number < len(lines):
            raise StoreError(
                f"{path}:{number}: the line doesn't match its checksum; only complete lines "
                "written by lazybench are allowed; move the file away and run again"
            )
        else:
            torn(number)
    return objects


USER_TEXT_MOST_BYTES = 256 << 20

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order marks, which name the encoding at the beginning of a text."""


def read_text(path: Path) -> str:
    """Return the text of a file, as UTF-8 or as its byte-order mark says, without that mark.

    Raises:
        DataUnavailable: it is missing, isn't a regular file, is too large or isn't text; the
            message is only the reason, to which callers add the file's purpose.
    """
    try:
        data = read_file(path, USER_TEXT_MOST_BYTES)
    except OSError as error:
        raise DataUnavailable(error.strerror or str(error)) from error
    mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
    try:
        return data.decode("utf-8" if mark is None else _MARKS[mark])
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"it isn't UTF-8 text ({error})") from error


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a dict; the `object_pairs_hook` for JSON without repeated names.

    Raises:
        UsageError: a name occurs twice, so one of its values would be lost.
    """
    often = Counter(name for name, _ in pairs)
    if twice := [name for name, count in often.items() if count > 1]:
        raise UsageError(
            f"{len(twice)} names are given twice, such as {twice[0]}; give each one once"
        )
    return dict(pairs)
