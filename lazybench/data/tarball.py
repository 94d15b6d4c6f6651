"""Single files read out of a tar archive where it lies, without unpacking it."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from lazybench.errors import DataUnavailable
from lazybench.files import open_file

MOST_BYTES = 1 << 30
MOST_UNPACKED_BYTES = 2 << 30
"""Of an archive, whatever is read of it: a bomb takes time where it takes no memory."""

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
    path: Path, names: Iterable[str], *, most_bytes: int = MOST_BYTES
) -> dict[str, bytes]:
    """Return the contents of the members `names` of a tar file, compressed or not.

    Members are found by name alone and read into memory, so that a hostile archive has nowhere to
    write to. It is unpacked to its end, where the checksum of what was read stands.

    Args:
        path: the tar file.
        names: members as they stand in it (`cifar-100-python/train`).
        most_bytes: how many bytes all of them together may unpack to.

    Raises:
        DataUnavailable: no whole tar file, a member that is missing or no plain file, or too many
            bytes.
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
                    raise _refused(path, f"member {name!r} is no plain file")
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
        # All of such a member is read before anybody else can look at its size.
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
