"""Networks as pure functions of their parameters, safe to call from many threads at once.

A net holds no weights and no buffers: `net.init(generator)` makes a parameter set, `net(params, x)`
applies it. Batch norm uses the statistics of the batch it is given, or statistics handed in
(`stats`), and never a running average.
"""

from __future__ import annotations

from lazybench.errors import UsageError, nearest
from lazybench.nets.conv4 import Conv4
from lazybench.nets.mlp import MLP
from lazybench.nets.net import NORM_EPS, Net, Stats
from lazybench.task import TaskShape

__all__ = ["BACKBONES", "MLP", "NORM_EPS", "Conv4", "Net", "Stats", "backbone"]

BACKBONES = ("conv4-64", "conv4-32", "mlp")


def backbone(name: str, task: TaskShape, *, second_order: bool = False) -> Net:
    """Return the network of that name for tasks of one shape.

    `auto` is conv4-64 for one-channel images (Omniglot, glyphs), conv4-32 for colour, else mlp.

    Raises:
        UsageError: no such network, or one that can't take these instances.
    """
    if name == "auto":
        image = len(task.instance) == 3
        name = ("conv4-64" if task.instance[0] == 1 else "conv4-32") if image else "mlp"
    if name == "mlp":
        return MLP(task)
    if name in BACKBONES:
        return Conv4(task, filters=int(name.rpartition("-")[2]), second_order=second_order)
    raise UsageError(
        f"backbone must be auto or one of {', '.join(BACKBONES)}, got '{name}'."
        f"{nearest(name, BACKBONES)}"
    )
