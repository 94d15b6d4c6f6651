"""Adapters for other tools: attacks from foolbox, ART or elsewhere query an environment's target.

Every row is charged like any other query. Success is what the environment's ledger says, not what
the tool believes. Rows for finished images are refused; the adapter returns an invented answer for
them that looks like a success, since tools that attack in lock-step wait for their slowest image
and keep searching where they haven't succeeded. Once no image of a call is left, `BudgetSpent` ends
the tool::

    model = as_foolbox(env)
    with contextlib.suppress(BudgetSpent):
        attack(model, images, labels, epsilons=None)
    model.box.verdict()
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.envs.attack.blackbox import BlackBox
from lazybench.errors import ContractError, LazybenchError, UsageError

_FAR = 10.0
"""Logit of the predicted class where replies show labels alone; the other logits are 0."""

_OTHER = "images must be torch or numpy arrays, got {}"


class BudgetSpent(LazybenchError):
    """Every image of a call is finished; no further query is answered."""


class _ThreadOwner(threading.local):
    """Owner of the rows that the current thread queries; None if it named none."""

    owner: NDArray[np.int64] | None = None


class QueryAdapter:
    """A callable from images `[R, C, H, W]` to log-probabilities `[R, classes]`, tensor to tensor.

    Where replies show labels alone, the predicted class has logit 10 and the others 0. Row i
    belongs to image i where there is a row for each image, and every row to the image where only
    one is attacked. Otherwise name the owners: `with adapter.owner(3): …`. Threads may share an
    adapter: their calls are answered one after another, and `owner` holds for its own thread.

    Attributes:
        classes: of the target; None if unknown.
    """

    def __init__(self, attacked: Any, classes: int | None = None) -> None:
        """Open it on an environment or an open attack.

        Args:
            attacked: an attack environment (after a reset, which also moves the adapter), or a
                `BlackBox`.
            classes: of the target; needed for a `BlackBox` that answers with labels.

        Raises:
            UsageError: an object that can't be attacked; or the number of classes is missing.
        """
        if not isinstance(attacked, BlackBox) and not hasattr(attacked, "box"):
            raise UsageError(
                "an adapter is opened on an attack environment or a BlackBox, got "
                f"{type(attacked).__name__}; make one with lazybench.make_env"
            )
        self._attacked = attacked
        self._thread = _ThreadOwner()
        self.classes = classes
        if classes is None and not isinstance(attacked, BlackBox):
            self.classes = int(attacked.task.classes)
        if self.classes is None and attacked.access == "label":
            raise UsageError("pass classes=…: replies with labels alone don't show how many")

    @property
    def box(self) -> BlackBox:
        """The attack that is queried; its `verdict()` has the result.

        Raises:
            UsageError: none is open; reset the environment first.
        """
        box: BlackBox = (
            self._attacked if isinstance(self._attacked, BlackBox) else self._attacked.box
        )
        return box

    @contextmanager
    def owner(self, images: int | NDArray[np.int64] | list[int]) -> Iterator[None]:
        """Charge the queries inside the block to one image, or row by row to several.

        Args:
            images: position of the image, in [0, n); or one for each row of every call.
        """
        before, self._thread.owner = self._thread.owner, np.asarray(images, dtype=np.int64)
        try:
            yield
        finally:
            self._thread.owner = before

    def __call__(self, rows: Any) -> Tensor:
        """Return the target's answers, `[R, classes]` float32 on the device of the images.

        Raises:
            ContractError: rows of another shape or type, or without a clear owner; or the target
                failed.
            BudgetSpent: every image of the call is finished.
        """
        box = self.box
        queries = torch.as_tensor(rows)
        owner = self._owners(len(queries), box.images)
        if len(owner) and bool(box.ledger.done[owner].all()):
            raise BudgetSpent(
                "every image of this call is finished: its budget is spent, or it succeeded"
            )
        replies = box.query(queries, owner)
        if replies.scores.shape[1]:
            scores = replies.scores
        else:
            scores = self._one_hot(replies.labels.clamp_min(0), self.classes or 0)
        if bool(replies.served.all()):
            return scores
        of = torch.from_numpy(owner).to(scores.device)
        # Any class other than the true one will do.
        goal = box.goal
        wrong = (box.label[of] + 1) % scores.shape[1] if goal is None else goal[of]
        invented = self._one_hot(wrong, scores.shape[1])
        return torch.where(replies.served[:, None], scores, invented)

    def _owners(self, rows: int, images: int) -> NDArray[np.int64]:
        owner = self._thread.owner
        if owner is not None:
            if owner.ndim and len(owner) != rows:
                raise ContractError(
                    f"adapter.owner names the images of {len(owner)} rows, got a call of {rows}"
                )
            return np.broadcast_to(owner, (rows,)).copy()
        if images == 1:
            return np.zeros(rows, np.int64)
        if rows == images:
            return np.arange(rows)
        raise ContractError(
            f"{rows} rows for {images} images: whose are they? Query one row for each image, or "
            "name their image with adapter.owner(i): …"
        )

    @staticmethod
    def _one_hot(labels: Tensor, classes: int) -> Tensor:
        return _FAR * torch.nn.functional.one_hot(labels, classes).float()


Door = QueryAdapter
"""The former name of `QueryAdapter`; it goes with the next release."""


def as_callable(attacked: Any, classes: int | None = None) -> QueryAdapter:
    """Return a plain callable from images to log-probabilities, for tools that take `predict`.

    Args:
        attacked: an attack environment, or a `BlackBox`.
        classes: as `QueryAdapter`.

    Raises:
        UsageError: as `QueryAdapter`.
    """
    return QueryAdapter(attacked, classes)


def as_foolbox(attacked: Any, classes: int | None = None) -> Any:
    """Return a foolbox `Model` with bounds (0, 1), which is no `nn.Module` and has no gradient.

    foolbox's attacks run on it unchanged. `box` and `owner` are those of `QueryAdapter`.

    Args:
        attacked: an attack environment, or a `BlackBox`.
        classes: as `QueryAdapter`.

    Raises:
        UsageError: as `QueryAdapter`.
    """
    # foolbox loads slowly.
    from eagerpy.astensor import astensor, astensor_
    from eagerpy.tensor.numpy import NumPyTensor
    from foolbox.models.base import Model
    from foolbox.types import Bounds

    adapter = QueryAdapter(attacked, classes)

    class FoolboxAdapter(Model):
        data_format = "channels_first"

        @property
        def bounds(self) -> Bounds:
            return Bounds(0, 1)

        @property
        def box(self) -> BlackBox:
            return adapter.box

        def owner(self, images: Any) -> AbstractContextManager[None]:
            return adapter.owner(images)

        def __call__(self, inputs: Any) -> Any:
            """Return scores as the kind of tensor that came in."""
            try:
                rows, restore = astensor_(inputs)
            except ValueError:
                # eagerpy knows tensors by their module, so it doesn't know a subclass.
                raise ContractError(_OTHER.format(type(inputs).__name__)) from None
            raw: Any = rows.raw
            scores = adapter(raw)
            if isinstance(raw, Tensor):
                return restore(astensor(scores.to(raw.device)))
            if isinstance(rows, NumPyTensor):
                return restore(astensor(scores.cpu().numpy()))
            raise ContractError(_OTHER.format(type(raw).__name__))

    return FoolboxAdapter()


def as_art(attacked: Any, classes: int | None = None) -> Any:
    """Return an ART `BlackBoxClassifierNeuralNetwork`; its `adapter` is the `QueryAdapter`.

    Most of ART's attacks query one image after another: name it with `with it.adapter.owner(i):`.
    (`it.door`, the former name, works for one release.)

    Args:
        attacked: an attack environment, or a `BlackBox`.
        classes: as `QueryAdapter`.

    Raises:
        UsageError: as `QueryAdapter`; or ART isn't installed.
    """
    try:
        art = importlib.import_module("art.estimators.classification")
    except ImportError as error:
        raise UsageError(
            f"ART can't be imported ({error}); pip install adversarial-robustness-toolbox packaging"
        ) from error
    adapter = QueryAdapter(attacked, classes)
    if adapter.classes is None:
        raise UsageError("pass classes=…, the number of the target's classes; ART needs it")

    def predict(rows: NDArray[Any]) -> NDArray[np.float32]:
        return adapter(np.asarray(rows, np.float32)).softmax(1).cpu().numpy()

    classifier = art.BlackBoxClassifierNeuralNetwork(
        predict, adapter.box.instance, adapter.classes, channels_first=True, clip_values=(0.0, 1.0)
    )
    classifier.adapter = classifier.door = adapter
    return classifier
