"""The one way out of a command: every error becomes a line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import traceback
from collections.abc import Callable, Mapping
from typing import ParamSpec

import typer

from lazybench.cli import INTERRUPTED, console
from lazybench.errors import Interrupted, LazybenchError, UsageError
from lazybench.plugins import describe

P = ParamSpec("P")

IO_ERROR = 74
BUG = 1
FOREIGN = 3
MOST = 2**31 - 1
"""Largest whole number that an option takes, but for seeds, which may have 63 bits."""
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def guarded(command: Callable[P, None], *, shares: bool = False) -> Callable[P, None]:
    """Return `command` such that it raises nothing but `typer.Exit`.

    What lazybench raises on purpose ends with its own exit code and one line; anything else is
    a bug and shows where.

    Args:
        command: does the work.
        shares: processes that torchrun started share its work; another one would be done by each.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if not shares:
                _need_one_process()
            _check_numbers(kwargs)
            # Beside JSON nothing else may be on stdout: agents, networks and plug-ins may print.
            with console.answer_alone() if kwargs.get("json") else contextlib.nullcontext():
                command(*args, **kwargs)
        except typer.Exit:
            raise
        except Interrupted as stop:
            console.note(console.one_line(f"{stop}; the same command continues"))
            raise typer.Exit(stop.exit_code) from stop
        except LazybenchError as error:
            console.note(f"error: {console.one_line(str(error))}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            console.note("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                console.note(
                    f"error: {console.one_line(str(error))}; free some space and run it again"
                )
                raise typer.Exit(IO_ERROR) from error
            console.note("error: this is a bug in lazybench; please report it with the lines below")
            console.note(traceback.format_exc().rstrip("\n"))
            raise typer.Exit(BUG) from error
        # A model, agent or plug-in that calls `exit` mustn't end the command as if all were well.
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            console.note(
                f"error: {console.one_line(describe(error))} ({frame.filename}:{frame.lineno}) was "
                "raised by code that lazybench called, which ends nothing but itself; let it raise "
                "an Exception, or return"
            )
            raise typer.Exit(FOREIGN) from error

    return run


def _check_numbers(values: Mapping[str, object]) -> None:
    """Look whether the whole numbers among a command's options are of a usable size.

    Raises:
        UsageError: one isn't; the option is named.
    """
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        most = 2**63 - 1 if name.endswith("seed") else MOST
        if isinstance(value, int) and not -most <= value <= most:
            raise UsageError(f"{option} takes whole numbers up to {most}, got {value}")


def _need_one_process() -> None:
    """Look whether torchrun started several processes, each of which would do the same.

    Raises:
        UsageError: it did.
    """
    # Looked at first, as importing the ranks costs what importing torch does.
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    from lazybench.runtime.distributed import launched

    if (many := launched()[1]) > 1:
        raise UsageError(
            f"torchrun started {many} processes, and each would do the same: only `lazybench run` "
            "shares its work among them; run this command without torchrun"
        )
