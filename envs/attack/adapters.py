"""Doors for other tools: attacks from elsewhere ask an open attack, and are charged like any other.

What a tool believes doesn't count: the environment's ledger does. Rows that are refused (an image
is finished) get a made-up answer, that they succeed, since tools that go in lock-step wait for
their slowest image and search on where they don't succeed. Once no image of a call is left,
`BudgetSpent` ends the tool::

    door = as_foolbox(env)
    with contextlib.suppress(BudgetSpent):
        attack(door, images, labels, epsilons=None)
    door.box.verdict()
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.envs.attack.blackbox import BlackBox
from lazybench.errors import ContractError, LazybenchError, UsageError

_FAR = 10.0
"""Logit of the class that stands for a decision; the others have 0."""


class BudgetSpent(LazybenchError):
    """Every image that a call asked about is finished; nothing more will be answered."""


class _Said(threading.local):
    """Whose rows a thread has said it asks about; None where it hasn't."""

    owner: NDArray[np.int64] | None = None


class Door:
    """A callable from images `[R, C, H, W]` to log-probabilities `[R, classes]`, tensor to tensor.

    Where replies show labels alone, the answered class has logit 10 and the others 0. Row i belongs
    to image i where there is a row for each image, every row to the image where only one is under
    attack; else say whose the rows are: `with door.owner(3): …`. Several threads may ask: they are
    answered one after another, and `owner` holds for the thread that says it.

    Attributes:
        classes: of the target; None where nobody has told.
    """

    def __init__(self, attacked: Any, classes: int | None = None) -> None:
        """Open it on an environment or an open attack.

        Args:
            attacked: an attack environment (after a reset, which also moves the door), or a
                `BlackBox`.
            classes: of the target; needed for a `BlackBox` that answers with labels.

        Raises:
            UsageError: nothing that can be attacked; or the number of classes must be told.
        """
        if not isinstance(attacked, BlackBox) and not hasattr(attacked, "box"):
            raise UsageError(
                "a door is opened on an attack environment or a BlackBox, got "
                f"{type(attacked).__name__}; make one with lazybench.make_env"
            )
        self._attacked = attacked
        self._said = _Said()
        self.classes = classes
        if classes is None and not isinstance(attacked, BlackBox):
            self.classes = int(attacked.task.classes)
        if self.classes is None and attacked.access == "label":
            raise UsageError("tell classes=…: replies with labels alone don't tell how many")

    @property
    def box(self) -> BlackBox:
        """The attack that is asked; its `verdict()` tells what came of it.

        Raises:
            UsageError: none is open; reset the environment first.
        """
        found: BlackBox = (
            self._attacked if isinstance(self._attacked, BlackBox) else self._attacked.box
        )
        return found

    @contextmanager
    def owner(self, images: int | NDArray[np.int64] | list[int]) -> Iterator[None]:
        """Charge what is asked inside the block to one image, or row by row to several.

        Args:
            images: position of the image, in [0, n); or one for each row of every call.
        """
        before, self._said.owner = self._said.owner, np.asarray(images, dtype=np.int64)
        try:
            yield
        finally:
            self._said.owner = before

    def __call__(self, rows: Any) -> Tensor:
        """Return what the target answers, `[R, classes]` float32 on the device of the images.

        Raises:
            ContractError: rows of another shape or type, or whose owner isn't clear; or the target
                failed.
            BudgetSpent: every image that is asked about is finished.
        """
        box = self.box
        asked = torch.as_tensor(rows)
        owner = self._owners(len(asked), box.images)
        if len(owner) and bool(box.ledger.done[owner].all()):
            raise BudgetSpent(
                "every image that is asked about is finished: its budget is spent, or it succeeded"
            )
        told = box.query(asked, owner)
        if told.scores.shape[1]:
            scores = told.scores
        else:
            scores = self._decided(told.labels.clamp_min(0), self.classes or 0)
        if bool(told.served.all()):
            return scores
        of = torch.from_numpy(owner).to(scores.device)
        # Another class than the true one, which is as good as any.
        goal = box.goal
        wrong = (box.label[of] + 1) % scores.shape[1] if goal is None else goal[of]
        made_up = self._decided(wrong, scores.shape[1])
        return torch.where(told.served[:, None], scores, made_up)

    def _owners(self, rows: int, images: int) -> NDArray[np.int64]:
        owner = self._said.owner
        if owner is not None:
            if owner.ndim and len(owner) != rows:
                raise ContractError(
                    f"door.owner tells whose {len(owner)} rows are, got a call of {rows}"
                )
            return np.broadcast_to(owner, (rows,)).copy()
        if images == 1:
            return np.zeros(rows, np.int64)
        if rows == images:
            return np.arange(rows)
        raise ContractError(
            f"{rows} rows for {images} images: whose are they? Ask one row for each image, or say "
            "with door.owner(i): …"
        )

    @staticmethod
    def _decided(labels: Tensor, classes: int) -> Tensor:
        return _FAR * torch.nn.functional.one_hot(labels, classes).float()


def as_callable(attacked: Any, classes: int | None = None) -> Door:
    """Return a plain callable from images to log-probabilities, for tools that take `predict`.

    Args:
        attacked: an attack environment, or a `BlackBox`.
        classes: as `Door`.

    Raises:
        UsageError: as `Door`.
    """
    return Door(attacked, classes)


def as_foolbox(attacked: Any, classes: int | None = None) -> Any:
    """Return a foolbox `Model` with bounds (0, 1), which is no `nn.Module` and has no gradient.

    Args:
        attacked: an attack environment, or a `BlackBox`.
        classes: as `Door`.

    Raises:
        UsageError: as `Door`.
    """
    from lazybench.envs.attack.foolbox_model import FoolboxDoor

    return FoolboxDoor(Door(attacked, classes))


def as_art(attacked: Any, classes: int | None = None) -> Any:
    """Return an ART `BlackBoxClassifierNeuralNetwork`; its attribute `door` is the `Door`.

    Most of ART's attacks take one image after another: say which with `with it.door.owner(i):`.

    Args:
        attacked: an attack environment, or a `BlackBox`.
        classes: as `Door`.

    Raises:
        UsageError: as `Door`; or ART isn't installed.
    """
    try:
        art = importlib.import_module("art.estimators.classification")
    except ImportError as error:
        raise UsageError(
            f"ART can't be imported ({error}); pip install adversarial-robustness-toolbox packaging"
        ) from error
    door = Door(attacked, classes)
    if door.classes is None:
        raise UsageError("tell classes=…, the number of the target's classes, which ART wants")

    def predict(rows: NDArray[Any]) -> NDArray[np.float32]:
        return door(np.asarray(rows, np.float32)).softmax(1).cpu().numpy()

    found = art.BlackBoxClassifierNeuralNetwork(
        predict, door.box.instance, door.classes, channels_first=True, clip_values=(0.0, 1.0)
    )
    found.door = door
    return found
