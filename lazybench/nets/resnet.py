"""Residual networks: few-shot papers' ResNet-12, thin ones for CIFAR, and ResNet-18 for CIFAR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.net import (
    NORM_EPS,
    Moments,
    Pick,
    Stats,
    batch_norm,
    channels_last,
    head,
    head_outputs,
    in_turn,
    measured,
    need_images,
    scaled,
)
from lazybench.nets.params import Params
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape

CIFAR_EPS = 1e-5
"""Added to the variance in batch norm, as in the code that long-tailed papers share."""

_SLOPE = 0.1
_LAYERS = (1, 2, 3)
_STAGES = 3
_RESNET18_WIDTHS = (64, 128, 256, 512)
_RESNET18_BLOCKS = 2

_Norm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A batch norm, from its input, scale and offset to its output."""


class ResNet(ABC):
    """Base class of residual networks: convolutions with batch norm, then one linear layer.

    Attributes:
        name: as in `backbone`.
        channels: of the images.
        width: features of an instance.
        outputs: of the last layer.
        eps: added to the variance in batch norm.
    """

    eps = CIFAR_EPS

    def __init__(self, task: TaskShape, name: str, width: int) -> None:
        """Fix the architecture for tasks of one shape.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        need_images(task, name)
        self.name = name
        self.channels = task.instance[0]
        self.width = width
        self.outputs = task.outputs
        self._target_shape = task.target_shape

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        return head_outputs(params, self.features(params, x, stats), self._target_shape)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, width]`."""
        return self._body(params, x, self._norm(in_turn(stats)))

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`."""
        return measured(lambda pick: self._body(params, x, self._norm(pick)))

    def _norm(self, pick: Pick) -> _Norm:
        """Return a batch norm by the moments that `pick` gives for its input."""
        return lambda x, scale, offset: batch_norm(x, scale, offset, pick(x), self.eps)

    @abstractmethod
    def _body(self, params: Params, x: Tensor, norm: _Norm) -> Tensor:
        """Return features `[n, width]`, each convolution followed by `norm`."""


def _convolve(params: Params, norm: _Norm, x: Tensor, name: str, stride: int = 1) -> Tensor:
    """Return the output of a convolution and its batch norm."""
    weight = params[f"conv{name}.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    return norm(x, params[f"norm{name}.weight"], params[f"norm{name}.bias"])


class ResNet12(ResNet):
    """Four residual blocks of three 3x3 convolutions, global average pooling, a linear layer.

    Each convolution is followed by batch norm and, but for the block's last, leaky ReLU (0.1). The
    block's input joins through a 1x1 convolution with batch norm, then come leaky ReLU and 2x2
    max-pool with floor. Widths are 64, 160, 320, 640: 12.42 million parameters on colour images,
    without the head.

    Parameters: `conv{block}.{1|2|3|skip}.weight`, `norm{block}.{1|2|3|skip}.weight|bias`,
    `head.weight|bias`. Statistics are in the order 1, 2, 3, skip within a block.

    Pooling comes before the last leaky ReLU: both are monotone, so the result is the same, and a
    quarter of the entries is left.

    `Choice:` no DropBlock. It needs random numbers in the forward pass, and half of the papers that
    train this network do without.

    Reference: Oreshkin et al. 2018 (TADAM); Lee et al. 2019 (MetaOptNet), section 4.1.
    """

    eps = NORM_EPS

    def __init__(
        self, task: TaskShape, *, widths: tuple[int, int, int, int] = (64, 160, 320, 640)
    ) -> None:
        """Fix the architecture for tasks of one shape.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        super().__init__(task, "resnet12", widths[-1])
        self.widths = widths

    def init(self, generator: torch.Generator) -> Params:
        """Return He-normal weights (by outputs, as MetaOptNet has it), unit scales, zero offsets.

        The head is Glorot-uniform, as in the other networks.
        """
        params: Params = {}
        inputs = self.channels
        for block, width in enumerate(self.widths, 1):
            shapes = [(width, inputs, 3, 3), (width, width, 3, 3), (width, width, 3, 3)]
            for layer, shape in zip(
                (*_LAYERS, "skip"), [*shapes, (width, inputs, 1, 1)], strict=True
            ):
                spread = (2.0 / (width * shape[2] * shape[3])) ** 0.5
                weight = torch.randn(shape, generator=generator).mul_(spread)
                params[f"conv{block}.{layer}.weight"] = channels_last(weight)
                params[f"norm{block}.{layer}.weight"] = torch.ones(width)
                params[f"norm{block}.{layer}.bias"] = torch.zeros(width)
            inputs = width
        return params | head(self.width, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 images in [0, 1], channels last."""
        return channels_last(scaled(x))

    def _body(self, params: Params, x: Tensor, norm: _Norm) -> Tensor:
        x = channels_last(x)
        for block in range(1, len(self.widths) + 1):
            out = x
            for layer in _LAYERS:
                out = _convolve(params, norm, out, f"{block}.{layer}")
                out = F.leaky_relu_(out, _SLOPE) if layer < _LAYERS[-1] else out
            out = out + _convolve(params, norm, x, f"{block}.skip")
            x = F.leaky_relu_(F.max_pool2d(out, 2), _SLOPE)
        return x.mean((2, 3))


class ResNetCifar(ResNet):
    """A 3x3 convolution, three stages of residual blocks, global average pooling, a linear layer.

    A block is two 3x3 convolutions with batch norm. Stages have `width`, 2 and 4 times `width`
    filters; the first block of the second and the third halves the image. Shortcuts have no
    parameters (option A): every other pixel, then zeros for the new channels. 6n + 2 layers: 8, 20
    and 32 have 1, 3 and 5 blocks a stage; resnet32 has 464,154 parameters at 10 classes.

    Parameters: `conv0.weight`, `conv{stage}.{block}.{1|2}.weight`, `norm0.weight|bias`,
    `norm{stage}.{block}.{1|2}.weight|bias`, `head.weight|bias`.

    `Choice:` images are moved to (x - 1/2) / (1/4), whatever the data set: each data set's own
    means and deviations are within a few hundredths of that, and the first batch norm takes the
    rest away.

    Reference: He et al. 2016, section 4.2; initialised as in Cao et al. 2019's code.
    """

    def __init__(self, task: TaskShape, *, depth: int = 32, width: int = 16) -> None:
        """Fix the architecture for tasks of one shape.

        Args:
            task: shape of the tasks.
            depth: layers, 6n + 2.
            width: filters of the first stage.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        name = f"resnet{depth}" if width == 16 else f"resnet{depth}-{width}"
        self.widths = tuple(width * 2**stage for stage in range(_STAGES))
        super().__init__(task, name, self.widths[-1])
        self.blocks = (depth - 2) // 6

    def init(self, generator: torch.Generator) -> Params:
        """Return He-normal weights by inputs, unit norm scales and zero offsets."""
        params: Params = {}
        fan = self.channels
        for name, width in self._layers():
            params[f"conv{name}.weight"] = channels_last(he_normal((width, fan, 3, 3), generator))
            params[f"norm{name}.weight"] = torch.ones(width)
            params[f"norm{name}.bias"] = torch.zeros(width)
            fan = width
        params["head.weight"] = he_normal((self.outputs, self.width), generator)
        params["head.bias"] = torch.zeros(self.outputs)
        return params

    def prepare(self, x: Tensor) -> Tensor:
        """Return images of about mean 0 and variance 1, float32 unless wider, channels last."""
        return channels_last((scaled(x) - 0.5) * 4.0)

    @at_precision
    def train_pass(self, params: Params, x: Tensor) -> tuple[Tensor, Stats]:
        """Return logits with the batch's statistics, and these for running averages.

        See `train_features`.
        """
        features, stats = self.train_features(params, x)
        return head_outputs(params, features, self._target_shape), stats

    @at_precision
    def train_features(self, params: Params, x: Tensor) -> tuple[Tensor, Stats]:
        """Return features `[n, 4 * width]` with the batch's statistics, and these.

        The statistics are means and *unbiased* variances, as torch's running averages take them,
        without a graph. They cost no extra pass.
        """
        by_layer: list[Moments] = []

        def norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
            mean, variance = torch.zeros_like(scale), torch.zeros_like(scale)
            by_layer.append((mean, variance))
            return F.batch_norm(
                x, mean, variance, scale, offset, training=True, momentum=1.0, eps=CIFAR_EPS
            )

        return self._body(params, x, norm), tuple(by_layer)

    def _layers(self) -> list[tuple[str, int]]:
        """Names and filters of the convolutions, in the order in which they run."""
        names = [("0", self.widths[0])]
        for stage, width in enumerate(self.widths, 1):
            for block in range(1, self.blocks + 1):
                names += [(f"{stage}.{block}.1", width), (f"{stage}.{block}.2", width)]
        return names

    def _body(self, params: Params, x: Tensor, norm: _Norm) -> Tensor:
        x = F.relu_(_convolve(params, norm, channels_last(x), "0"))
        for stage, width in enumerate(self.widths, 1):
            for block in range(1, self.blocks + 1):
                halves = stage > 1 and block == 1
                out = F.relu_(_convolve(params, norm, x, f"{stage}.{block}.1", 2 if halves else 1))
                out = _convolve(params, norm, out, f"{stage}.{block}.2")
                x = F.relu_(out + (_shortcut(x, width) if halves else x))
        return x.mean((2, 3))


class ResNet18(ResNet):
    """A 3x3 convolution, four stages of two residual blocks, global average pooling, a head.

    Stages have 64, 128, 256 and 512 filters; the first block of each but the first halves the image
    and has a shortcut of a 1x1 convolution with batch norm (option B). No first pooling: images of
    32x32 keep their size in the first stage. 11,173,962 parameters at 10 classes.

    Parameters: `conv0.weight`, `conv{stage}.{block}.{1|2|3}.weight`, `norm…weight|bias` alike (3 is
    the shortcut), `head.weight|bias`.

    Reference: He et al. 2016, with the widths of the first table and the input layer of its CIFAR
        experiments, as attacks on CIFAR-10 use it.
    """

    def __init__(self, task: TaskShape) -> None:
        """Fix the architecture for tasks of one shape.

        Raises:
            UsageError: instances that aren't images of at least 16x16.
        """
        super().__init__(task, "resnet18", _RESNET18_WIDTHS[-1])

    def init(self, generator: torch.Generator) -> Params:
        """Return He-normal weights by inputs, unit norm scales and zero offsets."""
        params: Params = {}

        def layer(name: str, inputs: int, width: int, kernel: int) -> None:
            shape = (width, inputs, kernel, kernel)
            params[f"conv{name}.weight"] = he_normal(shape, generator)
            params[f"norm{name}.weight"] = torch.ones(width)
            params[f"norm{name}.bias"] = torch.zeros(width)

        layer("0", self.channels, _RESNET18_WIDTHS[0], 3)
        inputs = _RESNET18_WIDTHS[0]
        for stage, width in enumerate(_RESNET18_WIDTHS, 1):
            for block in range(1, _RESNET18_BLOCKS + 1):
                layer(f"{stage}.{block}.1", inputs, width, 3)
                layer(f"{stage}.{block}.2", width, width, 3)
                if inputs != width:
                    layer(f"{stage}.{block}.3", inputs, width, 1)
                inputs = width
        params["head.weight"] = he_normal((self.outputs, self.width), generator)
        params["head.bias"] = torch.zeros(self.outputs)
        return params

    def prepare(self, x: Tensor) -> Tensor:
        """Return images in [0, 1]; the first batch norm does the rest."""
        return scaled(x)

    def _body(self, params: Params, x: Tensor, norm: _Norm) -> Tensor:
        x = F.relu(_convolve(params, norm, x, "0"))
        for stage in range(1, len(_RESNET18_WIDTHS) + 1):
            for block in range(1, _RESNET18_BLOCKS + 1):
                halves = stage > 1 and block == 1
                stride = 2 if halves else 1
                out = F.relu(_convolve(params, norm, x, f"{stage}.{block}.1", stride))
                out = _convolve(params, norm, out, f"{stage}.{block}.2")
                if halves:
                    x = _convolve(params, norm, x, f"{stage}.{block}.3", stride)
                x = F.relu(out + x)
        return x.mean((2, 3))


def _shortcut(x: Tensor, width: int) -> Tensor:
    """Every other pixel, in the middle of `width` channels (option A)."""
    before = (width - x.shape[1]) // 2
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, width - x.shape[1] - before))


def he_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal weights of variance 2 / inputs.

    Reference: He et al. 2015, eq. (10).
    """
    fan = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
    return torch.randn(shape, generator=generator).mul_((2.0 / fan) ** 0.5)
