"""A command: its name, help and examples, and how its errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import typer

from lazybench.cli import INTERRUPTED, console
from lazybench.errors import Interrupted, LazybenchError, UsageError
from lazybench.files import FULL
from lazybench.plugins import describe, raised_at
from lazybench.runtime import launched

P = ParamSpec("P")

EXIT_CODES = (
    "0 success, 1 a bug or a failed check, 2 usage, 3 a run diverged or failed,",
    "69 data missing or damaged, 73 output can't be written, 74 input/output error,",
    "75 locked by another process, 130 and 143 interrupted",
)
"""Exit codes as `lazybench --help` lists them."""
IO_ERROR = 74
BUG = 1
FOREIGN = 3
MOST = 2**31 - 1
"""Largest whole number of an option, except for seeds, which may have 63 bits."""
_PATH = {
    errno.EACCES: "check its permissions, or give another path",
    errno.EPERM: "check its permissions, or give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "it is a link to itself; give another path",
    errno.ENOTDIR: "a part of it is a file, not a folder; give another path",
    errno.EISDIR: "it is a folder; give a file",
}
"""What the user of a path can do, by the error that the operating system returns for it."""

PLAIN: Mapping[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
"""Settings of each Typer application: plain help, which imports no rich and fits pipes."""


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes:
        name: what is typed after `lazybench`, or after the name of its group.
        function: does the work. Its docstring is the help text, whose first paragraph is also the
            line in the list of commands; its annotations are the arguments and options.
        examples: command lines, shown below the help.
        distributed: whether processes that torchrun started share its work.
    """

    name: str
    function: Callable[..., None]
    examples: tuple[str, ...]
    distributed: bool = False

    def add_to(self, app: typer.Typer) -> None:
        """Register the command, with its errors handled."""
        summary = (inspect.getdoc(self.function) or "").partition("\n\n")[0].replace("\n", " ")
        register = app.command(self.name, short_help=summary, epilog=examples(self.examples))
        register(guarded(self.function, distributed=self.distributed))


@dataclass(frozen=True)
class Group:
    """Commands under one name, such as `lazybench data`.

    Attributes:
        name: what is typed before the names of its commands.
        about: help text.
        examples: command lines, shown below the help.
        commands: its commands, in the order of the help.
    """

    name: str
    about: str
    examples: tuple[str, ...]
    commands: tuple[Command, ...]

    def add_to(self, app: typer.Typer) -> None:
        """Register the group with its commands."""
        group = typer.Typer(
            help=self.about, epilog=examples(self.examples), no_args_is_help=True, **PLAIN
        )
        for each in self.commands:
            each.add_to(group)
        app.add_typer(group, name=self.name, short_help=self.about)


def command(
    name: str, *examples: str, distributed: bool = False
) -> Callable[[Callable[..., None]], Command]:
    """Return a decorator that makes a function a `Command`."""
    return lambda function: Command(name, function, examples, distributed)


def examples(commands: tuple[str, ...]) -> str:
    """Return command lines as an epilog that keeps its line breaks."""
    return "\b\nExamples:\n" + "\n".join(f"  {each}" for each in commands)


def guarded(function: Callable[P, None], *, distributed: bool = False) -> Callable[P, None]:
    """Return `function` wrapped so that it raises only `typer.Exit`.

    An error of lazybench becomes one line on stderr and its exit code, and so does one of the
    operating system about the disk or a path that was given. Any other exception is reported as a
    bug, with its traceback.

    Args:
        function: does the work of a command.
        distributed: whether processes that torchrun started share the work; without it, more than
            one process is a usage error.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if not distributed:
                _need_one_process()
            _check_numbers(kwargs)
            # With --json, prints of agents, networks and plug-ins mustn't reach stdout.
            with console.only_results() if kwargs.get("json") else contextlib.nullcontext():
                function(*args, **kwargs)
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
            advice = _advice(error, kwargs)
            if advice is not None:
                console.note(f"error: {console.one_line(str(error))}; {advice}")
                raise typer.Exit(IO_ERROR) from error
            console.note("error: this is a bug in lazybench; please report it with the lines below")
            console.note(traceback.format_exc().rstrip("\n"))
            raise typer.Exit(BUG) from error
        # A model, agent or plug-in that calls `exit(0)` mustn't end the command with success.
        except BaseException as error:
            console.note(
                f"error: {console.one_line(describe(error))} ({raised_at(error)}) was raised by "
                "code that lazybench called and that can't end the program; let it raise an "
                "Exception, or return"
            )
            raise typer.Exit(FOREIGN) from error

    return run


def _advice(error: Exception, values: Mapping[str, object]) -> str | None:
    """What the user can do about an error of the operating system; None if it is another error.

    An error about a path counts where the path is an argument of the command or below one: others
    are faults of this package, or of a user's code.
    """
    if not isinstance(error, OSError):
        return None
    if error.errno in FULL:
        return "free some space and run it again"
    if error.errno in (errno.EIO, errno.EROFS):
        return "check the disk, or give another path"
    path = error.filename
    known = isinstance(path, str | bytes) and _is_given(os.path.abspath(os.fsdecode(path)), values)
    return _PATH.get(error.errno or 0) if known else None


def _is_given(path: str, values: Mapping[str, object]) -> bool:
    """Whether a path is an argument, or a variable of the environment, or below one."""
    texts = [text for name, text in os.environ.items() if name.startswith("LAZYBENCH_")]
    for value in values.values():
        every = value if isinstance(value, list | tuple) else (value,)
        texts += [str(each) for each in every if isinstance(each, str | Path)]
    # `FILE.py:CLASS` names a file, too.
    texts += [text.rpartition(":")[0] for text in texts]
    return any(Path(path).is_relative_to(os.path.abspath(text)) for text in texts if text)


def _check_numbers(values: Mapping[str, object]) -> None:
    """Check the size of the whole numbers among a command's options.

    Raises:
        UsageError: one is too large or too small; the message names the option.
    """
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        most = 2**63 - 1 if name.endswith("seed") else MOST
        if isinstance(value, int) and not -most <= value <= most:
            raise UsageError(f"{option} takes whole numbers up to {most}, got {value}")


def _need_one_process() -> None:
    """Check that torchrun didn't start several processes, which would all do the same work.

    Raises:
        UsageError: it did.
    """
    if (many := launched()[1]) > 1:
        raise UsageError(
            f"torchrun started {many} processes, which would all do the same work: only `lazybench "
            "run` shares its work among processes; run this command without torchrun"
        )
