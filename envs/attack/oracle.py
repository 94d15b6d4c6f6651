"""The oracle, the only holder of a network under attack: it scores rows, and exposes nothing else.

This prevents accidents: no attribute, item or closure leads to the network. It doesn't stop a
debugger, which can read all memory of this process; `strict` targets run in another process.
"""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from lazybench.errors import ContractError, OutputUnavailable, StoreError

CHUNK = 512
"""Largest number of rows that are sent to a target together."""

Predict = Callable[[Tensor], Any]
"""`[R, channels, height, width]` float32 in [0, 1] to logits or log-probabilities `[R, classes]`"""

_LOWEST = torch.finfo(torch.float32).min


def plain(values: Any) -> Tensor:
    """Return values as a plain tensor: no subclass, without graph, hooks or attributes.

    Operations on a subclass run its author's code, which could get access to the target.

    Raises:
        TypeError: they aren't an array of numbers.
        ValueError: they are an array that torch can't hold, or lists of different lengths.
        RuntimeError: another reason why torch can't hold them.
    """
    found = values if isinstance(values, Tensor) else torch.as_tensor(values)
    if type(found) not in (Tensor, torch.nn.Parameter):
        # The result is an array of the base class, whatever the subclass's methods return.
        found = torch.from_numpy(np.array(found.detach().cpu().numpy(), subok=False))
    # Not `found.detach()`: an instance may have an attribute of that name.
    return Tensor.detach(found)


class Oracle:
    """Returns log-probabilities of rows; the only holder of a network.

    It counts nothing and is only for environments; agents get a `BlackBox`, or less. Calls from
    several threads are served one after another.
    """

    def __init__(self, predict: Predict, classes: int | None, *, chunk: int = CHUNK) -> None:
        """Hold a target.

        Args:
            predict: the target; it is called with copies of at most `chunk` rows.
            classes: number of scores per row; None for that of its first answer.
            chunk: largest number of rows of a call.
        """
        self.classes = classes
        self._chunk = chunk
        # A reentrant lock: a nested call of the same thread is refused instead of a deadlock.
        self._turn = threading.RLock()
        # A generator's local variables can't be reached by an attribute or a closure.
        self._ask = _serving(predict)
        next(self._ask)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a pickle would contain the network.

        Raises:
            ContractError: always.
        """
        raise ContractError("a target can't be pickled or copied; open another environment")

    def __call__(self, rows: Tensor) -> Tensor:
        """Return log-probabilities `[R, classes]` float32 on the device of `rows`.

        Raises:
            ContractError: the target failed, changed its number of classes or returned NaN, or
                calls itself.
        """
        parts = [
            self._part(rows[first : first + self._chunk])
            for first in range(0, len(rows), self._chunk)
        ]
        if not parts:
            return rows.new_zeros(0, self.classes or 0)
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        # Not a leaf of a graph, since attackers may put scores into a loss.
        scores = torch.log_softmax(logits.to(rows.device, torch.float32), 1)
        # An infinite logit gives NaN as well; none is above 0, so a sum shows each of them.
        if bool(scores.sum().isnan()):
            raise ContractError("the target returned NaN or infinity; its scores must be numbers")
        # A probability of 0 has no finite logarithm; margins need one.
        return scores.clamp_(min=_LOWEST)

    def _part(self, rows: Tensor) -> Tensor:
        # A target that normalises in place must not change the rows that are scored.
        with self._turn:
            if inspect.getgeneratorstate(self._ask) == inspect.GEN_RUNNING:
                raise ContractError("the target queries itself while it answers; it mustn't")
            got = self._ask.send(rows.clone())
        if isinstance(got, Failure):
            if got.interrupt is not None:
                raise got.interrupt
            if got.own is not None:
                raise got.own(got.why)
            raise ContractError(f"the target failed on {len(rows)} rows: {got.why}")
        try:
            logits = plain(got)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ContractError(f"the target's answer is no array of scores: {error}") from None
        if self.classes is None and logits.ndim == 2:
            if logits.shape[1] < 2:
                raise ContractError(
                    f"the target answers with {list(logits.shape)}, and a single class can't be "
                    "left: it needs a score for each of at least 2 classes; of one logit z they "
                    "are [0, z]"
                )
            self.classes = logits.shape[1]
        if tuple(logits.shape) != (len(rows), self.classes) or not logits.is_floating_point():
            raise ContractError(
                f"the target must answer {len(rows)} rows with floats [{len(rows)}, "
                f"{self.classes or 'classes'}], got {logits.dtype} {list(logits.shape)}"
            )
        return logits


class Failure:
    """Why a target failed; it holds no traceback, whose frames would lead to the network.

    Attributes:
        why: the error and the line that raised it.
        interrupt: `KeyboardInterrupt`, which a user may have caused; else None.
        own: the error's type, if the target didn't fail but its answers couldn't be stored.
    """

    def __init__(self, error: BaseException) -> None:
        """Keep the message of an error."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        self.own = type(error) if isinstance(error, StoreError | OutputUnavailable) else None
        ours = isinstance(error, ContractError) or self.own is not None
        self.why = str(error) if ours else f"{type(error).__name__}: {error}{where}"
        self.interrupt = type(error) if isinstance(error, KeyboardInterrupt) else None


def _serving(predict: Predict) -> Generator[Any, Tensor, None]:
    answer: Any = None
    while True:
        rows = yield answer
        try:
            # Not around the yield: the caller mustn't find itself without gradients. And no
            # inference mode: a target may need gradients inside, as purifiers do.
            with torch.no_grad():
                answer = predict(rows)
        # Any error, since a generator that raised can't be used again.
        except BaseException as error:
            answer = Failure(error)
        del rows
