"""Networks as pure functions of their parameters, safe to call from many threads at once.

A net holds no weights and no buffers: `net.init(generator)` makes a parameter set, `net(params, x)`
applies it. Batch norm uses the statistics of the batch it is given, or statistics handed in
(`stats`), and never a running average.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from lazybench.errors import UsageError, nearest
from lazybench.nets.attacker import EncoderDecoder
from lazybench.nets.conv4 import Conv4
from lazybench.nets.module import (
    PLAIN,
    GivenNet,
    ModuleNet,
    Passes,
    from_factory,
    is_pretrained,
    need_plain,
    training_passes,
)
from lazybench.nets.net import MLP, NORM_EPS, Moments, Net, Stats
from lazybench.nets.params import count
from lazybench.nets.pretrained import NAMES as PRETRAINED
from lazybench.nets.pretrained import factory_of
from lazybench.nets.resnet import ResNet12, ResNetCifar
from lazybench.runtime.precision import precision
from lazybench.tasks import TaskShape
from lazybench.user_code import declared, load

__all__ = [
    "BACKBONES",
    "MLP",
    "NORM_EPS",
    "Conv4",
    "ModuleNet",
    "Moments",
    "Net",
    "Passes",
    "ResNet12",
    "ResNetCifar",
    "Stats",
    "backbone",
    "count_parameters",
    "forget_loaded",
    "published_source",
    "source_sha256",
    "training_passes",
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

_PUBLISHED: Mapping[str, tuple[Callable[[TaskShape], Net], str]] = {
    "lazybench.nets.attacker:EncoderDecoder": (
        EncoderDecoder,
        "e0f623905fe7def63659aaee4ac9ba695d1b30c157ae276ae8cad8bf45728954",
    ),
}
"""Networks of the package that published records name by `module:class`, each with the hash of its
source in their keys; both stay, even if a network is moved or formatted.
"""

_WIDTHS = re.compile(r"mlp(-[1-9][0-9]{0,4}){1,8}")
_CIFAR = re.compile(r"resnet(8|20|32)(?:-([1-9][0-9]*))?")


def backbone(
    name: str, task: TaskShape, *, second_order: bool = False, passes: Passes = PLAIN
) -> Net:
    """Return the network of a name for tasks of one shape; equal arguments return the same object.

    `auto` is conv4-64 for one-channel images (Omniglot, glyphs), conv4-32 for colour, mlp-256 for
    vectors with classes (features of another network), mlp for regression.
    `mlp` has hidden layers of 40 and 40, `mlp-256-128` of 256 and 128, `linear` none. `resnet8`,
    `resnet20` and `resnet32` are CIFAR's, of 16 filters first; `resnet8-8` has 8.
    `module:factory` and `file.py:factory` name a function from a `TaskShape` to a `torch.nn.Module`
    that returns features `[n, d]` (see `ModuleNet`), or to a `Net`. A factory's file may set
    `TRAIN_MODE = False` to keep its module in evaluation mode during training. Names of
    pre-trained backbones (`effnet-lite0`, `timm:resnet18`) are in `lazybench.nets.pretrained`.

    Args:
        name: as above.
        task: shape of the tasks.
        second_order: whether gradients will be differentiated again; it only affects speed.
        passes: what of a module is trained, and how it runs; built-in networks take the default.

    Raises:
        UsageError: no such network, or one that can't take these instances.
    """
    if passes.size and not is_pretrained(name):
        raise UsageError(
            f"size is for pre-trained backbones by name ({', '.join(PRETRAINED)}), got backbone "
            f"'{name}' and size={passes.size}; leave size out, or resize in your own factory"
        )
    if is_pretrained(name):
        return _loaded(name, factory_of(name, passes.size), task, second_order, passes)
    if ":" in name and name not in _PUBLISHED:
        return _loaded(name, load(name), task, second_order, passes)
    need_plain(name, passes)
    if name in _PUBLISHED:
        return _of_place(name, task)
    return _built_in(name, task, second_order)


def source_sha256(net: Net) -> str | None:
    """Return the hash of a network's source for a key; None for the package's networks.

    For a user's network it is the sha256 of the code, and of the state that doesn't depend on the
    seed (such as pre-trained weights).

    Raises:
        UsageError: the factory returns different parameters for the same seed.
    """
    if isinstance(net, ModuleNet | GivenNet):
        return net.source_sha256
    return published_source(net.name)


def published_source(name: str) -> str | None:
    """Return the pinned source hash of one of the package's networks; None if it has none."""
    return _PUBLISHED[name][1] if name in _PUBLISHED else None


def forget_loaded() -> None:
    """Forget users' networks, so that they are built again from files that may have changed."""
    _from_factory.cache_clear()


def count_parameters(net: Net) -> int:
    """Return the number of parameters that an agent trains, the head included."""
    return count(net.init(torch.Generator().manual_seed(0)))


@lru_cache(maxsize=64)
def _of_place(name: str, task: TaskShape) -> Net:
    net = _PUBLISHED[name][0](task)
    net.name = name
    return net


def _loaded(name: str, factory: Any, task: TaskShape, second_order: bool, passes: Passes) -> Net:
    net = _from_factory(name, factory, task, second_order, passes)
    if precision() == "bf16" and not isinstance(net, ModuleNet):
        raise UsageError(
            f"backbone '{name}' isn't a torch.nn.Module: its forward pass runs at fp32, got "
            "precision bf16; let it give a torch.nn.Module, or use --precision fp32"
        )
    return net


@lru_cache(maxsize=16)
def _from_factory(
    name: str, factory: Any, task: TaskShape, second_order: bool, passes: Passes
) -> Net:
    train_mode = True if is_pretrained(name) else declared(name, "TRAIN_MODE", True)
    if not isinstance(train_mode, bool):
        raise UsageError(
            f"TRAIN_MODE in the file of '{name}' must be True or False, got {train_mode!r}"
        )
    return from_factory(
        name, factory, task, train_mode=train_mode, second_order=second_order, passes=passes
    )


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
        f"(widths below 100,000), a pre-trained one ({', '.join(PRETRAINED)}) or module:factory, "
        f"got '{name}'.{nearest(name, (*BACKBONES, *PRETRAINED))}"
    )
