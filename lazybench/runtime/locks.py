"""Locks between processes; the system releases a lock when its process ends or is killed."""

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
        # If it can't be unlocked, the system releases it when the process ends.
        with contextlib.suppress(OSError):
            lock.release()


@contextmanager
def alone(
    path: Path,
    busy: str | Callable[[], str],
    closed: Callable[[Exception], str],
    timeout_s: float = 0.0,
) -> Iterator[None]:
    """Hold a lock file inside a block; its folder is created if missing.

    Args:
        path: the lock file.
        busy: returns the message if another process holds it.
        closed: returns the message for an error if the folder can't be written or locked.
        timeout_s: seconds to wait for another process; negative for as long as it takes.

    Raises:
        Busy: another process holds it.
        OutputUnavailable: the folder can't be created, written or locked: a network file system may
            have no locks, and a folder or link may have the lock's name.
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
    """Return why a folder can't be written or locked, as part of a message."""
    system = error.strerror if isinstance(error, OSError) else None
    return system or str(error) or type(error).__name__


def _need_file(path: Path) -> None:
    """Check that a lock file is a regular file or doesn't exist.

    Raises:
        OSError: it is a link, a folder or something else.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a symbolic link", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder", str(path))
    if os.path.lexists(path) and not path.is_file():
        raise OSError(errno.EINVAL, f"{path.name} isn't a regular file", str(path))


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
