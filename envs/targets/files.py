"""Trained networks on the disk: safetensors with the facts of each network beside its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lazybench.errors import DataUnavailable
from lazybench.files import open_file, write_bytes
from lazybench.nets.params import Params, finite

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


def write_nets(path: Path, nets: Mapping[str, Trained]) -> Path:
    """Return `path`, once it holds these networks and nothing else, whole.

    Raises:
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
    return write_bytes(path, save(tensors, {"schema": SCHEMA, "nets": text}))


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
