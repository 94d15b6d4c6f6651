"""A foolbox model behind which stands an open attack; apart, since foolbox loads slowly."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from eagerpy.tensor.numpy import NumPyTensor
from foolbox.models.base import Model
from foolbox.types import Bounds

from lazybench.envs.attack_doors import Door
from lazybench.envs.blackbox import BlackBox
from lazybench.errors import ContractError


class FoolboxDoor(Model):
    """What foolbox's attacks call; they run unchanged, and every row is charged.

    Attributes:
        data_format: where channels stand, for attacks that ask.
    """

    data_format = "channels_first"

    def __init__(self, door: Door) -> None:
        """Stand before a door."""
        self._door = door

    @property
    def bounds(self) -> Bounds:
        """The range of a pixel."""
        return Bounds(0, 1)

    @property
    def box(self) -> BlackBox:
        """The attack that is asked, as `Door.box`."""
        return self._door.box

    def owner(self, images: Any) -> AbstractContextManager[None]:
        """Charge what is asked inside the block to these images, as `Door.owner`."""
        return self._door.owner(images)

    def __call__(self, inputs: Any) -> Any:
        """Return scores of the kind of tensor that came in.

        Raises:
            ContractError: tensors of another library than torch or numpy; and as `Door`.
            BudgetSpent: every image that is asked about is finished.
        """
        rows, restore = astensor_(inputs)
        raw: Any = rows.raw
        scores = self._door(raw)
        if isinstance(raw, torch.Tensor):
            return restore(astensor(scores.to(raw.device)))
        if isinstance(rows, NumPyTensor):
            return restore(astensor(scores.cpu().numpy()))
        raise ContractError(f"images must be torch or numpy arrays, got {type(raw).__name__}")
