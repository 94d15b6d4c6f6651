"""Write features of your own network as an .npz that `lazybench data import` takes.

Here the network is the body of a finished run, and the images are the data set it was trained on:

    lazybench run --agent protonet --env cifarfs-5way-5shot
    python examples/own_features.py KEY cifarfs features.npz
    lazybench data import features.npz --name protonet-cifarfs --standardise
    lazybench run --agent protonet --env protonet-cifarfs-5way-5shot

Any other network does as well: what counts are the arrays x, y, group and split at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from lazybench.nets import backbone
from lazybench.registry import open_data
from lazybench.runner.trained import find_run
from lazybench.tasks import TaskShape


def main(run: str, data: str, out: str) -> None:
    """Embed every image of a data set with the body of a run and write the result."""
    trained = find_run(run, Path("runs"))
    state, _ = trained.state("best")
    task = TaskShape(**state["task"])
    net = backbone(trained.identity["config"]["backbone"], task)
    # Batch norm takes the statistics of one fixed batch of training images, for all images alike.
    images = open_data(data)
    train = images.pool("train")
    fixed = np.random.default_rng(0).choice(len(train.x), 500, replace=False)
    stats = net.statistics(state["theta"], net.prepare(torch.from_numpy(train.x[fixed])))
    found: dict[str, list[np.ndarray]] = {"x": [], "y": [], "group": [], "split": []}
    for split in ("train", "val", "test"):
        pool = images.pool(split)
        for name, group, start, count in zip(
            pool.names, pool.groups, pool.start, pool.count, strict=True
        ):
            batch = net.prepare(torch.from_numpy(np.array(pool.x[start : start + count])))
            with torch.inference_mode():
                found["x"].append(net.features(state["theta"], batch, stats).numpy())
            for key, value in (("y", name), ("group", group), ("split", split)):
                found[key].append(np.full(count, value))
    arrays = {key: np.concatenate(parts) for key, parts in found.items()}
    np.savez(out, **arrays)
    sys.stdout.write(f"{out}: {arrays['x'].shape[0]} rows of {arrays['x'].shape[1]} numbers\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
