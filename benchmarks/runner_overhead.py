"""What the runner adds to training: episodes, bookkeeping and checkpoints.

    python benchmarks/runner_overhead.py [--updates 60] [--rounds 3]

Lazy Reptile on glyphs-20way-5shot runs through the runner with checkpoints; the time inside the
agent's `update` is taken in the same run, so that a busy machine slows both sides alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lazybench.runner.callbacks import Callback
from lazybench.runner.request import make, resolve_env
from lazybench.runner.signals import Signals
from lazybench.runner.train import Training, fit
from lazybench.runtime.threads import set_threads

ENV = "glyphs-20way-5shot"


def main() -> None:
    """Print the overhead of each round and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_threads(None)
    spec, _ = resolve_env(ENV)
    settings = {"iterations": options.updates, "validate_every": 0}
    overheads = []
    for number in range(options.rounds):
        timed = _Timed(make("lazy_reptile", spec, "smoke", settings).instance)
        watch = _Clock()
        with tempfile.TemporaryDirectory() as folder:
            fit(Training(timed, spec, "smoke", 0, "cpu", Path(folder)), watch, Signals())
        overheads.append(100 * (watch.wall_s - timed.wall_s) / timed.wall_s)
        print(
            f"round {number + 1}: updates {timed.wall_s:.2f} s, with the runner "
            f"{watch.wall_s:.2f} s, overhead {overheads[-1]:.2f} %",
            flush=True,
        )
    print(f"median overhead {statistics.median(overheads):.2f} % (goal: under 3 %)")


class _Timed:
    """An agent that adds up the time of its updates."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.wall_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def update(self, *arguments: Any) -> Any:
        """Run and time one update."""
        before = time.perf_counter()
        result = self._agent.update(*arguments)
        self.wall_s += time.perf_counter() - before
        return result


class _Clock(Callback):
    """Measures from the first update to the last, without the closing validation."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Start the clock with the training."""
        self._start = time.perf_counter()

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """Read the clock after each update."""
        self.wall_s = time.perf_counter() - self._start


if __name__ == "__main__":
    main()
