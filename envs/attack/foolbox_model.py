"""A foolbox model behind which stands an open attack; apart, since foolbox loads slowly."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from eagerpy.tensor.numpy import NumPyTensor
from foolbox.models.base import Model
from foolbox.types import Bounds

from lazybench.envs.attack.adapters import Door
from lazybench.envs.attack.blackbox import BlackBox
from lazybench.errors import ContractError

_OTHER = "images must be torch or numpy arrays, got {}"


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
            ContractError: tensors of another library than torch or numpy, or of a subclass; and as
                `Door`.
            BudgetSpent: every image that is asked about is finished.
        """
        try:
            rows, restore = astensor_(inputs)
        except ValueError:
            # It tells tensors by their module, so a subclass is one that it doesn't know.
            raise ContractError(_OTHER.format(type(inputs).__name__)) from None
        raw: Any = rows.raw
        scores = self._door(raw)
        if isinstance(raw, torch.Tensor):
            return restore(astensor(scores.to(raw.device)))
        if isinstance(rows, NumPyTensor):
            return restore(astensor(scores.cpu().numpy()))
        raise ContractError(_OTHER.format(type(raw).__name__))
