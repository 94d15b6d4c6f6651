"""Locks between processes; the system lets go of one when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lazybench.errors import Busy, OutputUnavailable


@contextmanager
def held(path: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file inside a block.

    Args:
        path: the lock file; its folder must exist.
        timeout_s: seconds to wait for another process; negative for as long as it takes.

    Raises:
        TimeoutError: another process holds it.
        OSError: it isn't a regular file, or can't be opened or locked.
    """
    # Imported here: it costs more than opening a data set, which locks only in rare cases.
    from filelock import FileLock

    _need_file(path)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
    except NotImplementedError as error:
        # A network file system may have no locks.
        raise OSError(errno.ENOSYS, str(error), str(path)) from error
    try:
        yield
    finally:
        # The system lets go of what can't be unlocked when the process ends.
        with contextlib.suppress(OSError):
            lock.release()


@contextmanager
def alone(
    path: Path,
    busy: str | Callable[[], str],
    closed: Callable[[Exception], str],
    timeout_s: float = 0.0,
) -> Iterator[None]:
    """Hold a lock file inside a block; its folder is made where there is none.

    Args:
        path: the lock file.
        busy: what to say where another process holds it.
        closed: what to say where the folder can't be written or locked, given the error.
        timeout_s: seconds to wait for another process; negative for as long as it takes.

    Raises:
        Busy: another process holds it.
        OutputUnavailable: the folder can't be made or written, or can't hold a lock: a network
            file system may have none, and a folder or link may have the lock's name.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(path, timeout_s))
        except TimeoutError:
            raise Busy(busy if isinstance(busy, str) else busy()) from None
        except OSError as error:
            raise OutputUnavailable(closed(error)) from error
        yield


def why_closed(error: Exception) -> str:
    """Return why a lock or folder can't be had, as a part of a sentence."""
    system = error.strerror if isinstance(error, OSError) else None
    return system or str(error) or type(error).__name__


def _need_file(path: Path) -> None:
    """Check whether a lock file is a file, or not there yet.

    Raises:
        OSError: it is a link, a folder or something else.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a symbolic link", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder", str(path))
    if os.path.lexists(path) and not path.is_file():
        raise OSError(errno.EINVAL, f"{path.name} is no regular file", str(path))


def is_held(path: Path) -> bool:
    """Return whether some process holds a lock file now.

    Raises:
        OSError: it can't be opened or locked.
    """
    if not path.exists():
        return False
    try:
        with held(path):
            return False
    except TimeoutError:
        return True
