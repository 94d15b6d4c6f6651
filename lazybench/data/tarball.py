"""Single files read out of a tar archive where it lies, without unpacking it."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from lazybench.errors import DataUnavailable

MOST_BYTES = 1 << 30


def read_members(
    path: Path, names: Iterable[str], *, most_bytes: int = MOST_BYTES
) -> dict[str, bytes]:
    """Return the contents of the members `names` of a tar file, compressed or not.

    Members are found by name alone and read into memory, so that a hostile archive has nowhere to
    write to.

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
        with tarfile.open(path) as archive:
            for member in archive:
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
                if len(found) == len(wanted):
                    break
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DataUnavailable(
            f"{path} isn't a whole tar file ({error}); delete it and fetch it again"
        ) from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataUnavailable(f"{path} has no member {missing[0]!r}; fetch the file again")
    return found


def _refused(path: Path, why: str) -> DataUnavailable:
    return DataUnavailable(f"{path} is refused: {why}; fetch it from its official source")
