"""Ctrl-C and termination: the first asks for a checkpoint, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Signals:
    """Catches SIGINT and SIGTERM inside a `with` block; `number` is the first one's, or 0.

    A second signal ends the process at once: checkpoints are written so that this loses only what
    came after the last one. Outside the main thread, where Python delivers no signals, nothing is
    caught.
    """

    def __init__(self) -> None:
        """Catch nothing yet."""
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Start catching."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore what stood before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
