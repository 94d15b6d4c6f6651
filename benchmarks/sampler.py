"""Episodes a second of the native vector environment, against a sampler that works image by image.

Run from the root of a checkout: `python benchmarks/sampler.py`. Both sides take turns in one
process on one thread, so that a busy machine slows both; compare the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lazybench import registry
from lazybench.data.pool import Pool
from lazybench.envs.fewshot.env import FewShotVectorEnv

QUERIES = 15


def image_by_image(
    pool: Pool, way: int, shot: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one episode as most data loaders make it: index, to float tensor, stack.

    Support images `[way * shot, C, H, W]` float32 in [0, 1], their labels, then the query set's.
    """
    images: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    for label, chosen in enumerate(rng.choice(pool.classes, way, replace=False)):
        instances = rng.choice(int(pool.count[chosen]), shot + QUERIES, replace=False)
        for place, instance in enumerate(instances):
            part = int(place >= shot)
            image = np.array(pool.x[pool.start[chosen] + instance])
            images[part].append(torch.from_numpy(image).float().div_(255))
            labels[part].append(label)
    return (
        torch.stack(images[0]),
        torch.tensor(labels[0]),
        torch.stack(images[1]),
        torch.tensor(labels[1]),
    )


def rate(draw: Callable[[], object], episodes: int, least_s: float) -> float:
    """Return episodes a second of `draw`, which makes `episodes` a call, over `least_s` or more."""
    made, start_s = 0, time.perf_counter()
    while (wall_s := time.perf_counter() - start_s) < least_s:
        draw()
        made += episodes
    return made / wall_s


def main() -> None:
    """Write one table: median rates, and the median and range of the rounds' ratios."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", default="glyphs", help="data set of classes (default: glyphs)")
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--block", type=int, default=16, help="episodes a block (default: 16)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each round")
    chosen = parser.parse_args()
    torch.set_num_threads(1)

    pool: Pool = registry.open_data(chosen.data).pool("train")
    envs = FewShotVectorEnv(
        chosen.block,
        data=chosen.data,
        way=chosen.way,
        shot=chosen.shot,
        split="train",
        backend="torch",
    )
    rng = np.random.default_rng(0)
    envs.reset(seed=0)

    def one() -> object:
        return image_by_image(pool, chosen.way, chosen.shot, rng)

    def normalised() -> object:
        observation, _ = envs.reset()
        return [observation[name].float().div_(255) for name in ("support_x", "query_x")]

    sides: dict[str, tuple[Callable[[], object], int]] = {
        "image by image, float32": (one, 1),
        "FewShotVectorEnv, uint8": (envs.reset, chosen.block),
        "FewShotVectorEnv, then float32": (normalised, chosen.block),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for draw, episodes in sides.values():
        rate(draw, episodes, 0.1)
    for _ in range(chosen.rounds):
        for name, (draw, episodes) in sides.items():
            rates[name].append(rate(draw, episodes, chosen.seconds))

    base = rates["image by image, float32"]
    rows = []
    for name, measured in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(measured, base, strict=True)]
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        rows.append((name, statistics.median(measured), statistics.median(ratios), spread))
    table = tabulate(
        rows, headers=("sampler", "episodes/s", "ratio", "rounds"), floatfmt=("", ".0f", ".1f")
    )
    sys.stdout.write(
        f"{chosen.data} {chosen.way}-way {chosen.shot}-shot, {QUERIES} query rows a class, "
        f"blocks of {chosen.block}, one thread, {chosen.rounds} rounds\n{table}\n"
    )


if __name__ == "__main__":
    main()
