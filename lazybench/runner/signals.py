"""Early ends of a run: Ctrl-C, termination, an agent's time limit, and errors of an agent.

The first signal asks for a checkpoint, the second ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from lazybench.errors import (
    DataUnavailable,
    Diverged,
    Interrupted,
    LazybenchError,
    OutputUnavailable,
    PolicyFailed,
    RankLost,
    StoreError,
    TooSlow,
    UsageError,
)
from lazybench.plugins import describe
from lazybench.runner import provenance
from lazybench.runtime.pipes import Patience

_EXIT = os._exit
_WAYS_OUT = ("_exit", "execv", "execve")


@contextmanager
def _no_way_out() -> Iterator[None]:
    """Replace functions that end this process, so that they raise `SystemExit` inside a block.

    In forked children they still end the process.
    """
    whose, before = os.getpid(), {name: vars(os)[name] for name in _WAYS_OUT}

    def instead(name: str) -> Callable[..., NoReturn]:
        def refuse(*given: Any, **named: Any) -> NoReturn:
            if os.getpid() != whose:
                before[name](*given, **named)
            raise SystemExit(f"os.{name} was called inside a run, with {given!r}")

        return refuse

    for name in _WAYS_OUT:
        setattr(os, name, instead(name))
    try:
        yield
    finally:
        for name, way in before.items():
            setattr(os, name, way)


class Signals:
    """Catches SIGINT and SIGTERM inside a `with` block; `number` is that of the first, or 0.

    A second signal ends the process at once, which loses the work since the last checkpoint.
    Outside the main thread, where Python delivers no signals, nothing is caught.

    It also limits the time of an agent's episodes, and turns an agent's calls of `os._exit` and
    `os.exec…`, which would end the run with success, into errors.
    """

    def __init__(
        self,
        notify: Callable[[str], None] = lambda text: None,
        episode_timeout_s: float | None = None,
    ) -> None:
        """Catch nothing yet; `notify` shows messages to the user."""
        self.number = 0
        self._episode_timeout_s = episode_timeout_s
        self._notify = notify
        self._before: dict[int, object] = {}
        self._at_once: str | None = None
        self._warned_of_timer = False
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start catching."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._received)
        self._held.enter_context(_no_way_out())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the former handlers."""
        self._held.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def at_once(self, text: str) -> Iterator[None]:
        """Make the first signal raise `Interrupted(text)` anywhere in the block.

        It is for long work that can be repeated as a whole and leaves nothing half done.

        Raises:
            Interrupted: a signal arrived, inside the block or before it.
        """
        self._at_once = text
        try:
            if self.number:
                raise Interrupted(self.number, text)
            yield
        finally:
            self._at_once = None

    @contextmanager
    def in_time(self, episodes: int, doing: str) -> Iterator[None]:
        """Raise `TooSlow` in a block that exceeds the time limit of its episodes.

        Python code and system waits are interrupted at once, a native computation when it returns;
        for one that never returns, use `lazybench sweep --timeout`. Time in which the machine or
        the process is suspended doesn't count.

        Raises:
            TooSlow: it took longer.
        """
        if self._episode_timeout_s is None or not self._before:
            yield
            return
        if not hasattr(signal, "setitimer"):
            if not self._warned_of_timer:
                self._notify("this system has no timer: --timeout-per-episode has no effect")
            self._warned_of_timer = True
            yield
            return
        limit_s = self._episode_timeout_s * episodes
        patience = Patience(limit_s)

        def ticks(number: int, frame: FrameType | None) -> None:
            if not patience.tick():
                return
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TooSlow(
                f"{doing} took longer than {limit_s:g} s, {self._episode_timeout_s:g} s per "
                "episode; raise the limit with --timeout-per-episode"
            )

        before = signal.signal(signal.SIGALRM, ticks)
        signal.setitimer(signal.ITIMER_REAL, patience.tick_s, patience.tick_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            _EXIT(128 + number)
        self.number = number
        if self._at_once is not None:
            raise Interrupted(number, self._at_once)
        # Python raises RuntimeError if the main program is writing to the same stream.
        with contextlib.suppress(RuntimeError):
            self._notify("stopping after this step; interrupt again to stop at once")


_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "bad_alloc", "Cannot allocate memory")
"""Texts of out-of-memory errors of torch, CUDA, C++ and the system that have other types."""


COMMAND_ERRORS = (
    Interrupted,
    UsageError,
    DataUnavailable,
    StoreError,
    OutputUnavailable,
    RankLost,
)
"""Errors that end a command. Any other one inside an agent is the result of its run."""


def status_and_reason(error: BaseException) -> tuple[str, str]:
    """Return status and one-line reason of an error inside an agent."""
    if isinstance(error, Diverged):
        return "diverged", str(error)
    if isinstance(error, TooSlow):
        return "timeout", str(error)
    if isinstance(error, PolicyFailed):
        return error.status, str(error)
    text = describe(error).splitlines()[0]
    if (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or any(words in text for words in _NO_MEMORY)
    ):
        return "oom", f"{text}; peak memory {provenance.peak_memory_bytes() >> 20} MiB"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__
    ]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return "failed", text + ("" if isinstance(error, LazybenchError) else where)
