"""Terminal output: lines, JSON and aligned tables; a closed pipe is no error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from lazybench import tables
from lazybench.plugins import to_stderr

_GAP = "  "

one_line = tables.one_line
table = tables.text_table

_results: list[TextIO | None] = []
"""The stream for results while a command keeps stdout for its JSON; else empty."""


def line(text: str = "") -> None:
    """Write one line to stdout."""
    _write(_results[-1] if _results else sys.stdout, f"{text}\n")


def text(content: str) -> None:
    """Write text to stdout unchanged."""
    _write(_results[-1] if _results else sys.stdout, content)


def note(content: str) -> None:
    """Write one line to stderr, separate from results on stdout.

    A line that can't be written, as on a full disk, is dropped, and the command continues.
    """
    try:
        _write(sys.stderr, f"{content}\n")
    except OSError:
        discard(sys.stderr)


def as_json(value: Any) -> None:
    """Write `value` to stdout as indented JSON.

    Types that JSON lacks become text, and numbers that aren't finite null.
    """
    escapes = _encoding(sys.stdout).lower().replace("-", "") != "utf8"
    line(json.dumps(_finite(value), indent=2, ensure_ascii=escapes, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def width() -> int | None:
    """Return the width of the terminal of stdout in columns; None for a file or pipe."""
    return shutil.get_terminal_size().columns if on_terminal(sys.stdout) else None


def on_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; a closed stream (None) isn't."""
    return stream is not None and stream.isatty()


@contextlib.contextmanager
def only_results() -> Iterator[None]:
    """Reserve stdout for `line` and `text`, and send prints of users' code to stderr.

    This includes what their code writes to the file descriptor of stdout.
    """
    stream = sys.stdout
    own: TextIO | None = None
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if stream.fileno() == 1:
            own = os.fdopen(os.dup(1), "w", encoding=stream.encoding)
    _results.append(stream if own is None else own)
    try:
        with to_stderr():
            yield
    finally:
        _results.pop()
        if own is not None:
            with contextlib.suppress(OSError):
                own.close()


def facts(values: Mapping[str, Any], indent: str = "") -> str:
    """Return names and values, one per line; mappings are indented below their name."""
    plain = [name for name, value in values.items() if not isinstance(value, Mapping)]
    size = max(map(len, plain), default=0)
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{one_line(name)}:" + ("" if value else " none"))
            if value:
                lines.append(facts(value, indent + "  "))
        else:
            lines.append(f"{indent}{one_line(name):<{size}}{_GAP}{value_text(value)}".rstrip())
    return "\n".join(lines)


def value_text(value: Any) -> str:
    """Return a value as readable text: `yes`, `none`, `1, 2`, six significant digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value) or "none"
    return one_line(str(value))


def seconds(value: float) -> str:
    """Return a duration as `4.2 s`, `3 min 05 s` or `2 h 07 min`."""
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _write(stream: TextIO | None, content: str) -> None:
    if stream is None:  # closed before the program started, as by `>&-`
        return
    encoding = _encoding(stream)
    safe = content.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(safe)
        stream.flush()
    except BrokenPipeError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Send further output of a stream to /dev/null, so that the exit code stays the command's."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
