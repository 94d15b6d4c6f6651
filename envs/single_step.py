"""Vector environments whose episodes have one step: rows, indices and masks.

`SingleStepTrials` define how tasks are opened and scored.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lazybench.arguments import check_one_of
from lazybench.data.pool import Split
from lazybench.envs.fewshot.episodes import Block
from lazybench.envs.observations import contact_sheet
from lazybench.envs.trial_index import Seed, TrialIndex, one_seed
from lazybench.errors import UsageError
from lazybench.runtime.threads import one_thread_after_fork
from lazybench.tasks import TaskShape

one_thread_after_fork()

Observation = dict[str, Any]
Backend = Literal["numpy", "torch"]


class SingleStepTrials(Protocol):
    """Tasks by index: opens them, checks actions and scores them.

    Attributes:
        split: `train`, `val` or `test`.
        data: name, fingerprint, preparation and source of the data.
    """

    split: Split
    data: dict[str, str]

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        ...

    @property
    def train_classes(self) -> int:
        """Classes of the train split, 0 if there are none."""
        ...

    def spaces(self, rows: tuple[int, ...]) -> tuple[spaces.Dict, spaces.Space[Any]]:
        """Return the observation and action space, with leading dimensions `rows`."""
        ...

    def keys(self, trials: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
        """Return one key for each trial; `stream` counts on train alone."""
        ...

    def open(self, keys: NDArray[np.uint64]) -> Block:
        """Return the tasks, query targets hidden unless the split is train."""
        ...

    def answer(self, action: Any, rows: tuple[int, ...]) -> NDArray[Any]:
        """Return an action as an array, its shape and type checked."""
        ...

    def score(self, keys: NDArray[np.uint64], given: NDArray[Any]) -> NDArray[np.float64]:
        """Return each task's reward."""
        ...

    def metrics(self, rewards: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the headline metric of each task by name."""
        ...


class SingleStepVectorEnv(gymnasium.vector.VectorEnv[Observation, Any, Any]):
    """Blocks of one-step episodes; each row is one trial, done after one step.

    `reset(seed=s)` opens trials s, s+1, … on val and test, and starts stream s on train; `reset()`
    opens the next ones; `options={"trials": array}` any; `options={"reset_mask": mask}` only some
    rows. A list of seeds, on val and test, has the trial of each row. Finished rows are no-ops:
    reward 0, at no cost.
    """

    # Gymnasium declares it on instances.
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        num_envs: int,
        trials: SingleStepTrials,
        *,
        backend: Backend,
        device: str,
        render_mode: str | None,
    ) -> None:
        """Open `num_envs` rows.

        Args:
            num_envs: rows, R.
            trials: the tasks.
            backend: `numpy`, or `torch` for observations as tensors.
            device: where torch observations live.
            render_mode: None or `rgb_array`.

        Raises:
            UsageError: a setting that isn't allowed.
        """
        if num_envs < 1:
            raise UsageError(f"num_envs must be at least 1, got {num_envs}")
        check_one_of("backend", backend, ("numpy", "torch"))
        check_one_of("render_mode", render_mode, (None, "rgb_array"))
        self.trials = trials
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.trials.spaces((num_envs,))
        self.single_observation_space, self.single_action_space = self.trials.spaces(())
        self._backend = backend
        self._device = device if backend == "torch" else "cpu"
        self._stream = 0
        self._keys = np.zeros(num_envs, dtype=np.uint64)
        self._rows = TrialIndex(num_envs)
        self._finished = np.ones(num_envs, dtype=np.bool_)
        self._block: Block | None = None

    @property
    def split(self) -> Split:
        """`train`, `val` or `test`."""
        return self.trials.split

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        return self.trials.task

    @property
    def train_classes(self) -> int:
        """Classes of the train split, whatever split this is; 0 if there are none."""
        return self.trials.train_classes

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        return dict(self.trials.data)

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trials; see the class.

        Raises:
            UsageError: a seed for each row on train; trials or a mask of another length or type,
                negative trials, or an unknown option.
        """
        stream = one_seed(seed)
        super().reset(seed=stream)
        if self.trials.split != "train":
            mask = self._rows.choose(seed, options)
        elif seed is None or stream is not None:
            mask = self._rows.choose(None if stream is None else 0, options)
            self._stream = self._stream if stream is None else stream
        else:
            raise UsageError(
                f"on train a seed names a stream, which all rows share: give one seed, got {seed}"
            )
        if mask.any():
            self._open(mask)
        return self._observe(), {"trial": self._rows.trial.copy()}

    def _open(self, mask: NDArray[np.bool_]) -> None:
        """Open new tasks in the rows of `mask`; the others keep theirs, and their keys."""
        self._keys[mask] = self.trials.keys(self._rows.trial[mask], self._stream)
        self._finished[mask] = False
        fresh = Block(*(part.to(self._device) for part in self.trials.open(self._keys[mask])))
        if mask.all() or self._block is None:
            self._block = fresh
            return
        rows = torch.from_numpy(mask).to(self._device)
        for part, new in zip(self._block, fresh, strict=True):
            part[rows] = new

    def step(
        self, actions: Any
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Score the answers of all open rows; every row is done afterwards.

        Raises:
            UsageError: called before the first reset.
            ContractError: an action of the wrong shape, type or range.
        """
        if self._block is None:
            raise UsageError("step was called before reset; call env.reset() first")
        live = ~self._finished
        rewards = np.zeros(self.num_envs)
        info: dict[str, Any] = {"trial": self._rows.trial.copy()}
        if live.any():
            given = self.trials.answer(actions, (self.num_envs,))
            rewards[live] = self.trials.score(self._keys[live], given[live])
            for name, values in self.trials.metrics(rewards).items():
                info[name], info[f"_{name}"] = values.copy(), live.copy()
        self._finished[:] = True
        done = np.ones(self.num_envs, dtype=np.bool_)
        return self._observe(), rewards, done, np.zeros(self.num_envs, dtype=np.bool_), info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture a row, uint8 `[height, width, 3]`, or None without a render mode."""
        if self.render_mode is None or self._block is None:
            return None
        return tuple(
            contact_sheet(*(part[row].cpu().numpy() for part in self._block), task=self.task)
            for row in range(self.num_envs)
        )

    def _observe(self) -> Observation:
        block = self._block
        if block is None:
            raise UsageError("no trial is open; call env.reset() first")
        # Copies of only the visible parts: a part can be a view of a hidden one.
        if self._backend == "torch":
            return {name: part.clone() for name, part in block._asdict().items()}
        return {name: part.numpy().copy() for name, part in block._asdict().items()}
