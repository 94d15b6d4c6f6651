"""What happens in the children of these tests: a command line under real limits and real signals.

Children are forked from a server that has imported lazybench and torch once, so that each costs a
fraction of a second instead of the seconds that importing takes. Everything else is as in a process
of its own: its files, signals, limits and exit code.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PRELOADED = [
    "lazybench.cli.app",
    "lazybench.cli.progress",
    "lazybench.runner.run",
    "lazybench.boards",
    "lazybench.envs.fewshot.env",
    "lazybench.envs.single_step",
    "lazybench.envs.datasets.sinusoid",
    "lazybench.envs.datasets.glyphs",
    "lazybench.agents.fewshot.gradient",
    "scipy.stats",
]

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

Prepare = Callable[[], None]


def child(
    argv: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    streams: tuple[str, str],
    prepare: Prepare | None,
) -> None:
    """Run a command line with its output in two files, after `prepare` has set the fault up."""
    os.chdir(folder)
    os.environ.update(environment)
    for number, path in zip((1, 2), streams, strict=True):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if prepare is not None:
        prepare()
    from lazybench.cli import main

    sys.exit(main(argv))


def changes(under: str, act: Callable[[str], None]) -> None:
    """Have `act` receive every change below a folder, just before the system makes it.

    Python reports its audit hooks of each opened, renamed and removed file: no code is replaced.
    """

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = args[1] if event in ("os.rename", "os.link") else args[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(under):
            act(f"{event} {os.path.relpath(path, under)}")

    sys.addaudithook(hook)


def list_changes(under: str, log: str) -> None:
    """Write a line for each change below a folder."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    changes(under, lambda reported: os.write(file, f"{reported}\n".encode()) and None)


def die_at_change(under: str, number: int) -> None:
    """Have the system kill this process just before the change of that number below a folder."""
    left = [number]

    def act(_: str) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    changes(under, act)


def signal_at_change(under: str, beginning: str, number: int) -> None:
    """Send this process a signal just before a change that begins so, once."""
    reported: list[str] = []

    def act(change: str) -> None:
        if change.startswith(beginning) and not reported:
            reported.append(change)
            os.kill(os.getpid(), number)

    changes(under, act)


def full_disk(size: int, *, deadly: bool = False) -> None:
    """Let no file grow beyond `size` bytes.

    A write past it is cut, as on a full disk, and the next fails; where it is to be deadly the
    system kills the process during the write instead.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if deadly:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def memory(size: int) -> None:
    """Let this process hold no more than `size` bytes beyond what it holds now."""
    now = int(open("/proc/self/statm", encoding="ascii").read().split()[0]) * os.sysconf(  # noqa: SIM115
        "SC_PAGE_SIZE"
    )
    resource.setrlimit(resource.RLIMIT_AS, (now + size, now + size))


_CAPABILITIES_V3 = 0x20080522


def powerless() -> None:
    """Lose root's powers over files, and no file of one's own: what is read-only stays so."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


UNABLE = 77
"""Exit code of a child that isn't allowed to set its fault up."""

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE = 0x40000 | 0x4000


def small_disk(folder: str, size: int) -> None:
    """Mount a disk of `size` bytes at a folder, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=777".encode()
    unshared = libc.unshare(_NEW_MOUNTS) == 0 or libc.unshare(_NEW_MOUNTS | _NEW_USER) == 0
    os.makedirs(folder, exist_ok=True)
    if not (
        unshared
        and libc.mount(b"none", b"/", None, _PRIVATE, None) == 0
        and libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options) == 0
    ):
        os._exit(UNABLE)


def full_log() -> None:
    """Send stderr to a device that is always full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


_NEW_NETWORK = 0x40000000


def no_network() -> None:
    """Leave this process without a network, loopback included."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) != 0 and libc.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        os._exit(UNABLE)


def at_most_cpu(seconds: int) -> None:
    """Have the system end this process once it has used so many seconds of a processor more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))


def clock_goes_back() -> None:
    """Let the clock on the wall lose an hour at each look."""
    now = [time.time()]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    time.time = back
