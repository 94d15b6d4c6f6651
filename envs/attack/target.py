"""A target that is open for attacks: its oracle, its images, and what may be told of it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench import seeding
from lazybench.envs.attack.named_target import Official, Pictures, load_named
from lazybench.envs.attack.oracle import Oracle
from lazybench.envs.attack.protocol import TargetRule
from lazybench.envs.attack.strict import ChildTarget
from lazybench.errors import UsageError


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
        told = named.data or {"name": "images", "prep": "as given", "source": "images of one's own"}
        both = f"{official.sha256} {named.sha256}"
        self.data = {
            **told,
            "fingerprint": hashlib.sha256(both.encode()).hexdigest(),
            "source": f"{told['source']}; {about}",
        }
        self._open: tuple[Oracle, Official] | None = (oracle, official)

    @property
    def oracle(self) -> Oracle:
        """What answers rows.

        Raises:
            UsageError: the target was closed.
        """
        return self._opened()[0]

    def open(
        self, trials: NDArray[np.int64], rule: TargetRule | None, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the images of these trials, their labels, and the classes to reach by `rule`.

        Raises:
            UsageError: more trials than images that the target gets right.
            ContractError: the target failed.
        """
        x, label = self._opened()[1].open(trials)
        if rule is None:
            return x.to(device), label.to(device), None
        apart: Any = 1
        if rule == "random":
            keys = seeding.mix("attack goal 1", trials)
            apart = torch.from_numpy(1 + seeding.integers(keys, self.classes - 1))
        return x.to(device), label.to(device), ((label + apart) % self.classes).to(device)

    def within(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return trials as `Official.within` has them.

        Raises:
            UsageError: the target gets no image right.
            ContractError: the target failed.
        """
        return self._opened()[1].within(trials)

    def close(self) -> None:
        """Let go of the network, and end its process; what is told of it stays."""
        self._open = None
        if self._child is not None:
            self._child.close()

    def _opened(self) -> tuple[Oracle, Official]:
        if self._open is None:
            raise UsageError("this environment's target is closed; make another environment")
        return self._open
