"""Checkpoints: a state tree as safetensors and JSON, committed by a manifest that is written last.

Folder `step-N` holds `tensors.safetensors`, `state.json` and `manifest.json` (size and sha256 of
both). A folder without a manifest, or with files that don't match it, isn't a valid checkpoint:
loading uses the newest valid one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lazybench.errors import ContractError, StoreError
from lazybench.files import read_file, refuse_links
from lazybench.records import write_bytes, write_json
from lazybench.runtime.pipes import MOST_BYTES

_KEPT = 2
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")
_NEW, _OLD = ".new-", ".old-"
_MANIFEST, _TENSORS, _TREE = "manifest.json", "tensors.safetensors", "state.json"
_TENSOR = "$tensor"
_TUPLE = "$tuple"
_LENGTH = struct.Struct("<q")


def save(folder: Path, step: int, state: Any) -> None:
    """Write `state` as the checkpoint of `step` below `folder`, and delete all but the newest two.

    Raises:
        ContractError: the state holds something that isn't a dict, list, tensor, number, text or
            None.
        StoreError: the disk is full or failing; earlier checkpoints are untouched.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "state", tensors)
    target, new, old = (folder / f"{name}{step}" for name in ("step-", _NEW, _OLD))
    for path in (target, new, old):
        refuse_links(folder.parent, path)
    # Also those of other steps, which a process that was killed in the middle leaves behind.
    for pattern in (f"{_NEW}*", f"{_OLD}*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
    files = {
        _TENSORS: save_tensors(tensors),
        _TREE: json.dumps(tree).encode(),
    }
    try:
        for name, data in files.items():
            write_bytes(new / name, data)
        manifest = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        }
        write_json(new / _MANIFEST, manifest)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    # A step may be saved again, after its validation: the old files stay until the new ones are
    # there.
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)
    # Later checkpoints must be damaged, or this run would have resumed from them.
    there = steps(folder)
    kept = [each for each in there if each <= step][-_KEPT:]
    for each in set(there) - set(kept):
        shutil.rmtree(folder / f"step-{each}", ignore_errors=True)


def load(folder: Path) -> tuple[int, Any, list[str]] | None:
    """Return step and state of the newest valid checkpoint, with notes on damaged ones.

    None if there is no checkpoint at all.
    """
    notes: list[str] = []
    for step in reversed(steps(folder)):
        try:
            return step, read(folder / f"step-{step}"), notes
        except StoreError as error:
            notes.append(f"{error}; using an earlier one")
    if not notes:
        return None
    return 0, None, [*notes, f"no checkpoint in {folder} is valid: training starts again"]


def to_device(state: Any, device: str) -> Any:
    """Return a state tree with every tensor on `device`; on the CPU the tree itself."""
    return state if device == "cpu" else _changed(state, lambda tensor: tensor.to(device))


def copied(state: Any) -> Any:
    """Return a deep copy of a state tree, which shares no memory with the original."""
    return _changed(state, Tensor.clone)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _changed(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a state tree with each tensor changed."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: _changed(item, change) for key, item in state.items()}
    if isinstance(state, list | tuple):
        items = [_changed(item, change) for item in state]
        return type(state)(*items) if _is_named_tuple(state) else type(state)(items)
    return state


def digest(state: Any) -> tuple[str, int]:
    """Return sha256 and size in bytes of a state in its stored form."""
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "state", tensors)
    data = save_tensors(tensors) + json.dumps(tree).encode()
    return hashlib.sha256(data).hexdigest(), len(data)


def packed(tree: Any) -> bytes:
    """Return a tree of dicts, lists, tensors, numbers, text and None as one message.

    Raises:
        ContractError: it contains something else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(tree, "", tensors)).encode()
    return b"".join((_LENGTH.pack(len(text)), text, save_tensors(tensors)))


def unpacked(message: bytes) -> Any:
    """Return the tree of a message; safe for untrusted messages, which can't run code.

    Raises:
        StoreError: the message isn't a valid tree.
    """
    try:
        (length,) = _LENGTH.unpack_from(message)
        end = _LENGTH.size + length
        if not 0 <= length <= len(message) - _LENGTH.size:
            raise ValueError(f"a text of {length} bytes")
        tree, tensors = json.loads(message[_LENGTH.size : end]), load_tensors(message[end:])
        _need_room(tree, tensors)
        return _unflatten(tree, tensors)
    except (
        SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError,
        struct.error,
    ) as error:  # fmt: skip
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"a message isn't a valid tree ({reason})") from error


def steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint below `folder`, ascending, valid or not."""
    names = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return sorted(int(name) for name in names if _STEP.fullmatch(name))


def read(folder: Path) -> Any:
    """Return the state of one checkpoint folder.

    Raises:
        StoreError: it is incomplete or damaged.
    """
    try:
        manifest = json.loads(read_file(folder / _MANIFEST, 1 << 16))
        sha256 = {name: str(manifest[name]["sha256"]) for name in (_TENSORS, _TREE)}
        most = {name: int(manifest[name]["bytes"]) for name in sha256}
        files = {name: read_file(folder / name, most[name]) for name in sha256}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"checkpoint {folder} is incomplete ({reason})") from error
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != sha256[name]:
            raise StoreError(
                f"checkpoint {folder / name} is damaged: sha256 doesn't match its manifest"
            )
    try:
        return _unflatten(json.loads(files[_TREE]), load_tensors(files[_TENSORS]))
    except (
        SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError
    ) as error:  # fmt: skip
        # The manifest matches the files, so all three weren't written by `save`.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"checkpoint {folder} has no valid state ({reason})") from error


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if path in tensors:
            raise ContractError(
                f"two tensors of an agent's state have the path {path}; rename a key with a '/'"
            )
        flat = value.detach().cpu()
        if any(
            stride == 0 and size > 1 for stride, size in zip(flat.stride(), flat.shape, strict=True)
        ):
            # An expanded tensor: its entries share memory, so it can't be filled on reading.
            flat = flat.contiguous()
        # Strides are stored, since kernels depend on them and a resumed run must use the same ones.
        tensors[path] = flat.clone(memory_format=torch.contiguous_format)
        return {_TENSOR: path, "stride": list(flat.stride())}
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise ContractError(
                f"keys of an agent's state must be text, got {list(value)[:3]} at {path}; use "
                "str(key)"
            )
        return {key: _flatten(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, tuple) and not _is_named_tuple(value):
        return {_TUPLE: [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ContractError(
        f"an agent's state may contain dicts, lists, tensors, numbers, text and None, got "
        f"{type(value).__name__} at {path}; keep other objects on the agent"
    )


def _need_room(tree: Any, tensors: dict[str, Tensor]) -> None:
    """Check that the strides in an untrusted tree don't need an absurd amount of memory.

    Raises:
        ValueError: they do.
    """
    if isinstance(tree, dict) and _TENSOR in tree:
        stored, strides = tensors[tree[_TENSOR]], tree["stride"]
        whole = all(isinstance(each, int) and each >= 0 for each in strides)
        pairs = zip(stored.shape, strides, strict=True)
        span = sum(max(size - 1, 0) * stride for size, stride in pairs) if whole else MOST_BYTES
        if span * stored.element_size() >= MOST_BYTES:
            raise ValueError(f"strides {strides} of a tensor {list(stored.shape)}")
        return
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        _need_room(item, tensors)


def _unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unflatten(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TUPLE in tree:
        return tuple(_unflatten(item, tensors) for item in tree[_TUPLE])
    if _TENSOR in tree:
        stored = tensors[tree[_TENSOR]]
        shaped = torch.empty_strided(stored.shape, tree["stride"], dtype=stored.dtype)
        return shaped.copy_(stored)
    return {key: _unflatten(item, tensors) for key, item in tree.items()}
