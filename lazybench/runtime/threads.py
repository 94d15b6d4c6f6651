"""Independent tasks in parallel on the cores of one machine.

Each task runs on one thread with one thread inside its operators: on small networks that is faster
than one task at a time on all cores, and the result of a task can't depend on how many others run
at the same time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

from lazybench.arguments import check_whole
from lazybench.errors import UsageError

A = TypeVar("A")
B = TypeVar("B")

_chosen: list[int] = []
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Set the number of parallel tasks inside a block; torch's threads are restored afterwards.

    Raises:
        UsageError: fewer than one thread.
    """
    before, chosen = torch.get_num_threads(), list(_chosen)
    try:
        yield set_threads(threads)
    finally:
        _chosen[:] = chosen
        torch.set_num_threads(before)


def set_threads(threads: int | None) -> int:
    """Set the number of parallel tasks (None: the available cores); return the number.

    Operators outside of tasks run on one thread as well, so that results don't depend on it.

    Raises:
        UsageError: fewer than one thread.
    """
    wanted = usable_cores() if threads is None else check_whole("threads", threads, least=None)
    if wanted < 1:
        raise UsageError(f"threads must be at least 1, got {wanted}")
    _chosen[:] = [wanted]
    keep_freed_memory()
    torch.set_num_threads(1)
    return wanted


def threads() -> int:
    """Return the number of parallel tasks."""
    return _chosen[0] if _chosen else usable_cores()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_tasks(task: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Return `task(item)` for each item, in order, several at a time.

    An error in a task is raised here, after the started tasks have ended.
    """
    work = list(items)
    workers = min(threads(), len(work))
    if workers <= 1:
        with _one_thread():
            return [task(item) for item in work]
    futures = [_pool(threads()).submit(task, item) for item in work]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


@cache
def one_thread_after_fork() -> None:
    """Make processes that are forked from now on compute on one thread.

    A child has none of its parent's threads, but torch and the pool of `map_tasks` would wait for
    them forever. Environments call this when they are imported, for `AsyncVectorEnv`, fork pools
    and loaders with workers; for more threads in a child, call `set_threads` there.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_child)


def _begin_child() -> None:
    _pool.cache_clear()
    _chosen[:] = [1]
    torch.set_num_threads(1)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    one_thread_after_fork()
    return ThreadPoolExecutor(
        workers,
        thread_name_prefix="lazybench-task",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


class _one_thread:
    """Run operators on one thread inside the block."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self._before)


@cache
def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the next step; return whether that was possible.

    Each inner step allocates and frees the same few megabytes. By default glibc returns blocks of
    that size to the kernel at once and gets them again page by page, which costs a third of a
    meta-iteration.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_THRESHOLD: 1 << 30,
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: 64 << 20,
    }
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
