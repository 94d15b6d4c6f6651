"""Which trial each row of a block has, and which ones a reset opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lazybench.arguments import check_options
from lazybench.errors import UsageError


class TrialRows:
    """The trials of a block's rows.

    Attributes:
        trial: `[n]` int64, -1 where none was opened.
    """

    def __init__(self, rows: int) -> None:
        """Begin before trial 0, with no row opened."""
        self.trial = np.full(rows, -1, np.int64)
        self._next = 0

    def choose(self, seed: int | None, options: Mapping[str, Any] | None) -> NDArray[np.bool_]:
        """Take the trials that a reset asks for; return the mask `[n]` of the rows to open.

        Args:
            seed: of the reset: trials seed, seed + 1, …; None for those that come next.
            options: of the reset: `trials`, an array of any ones; `reset_mask`, the rows to open
                (all where none was opened before).

        Raises:
            UsageError: trials or a mask of another length or type, negative trials, or an option
                that isn't there.
        """
        options = check_options(options, ("trials", "reset_mask"))
        mask = np.ones(len(self.trial), np.bool_)
        if "reset_mask" in options and int(self.trial.min()) >= 0:
            mask = self._given(options, "reset_mask", "b")
        if seed is not None:
            self._next = seed
        chosen = self._next + np.arange(int(mask.sum()))
        if "trials" in options:
            chosen = self._given(options, "trials", "iu")[mask]
        if int(chosen.min(initial=0)) < 0:
            raise UsageError(f"trials are numbered from 0, got {chosen.min()}")
        if len(chosen):
            self.trial = self.trial.copy()
            self.trial[mask] = chosen
            self._next = int(chosen.max()) + 1
        return mask

    def _given(self, options: Mapping[str, Any], name: str, kinds: str) -> NDArray[Any]:
        rows, array = len(self.trial), np.array(options[name])
        if array.shape != (rows,) or array.dtype.kind not in kinds:
            what = "true or false" if kinds == "b" else "an integer"
            raise UsageError(
                f"options['{name}'] needs {what} for each of {rows} rows, got shape "
                f"{list(array.shape)} and dtype {array.dtype}"
            )
        return array


def one_trial(options: Any) -> dict[str, Any]:
    """Return the options of a single environment's reset as those of a block of one.

    Raises:
        UsageError: an option other than `trial`.
    """
    given = check_options(options, ("trial",))
    return {"trials": [given["trial"]]} if "trial" in given else {}


def first_row(observation: Mapping[str, Any], whole: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return copies of the first row of each entry; those in `whole` have no rows."""
    return {
        name: part if name in whole else own_copy(part[0, ...])
        for name, part in observation.items()
    }


def own_copy(part: Any) -> Any:
    """Return a copy of an array or tensor that shares memory with nothing."""
    return part.clone() if isinstance(part, Tensor) else part.copy()
