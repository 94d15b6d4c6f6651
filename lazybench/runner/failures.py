"""What an error inside an agent is called: a status and a line."""

from __future__ import annotations

import traceback
from pathlib import Path

from lazybench.errors import LazybenchError, PolicyFailed, TooSlow
from lazybench.plugins import describe
from lazybench.runner import provenance
from lazybench.runner.signals import __file__ as signals_file

_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "bad_alloc", "Cannot allocate memory")
"""What torch, CUDA, C++ and the system say in errors of other types than their own."""


def status_and_reason(error: BaseException) -> tuple[str, str]:
    """Return status and one-line reason of an error inside an agent."""
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
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != signals_file
    ]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return "failed", text + ("" if isinstance(error, LazybenchError) else where)
