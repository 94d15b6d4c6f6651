"""What counting costs: rows a second through an attack's meter against the target's bare forward.

Both ask the same target the same rows in turn within one process on one thread, so that other load
falls on both alike; times are CPU time. `rows` sent belong to distinct images, as in an attack in
lock-step, and most of them are adversarial but too far away, so that distances are measured, too.
Run from the root of a checkout: `python benchmarks/attack.py`. `--attack AGENT` also times a whole
run of an attacker's test (100 images of glyphs-net4-untargeted, all threads, wall time).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from student_step import interleaved
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lazybench import make_env
from lazybench.envs.targets.nets import load_net
from lazybench.runner.evaluate import evaluate_blocks
from lazybench.runner.request import make, resolve_env
from lazybench.runtime.threads import keep_freed_memory
from lazybench.seeding import Rng
from lazybench.tasks import Queries

BATCHES = (32, 128, 512)
IMAGES = 100


def ways(target: str, batch: int) -> dict[str, Callable[[], object]]:
    """What is measured with so many rows a call: the bare forward, the meter, the environment."""
    settings = {"backend": "torch", "mode": "minimise", "query_budget": 10**9, "eps": 1e-3}
    env = make_env(f"{target}-untargeted", num_envs=batch, **settings)
    seen, _ = env.reset(seed=0)
    net, held = load_net(target)
    generator = torch.Generator().manual_seed(0)
    rows = (seen["x"] + 0.4 * torch.randn(seen["x"].shape, generator=generator)).clamp(0, 1)
    owner = torch.arange(batch)
    asked = Queries(rows, owner)

    def bare() -> Tensor:
        with torch.inference_mode():
            return net(held.params, rows)

    return {
        "bare forward": bare,
        "meter": lambda: env.box.query(rows, owner),
        "environment": lambda: env.step(asked),
    }


def whole(agent: str) -> float:
    """Seconds of an untrained attacker's test on 100 images, 1,000 queries each."""
    spec, _ = resolve_env("glyphs-net4-untargeted")
    made = make(agent, spec, "small", {}).instance
    learning = make_env(spec.id, num_envs=1, split="val", backend="torch")
    state = made.init(learning, Rng(0))
    env = make_env(spec.id, num_envs=IMAGES, backend="torch", query_budget=1000)
    begin_s = time.perf_counter()
    list(evaluate_blocks(env, made.policy(state), "success", IMAGES))
    return time.perf_counter() - begin_s


def main() -> None:
    """Write a table of rows a second and the meter's share of the bare forward's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--target", default="glyphs-net4")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--attack", metavar="AGENT", help="time a whole test of this attacker")
    args = parser.parse_args()
    if args.attack:
        taken_s = whole(args.attack)
        sys.stdout.write(f"{args.attack}: {IMAGES} images in {taken_s:.1f} s wall\n")
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for batch in BATCHES:
        taken = interleaved(ways(args.target, batch), args.rounds, time.thread_time)
        best = {name: min(times) for name, times in taken.items()}
        middle = {name: statistics.median(times) for name, times in taken.items()}
        for name, best_s in best.items():
            share = best["bare forward"] / best_s
            rows.append(
                [
                    batch,
                    name,
                    batch / best_s,
                    100 * share,
                    100 * middle["bare forward"] / middle[name],
                ]
            )
    headers = ["rows", "", "rows/s", "% of bare", "% (median)"]
    sys.stdout.write(tabulate(rows, headers, floatfmt=("", "", ".0f", ".1f", ".1f")) + "\n")


if __name__ == "__main__":
    main()
