"""What meta-steps on a long-tailed stream cost, and whether the stream keeps up with the network.

F is one forward and backward pass of the network on a mini-batch. All ways take turns within one
process on one thread, so that other load falls on all alike; times are CPU time. Run from the root
of a checkout: `python benchmarks/longtail.py`; `--side 0 --backbone resnet32` is the full size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from student_step import interleaved
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lazybench.agents.longtail import learner
from lazybench.agents.longtail.classifier import ClassifierAgent
from lazybench.agents.longtail.meta import MetaWeightAgent
from lazybench.agents.longtail.settings import LongTailConfig, MetaConfig
from lazybench.envs.longtail.env import LongTailEnv
from lazybench.nets.params import leaves
from lazybench.runtime.threads import keep_freed_memory
from lazybench.seeding import Rng

_WEIGHTED = {"class_weights": "effective_number"}
_LAZY = {**_WEIGHTED, "teacher": "lazy", "inner_steps": 5}
META: dict[str, dict[str, Any]] = {
    "l2rw": {"weighting": "l2rw"},
    "meta_weight_net": {"weighting": "meta_weight_net"},
    "two_component": _WEIGHTED,
    "two_component, vjp": {**_WEIGHTED, "products": "vjp"},
    "lazy_two_component": _LAZY,
}


def ways(data: str, shared: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name; a call does it once, for one mini-batch."""
    env = LongTailEnv(data=data, imbalance=100, dev_batch=200, backend="torch")
    batch, _ = env.reset(seed=0, options={"trials": np.array([0])})
    batch["mask"] = torch.as_tensor(batch["mask"])
    plain = ClassifierAgent(LongTailConfig(**shared))
    state = plain.init(env, Rng(0))
    now = learner.current(plain.config, state)
    x = learner.prepared(plain.config, now.net, batch["x"], Rng(1))
    y, point = batch["y"], leaves(state["theta"])

    def passes() -> object:
        loss = now.row_losses(point, x, y).mean()
        return torch.autograd.grad(loss, list(point.values()))

    bare_env = LongTailEnv(data=data, imbalance=100, backend="torch")
    bare_env.reset(seed=0)

    def drawn() -> Any:
        return bare_env.reset(options={"trials": np.array([0])})[0]

    found: dict[str, Callable[[], object]] = {
        "F": passes,
        "bare step": lambda: now.step(state, x, y, None),
        "stream, augmented": lambda: learner.prepared(plain.config, now.net, drawn()["x"], Rng(2)),
        "the two": lambda: plain.update(state, drawn(), Rng(2)),
    }
    for name, settings in META.items():
        agent = MetaWeightAgent(MetaConfig(**{**shared, "late": 0.0, "lr": 1e-3, **settings}))
        fresh, dev = agent.init(env, Rng(0)), agent.config.dev_rows(env.task)
        own = {**batch, "dev_x": batch["dev_x"][:dev], "dev_y": batch["dev_y"][:dev]}

        def meta(agent: Any = agent, fresh: Any = fresh, own: Any = own) -> object:
            return agent.update(fresh, own, Rng(3))

        found[name] = meta
    return found


def main() -> None:
    """Write a table of best times, in ms and in F."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", default="cifar100")
    parser.add_argument("--backbone", default="resnet8")
    parser.add_argument("--side", type=int, default=16, help="pixels; 0 leaves images as they are")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    shared = {"backbone": args.backbone, "side": args.side, "batch": 100}
    taken = interleaved(ways(args.data, shared), args.rounds, time.thread_time)
    best = {name: min(times) for name, times in taken.items()}
    middle = {name: statistics.median(times) for name, times in taken.items()}
    rows = [
        [name, 1e3 * s, s / best["F"], middle[name] / middle["F"], 100 / s]
        for name, s in best.items()
    ]
    headers = ["", "best ms", "F", "F (median)", "images/s"]
    sys.stdout.write(tabulate(rows, headers, floatfmt=("", ".1f", ".2f", ".2f", ".0f")) + "\n")
    share = 100 * best["bare step"] / (best["bare step"] + best["stream, augmented"])
    sys.stdout.write(f"\na step with the stream makes {share:.1f} % of a bare step's images/s\n")


if __name__ == "__main__":
    main()
