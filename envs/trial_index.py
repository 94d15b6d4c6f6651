"""Trial numbers of a block's rows, and single environments as blocks of one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lazybench.arguments import check_options, check_whole
from lazybench.errors import UsageError

Seed = int | list[int] | tuple[int, ...] | None
"""Of a block's reset: one number, or one for each row."""


def one_seed(seed: Seed) -> int | None:
    """Return the seed of a block's own random numbers; None where each row has one."""
    return None if isinstance(seed, list | tuple) else seed


class TrialIndex:
    """The trials of a block's rows.

    Attributes:
        trial: `[n]` int64, -1 if none was opened.
    """

    def __init__(self, rows: int) -> None:
        """Start before trial 0, with no row opened."""
        self.trial = np.full(rows, -1, np.int64)
        self._next = 0

    def choose(self, seed: Seed, options: Mapping[str, Any] | None) -> NDArray[np.bool_]:
        """Set the trials of a reset; return the mask `[n]` of the rows to open.

        Args:
            seed: of the reset: trials seed, seed + 1, …; the trial of each row; None for those
                that come next.
            options: of the reset: `trials`, an array of any ones; `reset_mask`, the rows to open
                (all where none was opened before).

        Raises:
            UsageError: a seed that is no whole number, trials or a mask of another length or type,
                negative trials, or an unknown option.
        """
        options = dict(check_options(options, ("trials", "reset_mask")))
        if isinstance(seed, list | tuple):
            options.setdefault("trials", seed)
            seed = None
        mask = np.ones(len(self.trial), np.bool_)
        if "reset_mask" in options and int(self.trial.min()) >= 0:
            mask = self._given(options, "reset_mask", "b")
        if seed is not None:
            # Trials that follow have 64-bit numbers, too.
            self._next = check_whole("seed", seed, most=2**62)
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


class SingleEnv(gymnasium.Env[dict[str, Any], Any]):
    """Base of single environments: a block of one row of a vector environment."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, row: Any) -> None:
        """Hold the vector environment `row`, of one row."""
        self._row = row
        self.render_mode = row.render_mode
        self.observation_space = row.single_observation_space
        self.action_space = row.single_action_space

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        data: dict[str, str] = self._row.data
        return data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Open trial `seed` (few-shot train: stream `seed`), the next one, or `options["trial"]`.

        Raises:
            UsageError: a trial or an option that doesn't exist.
            ContractError: the target of an attack failed.
        """
        super().reset(seed=seed)
        observation, info = self._row.reset(seed=seed, options=one_trial(options))
        return first_row(observation), {name: part[0].item() for name, part in info.items()}

    def render(self) -> Any:
        """Return a picture of the trial, uint8 `[height, width, 3]`, or None without a mode."""
        pictures = self._row.render()
        return pictures[0] if pictures else None


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
