"""Median CPU and wall time of `lazybench --help`, which users wait for most often.

Run from the root of a checkout: `python benchmarks/startup.py`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 5
ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (["--help"], ["version"], ["list", "agents"], ["list", "envs"])


def measure(argv: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one `python -m lazybench` with these arguments.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    before = os.times()
    start_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lazybench", *argv], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
    )
    wall_s = time.perf_counter() - start_s
    after = os.times()
    cpu_s = after.children_user + after.children_system
    return cpu_s - before.children_user - before.children_system, wall_s


def main() -> None:
    """Write one line a command: medians over `RUNS` runs after one that fills the file caches."""
    for argv in COMMANDS:
        measure(argv)
        times = [measure(argv) for _ in range(RUNS)]
        cpu_s, wall_s = (statistics.median(column) for column in zip(*times, strict=True))
        sys.stdout.write(f"{' '.join(argv):<14} cpu_s {cpu_s:.2f}  wall_s {wall_s:.2f}\n")


if __name__ == "__main__":
    main()
