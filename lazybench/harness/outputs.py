"""The folders that a run writes to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lazybench.errors import Busy, OutputUnavailable


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder inside a block.

    Raises:
        Busy: another process holds it.
    """
    lock = FileLock(folder / "lock")
    try:
        # A listing of runs holds each lock for a moment.
        lock.acquire(timeout=0.5)
    except Timeout:
        raise Busy(
            f"another process is at this run ({folder}); wait for it, or use another seed"
        ) from None
    try:
        yield
    finally:
        lock.release()


def writable(folder: Path) -> None:
    """Make a folder and try it, so that no work is done whose result couldn't be kept.

    Raises:
        OutputUnavailable: it can't be made or written.
    """
    probe = folder / f".write-test-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputUnavailable(
            f"can't write to {folder} ({error.strerror or error}); choose another folder with "
            "--out or --runs"
        ) from error
