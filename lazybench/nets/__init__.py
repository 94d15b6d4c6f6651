"""Networks as pure functions of their parameters, safe to call from many threads at once.

A net holds no weights and no buffers: `net.init(generator)` makes a parameter set, `net(params, x)`
applies it. Batch norm uses the statistics of the batch it is given, or statistics handed in
(`stats`), and never a running average.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import torch

from lazybench.errors import UsageError, nearest
from lazybench.nets.conv4 import Conv4
from lazybench.nets.mlp import MLP
from lazybench.nets.module import ModuleNet, from_factory
from lazybench.nets.net import NORM_EPS, Moments, Net, Stats
from lazybench.nets.resnet import ResNet12
from lazybench.nets.resnet_cifar import ResNetCifar
from lazybench.params import count
from lazybench.precision import precision
from lazybench.registry import load
from lazybench.task import TaskShape

__all__ = [
    "BACKBONES",
    "MLP",
    "NORM_EPS",
    "Conv4",
    "ModuleNet",
    "Moments",
    "Net",
    "ResNet12",
    "ResNetCifar",
    "Stats",
    "backbone",
    "count_parameters",
]

BACKBONES = (
    "conv4-64",
    "conv4-32",
    "resnet12",
    "resnet8",
    "resnet20",
    "resnet32",
    "mlp",
    "linear",
)

_WIDTHS = re.compile(r"mlp(-[1-9][0-9]{0,4}){1,8}")
_CIFAR = re.compile(r"resnet(8|20|32)(?:-([1-9][0-9]*))?")


def backbone(name: str, task: TaskShape, *, second_order: bool = False) -> Net:
    """Return the network of that name for tasks of one shape; the same one for the same arguments.

    `auto` is conv4-64 for one-channel images (Omniglot, glyphs), conv4-32 for colour, mlp-256 for
    vectors with classes (features of another network), mlp for regression.
    `mlp` has hidden layers of 40 and 40, `mlp-256-128` of 256 and 128, `linear` none. `resnet8`,
    `resnet20` and `resnet32` are CIFAR's, of 16 filters first; `resnet8-8` has 8.
    `module:factory` and `file.py:factory` name a function from a `TaskShape` to a `torch.nn.Module`
    that gives features `[n, d]` (see `ModuleNet`), or to a `Net`.

    Args:
        name: as above.
        task: shape of the tasks.
        second_order: gradients will be differentiated again; the network computes the same, but
            may choose another way.

    Raises:
        UsageError: no such network, or one that can't take these instances.
    """
    if ":" in name:
        return _loaded(name, load(name), task)
    return _built_in(name, task, second_order)


def count_parameters(net: Net) -> int:
    """Return the number of parameters that an agent trains, the head included."""
    return count(net.init(torch.Generator().manual_seed(0)))


def _loaded(name: str, factory: Any, task: TaskShape) -> Net:
    net = _from_factory(name, factory, task)
    if precision() == "bf16" and not isinstance(net, ModuleNet):
        raise UsageError(
            f"backbone '{name}' has a forward pass of its own, which runs at fp32, got precision "
            "bf16; let it give a torch.nn.Module, or use --precision fp32"
        )
    return net


_from_factory = lru_cache(maxsize=16)(from_factory)


@lru_cache(maxsize=64)
def _built_in(name: str, task: TaskShape, second_order: bool) -> Net:
    if name == "auto":
        image = len(task.instance) == 3
        vectors = "mlp-256" if task.target == "class" and task.instance != (1,) else "mlp"
        name = ("conv4-64" if task.instance[0] == 1 else "conv4-32") if image else vectors
    if name == "mlp":
        return MLP(task)
    if name == "linear" or _WIDTHS.fullmatch(name):
        return MLP(task, hidden=tuple(int(width) for width in name.split("-")[1:]))
    if name == "resnet12":
        return ResNet12(task)
    cifar = _CIFAR.fullmatch(name)
    if cifar:
        return ResNetCifar(task, depth=int(cifar[1]), width=int(cifar[2] or 16))
    if name in BACKBONES:
        return Conv4(task, filters=int(name.rpartition("-")[2]), second_order=second_order)
    raise UsageError(
        f"backbone must be auto, one of {', '.join(BACKBONES)}, mlp-<width>-<width>... "
        f"(widths below 100,000) or module:factory, got '{name}'.{nearest(name, BACKBONES)}"
    )
