"""The process of a cell: begun with its limits, asked to end, and ended with whoever began it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from lazybench.runtime.pipes import Patience
from lazybench.runtime.threads import usable_cores

GRACE_S = 30.0
"""Seconds that a process has to write its checkpoint once it was told to stop."""

REPORT = "LAZYBENCH_REPORT"
"""Variable that tells a run the file that it hands its record over in, to whoever began it."""

_PR_SET_PDEATHSIG = 1
resource: Any
try:
    import resource
except ImportError:  # not on every system
    resource = None
_PIPE_S = 2.0
_TAIL_BYTES = 1 << 16
_REPORT_BYTES = 1 << 30


@dataclass(frozen=True)
class Call:
    """A `lazybench` command to run in a process of its own.

    Attributes:
        arguments: what follows `python -m lazybench`.
        timeout_s: seconds after which it is stopped; None lets it take what it takes.
        memory_bytes: what it may hold; None sets no limit.
        environment: variables beside those that are there.
        folder: where it works, where there is such a folder; None stays here.
    """

    arguments: tuple[str, ...]
    timeout_s: float | None = None
    memory_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None

    def sharing(self, side_by_side: int) -> Call:
        """Return the call with its share of this machine's cores."""
        threads = max(1, usable_cores() // side_by_side)
        return replace(self, arguments=(*self.arguments, "--threads", str(threads)))


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, negative for a signal.
        report: the record that it handed over, as JSON; empty where it came to none.
        errors: the end of what it wrote to stderr.
        wall_s: seconds that it took.
        timed_out: whether it was stopped for its time.
        tries: how often it was begun.
        killed: whether it was made to end, as it hadn't by itself once it was asked to.
    """

    code: int
    report: str
    errors: str
    wall_s: float
    timed_out: bool = False
    tries: int = 1
    killed: bool = False

    @property
    def crashed(self) -> bool:
        """Whether a signal ended it that nobody sends who wants a process to stop."""
        asked = (-signal.SIGINT, -signal.SIGTERM)
        by_us = self.timed_out or self.killed
        return self.code < 0 and self.code not in asked and not by_us

    @property
    def record(self) -> str | None:
        """The record that it handed over; None where it was stopped or came to none."""
        return self.report if self.report and not (self.timed_out or self.killed) else None


class Processes:
    """Runs processes; `stop` asks those under way to write their checkpoints and end."""

    def __init__(self) -> None:
        """Run none yet."""
        self._live: set[subprocess.Popen[bytes]] = set()
        self._killed: set[subprocess.Popen[bytes]] = set()
        # A second Ctrl-C may call `stop` in the main thread while the first one's call is in it.
        self._lock = threading.RLock()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True once `stop` was called."""
        return self._stopped

    def run(self, call: Call) -> Ended | None:
        """Return how the process ended; None where `stop` was called before it began."""
        begin_s = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="lazybench-") as place:
            report = Path(place) / "record.json"
            with self._lock:
                if self._stopped:
                    return None
                process = _begun(call, report)
                self._live.add(process)
            errors = _Tail(process.stderr)
            try:
                timed_out = call.timeout_s is not None and not _ends(process, call.timeout_s)
                if timed_out:
                    self._end(process)
                process.wait()
                if not errors.whole():
                    # What it began lives on and holds its output open.
                    self._kill(process)
            finally:
                with self._lock:
                    self._live.discard(process)
            wall_s = time.perf_counter() - begin_s
            killed = process in self._killed
            told = _read_report(report)
        return Ended(process.returncode, told, errors.text(), wall_s, timed_out, killed=killed)

    def run_again_if_crashed(self, call: Call) -> Ended | None:
        """Return how the process ended; where it crashed it is begun once more, and goes on.

        A machine short of memory kills what it finds largest; the second time it may be alone.
        """
        first = self.run(call)
        if first is None or not first.crashed:
            return first
        second = self.run(call)
        if second is None:
            return first
        return replace(second, wall_s=first.wall_s + second.wall_s, tries=2)

    def stop(self, *, at_once: bool = False) -> None:
        """Begin no further process, and ask those under way to end: once, however often called.

        What hasn't ended `GRACE_S` later is killed, or now, where it is to be at once.
        """
        with self._lock:
            if not self._stopped:
                self._stopped = True
                for process in self._live:
                    process.send_signal(signal.SIGTERM)
                later = threading.Timer(GRACE_S, self._kill_all)
                # It has nothing to do where all have ended, and mustn't keep this process alive.
                later.daemon = True
                later.start()
            if at_once:
                self._kill_all()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a process to end, and make it end where it doesn't."""
        process.send_signal(signal.SIGTERM)
        if not _ends(process, GRACE_S):
            self._kill(process)

    def _kill_all(self) -> None:
        with self._lock:
            for process in self._live:
                self._kill(process)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self._killed.add(process)
        # With its children, which nobody else ends. It may have ended by itself in between.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


class _Tail:
    """Reads a pipe to its end, and keeps the last of it."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._pipe, self._kept = pipe, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def whole(self) -> bool:
        """Whether the pipe has ended, or does so in a moment."""
        self._thread.join(_PIPE_S)
        return not self._thread.is_alive()

    def text(self) -> str:
        """The end of what came, as text."""
        self.whole()
        return self._kept.decode("utf-8", "replace")

    def _read(self) -> None:
        if self._pipe is None:
            return
        with self._pipe as pipe:
            while part := os.read(pipe.fileno(), _TAIL_BYTES):
                self._kept = (self._kept + part)[-_TAIL_BYTES:]


def _ends(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Whether a process ends in so many seconds; those of a suspended machine don't count."""
    patience = Patience(limit_s)
    while True:
        try:
            process.wait(timeout=patience.tick_s)
            return True
        except subprocess.TimeoutExpired:
            if patience.tick():
                return False


def _read_report(path: Path) -> str:
    """The record that a process handed over; empty where there is none, or no text."""
    try:
        return path.read_bytes().decode("utf-8") if path.stat().st_size <= _REPORT_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def command(arguments: Sequence[str]) -> list[str]:
    """Return the words that run lazybench with these arguments, in this Python."""
    return [sys.executable, "-m", "lazybench", *arguments]


def _begun(call: Call, report: Path) -> subprocess.Popen[bytes]:
    folder = call.folder if call.folder is not None and Path(call.folder).is_dir() else None
    # Looked up here: between fork and exec as little as possible may happen.
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return subprocess.Popen(
        command(call.arguments),
        # Agents may write there whatever they like: what counts comes as a file.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, **call.environment, REPORT: str(report)},
        start_new_session=os.name == "posix",
        preexec_fn=partial(_prepare, libc, call.memory_bytes) if os.name == "posix" else None,
    )


def _prepare(libc: ctypes.CDLL | None, memory_bytes: int | None) -> None:
    if libc is not None:
        # Whoever began it may be killed; without this it would run on, and hold the run's lock.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if memory_bytes is not None and resource is not None:
        # Without a limit, where the system sets none: that beats no run.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def limits_memory() -> bool:
    """Return whether this system can limit what a process holds."""
    return resource is not None
