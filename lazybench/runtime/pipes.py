"""Child processes that reply over a pipe; messages are lengths and bytes, of a limited size.

A child is a fresh Python process and not a fork, so it has nothing of its parent's memory. It ends
when its parent ends or closes the pipe. `Patience` limits the time to wait for a child.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from lazybench.errors import ContractError

_LONGEST_TICK_S = 1.0


class Patience:
    """Counts how much of a time limit is spent, in ticks.

    The waiting code calls `tick` every `tick_s` seconds. In a much longer gap the process was
    suspended (a closed laptop, a paused virtual machine, Ctrl-Z), so the gap counts as two ticks;
    processor time that this process used in it, in native code that holds the interpreter, counts
    in full.
    """

    def __init__(self, limit_s: float) -> None:
        """Start with nothing spent."""
        self.limit_s = limit_s
        self.tick_s = min(_LONGEST_TICK_S, limit_s / 10)
        self.spent_s = 0.0
        self._last_s = time.perf_counter(), time.process_time()

    def tick(self) -> bool:
        """Count the time since the last tick; return whether the limit is spent."""
        now_s = time.perf_counter(), time.process_time()
        gap_s, busy_s = (now - last for now, last in zip(now_s, self._last_s, strict=True))
        self._last_s = now_s
        self.spent_s += min(gap_s, 2 * self.tick_s + busy_s)
        return self.spent_s >= self.limit_s


MOST_BYTES = 1 << 30
"""Largest size of a message in bytes."""

_EXIT_S = 10.0
_LOOK_S = 1.0
_PART = 1 << 20
_LENGTH = struct.Struct("<q")


class Ended(ContractError):
    """A child died, stalled, or sent an invalid message; `str` says which."""


class Child:
    """A running child and the pipes to it."""

    def __init__(self, function: str) -> None:
        """Start the child.

        Args:
            function: `module:name` of a function that calls `serve`.
        """
        module, _, name = function.partition(":")
        # The child can import everything that this process can, including the user's modules, but
        # (-P) nothing else of its working folder.
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {module} import {name}; {name}()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            # Only the parent handles Ctrl-C; it ends the child.
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process)

    def exchange(self, message: bytes, limit_s: float | None = None) -> bytes:
        """Return the reply to a message.

        Args:
            message: the request to the child.
            limit_s: seconds without a reply after which the child is killed; None for no limit.

        Raises:
            Ended: the child has ended; its pipes are closed.
        """
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise Ended("isn't running")
        late = threading.Event()
        done = threading.Event()
        if limit_s is not None:
            threading.Thread(
                target=_kill_late, args=(process, limit_s, done, late), daemon=True
            ).start()
        reply, why = None, ""
        try:
            write(process.stdin, message)
            reply = read(process.stdout)
        except OSError:
            # The other end is closed.
            pass
        except ValueError as error:
            why = f"sent an invalid message ({error})"
            process.kill()
        finally:
            done.set()
        if reply is None:
            code = _exit_code(process)
            self.close()
            if late.is_set():
                why = f"didn't reply for {limit_s:g} s"
            raise Ended(why or f"died (exit code {code})")
        return reply

    def close(self) -> None:
        """Close the pipes and end the child; kill it if it doesn't end."""
        self._end()

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()
        self._end()


def serve(answers: Callable[[], Callable[[bytes], bytes]]) -> NoReturn:
    """Reply to one parent until it closes the pipe, then exit; run by a child process.

    Args:
        answers: called once; returns a function from a message to its reply.
    """
    code: Any = 0
    try:
        # Printed output mustn't get into the replies.
        replies = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        questions = os.fdopen(os.dup(0), "rb")
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        answer = answers()
        while (question := read(questions)) is not None:
            write(replies, answer(question))
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # Skip torch's teardown, which takes longer than a reply.
    os._exit(code if isinstance(code, int) else 1)


def write(pipe: BinaryIO | Any, message: bytes) -> None:
    """Write a message.

    Raises:
        ValueError: it is longer than `MOST_BYTES`.
        OSError: the other end is closed.
    """
    if len(message) > MOST_BYTES:
        raise ValueError(f"{len(message)} bytes, of which at most {MOST_BYTES} are allowed")
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def read(pipe: BinaryIO | Any) -> bytes | None:
    """Return the next message; None at the end of the pipe.

    Raises:
        ValueError: its length is negative, or longer than `MOST_BYTES`.
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if not 0 <= length <= MOST_BYTES:
        raise ValueError(f"{length} bytes, of which at most {MOST_BYTES} are allowed")
    message = bytearray()
    # In parts, so that memory is only used for bytes that arrive.
    while len(message) < length:
        part = pipe.read(min(length - len(message), _PART))
        if not part:
            return None
        message += part
    return bytes(message)


def _end_with(parent: int) -> None:
    """End this process, whatever it computes, when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _kill_late(
    process: subprocess.Popen[bytes], limit_s: float, done: threading.Event, late: threading.Event
) -> None:
    """Kill a child that doesn't reply in time; that closes its pipe, so that no reader hangs."""
    patience = Patience(limit_s)
    while not done.wait(patience.tick_s):
        if patience.tick():
            late.set()
            process.kill()
            return


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a child whose pipe has ended; None if it doesn't exit."""
    try:
        return process.wait(timeout=_EXIT_S)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close a child's pipes and end it; a child that waits for a message ends by itself."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                # Unwritten bytes have no reader any more.
                continue
    if _exit_code(process) is None:
        process.kill()
        process.wait()
