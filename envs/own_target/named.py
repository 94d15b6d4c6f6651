"""Targets of other packages by name: `timm:NAME` and `robustbench:NAME`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lazybench.errors import DataUnavailable, UsageError, nearest
from lazybench.plugins import contained, describe


class Normalised(nn.Module):
    """A network that takes images in [0, 1] and normalises them as its authors do."""

    def __init__(self, network: nn.Module, mean: Any, std: Any) -> None:
        """Take over a network, with mean and standard deviation of each channel in [0, 1]."""
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", mean), ("std", std)):
            given = torch.tensor(tuple(values), dtype=torch.float32)
            self.register_buffer(name, given.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` of images `[n, channels, height, width]`."""
        out: Tensor = self.network((x - self.mean) / self.std)
        return out


def named_target(name: str, norm: str) -> nn.Module | None:
    """Return the network of `timm:NAME` or `robustbench:NAME` with its weights; else None.

    It takes images in [0, 1], channels first, and gives logits. `robustbench:NAME` is a network of
    CIFAR-10, trained for the norm of the attack.

    Args:
        name: the target as it was given.
        norm: `l2` or `linf`.

    Raises:
        UsageError: the package isn't installed, or has no such network.
        DataUnavailable: the weights can't be had.
    """
    package, colon, model = name.partition(":")
    if not colon or package not in _LOADERS:
        return None
    load, install = _LOADERS[package]
    try:
        with contained():
            library = importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"target {name} needs the package {package} ({error}): {install}"
        ) from None
    return load(library, model, norm).eval()


def _timm(library: Any, model: str, norm: str) -> nn.Module:
    known = list(library.list_models())
    if model.partition(".")[0] not in known:
        raise UsageError(f"timm has no network '{model}'.{nearest(model, known)}")
    network = _had(f"timm:{model}", lambda: library.create_model(model, pretrained=True))
    config: Mapping[str, Any] = network.pretrained_cfg
    return Normalised(network, config["mean"], config["std"])


def _robustbench(library: Any, model: str, norm: str) -> nn.Module:
    threat = {"l2": "L2", "linf": "Linf"}[norm]
    zoo = importlib.import_module("robustbench.model_zoo.enums")
    models = importlib.import_module("robustbench.model_zoo").model_dicts
    kinds = models[zoo.BenchmarkDataset("cifar10")]
    known = list(kinds[zoo.ThreatModel(threat)])
    if model not in known:
        raise UsageError(
            f"robustbench has no network '{model}' for {threat} on CIFAR-10."
            f"{nearest(model, known)} The norm is that of --norm"
        )

    def made() -> nn.Module:
        network: nn.Module = library.utils.load_model(
            model_name=model, dataset="cifar10", threat_model=threat
        )
        return network

    found: nn.Module = _had(f"robustbench:{model}", made)
    return found


def _had(name: str, made: Callable[[], Any]) -> Any:
    """What a package makes.

    Raises:
        DataUnavailable: it fails.
    """
    try:
        with contained():
            return made()
    except Exception as error:
        raise DataUnavailable(
            f"{name} can't be loaded ({describe(error)}); its weights are downloaded by its "
            "package, which needs a connection the first time"
        ) from error


_LOADERS: Mapping[str, tuple[Callable[[Any, str, str], nn.Module], str]] = {
    "timm": (_timm, "pip install 'lazybench[timm]'"),
    "robustbench": (_robustbench, "pip install robustbench"),
}
