"""The command line: `lazybench`, or `python -m lazybench`.

Commands import heavy libraries only when they run, so that help and listings start fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of one command line.

    Args:
        argv: arguments after the program's name; None takes this process's.
    """
    try:
        from lazybench.cli.app import make_app

        make_app()(args=None if argv is None else list(argv), prog_name="lazybench")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        raise
    except OSError as error:
        # A usage error, which is the context, whose message couldn't be written.
        code = getattr(error.__context__, "exit_code", None)
        if not isinstance(code, int):
            raise
        from lazybench.cli import console

        console.discard(sys.stderr)
        return code
    except KeyboardInterrupt:
        # Before the command started, which handles it otherwise.
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0
