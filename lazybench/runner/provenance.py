"""Facts about the code and the machine for a record; not part of its key."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from lazybench._version import __version__
from lazybench.records import Code, Machine
from lazybench.runtime.threads import threads, usable_cores


@cache
def code() -> Code:
    """Return package version and, in a checkout, commit and whether tracked files were changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return Code(version=__version__)
    commit = _git(root, "rev-parse", "HEAD")
    # Only the code counts: records and boards change with every run.
    changed = _git(
        root, "status", "--porcelain", "--untracked-files=no", "--", "lazybench", "envs", "agents"
    )
    return Code(version=__version__, commit=commit or None, dirty=bool(changed))


def machine(device: str = "cpu") -> Machine:
    """Return versions and hardware of this process, with the GPU's name if the device is one."""
    return Machine(
        python=platform.python_version(),
        torch=version("torch"),
        numpy=version("numpy"),
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=usable_cores(),
        threads=threads(),
        gpu=torch.cuda.get_device_name(device) if _is_gpu(device) else None,
    )


def reset_peak_memory(device: str = "cpu") -> None:
    """Reset peak memory, if the system can, so that earlier runs of this process don't count."""
    if _is_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process since the last reset; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak_kib = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak_kib) * 1024
    try:
        import resource
    except ImportError:  # not on every system
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def peak_gpu_memory_bytes(device: str) -> int:
    """Return the largest GPU memory of tensors since the last reset; 0 on other devices."""
    return torch.cuda.max_memory_allocated(device) if _is_gpu(device) else 0


def _is_gpu(device: str) -> bool:
    return device.partition(":")[0] == "cuda"


def now() -> str:
    """Return the time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
