"""Few-shot environments: one step an episode, native in blocks, the single one a block of one.

Observation (a dict; R rows lead in the vector environment): `support_x [rows, *instance]`,
`support_y [rows]`, `query_x`, `query_y`; `query_y` is -1 (0 for regression) on val and test.
Action: the query labels, or the predicted values. Reward: accuracy, or the negative mean squared
error.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lazybench.data.pool import Split
from lazybench.envs.episodes import Block, Labels
from lazybench.envs.picture import contact_sheet
from lazybench.envs.trials import Trials
from lazybench.errors import UsageError
from lazybench.task import TaskShape

Observation = dict[str, Any]


class FewShotVectorEnv(gymnasium.vector.VectorEnv[Observation, Any, Any]):
    """Blocks of few-shot episodes; each row is one trial, done after one step.

    `reset(seed=s)` opens trials s, s+1, … on val and test, and starts stream s on train; `reset()`
    opens the next ones; `options={"trials": array}` any; `options={"reset_mask": mask}` only some
    rows. Finished rows are no-ops: reward 0, at no cost.
    """

    # Gymnasium declares it on instances.
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(  # noqa: PLR0913 - Gymnasium hands settings over by name
        self,
        num_envs: int = 1,
        *,
        data: str,
        way: int = 5,
        shot: int = 1,
        split: Split = "test",
        noniid: bool = False,
        order: Literal["random", "sorted"] = "random",
        shots: int | None = None,
        queries: int | None = None,
        labels: Labels = "task",
        backend: Literal["numpy", "torch"] = "numpy",
        device: str = "cpu",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        """Open `num_envs` rows.

        Args:
            num_envs: rows, R.
            data: data set id.
            way: classes in a task.
            shot: support instances of a class in official trials.
            split: `train`, `val` or `test`.
            noniid: train on the memorisation trap: label j always from class group j.
            order: with `noniid`, `sorted` takes runs of the sorted classes as groups.
            shots: another number of support instances, on train and val.
            queries: another number of query instances of a class, on train and val (test has 15).
            labels: `task`, labels in [0, way); or, on train, `class`: a label is the class's index
                in the split, in [0, task.classes), for pre-training on all classes at once. The
                instances are the same.
            backend: `numpy`, or `torch` for observations as tensors.
            device: where torch observations live.
            render_mode: None or `rgb_array`.
            max_episode_steps: accepted for `gymnasium.make_vec`; an episode has one step.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        del max_episode_steps
        if num_envs < 1:
            raise UsageError(f"num_envs must be at least 1, got {num_envs}")
        if backend not in ("numpy", "torch"):
            raise UsageError(f"backend must be 'numpy' or 'torch', got '{backend}'")
        _check_render_mode(render_mode)
        self.trials = Trials(
            data,
            way,
            shot,
            split=split,
            noniid=noniid,
            order=order,
            shots=shots,
            queries=queries,
            labels=labels,
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.trials.spaces((num_envs,))
        self.single_observation_space, self.single_action_space = self.trials.spaces(())
        self._backend = backend
        self._device = device if backend == "torch" else "cpu"
        self._stream = self._next = 0
        self._keys = np.zeros(num_envs, dtype=np.uint64)
        self._trial = np.full(num_envs, -1, dtype=np.int64)
        self._finished = np.ones(num_envs, dtype=np.bool_)
        self._block: Block | None = None

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        return self.trials.task

    @property
    def train_classes(self) -> int:
        """Classes of the train split, whatever split this is; 0 where there are none."""
        return self.trials.train_classes

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        return self.trials.data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trials; see the class.

        Raises:
            UsageError: trials or a mask of another length or type, or negative trials.
        """
        super().reset(seed=seed)
        options = options or {}
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if self._block is not None and "reset_mask" in options:
            mask = self._rows(options["reset_mask"], "reset_mask", "b")
        trials = self._trial.copy()
        if "trials" in options:
            trials[mask] = self._rows(options["trials"], "trials", "iu")[mask]
            if int(trials.min()) < 0:
                raise UsageError(f"trials are numbered from 0, got {trials.min()}")
        if seed is not None:
            self._stream, self._next = (seed, 0) if self.trials.split == "train" else (0, seed)
        if mask.any():
            if "trials" not in options:
                trials[mask] = self._next + np.arange(int(mask.sum()))
            self._open(mask, trials)
        return self._observe(), {"trial": self._trial.copy()}

    def _open(self, mask: NDArray[np.bool_], trials: NDArray[np.int64]) -> None:
        """Put fresh tasks into the rows of `mask`; the others keep theirs, and their keys."""
        self._trial = trials
        self._next = int(trials[mask].max()) + 1
        self._keys[mask] = self.trials.keys(trials[mask], self._stream)
        self._finished[mask] = False
        fresh = Block(*(part.to(self._device) for part in self.trials.open(self._keys[mask])))
        if mask.all() or self._block is None:
            self._block = fresh
            return
        rows = torch.from_numpy(mask).to(self._device)
        # Torch observations are the block itself: an earlier one mustn't change under its owner.
        parts = [part.clone() for part in self._block]
        for part, new in zip(parts, fresh, strict=True):
            part[rows] = new
        self._block = Block(*parts)

    def step(
        self, actions: Any
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Judge the answers of all open rows; every row is done afterwards.

        Raises:
            UsageError: called before the first reset.
            ContractError: an action of the wrong shape, type or range.
        """
        if self._block is None:
            raise UsageError("step was called before reset; call env.reset() first")
        live = ~self._finished
        rewards = np.zeros(self.num_envs)
        info: dict[str, Any] = {"trial": self._trial.copy()}
        if live.any():
            given = self.trials.answer(actions, (self.num_envs,))
            rewards[live] = self.trials.judge(self._keys[live], given[live])
            for name, values in self.trials.metrics(rewards).items():
                info[name], info[f"_{name}"] = values, live
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

    def _rows(self, values: Any, name: str, kinds: str) -> NDArray[Any]:
        array = np.array(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in kinds:
            what = "true or false" if kinds == "b" else "an integer"
            raise UsageError(
                f"options['{name}'] needs {what} for each of {self.num_envs} rows, got shape "
                f"{list(array.shape)} and dtype {array.dtype}"
            )
        return array

    def _observe(self) -> Observation:
        block = self._block
        if block is None:
            raise UsageError("no trial is open; call env.reset() first")
        if self._backend == "torch":
            return block._asdict()
        return {name: part.numpy().copy() for name, part in block._asdict().items()}


class FewShotEnv(gymnasium.Env[Observation, Any]):
    """One few-shot episode at a time: one row of `FewShotVectorEnv`, not in a block."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        """Open one row; settings are those of `FewShotVectorEnv`.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        self._row = FewShotVectorEnv(1, render_mode=render_mode, **settings)
        self.render_mode = render_mode
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        return self._row.task

    @property
    def train_classes(self) -> int:
        """Classes of the train split, whatever split this is; 0 where there are none."""
        return self._row.train_classes

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        return self._row.data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trial `seed` (or stream `seed` on train), the next one, or `options["trial"]`.

        Raises:
            UsageError: a negative trial.
        """
        super().reset(seed=seed)
        options = options or {}
        rows = {"trials": [options["trial"]]} if "trial" in options else {}
        observation, info = self._row.reset(seed=seed, options=rows)
        return _first(observation), {"trial": int(info["trial"][0])}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Judge the answers; the episode is over.

        Raises:
            UsageError: the episode is over already, or none was opened.
            ContractError: an action of the wrong shape, type or range.
        """
        if bool(self._row._finished[0]):
            raise UsageError("the episode is over after one step; call env.reset()")
        given = self._row.trials.answer(action, ())
        observation, rewards, _, _, info = self._row.step(given[None])
        metrics = {name: float(info[name][0]) for name in self._row.trials.metrics(rewards)}
        judged = {"trial": int(info["trial"][0]), **metrics}
        return _first(observation), float(rewards[0]), True, False, judged

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture of the trial, uint8 `[height, width, 3]`, or None without a mode."""
        pictures = self._row.render()
        return pictures[0] if pictures else None


def _first(observation: Observation) -> Observation:
    return {name: part[0] for name, part in observation.items()}


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"render_mode must be None or 'rgb_array', got '{render_mode}'")
