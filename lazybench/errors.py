"""Every error that lazybench raises on purpose, each with its exit code.

A message says what is wrong, what was given, what is allowed and what to do next. Exit codes follow
`sysexits` where possible: 2 usage, 3 finished but diverged or failed, 69 data unavailable, 73
cannot create output, 74 input/output, 75 try again, 130/143 signal.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LazybenchError(Exception):
    """Root of all errors raised on purpose; `exit_code` is the exit code of the command line."""

    exit_code = 1


class UsageError(LazybenchError, ValueError):
    """A name, option or value that the caller gave isn't allowed."""

    exit_code = 2


class UnknownName(UsageError):
    """An id that isn't registered; the message names the nearest ones."""


class DuplicateName(UsageError):
    """An id registered twice; the message names both origins."""


class DeviceUnavailable(UsageError):
    """A device or precision was requested that this machine doesn't have."""


class ContractError(LazybenchError):
    """An agent, policy or environment broke its contract (shape, dtype, range, missing method)."""

    exit_code = 3


class Interrupted(LazybenchError):
    """The run stopped at a safe point because of a signal; it can be resumed."""

    def __init__(self, number: int, text: str) -> None:
        """Keep the exit code that shells expect: 128 + the signal's number."""
        super().__init__(text)
        self.exit_code = 128 + number


class TooSlow(LazybenchError):
    """An agent exceeded the time limit of an episode."""

    exit_code = 3


class PolicyFailed(LazybenchError):
    """A policy in a child process failed; `status` is the resulting status of the run."""

    exit_code = 3

    def __init__(self, status: str, reason: str) -> None:
        """Keep the status: `failed` or `oom`."""
        super().__init__(reason)
        self.status = status if status in ("failed", "oom") else "failed"


class Diverged(LazybenchError):
    """Training produced a loss or parameter that isn't finite."""

    exit_code = 3


class DataUnavailable(LazybenchError):
    """A data set isn't installed, or its files are damaged or incomplete."""

    exit_code = 69


class NotTrained(DataUnavailable):
    """A network to attack, or its white boxes, hasn't been trained on this machine."""


class ClusterUnavailable(LazybenchError):
    """No scheduler responds at an address."""

    exit_code = 69


class OutputUnavailable(LazybenchError):
    """The output folder can't be created or written."""

    exit_code = 73


class StoreError(LazybenchError):
    """A file of the store couldn't be read or written, or its content doesn't verify."""

    exit_code = 74


class RecordConflict(StoreError):
    """The store already holds a record of the same key with other content."""

    exit_code = 73


class Busy(LazybenchError):
    """Another process holds this run."""

    exit_code = 75


class RankLost(LazybenchError):
    """Another process of a distributed run has ended."""

    exit_code = 75


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ` Did you mean: a, b?` with the known names nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, sorted(known), n=most, cutoff=0.55)
    return f" Did you mean: {', '.join(close)}?" if close else ""
