"""Targets of attacks: loaded by name, here or in a separate process, with the attacked images."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench import seeding
from lazybench.data.importing.arrays import read_arrays
from lazybench.envs.attack.oracle import Failure, Oracle, Predict, plain
from lazybench.envs.attack.protocol import TargetRule
from lazybench.envs.targets import nets
from lazybench.errors import ContractError, DataUnavailable, LazybenchError, UsageError
from lazybench.plugins import contained, describe
from lazybench.runtime.pipes import Child, Ended
from lazybench.runtime.pipes import serve as answer_a_parent
from lazybench.user_code import load, target_sha256

_SCAN = 256
"""Images that are classified together in the search for right ones."""


class Named(NamedTuple):
    """A target and its metadata.

    Attributes:
        predict: from images to scores; None if the target is in another process.
        classes: None for as many as its first answer has.
        sha256: over its weights, or its source file.
        accuracy: share of the test images that it classifies right; None if unknown.
        data: name, fingerprint, preparation and source of its images; empty if unknown.
    """

    predict: Predict | Any
    classes: int | None
    sha256: str
    accuracy: float | None
    data: Mapping[str, str]


class Pictures(NamedTuple):
    """Images `[N, channels, height, width]` (uint8, or floats in [0, 1]) and labels `[N]`."""

    x: NDArray[Any]
    y: NDArray[np.int64]


def load_named(target: str, device: str = "cpu") -> Named:
    """Return the target of a name, or what `module:factory` or `file.py:factory` makes.

    A named one runs on `device`; a user's own target chooses its own.

    Raises:
        UnknownName: no target of that name.
        UsageError: the factory isn't there or fails.
        DataUnavailable: the target isn't trained on this machine.
    """
    if ":" not in target:
        found = nets.load_target(target, device)
        return Named(found.predict, found.classes, found.sha256, found.accuracy, found.data)
    factory = load(target)
    try:
        with contained():
            predict = factory()
    except Exception as error:
        raise UsageError(f"{target}() failed: {describe(error)}") from error
    if not callable(predict):
        raise UsageError(
            f"{target}() must return a callable from images to scores, got {type(predict).__name__}"
        )
    return Named(predict, None, target_sha256(target) or "", None, {})


def load_pictures(target: str, images: str | None) -> Pictures:
    """Return the images to attack: a named target's test images, or those of an npz file.

    Raises:
        UsageError: a user's own target without images.
        DataUnavailable: the file or the data set can't be read.
    """
    if images is not None:
        return _read(Path(images))
    if ":" in target:
        raise UsageError(
            f"{target} needs images='FILE.npz', with arrays x and y, to be attacked on"
        )
    return Pictures(*nets.attack_images(target, "test"))


def whiteboxes(target: str) -> tuple[str, ...]:
    """Return the names of the networks that the train split gives gradients of; none for others."""
    found = nets.WHITEBOXES.get(target)
    return () if found is None else found.train


class Official:
    """The attacked images: those that the target classifies right, in file order.

    Trial i is the i-th of them.
    """

    def __init__(self, oracle: Oracle, pictures: Pictures) -> None:
        """Classify no image yet, except the first where the number of classes is unknown.

        Raises:
            UsageError: labels that the target doesn't have.
            ContractError: the target failed.
        """
        self._oracle, self._pictures = oracle, pictures
        self._right = np.zeros(0, np.int64)
        self._seen = 0
        if oracle.classes is None:
            oracle(self._images(np.zeros(1, np.int64)))
        most = int(pictures.y.max())
        if not 0 <= int(pictures.y.min()) <= most < self.classes:
            raise UsageError(
                f"labels must lie in [0, {self.classes}), the target's classes, got "
                f"{pictures.y.min()} to {most}"
            )

    @property
    def classes(self) -> int:
        """Classes of the target."""
        return self._oracle.classes or 0

    @property
    def instance(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self._pictures.x.shape[1:])

    @property
    def sha256(self) -> str:
        """64 hex digits over the images, their order and their labels."""
        x, y = self._pictures
        digest = hashlib.sha256(f"lazybench attacked 1 {x.dtype.str} {x.shape}\n".encode())
        digest.update(np.ascontiguousarray(x).data)
        digest.update(y.astype("<i8").tobytes())
        return digest.hexdigest()

    def open(self, trials: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the images of these trials, `[n, …]` float32 in [0, 1], and their labels `[n]`.

        Raises:
            UsageError: more trials than images that the target classifies right.
            ContractError: the target failed.
        """
        most = int(trials.max(initial=-1))
        self._reach(most)
        if len(self._right) <= most:
            raise UsageError(
                f"trial {most} isn't there: the target classifies {len(self._right)} of "
                f"{len(self._pictures.y)} images correctly, so trials go up to "
                f"{len(self._right) - 1}"
            )
        places = self._right[trials]
        return self._images(places), torch.from_numpy(self._pictures.y[places])

    def within(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return trials unchanged where they all exist, else modulo the number of right images.

        Raises:
            UsageError: the target classifies no image right.
            ContractError: the target failed.
        """
        most = int(trials.max(initial=-1))
        self._reach(most)
        if not len(self._right):
            raise UsageError(
                f"the target classifies none of {len(self._pictures.y)} images correctly, so there "
                "is nothing to attack; are images and labels those that it was trained for?"
            )
        return trials if most < len(self._right) else trials % len(self._right)

    def _reach(self, trial: int) -> None:
        while len(self._right) <= trial and self._seen < len(self._pictures.y):
            self._scan()

    def _scan(self) -> None:
        places = np.arange(self._seen, min(self._seen + _SCAN, len(self._pictures.y)))
        top = self._oracle(self._images(places)).argmax(1).cpu().numpy()
        right = places[top == self._pictures.y[places]]
        self._right = np.concatenate([self._right, right])
        self._seen += len(places)

    def _images(self, places: NDArray[np.int64]) -> Tensor:
        x = self._pictures.x[places]
        scale = 255.0 if x.dtype == np.uint8 else 1.0
        return torch.from_numpy((x / np.float32(scale)).astype(np.float32))


def _read(path: Path) -> Pictures:
    try:
        held = read_arrays(path)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"can't read {path} as an npz file of arrays x and y: {error}"
        ) from error
    missing = [name for name in ("x", "y") if name not in held]
    if missing:
        raise DataUnavailable(
            f"can't read {path} as an npz file of arrays x and y: it has no {missing[0]}"
        )
    x, y = held["x"], held["y"]
    if x.ndim != 4 or not len(x) or y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise DataUnavailable(
            f"{path}: x must be images [N, channels, height, width] and y integers [N], got "
            f"{list(x.shape)} and {y.dtype} {list(y.shape)}"
        )
    if x.dtype != np.uint8 and not (x.dtype.kind == "f" and 0 <= x.min() <= x.max() <= 1):
        raise DataUnavailable(f"{path}: x must be uint8, or floats in [0, 1], got {x.dtype}")
    return Pictures(x, y.astype(np.int64))


START_S = 300.0
"""Seconds that a child may take to start and load its target."""

STALL_S = 120.0
"""Seconds that a child may take to answer up to a chunk of rows."""

_ROWS, _SCORES = struct.Struct("<4q"), struct.Struct("<2q")


class ChildTarget:
    """A target behind a pipe; called like the target itself, it returns its scores.

    The child starts at the first use, and again at the next one after it died or stalled.
    """

    def __init__(self, target: str, device: str = "cpu", *, stall_s: float = STALL_S) -> None:
        """Note which target to load, without loading it.

        Args:
            target: name of a target, or `module:factory`.
            device: where a named target runs.
            stall_s: seconds without an answer after which the child is ended.
        """
        self._target, self._device, self._stall_s = target, device, stall_s
        self._child: Child | None = None

    def named(self) -> Named:
        """Return the metadata of the child's target, without the target.

        Raises:
            UsageError: the child can't load it.
            ContractError: the child died or stalled.
        """
        self.close()
        self._child = Child(f"{serve.__module__}:{serve.__name__}")
        wanted = {
            "target": self._target,
            "device": self._device,
            "threads": torch.get_num_threads(),
        }
        reply = json.loads(self._exchange(json.dumps(wanted).encode(), START_S))
        if "error" in reply:
            self.close()
            raise UsageError(f"the target's process can't load '{self._target}': {reply['error']}")
        return Named(None, **reply)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the target's scores `[R, classes]` on the processor.

        Raises:
            ContractError: the target failed; or its process died or stalled.
        """
        if self._child is None:
            self.named()
        values = rows.detach().to("cpu", torch.float32).contiguous().numpy()
        reply = self._exchange(_ROWS.pack(*values.shape) + values.tobytes(), self._stall_s)
        if reply[:1] == b"-":
            raise ContractError(reply[1:].decode("utf-8", "replace"))
        shape = _SCORES.unpack_from(reply, 1)
        found = np.frombuffer(reply, np.float32, offset=1 + _SCORES.size).reshape(shape)
        return torch.from_numpy(found.copy())

    def close(self) -> None:
        """End the child; it starts again at the next use."""
        if self._child is not None:
            self._child.close()
        self._child = None

    def _exchange(self, message: bytes, limit_s: float) -> bytes:
        if self._child is None:
            raise ContractError("the target's process isn't running; query again to start it")
        try:
            return self._child.exchange(message, limit_s)
        except Ended as error:
            self._child = None
            raise ContractError(
                f"the target's process {error}; the queries stay charged"
            ) from error


def serve() -> NoReturn:
    """Answer one parent until it closes the pipe, then exit: what a child process runs."""
    answer_a_parent(_Served)


class _Served:
    """Answers the first message with what its target is, and all others by the target."""

    def __init__(self) -> None:
        self._predict: Any = None

    def __call__(self, message: bytes) -> bytes:
        if self._predict is None:
            return self._loaded(json.loads(message))
        shape = _ROWS.unpack_from(message)
        values = np.frombuffer(message, np.float32, offset=_ROWS.size).reshape(shape)
        return _reply(self._predict, torch.from_numpy(values.copy()))

    def _loaded(self, wanted: Mapping[str, Any]) -> bytes:
        torch.set_num_threads(wanted["threads"])
        try:
            found = load_named(wanted["target"], wanted["device"])
        except LazybenchError as error:
            return json.dumps({"error": str(error)}).encode()
        self._predict = found.predict
        facts = {**found._asdict(), "data": dict(found.data)}
        del facts["predict"]
        return json.dumps(facts).encode()


def _reply(predict: Any, rows: Tensor) -> bytes:
    try:
        with torch.no_grad():
            scores = plain(predict(rows))
        if scores.ndim != 2 or not scores.is_floating_point():
            raise ContractError(
                f"scores must be floats [rows, classes], got {scores.dtype} {list(scores.shape)}"
            )
    except Exception as error:
        return f"-{Failure(error).why}".encode()
    values = scores.to("cpu", torch.float32).contiguous().numpy()
    return b"+" + _SCORES.pack(*values.shape) + values.tobytes()


class OpenTarget:
    """A target and the images that it is attacked on.

    Attributes:
        name: of the target.
        classes: of the target.
        instance: shape of one image.
        facts: `target_sha256` and `target_accuracy`, for the protocol.
        data: name, fingerprint, preparation and source of the images; the fingerprint is over the
            target's weights as well, since both together are the problem.
    """

    def __init__(self, name: str, pictures: Pictures, *, strict: bool, device: str) -> None:
        """Load the target, in another process where `strict`.

        Raises:
            UsageError: no such target, or labels that it doesn't have.
            DataUnavailable: it isn't trained on this machine.
            ContractError: it fails on the first image.
        """
        self.name = name
        self._child = ChildTarget(name, device) if strict else None
        named = load_named(name, device) if self._child is None else self._child.named()
        oracle = Oracle(self._child or named.predict, named.classes)
        official = Official(oracle, pictures)
        self.classes, self.instance = official.classes, official.instance
        self.facts = {"target_sha256": named.sha256, "target_accuracy": named.accuracy}
        known = f"accuracy {named.accuracy:.2%}, " if named.accuracy is not None else ""
        about = f"target {name} ({known}sha256 {named.sha256[:12]})"
        facts = named.data or {
            "name": "images",
            "prep": "as given",
            "source": "images of one's own",
        }
        both = f"{official.sha256} {named.sha256}"
        self.data = {
            **facts,
            "fingerprint": hashlib.sha256(both.encode()).hexdigest(),
            "source": f"{facts['source']}; {about}",
        }
        self._open: tuple[Oracle, Official] | None = (oracle, official)

    @property
    def oracle(self) -> Oracle:
        """The oracle that answers rows.

        Raises:
            UsageError: the target was closed.
        """
        return self._opened()[0]

    def open(
        self, trials: NDArray[np.int64], rule: TargetRule | None, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the images of these trials, their labels, and the classes to reach by `rule`.

        Raises:
            UsageError: more trials than images that the target classifies right.
            ContractError: the target failed.
        """
        x, label = self._opened()[1].open(trials)
        if rule is None:
            return x.to(device), label.to(device), None
        offset: Any = 1
        if rule == "random":
            keys = seeding.mix("attack goal 1", trials)
            offset = torch.from_numpy(1 + seeding.integers(keys, self.classes - 1))
        return x.to(device), label.to(device), ((label + offset) % self.classes).to(device)

    def within(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return trials as `Official.within` maps them.

        Raises:
            UsageError: the target classifies no image right.
            ContractError: the target failed.
        """
        return self._opened()[1].within(trials)

    def close(self) -> None:
        """Release the network, and end its process; its metadata stays."""
        self._open = None
        if self._child is not None:
            self._child.close()

    def _opened(self) -> tuple[Oracle, Official]:
        if self._open is None:
            raise UsageError("this environment's target is closed; make another environment")
        return self._open
