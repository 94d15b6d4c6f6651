"""What the harness adds to training: loop, episodes, checkpoints and progress against bare updates.

    python benchmarks/harness_overhead.py [--updates 60] [--rounds 3]

The same updates of Lazy Reptile on glyphs-20way-5shot run through the harness (with checkpoints,
without validation) and in a bare loop over batches drawn beforehand, in turn in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from lazybench.harness.fit import Training, fit
from lazybench.harness.judge import open_env
from lazybench.harness.request import make, resolve_env
from lazybench.harness.signals import Signals
from lazybench.harness.watch import Silent
from lazybench.parallel import set_threads
from lazybench.rng import Rng

ENV = "glyphs-20way-5shot"


def main() -> None:
    """Print the overhead of each round and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_threads(None)
    spec, _ = resolve_env(ENV)
    # One validation ends every training; on the smallest task budget it is left out of the time.
    settings = {"iterations": options.updates, "validate_every": 0}
    made = make("lazy_reptile", spec, "smoke", settings)
    judged = open_env(spec, 1, "val")
    plan = made.agent.plan(judged.task)
    train = open_env(spec, plan.meta_batch, "train", **plan.env)
    train.reset(seed=0)
    rng, overheads = Rng(0), []
    for number in range(options.rounds):
        batches = [
            train.reset(options={"trials": np.arange(step, step + 1).repeat(plan.meta_batch)})[0]
            for step in range(options.updates)
        ]
        state = made.agent.init(judged, rng.at("init"))
        before = time.perf_counter()
        for step, batch in enumerate(batches):
            state, _ = made.agent.update(state, batch, rng.at("update", step))
        bare_s = time.perf_counter() - before
        with tempfile.TemporaryDirectory() as folder:
            training = Training(made.agent, spec, "smoke", 0, "cpu", Path(folder))
            watch = _Clock()
            fit(training, watch, Signals())
        overheads.append((watch.wall_s - bare_s) / bare_s)
        print(
            f"round {number + 1}: bare {bare_s:.2f} s, harness {watch.wall_s:.2f} s, "
            f"overhead {100 * overheads[-1]:.1f} %",
            flush=True,
        )
    print(f"median overhead {100 * statistics.median(overheads):.1f} % (goal: under 3 %)")


class _Clock(Silent):
    """Measures from the first update to the last, without the closing validation."""

    wall_s = 0.0

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Start the clock with the training."""
        self._start = time.perf_counter()

    def advance(self, amount: int, values: object) -> None:
        """Read the clock after each update."""
        self.wall_s = time.perf_counter() - self._start


if __name__ == "__main__":
    main()
