"""Processes of cells: started with their limits, stopped on request, ended with their parent."""

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
"""Seconds that a process has to save its checkpoint after a request to stop."""

REPORT = "LAZYBENCH_REPORT"
"""Environment variable with the file to which a run writes its record for its parent process."""

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
    """A `lazybench` command to run in a separate process.

    Attributes:
        arguments: the arguments after `python -m lazybench`.
        timeout_s: time limit in seconds; None for no limit.
        memory_bytes: memory limit; None for no limit.
        environment: additional environment variables.
        folder: its working folder, if that exists; None for the current folder.
    """

    arguments: tuple[str, ...]
    timeout_s: float | None = None
    memory_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None

    def sharing(self, side_by_side: int) -> Call:
        """Return the call with its share of this machine's cores, unless it has `--threads`."""
        if "--threads" in self.arguments:
            return self
        threads = max(1, usable_cores() // side_by_side)
        return replace(self, arguments=(*self.arguments, "--threads", str(threads)))


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, negative for a signal.
        report: the record that it wrote, as JSON; empty if it wrote none.
        errors: the end of its stderr.
        wall_s: wall seconds.
        timed_out: whether it exceeded its time limit.
        tries: how often it was started.
        killed: whether it was killed because it didn't end on request.
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
        """Whether a signal ended it that isn't a request to stop."""
        asked = (-signal.SIGINT, -signal.SIGTERM)
        by_us = self.timed_out or self.killed
        return self.code < 0 and self.code not in asked and not by_us

    @property
    def record(self) -> str | None:
        """The record that it wrote; None if it was stopped or wrote none."""
        return self.report if self.report and not (self.timed_out or self.killed) else None


class Processes:
    """Runs processes; `stop` asks them to save their checkpoints and end."""

    def __init__(self) -> None:
        """Run none yet."""
        self._live: set[subprocess.Popen[bytes]] = set()
        self._killed: set[subprocess.Popen[bytes]] = set()
        # A second Ctrl-C may call `stop` while the main thread is still in the first call.
        self._lock = threading.RLock()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True once `stop` was called."""
        return self._stopped

    def run(self, call: Call) -> Ended | None:
        """Run a process and return how it ended; None if `stop` was called before its start."""
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
                    # Its child processes are still running and hold its output open.
                    self._kill(process)
            finally:
                with self._lock:
                    self._live.discard(process)
            wall_s = time.perf_counter() - begin_s
            killed = process in self._killed
            record = _read_report(report)
        return Ended(process.returncode, record, errors.text(), wall_s, timed_out, killed=killed)

    def run_again_if_crashed(self, call: Call) -> Ended | None:
        """Run a process and return how it ended; if it crashes, it is restarted once and resumes.

        A machine that is short of memory kills the largest process, which may succeed when it runs
        alone.
        """
        first = self.run(call)
        if first is None or not first.crashed:
            return first
        second = self.run(call)
        if second is None:
            return first
        return replace(second, wall_s=first.wall_s + second.wall_s, tries=2)

    def stop(self, *, at_once: bool = False) -> None:
        """Start no further process, and ask the running ones to end; repeated calls have no effect.

        Processes that are still running `GRACE_S` later are killed; with `at_once`, immediately.
        """
        with self._lock:
            if not self._stopped:
                self._stopped = True
                for process in self._live:
                    process.send_signal(signal.SIGTERM)
                later = threading.Timer(GRACE_S, self._kill_all)
                # It mustn't keep this process alive when all processes have ended.
                later.daemon = True
                later.start()
            if at_once:
                self._kill_all()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a process to end, and kill it if it doesn't."""
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
        # With its children, which would keep running. It may have ended in the meantime.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


class _Tail:
    """Reads a pipe to its end, and keeps the last part."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._pipe, self._kept = pipe, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def whole(self) -> bool:
        """Whether the pipe has ended, or ends in a moment."""
        self._thread.join(_PIPE_S)
        return not self._thread.is_alive()

    def text(self) -> str:
        """The last part of the pipe, as text."""
        self.whole()
        return self._kept.decode("utf-8", "replace")

    def _read(self) -> None:
        if self._pipe is None:
            return
        with self._pipe as pipe:
            while part := os.read(pipe.fileno(), _TAIL_BYTES):
                self._kept = (self._kept + part)[-_TAIL_BYTES:]


def _ends(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Whether a process ends within `limit_s` seconds, without time of a suspended machine."""
    patience = Patience(limit_s)
    while True:
        try:
            process.wait(timeout=patience.tick_s)
            return True
        except subprocess.TimeoutExpired:
            if patience.tick():
                return False


def _read_report(path: Path) -> str:
    """The record that a process wrote; empty if there is none, or it isn't text."""
    try:
        return path.read_bytes().decode("utf-8") if path.stat().st_size <= _REPORT_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def command(arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs lazybench with these arguments, in this Python."""
    return [sys.executable, "-m", "lazybench", *arguments]


def _begun(call: Call, report: Path) -> subprocess.Popen[bytes]:
    folder = call.folder if call.folder is not None and Path(call.folder).is_dir() else None
    # Looked up here: between fork and exec as little as possible may happen.
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return subprocess.Popen(
        command(call.arguments),
        # Agents may print anything; the record is written to a file.
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
        # If the parent is killed, the process must end, too, and release the run's lock.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if memory_bytes is not None and resource is not None:
        # The system can't set a limit: run without one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def limits_memory() -> bool:
    """Return whether this system can limit the memory of a process."""
    return resource is not None
