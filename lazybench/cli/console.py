"""Text to the terminal: lines, JSON, aligned tables; a reader who goes away is no error."""

from __future__ import annotations

import contextlib
import json
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

_answers: list[TextIO | None] = []
"""Where lines of output go while a command keeps stdout for its JSON; else empty."""


def line(text: str = "") -> None:
    """Write one line to stdout."""
    _write(_answers[-1] if _answers else sys.stdout, f"{text}\n")


def text(content: str) -> None:
    """Write text to stdout as it stands."""
    _write(_answers[-1] if _answers else sys.stdout, content)


def note(content: str) -> None:
    """Write one line to stderr, where it spoils no output that another program reads.

    A line that can't be written there, since a log's disk is full, is left out: the work goes on.
    """
    try:
        _write(sys.stderr, f"{content}\n")
    except OSError:
        discard(sys.stderr)


def as_json(value: Any) -> None:
    """Write `value` to stdout as indented JSON; what JSON lacks appears as text."""
    line(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def width() -> int | None:
    """Columns of the terminal behind stdout, or None where a file or pipe is behind it."""
    return shutil.get_terminal_size().columns if on_terminal(sys.stdout) else None


def on_terminal(stream: TextIO | None) -> bool:
    """Return whether a terminal is behind a stream; none is behind one that was closed."""
    return stream is not None and stream.isatty()


@contextlib.contextmanager
def answer_alone() -> Iterator[None]:
    """Keep stdout for `line` and `text` in a block: what a user's code prints goes to stderr.

    That holds for its prints and for what it writes to the file descriptor.
    """
    stream = sys.stdout
    own: TextIO | None = None
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if stream.fileno() == 1:
            own = os.fdopen(os.dup(1), "w", encoding=stream.encoding)
    _answers.append(stream if own is None else own)
    try:
        with to_stderr():
            yield
    finally:
        _answers.pop()
        if own is not None:
            with contextlib.suppress(OSError):
                own.close()


def facts(values: Mapping[str, Any], indent: str = "") -> str:
    """Return names and values, a line each; mappings are indented below their name."""
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
    """Return a value as people write it: `yes`, `none`, `1, 2`, six significant digits."""
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


def _write(stream: TextIO | None, content: str) -> None:
    if stream is None:  # closed before the program began, as by `>&-`
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    safe = content.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(safe)
        stream.flush()
    except BrokenPipeError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Send what is still to come to nowhere, so that the command ends with its own exit code."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
