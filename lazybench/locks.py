"""Locks between processes; the system lets go of one when its process ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lazybench.errors import Busy, OutputUnavailable


@contextmanager
def alone(
    path: Path, busy: str, closed: Callable[[Exception], str], timeout_s: float = 0.0
) -> Iterator[None]:
    """Hold a lock file inside a block; its folder is made where there is none.

    Args:
        path: the lock file.
        busy: what to say where another process holds it.
        closed: what to say where the folder can't be written, given the error.
        timeout_s: seconds to wait for another process.

    Raises:
        Busy: another process holds it.
        OutputUnavailable: the folder can't be made or written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout_s)
    except Timeout:
        raise Busy(busy) from None
    except (OSError, NotImplementedError) as error:
        raise OutputUnavailable(closed(error)) from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether some process holds a lock file now.

    Raises:
        OSError: it can't be opened.
    """
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
