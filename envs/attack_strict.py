"""A target in a process of its own, asked over a pipe: nothing of it is in the attacker's process.

Messages are lengths and bytes: a request has the shape and the float32 values of its rows, a reply
the shape and values of its scores, or `-` and what went wrong. The child's first message tells what
its target is.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from lazybench.envs.attack_oracle import Failure, plain
from lazybench.envs.attack_target import Named, load_named
from lazybench.errors import ContractError, LazybenchError, UsageError

START_S = 300.0
"""Seconds that a child may take to start and load its target."""

STALL_S = 120.0
"""Seconds that a child may take to answer up to a chunk of rows."""

_EXIT_S = 10.0
_LENGTH, _ROWS, _SCORES = struct.Struct("<q"), struct.Struct("<4q"), struct.Struct("<2q")
_SERVE = "from lazybench.envs.attack_strict import serve; serve()"


class ChildTarget:
    """A target behind a pipe; called like the target itself, it returns its scores.

    The child starts at the first use, and again at the next one after it died or stalled.
    """

    def __init__(self, target: str, device: str = "cpu", *, stall_s: float = STALL_S) -> None:
        """Note which target to load, without loading it.

        Args:
            target: name of a target, or `module:factory`.
            device: where a named target runs.
            stall_s: seconds without an answer after which the child is ended.
        """
        self._target, self._device, self._stall_s = target, device, stall_s
        self._child: subprocess.Popen[bytes] | None = None
        self._ended: Any = None

    def named(self) -> Named:
        """Return what the child tells of its target, without the target.

        Raises:
            UsageError: the child can't load it.
            ContractError: the child died or stalled.
        """
        told = json.loads(self._started())
        if "error" in told:
            self.close()
            raise UsageError(f"the target's process can't load '{self._target}': {told['error']}")
        return Named(None, **told)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the target's scores `[R, classes]` on the processor.

        Raises:
            ContractError: the target failed; or its process died or stalled.
        """
        if self._child is None:
            self.named()
        values = rows.detach().to("cpu", torch.float32).contiguous().numpy()
        reply = self._exchange(_ROWS.pack(*values.shape) + values.tobytes(), self._stall_s)
        if reply[:1] == b"-":
            raise ContractError(reply[1:].decode("utf-8", "replace"))
        shape = _SCORES.unpack_from(reply, 1)
        found = np.frombuffer(reply, np.float32, offset=1 + _SCORES.size).reshape(shape)
        return torch.from_numpy(found.copy())

    def close(self) -> None:
        """End the child; it starts again at the next use."""
        if self._ended is not None:
            self._ended()
        self._child = self._ended = None

    def _started(self) -> bytes:
        self.close()
        # The child finds what this process finds, the user's own modules included.
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        child = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._child, self._ended = child, weakref.finalize(self, _end, child)
        wanted = {
            "target": self._target,
            "device": self._device,
            "threads": torch.get_num_threads(),
        }
        return self._exchange(json.dumps(wanted).encode(), START_S)

    def _exchange(self, message: bytes, limit_s: float) -> bytes:
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise ContractError("the target's process isn't running; query again to start it")
        # A child that is killed ends its pipe, so neither writing nor reading can hang for longer.
        watch = threading.Timer(limit_s, child.kill)
        watch.daemon = True
        watch.start()
        try:
            _write(child.stdin, message)
            reply = _read(child.stdout)
        except OSError:
            reply = None
        finally:
            late = not watch.is_alive()
            watch.cancel()
        if reply is None:
            code = _exit_code(child)
            self.close()
            why = f"gave no answer for {limit_s:g} s" if late else f"died (exit code {code})"
            raise ContractError(f"the target's process {why}; the queries stay charged")
        return reply


def serve() -> NoReturn:
    """Answer one parent until it closes the pipe, then exit: what a child process runs."""
    code: Any = 0
    try:
        _answer_all()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # Without torch's teardown, which takes longer than answering.
    os._exit(code if isinstance(code, int) else 1)


def _answer_all() -> None:
    # What a target prints mustn't get into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = os.fdopen(os.dup(0), "rb")
    wanted = json.loads(_read(questions) or b"{}")
    torch.set_num_threads(wanted["threads"])
    try:
        found = load_named(wanted["target"], wanted["device"])
    except LazybenchError as error:
        _write(answers, json.dumps({"error": str(error)}).encode())
        return
    told = {**found._asdict(), "data": dict(found.data)}
    del told["predict"]
    _write(answers, json.dumps(told).encode())
    while (question := _read(questions)) is not None:
        shape = _ROWS.unpack_from(question)
        values = np.frombuffer(question, np.float32, offset=_ROWS.size).reshape(shape)
        _write(answers, _reply(found.predict, torch.from_numpy(values.copy())))


def _reply(predict: Any, rows: Tensor) -> bytes:
    try:
        with torch.no_grad():
            scores = plain(predict(rows))
        if scores.ndim != 2 or not scores.is_floating_point():
            raise ContractError(
                f"scores must be floats [rows, classes], got {scores.dtype} {list(scores.shape)}"
            )
    except Exception as error:
        return f"-{Failure(error).why}".encode()
    values = scores.to("cpu", torch.float32).contiguous().numpy()
    return b"+" + _SCORES.pack(*values.shape) + values.tobytes()


def _write(pipe: BinaryIO | Any, message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _read(pipe: BinaryIO | Any) -> bytes | None:
    """The next message; None at the end of the pipe."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message: bytes = pipe.read(length)
    return message if len(message) == length else None


def _exit_code(child: subprocess.Popen[bytes]) -> int | None:
    """What a child whose pipe has ended exits with; None where it doesn't."""
    try:
        return child.wait(timeout=_EXIT_S)
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child and its pipes; one that waits for a question ends by itself."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                # What was still to be written has nobody to read it.
                continue
    if _exit_code(child) is None:
        child.kill()
        child.wait()
