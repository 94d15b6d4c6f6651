"""Third-party code: entry points of other packages, checks of their specs, and contained imports.

A plug-in or a user's file may print, exit or raise any error while it is imported; `contained`
turns that into an ordinary error and keeps standard output clean.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, PathDistribution, distributions, entry_points
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from lazybench.errors import ContractError, LazybenchError, UsageError
from lazybench.specs import FAMILIES, OWN

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_TEXTS = ("about", "origin", "target", "reference", "licence", "metric", "unit", "data")


class Escaped(Exception):
    """Third-party code raised something that isn't an `Exception`, such as SystemExit."""


def describe(error: BaseException) -> str:
    """Return `Type: message` of an error, even if its `__str__` fails."""
    error = error.__cause__ if isinstance(error, Escaped) and error.__cause__ else error
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}: (its message can't be shown)"


def raised_at(error: BaseException) -> str:
    """Return `file:line` of the last line of a user's code before an error was raised.

    Lines of this package, of the standard library and of installed packages are passed over, if
    there are others.
    """
    error = error.__cause__ if isinstance(error, Escaped) and error.__cause__ else error
    frames = traceback.extract_tb(error.__traceback__)
    elsewhere = (str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib")), "<")
    own = [frame for frame in frames if not frame.filename.startswith(elsewhere)]
    last = (own or frames)[-1]
    return f"{last.filename}:{last.lineno}"


@contextmanager
def contained() -> Iterator[None]:
    """Run third-party code in a block, so that it prints to stderr and raises only `Exception`.

    A user's Ctrl-C still interrupts, even if the code catches the KeyboardInterrupt. A
    KeyboardInterrupt that the code raised itself doesn't.

    Raises:
        Escaped: the code raised SystemExit, GeneratorExit or another error that isn't an
            `Exception`.
    """
    stopped: list[BaseException] = []
    with to_stderr(), _handled(stopped):
        try:
            yield
        except Exception:
            if not stopped:
                raise
        except BaseException as error:
            if not stopped:
                raise Escaped(describe(error)) from error
    if stopped:
        raise stopped[0]


@contextmanager
def named(origin: str, what: str) -> Iterator[None]:
    """Run a method of an agent in a block; an error of a user's agent becomes one line.

    Args:
        origin: who registered the agent. Errors of lazybench's own agents pass unchanged.
        what: the agent and the method, for the message.

    Raises:
        ContractError: the method failed; the message names the error, its file and line.
    """
    if origin == OWN:
        yield
        return
    try:
        with contained():
            yield
    except LazybenchError:
        raise
    except Exception as error:
        raise ContractError(f"{what} failed: {describe(error)} ({raised_at(error)})") from error


@contextmanager
def _handled(stopped: list[BaseException]) -> Iterator[None]:
    """Add to `stopped` what the handler of SIGINT raises; restore the handler afterwards."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        # Signals are delivered to the main thread alone; elsewhere no Ctrl-C can be caught.
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except BaseException as error:
            stopped.append(error)
            raise

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Diverted:
    """Redirects standard output to stderr, and restores it after the last block that needs it.

    It counts the blocks, since several threads may import at a time.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.stream: TextIO | None = None
        self.descriptor: int | None = None

    def begin(self) -> None:
        with self.lock:
            self.blocks += 1
            if self.blocks > 1:
                return
            self.stream, sys.stdout = sys.stdout, sys.stderr
            _flush(self.stream)
            with contextlib.suppress(OSError):  # closed before the program began, as by `>&-`
                self.descriptor = os.dup(1)
                _point_at_stderr()

    def end(self) -> None:
        with self.lock:
            self.blocks -= 1
            if self.blocks:
                return
            _flush(sys.stdout)
            if self.descriptor is not None:
                _flush_c()
                os.dup2(self.descriptor, 1)
                os.close(self.descriptor)
                self.descriptor = None
            sys.stdout, self.stream = self.stream, None


_diverted = _Diverted()


@contextmanager
def to_stderr() -> Iterator[None]:
    """Send everything that a block prints to stderr, including output of C code."""
    _diverted.begin()
    try:
        yield
    finally:
        _diverted.end()


def _point_at_stderr() -> None:
    try:
        os.dup2(2, 1)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _flush_c() -> None:
    """Flush C's buffers, which are otherwise written to a pipe at the end of the process."""
    with contextlib.suppress(ImportError, OSError, TypeError, AttributeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)


def points(group: str, broken: dict[str, str]) -> list[EntryPoint]:
    """Return the entry points of a group, in an order that doesn't depend on the installation.

    A package whose list can't be read is reported in `broken`; the others still load.
    """
    try:
        found = list(entry_points(group=group))
    except Exception:
        found = []
        for distribution in distributions():
            try:
                found += distribution.entry_points.select(group=group)
            except Exception as error:
                where = "a package"
                if isinstance(distribution, PathDistribution):
                    where = str(distribution._path)
                broken[where] = f"its entry_points.txt can't be read: {error}"
    return sorted(found, key=lambda point: (package(point), point.name, point.value))


def package(point: EntryPoint) -> str:
    """Return the name of the package that an entry point comes from."""
    name = None
    # Its METADATA may be damaged; the other packages still load.
    with contextlib.suppress(Exception):
        name = None if point.dist is None else point.dist.metadata["Name"]
    return str(name or point.value.partition(":")[0])


def check_spec(kind: str, spec: Any) -> None:
    """Check that a spec is valid for listings, folders and Gymnasium's registry.

    Raises:
        UsageError: it isn't.
    """
    if not (isinstance(spec.id, str) and _ID.fullmatch(spec.id)):
        raise UsageError(
            f"an id of the {kind} registry consists of letters, digits, '-', '_', '.' and '@', and "
            f"begins with a letter or digit; got {spec.id!r}"
        )
    fields = vars(spec)
    families = fields.get("families", (fields.get("family", FAMILIES[0]),))
    known = isinstance(families, tuple) and all(family in FAMILIES for family in families)
    if not (known and families):
        raise UsageError(
            f"{kind} '{spec.id}' must be of family {', '.join(FAMILIES)} (agents: a tuple of "
            f"them), got {families!r}"
        )
    for name in _TEXTS:
        value = fields.get(name, "")
        if not isinstance(value, str):
            raise UsageError(
                f"{name} of {kind} '{spec.id}' must be text, got {type(value).__name__}"
            )
