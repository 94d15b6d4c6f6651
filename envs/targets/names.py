"""Named networks to attack and white boxes to learn from: trained once, kept, never shown.

A name is `<data>-<architecture>` (`mnist-net4`). Those of the glyphs come with the package, so that
every machine attacks the same weights; the others are trained by `lazybench targets train NAME` and
lie in the cache folder as safetensors, under the fingerprint of the images they were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.data.folders import cache_root
from lazybench.envs.targets.data import Part, TargetData, target_data
from lazybench.envs.targets.files import Trained, read_nets
from lazybench.errors import DataUnavailable, NotTrained, UsageError, nearest
from lazybench.nets.params import Params, detached
from lazybench.nets.whitebox import Classifier, classifier

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "attack_glyphs.safetensors"
EMBEDDED_SHA256 = "357c375557b096f86926a5b76cc806bb5651ea5c736d33187eb29bf88690ce3f"

NETS: Mapping[str, tuple[str, ...]] = {
    "glyphs": ("net4", "lenet5", "net1-small", "net6-small", "net2-small"),
    "mnist": ("net4", "lenet5", "net1", "net6", "net2-small", "net2", "net3"),
    "cifar10": ("resnet8", "vgg-small-a", "vgg-small-b", "vgg-small-c", "lenet5", "resnet18"),
}
"""Architectures by data set."""


class Whiteboxes(NamedTuple):
    """The networks whose gradients an attacker of one target may learn from.

    Attributes:
        train: names of those of the train split.
        val: name of the one that validation tasks come from.
    """

    train: tuple[str, ...]
    val: str


WHITEBOXES: Mapping[str, Whiteboxes] = {
    "glyphs-net4": Whiteboxes(
        ("glyphs-lenet5", "glyphs-net1-small", "glyphs-net6-small"), "glyphs-net2-small"
    ),
    "mnist-net4": Whiteboxes(("mnist-lenet5", "mnist-net1", "mnist-net6"), "mnist-net2-small"),
    "mnist-lenet5": Whiteboxes(("mnist-net1", "mnist-net4", "mnist-net6"), "mnist-net2-small"),
    **{
        f"cifar10-{target}": Whiteboxes(
            ("cifar10-vgg-small-a", "cifar10-vgg-small-b", "cifar10-vgg-small-c"), "cifar10-lenet5"
        )
        for target in ("resnet8", "resnet18")
    },
}
"""White boxes by target; none of them has the target's architecture.

`Choice:` Net1 and Net6 stand for the paper's Net2 and Net3, which cost ten times as much;
validation is on a small Net2 (a LeNet5 on CIFAR), another architecture than those of train and than
the target.
"""


@dataclass(frozen=True)
class Target:
    """A network behind its answers.

    Attributes:
        predict: from images `[R, channels, height, width]` float32 in [0, 1] to logits
            `[R, classes]`, detached; it holds the weights, which nothing else here does.
        classes: number of classes.
        instance: shape of one image.
        sha256: 64 hex digits over names, shapes and values of the weights.
        accuracy: share of the test images that it classifies correctly.
        name: `<data>-<architecture>`, or what the user called it.
        data: name, fingerprint, preparation and source of its images.
    """

    predict: Callable[[Tensor], Tensor] = field(repr=False)
    classes: int
    instance: tuple[int, ...]
    sha256: str
    accuracy: float
    name: str
    data: Mapping[str, str]


def names() -> tuple[str, ...]:
    """Return the names of all networks, targets and white boxes."""
    return tuple(f"{data}-{net}" for data, nets in NETS.items() for net in nets)


def parted(name: str) -> tuple[str, str]:
    """Return data set and architecture of a name.

    Raises:
        UsageError: no such network.
    """
    data, _, net = name.partition("-")
    if net not in NETS.get(data, ()):
        raise UsageError(
            f"no target '{name}'; there are {', '.join(names())}.{nearest(name, names())}"
        )
    return data, net


def whiteboxes(target: str) -> Whiteboxes:
    """Return the names of a target's white boxes.

    Raises:
        UsageError: it has none.
    """
    if target not in WHITEBOXES:
        raise UsageError(
            f"no white boxes belong to target '{target}'; these have some: {', '.join(WHITEBOXES)}"
        )
    return WHITEBOXES[target]


def load_target(name: str, device: str | torch.device = "cpu") -> Target:
    """Return a named network behind a function from images to logits.

    Args:
        name: one of `names()`.
        device: where it runs.

    Raises:
        UsageError: no such network.
        DataUnavailable: it isn't trained, or its data aren't installed; the message has the
            command.
    """
    opened = target_data(parted(name)[0])
    net, held = load_net(name, opened)
    params = {key: value.to(device) for key, value in held.params.items()}

    def predict(rows: Tensor) -> Tensor:
        with torch.inference_mode():
            return net(params, rows.to(device))

    return Target(
        predict,
        net.classes,
        net.instance,
        held.sha256,
        held.accuracy,
        name,
        {part: getattr(opened, part) for part in ("name", "fingerprint", "prep", "source")},
    )


def attack_images(name: str, split: Part = "test") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a target's images `[N, channels, height, width]` and classes `[N]`, in file order.

    Raises:
        UsageError: no such network or split.
        DataUnavailable: its data aren't installed.
    """
    return target_data(parted(name)[0]).images(split)


def load_net(name: str, opened: TargetData | None = None) -> tuple[Classifier, Trained]:
    """Return a named network's architecture and what was trained, white boxes' too.

    Args:
        name: one of `names()`.
        opened: its data set, where that is open already.

    Raises:
        UsageError: no such network.
        DataUnavailable: it isn't trained, or its data aren't installed; the message has the
            command.
    """
    data, architecture = parted(name)
    opened = opened or target_data(data)
    net = classifier(architecture, opened.instance, opened.classes)
    if data == "glyphs":
        held = embedded_nets()
    else:
        path = place(name, opened.fingerprint)
        if not path.is_file():
            raise untrained([name])
        held = read_nets(path, remedy=f"train it anew with '{_command([name])} --replace'")
    if name not in held or held[name].fingerprint != opened.fingerprint:
        raise DataUnavailable(
            f"{name} was trained on other images than those that are installed; train it with "
            f"'{_command([name])} --replace'"
        )
    _check_shapes(name, net, held[name].params)
    # Copies: nobody may change what the next one loads.
    return net, replace(held[name], params=detached(held[name].params))


def is_trained(name: str, opened: TargetData | None = None) -> bool:
    """True where the network can be loaded, as far as looking for its file tells.

    Args:
        name: one of `names()`.
        opened: its data set, where that is open already.

    Raises:
        UsageError: no such network.
        DataUnavailable: its data aren't installed.
    """
    data = parted(name)[0]
    opened = opened or target_data(data)
    return data == "glyphs" or place(name, opened.fingerprint).is_file()


def place(name: str, fingerprint: str) -> Path:
    """Return the file in the cache folder that a network trained on these images belongs in."""
    return cache_root() / "targets" / f"{name}-{fingerprint[:16]}.safetensors"


def untrained(missing: list[str]) -> NotTrained:
    """Return the error that names the one command that trains what is missing."""
    what = " and ".join(missing)
    return NotTrained(
        f"{what} {'is' if len(missing) == 1 else 'are'} not trained on this machine; run "
        f"'{_command(missing)}'"
    )


def _command(missing: list[str]) -> str:
    return f"lazybench targets train {' '.join(missing)}"


@lru_cache(maxsize=1)
def embedded_nets() -> Mapping[str, Trained]:
    """Return the networks that come with the package, by name.

    Raises:
        DataUnavailable: their file isn't the published one.
    """
    return read_nets(EMBEDDED, remedy="reinstall lazybench", sha256=EMBEDDED_SHA256)


def _check_shapes(name: str, net: Classifier, params: Params) -> None:
    wanted = net.init(torch.Generator().manual_seed(0))
    if {key: value.shape for key, value in params.items()} != {
        key: value.shape for key, value in wanted.items()
    }:
        raise DataUnavailable(
            f"{name} is stored with other layers than its architecture has; train it with "
            f"'{_command([name])} --replace'"
        )
