"""A target in a process of its own, asked over a pipe: nothing of it is in the attacker's process.

A request has the shape and the float32 values of its rows, a reply
the shape and values of its scores, or `-` and what went wrong. The child's first message tells what
its target is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from lazybench.envs.attack.named_target import Named, load_named
from lazybench.envs.attack.oracle import Failure, plain
from lazybench.errors import ContractError, LazybenchError, UsageError
from lazybench.runtime.pipes import Child, Ended
from lazybench.runtime.pipes import serve as answer_a_parent

START_S = 300.0
"""Seconds that a child may take to start and load its target."""

STALL_S = 120.0
"""Seconds that a child may take to answer up to a chunk of rows."""

_ROWS, _SCORES = struct.Struct("<4q"), struct.Struct("<2q")


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
        self._child: Child | None = None

    def named(self) -> Named:
        """Return what the child tells of its target, without the target.

        Raises:
            UsageError: the child can't load it.
            ContractError: the child died or stalled.
        """
        self.close()
        self._child = Child("lazybench.envs.attack.strict:serve")
        wanted = {
            "target": self._target,
            "device": self._device,
            "threads": torch.get_num_threads(),
        }
        told = json.loads(self._exchange(json.dumps(wanted).encode(), START_S))
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
        if self._child is not None:
            self._child.close()
        self._child = None

    def _exchange(self, message: bytes, limit_s: float) -> bytes:
        if self._child is None:
            raise ContractError("the target's process isn't running; query again to start it")
        try:
            return self._child.exchange(message, limit_s)
        except Ended as error:
            self._child = None
            raise ContractError(
                f"the target's process {error}; the queries stay charged"
            ) from error


def serve() -> NoReturn:
    """Answer one parent until it closes the pipe, then exit: what a child process runs."""
    answer_a_parent(_Served)


class _Served:
    """Answers the first message with what its target is, and all others by the target."""

    def __init__(self) -> None:
        self._predict: Any = None

    def __call__(self, message: bytes) -> bytes:
        if self._predict is None:
            return self._loaded(json.loads(message))
        shape = _ROWS.unpack_from(message)
        values = np.frombuffer(message, np.float32, offset=_ROWS.size).reshape(shape)
        return _reply(self._predict, torch.from_numpy(values.copy()))

    def _loaded(self, wanted: Mapping[str, Any]) -> bytes:
        torch.set_num_threads(wanted["threads"])
        try:
            found = load_named(wanted["target"], wanted["device"])
        except LazybenchError as error:
            return json.dumps({"error": str(error)}).encode()
        self._predict = found.predict
        told = {**found._asdict(), "data": dict(found.data)}
        del told["predict"]
        return json.dumps(told).encode()


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
