"""Reads images in a zip, tar or folder in place, without unpacking and without trusting names.

A tree maps relative names (`Greek/character01/0394_01.png`) to bytes. Nothing is ever written, so a
hostile archive can't write anywhere; unsafe names are refused all the same, and sizes are limited.
Damage ends in one message that names the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.errors import DataUnavailable
from lazybench.files import open_file, read_file

MOST_MEMBERS = 1_000_000
MOST_BYTES = 8 << 30
MOST_MEMBER_BYTES = 64 << 20


class Tree(Protocol):
    """Files below one root, each under a relative name with `/` between its parts."""

    path: Path

    def names(self) -> tuple[str, ...]:
        """Sorted names of all files; hidden ones and folders aren't among them."""
        ...

    def read(self, name: str) -> bytes:
        """Content of the file `name`; DataUnavailable if it can't be read completely."""
        ...

    def close(self) -> None:
        """Close open files; `contextlib.closing` calls it."""
        ...


class ZipTree:
    """Tree of the members of a zip file that lie below one inner folder.

    Args:
        path: the zip file.
        inner: folder inside the zip that the names are relative to; "" for the top.
        most_members: largest number of members.
        most_bytes: largest unpacked size of all members together, in bytes.
        most_member_bytes: largest unpacked size of one member, in bytes.

    Raises:
        DataUnavailable: not a valid zip file, an unsafe member, or one of the caps passed.
    """

    def __init__(
        self,
        path: Path,
        *,
        inner: str = "",
        most_members: int = MOST_MEMBERS,
        most_bytes: int = MOST_BYTES,
        most_member_bytes: int = MOST_MEMBER_BYTES,
    ) -> None:
        """See the class."""
        self.path = path
        try:
            self._file = open_file(path, None)
        except OSError as error:
            raise DataUnavailable(
                f"{path} can't be read ({error}); delete it and fetch it again"
            ) from error
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            self._file.close()
            raise DataUnavailable(
                f"{path} isn't a whole zip file ({error}); delete it and fetch it again"
            ) from error
        try:
            members = self._zip.infolist()
            if len(members) > most_members:
                raise self._refused(f"{len(members)} members, at most {most_members} are allowed")
            total = sum(member.file_size for member in members)
            if total > most_bytes:
                raise self._refused(f"{total} bytes unpacked, at most {most_bytes} are allowed")
            prefix = f"{inner}/" if inner else ""
            size = os.fstat(self._file.fileno()).st_size
            self._members: dict[str, zipfile.ZipInfo] = {}
            seen: set[str] = set()
            for member in members:
                name = member.filename
                self._inspect(member, most_member_bytes)
                if member.compress_size > size:
                    # Memory for that many bytes would be reserved before reading the first one.
                    claim = f"{member.compress_size} packed bytes of {size} in all"
                    raise self._refused(f"member {name!r} claims {claim}")
                if name in seen:
                    raise self._refused(f"duplicate member {name!r}")
                seen.add(name)
                if not member.is_dir() and name.startswith(prefix):
                    short = name[len(prefix) :]
                    if not is_hidden(short):
                        self._members[short] = member
        except BaseException:
            self.close()
            raise

    def _refused(self, why: str) -> DataUnavailable:
        return DataUnavailable(f"{self.path} is refused: {why}; fetch it from its official source")

    def _inspect(self, member: zipfile.ZipInfo, most_member_bytes: int) -> None:
        # `orig_filename` is the name before zipfile cut it at a NUL and turned `\` into `/`.
        name = member.orig_filename
        parts = PurePosixPath(name).parts
        if (
            not parts
            or name.startswith("/")
            or ".." in parts
            or any(sign in name for sign in ("\\", "\0"))
            or parts[0].endswith(":")
        ):
            raise self._refused(f"member {name!r} points outside the archive")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self._refused(f"member {name!r} is a link or special file, not a regular file")
        if member.file_size > most_member_bytes:
            raise self._refused(
                f"member {name!r} has {member.file_size} bytes, at most {most_member_bytes} "
                "are allowed"
            )

    def names(self) -> tuple[str, ...]:
        """Sorted names of all files; hidden ones and folders aren't among them."""
        return tuple(sorted(self._members))

    def read(self, name: str) -> bytes:
        """Content of the member `name`, its CRC verified.

        Raises:
            DataUnavailable: no such member, or it is damaged.
        """
        member = self._members.get(name)
        if member is None:
            raise DataUnavailable(f"{self.path} has no member {name!r}; fetch the file again")
        try:
            # zipfile stops at the declared size, so the limits above hold here, too.
            return self._zip.read(member)
        except (
            OSError,
            EOFError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            zlib.error,
            zipfile.BadZipFile,
        ) as error:
            raise DataUnavailable(
                f"{self.path} is damaged at {member.filename!r} ({error}); "
                "delete it and fetch it again"
            ) from error

    def close(self) -> None:
        """Close the zip file."""
        self._zip.close()
        self._file.close()


class FolderTree:
    """Tree of the files below a folder; links to files are followed, links to folders aren't.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path

    def names(self) -> tuple[str, ...]:
        """Sorted names of all files; hidden ones and folders aren't among them.

        Raises:
            DataUnavailable: a folder can't be listed.
        """
        found: list[str] = []
        for folder, _, files in _walk(self.path):
            head = folder.relative_to(self.path).as_posix()
            found += [name if head == "." else f"{head}/{name}" for name in files]
        return tuple(sorted(name for name in found if not is_hidden(name)))

    def read(self, name: str) -> bytes:
        """Content of the file `name`.

        Raises:
            DataUnavailable: it can't be read.
        """
        try:
            return read_file(self.path / name)
        except OSError as error:
            raise DataUnavailable(
                f"{self.path / name} can't be read ({error}); make it readable or fetch it again"
            ) from error

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_tree(path: Path) -> Tree:
    """Tree of `path`: a folder's files, or a zip's members below the folder named as the zip.

    Raises:
        DataUnavailable: not a valid and safe zip file.
    """
    return FolderTree(path) if path.is_dir() else ZipTree(path, inner=path.stem)


def source_key(path: Path, *, flat: bool = False) -> str:
    """64 hex digits that change when `path` does, without reading its content.

    Args:
        path: a file or folder.
        flat: use only the folder's own time, not those of the folders below it.

    Choice: a zip counts with its size and time, a folder with the times of its folders, which move
        when a file is added, removed, renamed or replaced. A file overwritten in place is missed;
        stating every file would cost a warm opening a quarter of a second, and `data verify`
        re-reads everything.

    Raises:
        DataUnavailable: `path` can't be looked at.
    """
    digest = hashlib.sha256(str(path.resolve()).encode())
    try:
        if flat or not path.is_dir():
            state = path.stat()
            digest.update(f"\n{state.st_size} {state.st_mtime_ns}".encode())
        else:
            for folder, _, _ in _walk(path):
                facts = f"\n{folder.relative_to(path).as_posix()} {folder.stat().st_mtime_ns}"
                digest.update(facts.encode())
    except OSError as error:
        raise DataUnavailable(f"{path} can't be read ({error}); make it readable") from error
    return digest.hexdigest()


def decode_grey(data: bytes, where: str) -> NDArray[np.uint8]:
    """Grey image `[height, width]` uint8 of a PNG, every checksum in it verified.

    Args:
        data: content of the PNG file.
        where: its name in messages.

    Raises:
        DataUnavailable: not a valid PNG.
    """
    return np.asarray(decoded(data, where).convert("L"))


def decoded(data: bytes, where: str, kind: str = "PNG") -> Image.Image:
    """Image with all its pixels loaded; a PNG's checksums are verified, a JPEG has none.

    Args:
        data: content of the image file.
        where: what a message calls it.
        kind: Pillow's name of the only format allowed.

    Raises:
        DataUnavailable: no whole image of that format.
    """
    try:
        # Decoding doesn't check every chunk's CRC; `verify` does, but consumes the image.
        Image.open(io.BytesIO(data), formats=(kind,)).verify()
        image = Image.open(io.BytesIO(data), formats=(kind,))
        image.load()
        return image
    # Pillow's readers may raise any error on a damaged file.
    except Exception as error:
        raise DataUnavailable(
            f"{where} isn't a whole {kind} image ({error}); fetch the data again"
        ) from error


def is_hidden(name: str) -> bool:
    """True if a part of a name begins with a dot, or is what macOS puts into zip files."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    def stop(error: OSError) -> None:
        raise DataUnavailable(f"{error.filename} can't be listed ({error}); make it readable")

    for folder, folders, files in os.walk(root, onerror=stop):
        folders.sort()
        yield Path(folder), folders, files


TARBALL_MOST_BYTES = 1 << 30
MOST_UNPACKED_BYTES = 2 << 30
"""Unpacked size of a whole archive, even if less is read: a zip bomb also costs time."""

_BLOCK_BYTES = 1 << 20
_MOST_TEXT_BYTES = 1 << 20
_TEXTS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def read_members(
    path: Path, names: Iterable[str], *, most_bytes: int = TARBALL_MOST_BYTES
) -> dict[str, bytes]:
    """Return the contents of the members `names` of a tar file, compressed or not.

    Members are found by name alone and read into memory, so that a hostile archive has nowhere to
    write to. It is unpacked to its end, which holds the checksum.

    Args:
        path: the tar file.
        names: names of members (`cifar-100-python/train`).
        most_bytes: how many bytes all of them together may unpack to.

    Raises:
        DataUnavailable: not a valid tar file, too many bytes, or a member that is missing or isn't
            a regular file.
    """
    wanted = list(names)
    found: dict[str, bytes] = {}
    try:
        with (
            open_file(path, MOST_UNPACKED_BYTES) as packed,
            tarfile.open(fileobj=packed, tarinfo=_Header) as archive,
        ):
            for member in archive:
                if archive.offset > MOST_UNPACKED_BYTES:
                    raise _too_much(path)
                name = member.name.removeprefix("./")
                if name not in wanted:
                    continue
                if not member.isreg():
                    raise _refused(path, f"member {name!r} isn't a regular file")
                most_bytes -= member.size
                if most_bytes < 0:
                    raise _refused(path, f"member {name!r} has too many bytes ({member.size})")
                file = archive.extractfile(member)
                found[name] = b"" if file is None else file.read()
                if len(found[name]) != member.size:
                    raise EOFError(f"{name} is cut")
            _read_to_the_end(archive, path)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, tarfile.TarError) as error:
        raise DataUnavailable(
            f"{path} isn't a whole tar file ({error}); delete it and fetch it again"
        ) from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataUnavailable(f"{path} has no member {missing[0]!r}; fetch the file again")
    return found


class _Header(tarfile.TarInfo):
    """Head of a member; one that says that a name or comment has megabytes is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the head that a block holds."""
        found = super().frombuf(buf, encoding, errors)
        # tarfile reads all of such a member before its size can be checked elsewhere.
        if found.type in _TEXTS and found.size > _MOST_TEXT_BYTES:
            raise tarfile.ReadError(f"a name or comment of {found.size} bytes")
        return found


def _read_to_the_end(archive: tarfile.TarFile, path: Path) -> None:
    while archive.fileobj.read(_BLOCK_BYTES):
        if archive.fileobj.tell() > MOST_UNPACKED_BYTES:
            raise _too_much(path)


def _too_much(path: Path) -> DataUnavailable:
    return _refused(path, f"it unpacks to more than {MOST_UNPACKED_BYTES} bytes")


def _refused(path: Path, why: str) -> DataUnavailable:
    return DataUnavailable(f"{path} is refused: {why}; fetch it from its official source")
