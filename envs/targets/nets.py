"""Named networks to attack and white boxes to learn from: trained once, kept, never shown.

A name is `<data>-<architecture>` (`mnist-net4`). Those of the glyphs come with the package, so that
every machine attacks the same weights; `lazybench targets train NAME` trains the others and keeps
them in the cache folder as safetensors, under the fingerprint of their training images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lazybench.data.archives import source_key
from lazybench.data.cache import prepared
from lazybench.data.folders import cache_root, data_root
from lazybench.data.pool import Pool
from lazybench.envs.datasets.cifar import batch, read_cifar
from lazybench.envs.datasets.cifar_whole import Whole, open_cifar
from lazybench.envs.datasets.glyphs import CHARACTERS, open_ten
from lazybench.envs.datasets.image_set import ImageSet, Sources
from lazybench.envs.datasets.mnist import Mnist, open_mnist
from lazybench.errors import DataUnavailable, NotTrained, UsageError, nearest
from lazybench.files import open_file, write_bytes
from lazybench.nets.params import Params, detached, finite
from lazybench.nets.whitebox import Classifier, classifier

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images `[N, channels, height, width]` and their classes `[N]`."""


@dataclass(frozen=True)
class TargetData:
    """A data set for classifiers, opened.

    Attributes:
        name: id of the data set.
        fingerprint: 64 hex digits over the images.
        prep: version of the preparation.
        source: one line on where the images come from.
        classes: number of classes.
        instance: shape of one image, (channels, height, width).
    """

    name: str
    fingerprint: str
    prep: str
    source: str
    classes: int
    instance: tuple[int, ...]
    _images: Callable[[Part], Labelled] = field(repr=False)

    def images(self, part: Part) -> Labelled:
        """Return all images of a part and their classes, in the order of the files.

        Raises:
            UsageError: no such part.
            DataUnavailable: the files have become unreadable.
        """
        if part not in PARTS:
            raise UsageError(f"part must be one of {', '.join(PARTS)}, got '{part}'")
        return self._images(part)


def target_data(name: str) -> TargetData:
    """Return a data set that named targets are trained on.

    Raises:
        UsageError: no such data set.
        DataUnavailable: it isn't installed or is damaged.
    """
    if name not in _OPENERS:
        raise UsageError(
            f"no target is trained on '{name}'; there are {', '.join(_OPENERS)}."
            f"{nearest(name, _OPENERS)}"
        )
    return _OPENERS[name]()


def _glyphs() -> TargetData:
    opened = open_ten()

    def images(part: Part) -> Labelled:
        return opened.x[part], opened.labels(part)

    return TargetData(
        opened.name,
        opened.fingerprint,
        opened.prep,
        opened.source,
        len(CHARACTERS),
        opened.x["test"].shape[1:],
        images,
    )


def _mnist() -> TargetData:
    files = Mnist(data_root())
    return _in_file_order(open_mnist(), files, lambda: {split: y for split, _, y in files.parts()})


def _cifar10() -> TargetData:
    files = Whole(data_root(), "cifar10")
    layout = files.layout

    def labels() -> Mapping[str, NDArray[np.int64]]:
        values = read_cifar(files.find(), layout.folder, layout.files)
        y = [
            batch(value, file, layout.labels).y
            for value, file in zip(values[:-1], layout.files[:-1], strict=True)
        ]
        return {"train": np.concatenate(y[:-1]), "test": y[-1]}

    return _in_file_order(open_cifar("cifar10"), files, labels)


_OPENERS: Mapping[str, Callable[[], TargetData]] = {
    "glyphs": _glyphs,
    "mnist": _mnist,
    "cifar10": _cifar10,
}


def _in_file_order(
    opened: ImageSet, files: Sources, labels: Callable[[], Mapping[str, NDArray[np.int64]]]
) -> TargetData:
    """A set whose pools are sorted by class, and inside a class in the files' order.

    `labels` reads each part's classes in the order of the files; they are kept in the cache.
    """
    key = "\n".join(source_key(path, flat=True) for path in files.find())
    order = prepared(f"{opened.name}-labels", f"{opened.prep}-1", lambda: dict(labels()), key=key)
    pool: Pool = opened.pool("train")
    # `Choice:` a copy whose files are sorted by class is dealt out in turns, one image of each
    # class: the first hundred would all be of one class otherwise. Its preparation says so.
    dealt = bool((np.diff(order["test"]) >= 0).all())

    def images(part: Part) -> Labelled:
        y = np.asarray(order[part])
        x = np.empty((len(y), *pool.shape), np.uint8)
        place = np.argsort(y, kind="stable")
        x[place] = cast(NDArray[np.uint8], opened.pool(part).x)
        if not dealt:
            return x, y
        turn = np.empty(len(y), np.int64)
        turn[place] = np.arange(len(y)) - np.searchsorted(y[place], y[place])
        rows = np.lexsort((y, turn))
        return x[rows], y[rows]

    return TargetData(
        opened.name,
        opened.fingerprint,
        f"{opened.prep}-dealt" if dealt else opened.prep,
        opened.source,
        pool.classes,
        pool.shape,
        images,
    )


SCHEMA = "1"


@dataclass(frozen=True)
class Trained:
    """One trained network.

    Attributes:
        name: `<data>-<architecture>`.
        params: its weights, float32.
        accuracy: share of the test images that it classifies correctly.
        fingerprint: of the images that it was trained on.
        budget: how long it was trained.
        seed: of its first weights and the order of its images.
        epochs: passes over the training images.
    """

    name: str
    params: Params = field(repr=False)
    accuracy: float
    fingerprint: str
    budget: str
    seed: int
    epochs: float

    @property
    def sha256(self) -> str:
        """64 hex digits over names, shapes and values of the weights, however they are packed."""
        digest = hashlib.sha256()
        for name, value in sorted(self.params.items()):
            plain = value.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {plain.dtype} {plain.shape}\n".encode())
            digest.update(plain.tobytes())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return all but the weights."""
        named = (part.name for part in fields(self))
        return {name: getattr(self, name) for name in named if name != "params"}


def write_nets(path: Path, nets: Mapping[str, Trained], *, replace: bool = True) -> Path:
    """Return `path`, once it holds these networks and nothing else, whole.

    Raises:
        FileExistsError: `replace` is false and the file exists already.
        StoreError: the disk is full.
        OutputUnavailable: the folder can't be written.
    """
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, held in nets.items()
        for key, value in held.params.items()
    }
    facts = {name: held.facts() for name, held in nets.items()}
    text = json.dumps(facts, sort_keys=True)
    return write_bytes(path, save(tensors, {"schema": SCHEMA, "nets": text}), replace=replace)


def read_nets(path: Path, *, remedy: str, sha256: str = "") -> dict[str, Trained]:
    """Return the networks of a file, by name.

    Args:
        path: what `write_nets` wrote.
        remedy: what to do where it can't be read, for the message.
        sha256: of the whole file, where it is known.

    Raises:
        DataUnavailable: it can't be read, or isn't whole.
    """
    try:
        with open_file(path, None) as whole:
            if sha256 and hashlib.file_digest(whole, "sha256").hexdigest() != sha256:
                raise ValueError("its sha256 isn't the published one")
        with safe_open(path, framework="pt") as file:
            held = file.metadata() or {}
            if held.get("schema") != SCHEMA:
                raise ValueError(f"schema {held.get('schema')}, not {SCHEMA}")
            facts = json.loads(held["nets"])
            params: dict[str, Params] = {name: {} for name in facts}
            for key in file.keys():  # noqa: SIM118 - the handle isn't a mapping
                name, _, short = key.partition("/")
                params[name][short] = file.get_tensor(key)
        nets = {name: Trained(params=params[name], **facts[name]) for name in facts}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataUnavailable(
            f"{path} isn't a whole file of networks ({error}); {remedy}"
        ) from error
    for name, net in nets.items():
        kinds = {value.dtype for value in net.params.values()}
        if kinds != {torch.float32} or not finite(net.params):
            raise DataUnavailable(
                f"{path} holds weights of {name} that aren't finite float32 numbers; {remedy}"
            )
    return nets


EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "attack_glyphs.safetensors"
EMBEDDED_SHA256 = "357c375557b096f86926a5b76cc806bb5651ea5c736d33187eb29bf88690ce3f"

NETS: Mapping[str, tuple[str, ...]] = {
    "glyphs": ("net4", "lenet5", "net1-small", "net6-small", "net2-small"),
    "mnist": ("net4", "lenet5", "net1", "net6", "net2-small", "net2", "net3"),
    "cifar10": ("resnet8", "vgg-small-a", "vgg-small-b", "vgg-small-c", "lenet5", "resnet18"),
}
"""Architectures by data set."""


EMBEDDED_PGD = EMBEDDED.with_name("attack_glyphs_pgd.safetensors")
EMBEDDED_PGD_SHA256 = "a9dcbca26c14cbf0b18111688b0a426bb9854a887e3ea5ad99bee13f2ffc1aa5"

ADVERSARIAL: Mapping[str, str] = {
    "glyphs-lenet5-pgd": "glyphs-lenet5",
    "glyphs-net4-pgd": "glyphs-net4",
    "mnist-net4-pgd": "mnist-net4",
    "cifar10-resnet8-pgd": "cifar10-resnet8",
}
"""Networks trained on adversarial images, each with the one that has its architecture. The first
comes with the package."""


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
    "glyphs-lenet5": Whiteboxes(
        ("glyphs-net4", "glyphs-net1-small", "glyphs-net6-small"), "glyphs-net2-small"
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
WHITEBOXES = {**WHITEBOXES, **{name: WHITEBOXES[plain] for name, plain in ADVERSARIAL.items()}}
"""White boxes by target; none of them has the target's architecture.

`Choice:` Net1 and Net6 replace the paper's Net2 and Net3, which cost ten times as much;
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
    plain = (f"{data}-{net}" for data, nets in NETS.items() for net in nets)
    return (*plain, *ADVERSARIAL)


def split_name(name: str) -> tuple[str, str]:
    """Return data set and architecture of a name.

    Raises:
        UsageError: no such network.
    """
    data, _, net = ADVERSARIAL.get(name, name).partition("-")
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
    opened = target_data(split_name(name)[0])
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
    return target_data(split_name(name)[0]).images(split)


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
    data, architecture = split_name(name)
    opened = opened or target_data(data)
    net = classifier(architecture, opened.instance, opened.classes)
    if embedded(name):
        held = embedded_nets()
    else:
        path = place(name, opened.fingerprint)
        if not path.is_file():
            raise untrained([name])
        held = read_nets(path, remedy=f"train it again with '{_command([name])} --replace'")
    if name not in held or held[name].fingerprint != opened.fingerprint:
        raise DataUnavailable(
            f"{name} was trained on other images than those that are installed; train it with "
            f"'{_command([name])} --replace'"
        )
    _check_shapes(name, net, held[name].params)
    # Copies, so that a change doesn't affect later loads.
    return net, replace(held[name], params=detached(held[name].params))


def is_trained(name: str, opened: TargetData | None = None) -> bool:
    """True if the network can be loaded, by the presence of its file.

    Args:
        name: one of `names()`.
        opened: its data set, where that is open already.

    Raises:
        UsageError: no such network.
        DataUnavailable: its data aren't installed.
    """
    opened = opened or target_data(split_name(name)[0])
    return embedded(name) or place(name, opened.fingerprint).is_file()


def embedded(name: str) -> bool:
    """Whether a network comes with the package.

    Raises:
        UsageError: no such network.
    """
    return split_name(name)[0] == "glyphs" and (
        name not in ADVERSARIAL or name == "glyphs-lenet5-pgd"
    )


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
    files = {EMBEDDED: EMBEDDED_SHA256, EMBEDDED_PGD: EMBEDDED_PGD_SHA256}
    return {
        name: net
        for path, sha256 in files.items()
        for name, net in read_nets(path, remedy="reinstall lazybench", sha256=sha256).items()
    }


def _check_shapes(name: str, net: Classifier, params: Params) -> None:
    wanted = net.init(torch.Generator().manual_seed(0))
    if {key: value.shape for key, value in params.items()} != {
        key: value.shape for key, value in wanted.items()
    }:
        raise DataUnavailable(
            f"{name} is stored with other layers than its architecture has; train it with "
            f"'{_command([name])} --replace'"
        )
