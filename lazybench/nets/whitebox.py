"""Classifiers to attack and to learn from, as pure functions of their parameters.

They take images in [0, 1] without any normalisation and give logits, with weights that are fixed:
dropout is off, and batch norms use the moments that `frozen` measured once, so that the answer to
one image never depends on the others in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import UsageError, nearest
from lazybench.nets.net import Net, Stats
from lazybench.nets.params import Params, mean
from lazybench.nets.resnet import ResNet18, ResNetCifar
from lazybench.tasks import TaskShape

MOMENTS = "moments."
"""Prefix of the names of measured means and variances, which aren't trained."""


class Classifier(Protocol):
    """A network whose answer to an image is a function of its parameters and that image alone.

    Attributes:
        name: name of the architecture.
        instance: shape of one image, (channels, height, width).
        classes: logits of one image.
    """

    name: str
    instance: tuple[int, ...]
    classes: int

    def init(self, generator: torch.Generator) -> Params:
        """Return fresh parameters; those that begin with `moments.` aren't trained."""
        ...

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` for images `[n, *instance]` in [0, 1]."""
        ...

    def train_pass(self, params: Params, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return logits as training has them: dropout on, the batch's moments."""
        ...

    def frozen(self, params: Params, batches: Iterable[Tensor]) -> Params:
        """Return the parameters with the moments of these images in them."""
        ...


class Conv(NamedTuple):
    """A convolution of stride 1 and its activation: `tanh`, `relu` or none."""

    filters: int
    kernel: int
    activation: str = "relu"
    padding: int = 0


class Linear(NamedTuple):
    """A linear layer and its activation."""

    width: int
    activation: str = "relu"


class Pool(NamedTuple):
    """Maxima of squares of 2x2 pixels."""


class Drop(NamedTuple):
    """Dropout, in training alone."""

    share: float


Layer = Conv | Linear | Pool | Drop

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}


class Layered:
    """Convolutions, pooling and linear layers one after the other; the last gives the logits.

    Parameters: `conv{i}.weight|bias`, `linear{i}.weight|bias`, counted from 1, and
    `head.weight|bias`.
    """

    def __init__(
        self, layers: tuple[Layer, ...], *, name: str, instance: tuple[int, ...], classes: int
    ) -> None:
        """Fix the architecture.

        Args:
            layers: all but the last linear layer, in order.
            name: name of the architecture.
            instance: shape of one image.
            classes: logits.

        Raises:
            UsageError: images too small for the layers.
        """
        self.name, self.instance, self.classes = name, tuple(instance), classes
        self._layers = layers
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._steps: list[tuple[Layer, str]] = []
        if len(instance) != 3:
            raise UsageError(f"{name} needs images [channels, height, width], got {list(instance)}")
        channels, height, width = instance
        features = 0
        convolutions = linears = 0
        for layer in layers:
            here = ""
            if isinstance(layer, Conv):
                convolutions += 1
                here = f"conv{convolutions}"
                self._shapes[here] = (layer.filters, channels, layer.kernel, layer.kernel)
                channels, change = layer.filters, 2 * layer.padding - layer.kernel + 1
                height, width = height + change, width + change
            elif isinstance(layer, Pool):
                height, width = height // 2, width // 2
            elif isinstance(layer, Linear):
                linears += 1
                here = f"linear{linears}"
                self._shapes[here] = (layer.width, features or channels * height * width)
                features = layer.width
            if min(height, width) < 1:
                raise UsageError(
                    f"{name} needs larger images than {list(instance)}; choose another network"
                )
            self._steps.append((layer, here))
        self._shapes["head"] = (classes, features or channels * height * width)

    def init(self, generator: torch.Generator) -> Params:
        """Return normal weights of variance gain / inputs and zero offsets.

        The gain is 2 before a ReLU (He et al. 2015, eq. (10)) and 1 elsewhere.
        """
        activation = {
            name: layer.activation
            for layer, name in self._steps
            if isinstance(layer, Conv | Linear)
        }
        params: Params = {}
        for name, shape in self._shapes.items():
            gain = 2.0 if activation.get(name) == "relu" else 1.0
            drawn = torch.randn(shape, generator=generator)
            params[f"{name}.weight"] = drawn.mul_((gain / drawn[0].numel()) ** 0.5)
            params[f"{name}.bias"] = torch.zeros(shape[0])
        return params

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Return logits `[n, classes]`."""
        return self._run(params, x, None)

    def train_pass(self, params: Params, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return logits with dropout, whose masks `generator` draws."""
        return self._run(params, x, generator)

    def frozen(self, params: Params, batches: Iterable[Tensor]) -> Params:
        """Return the parameters as they are: there is no normalisation."""
        return dict(params)

    def _run(self, params: Params, x: Tensor, generator: torch.Generator | None) -> Tensor:
        for layer, name in self._steps:
            if isinstance(layer, Pool):
                x = F.max_pool2d(x, 2)
            elif isinstance(layer, Drop):
                if generator is not None:
                    kept = torch.rand(x.shape, generator=generator) >= layer.share
                    x = x * kept.to(x.device) / (1 - layer.share)
            else:
                weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
                if isinstance(layer, Conv):
                    x = F.conv2d(x, weight, bias, padding=layer.padding)
                else:
                    x = F.linear(x.flatten(1), weight, bias)
                x = _ACTIVATIONS[layer.activation](x)
        return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


class Frozen:
    """A network with batch norms as a classifier: their moments are parameters, measured once.

    `Choice:` the moments are those of whole training images after training, averaged over batches,
    not running averages of training: they belong to the weights that are kept.
    """

    def __init__(self, net: Net, *, name: str, instance: tuple[int, ...], classes: int) -> None:
        """Wrap `net`, which takes images in [0, 1] unprepared."""
        self.name, self.instance, self.classes = name, tuple(instance), classes
        self._net = net

    def init(self, generator: torch.Generator) -> Params:
        """Return fresh parameters; all moments are mean 0, variance 1."""
        params = self._net.init(generator)
        probe = torch.zeros(2, *self.instance)
        stats = tuple(
            (torch.zeros_like(middle), torch.ones_like(variance))
            for middle, variance in self._net.statistics(params, probe)
        )
        return params | _as_params(stats)

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Return logits `[n, classes]`."""
        return self._net(params, x, _as_stats(params))

    def train_pass(self, params: Params, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return logits with the moments of this batch; nothing is drawn."""
        return self._net(params, x)

    def frozen(self, params: Params, batches: Iterable[Tensor]) -> Params:
        """Return the parameters with the moments of the batches, averaged.

        Raises:
            UsageError: no batch.
        """
        with torch.no_grad():
            measured = [_as_params(self._net.statistics(params, x)) for x in batches]
        if not measured:
            raise UsageError(f"{self.name}: got no images to measure the moments of its norms on")
        return params | mean(measured)


def _as_params(stats: Stats) -> Params:
    return {
        f"{MOMENTS}{place}.{part}": value.detach().clone()
        for place, pair in enumerate(stats)
        for part, value in zip(("mean", "variance"), pair, strict=True)
    }


def _as_stats(params: Params) -> Stats:
    many = sum(name.startswith(MOMENTS) for name in params) // 2
    return tuple(
        (params[f"{MOMENTS}{place}.mean"], params[f"{MOMENTS}{place}.variance"])
        for place in range(many)
    )


def _vgg(*widths: int) -> tuple[Layer, ...]:
    """3x3 convolutions that keep the size; 0 means pooling."""
    return tuple(Conv(width, 3, padding=1) if width else Pool() for width in widths)


_LAYERS: Mapping[str, tuple[Layer, ...]] = {
    "lenet5": (Conv(6, 5), Pool(), Conv(16, 5), Pool(), Linear(120), Linear(84)),
    "net1": (Conv(20, 5), Pool(), Conv(50, 5), Pool(), Linear(500)),
    "net2": (Conv(64, 5), Conv(64, 5), Drop(0.25), Linear(128), Drop(0.5)),
    "net3": (Drop(0.2), Conv(64, 8), Conv(128, 6), Conv(128, 5), Drop(0.5)),
    "net4": (Conv(128, 3, "tanh"), Pool(), Conv(64, 3, "tanh"), Pool(), Linear(128)),
    "net6": (
        *(Conv(32, 3), Conv(32, 3), Pool(), Conv(64, 3), Conv(64, 3), Pool()),
        *(Linear(200), Drop(0.5), Linear(200)),
    ),
    "net1-small": (Conv(20, 5), Pool(), Conv(50, 5), Pool(), Linear(100)),
    "net2-small": (Conv(16, 5), Conv(16, 5), Pool(), Linear(64)),
    "net6-small": (
        *(Conv(16, 3), Conv(16, 3), Pool(), Conv(32, 3), Conv(32, 3), Pool()),
        *(Linear(100), Linear(100)),
    ),
    "vgg-small-a": (*_vgg(16, 16, 0, 32, 32, 0, 64, 64, 0), Linear(128)),
    "vgg-small-b": (*_vgg(24, 0, 48, 0, 96, 96, 0), Linear(128)),
    "vgg-small-c": (*_vgg(16, 16, 0, 32, 32, 32, 0, 64, 64, 64, 0), Linear(128), Linear(128)),
}

CLASSIFIERS = (*_LAYERS, "resnet8", "resnet18")
"""Names that `classifier` knows.

LeNet5 and Net1 to Net6 are those of the meta-attack's experiments on MNIST; `-small` ones have
fewer filters and units, Net2's a pooling layer too. The `vgg-small` ones are VGG-like networks for
CIFAR of about 10 million multiplications an image (`Choice:` without batch norm). `resnet8` is
CIFAR's thin one, `resnet18` the one of 64 to 512 filters.
"""


def classifier(name: str, instance: tuple[int, ...], classes: int) -> Classifier:
    """Return the architecture of that name for images of one shape.

    Args:
        name: one of `CLASSIFIERS`.
        instance: (channels, height, width).
        classes: logits.

    Raises:
        UsageError: no such architecture, or images too small for it.
    """
    if name in _LAYERS:
        return Layered(_LAYERS[name], name=name, instance=instance, classes=classes)
    task = TaskShape(classes, 1, 1, instance, "float32")
    if name == "resnet8":
        net: Net = ResNetCifar(task, depth=8)
    elif name == "resnet18":
        net = ResNet18(task)
    else:
        raise UsageError(
            f"no classifier '{name}'; there are {', '.join(CLASSIFIERS)}."
            f"{nearest(name, CLASSIFIERS)}"
        )
    return Frozen(net, name=name, instance=instance, classes=classes)
