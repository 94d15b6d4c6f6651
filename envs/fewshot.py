"""Few-shot environments: one step an episode, native in blocks, the single one being one row of them.

Observation (a dict; R rows lead in the vector environment): `support_x [rows, *instance]`, `support_y
[rows]`, `query_x`, `query_y`; `query_y` is -1 (0 for regression) on val and test. Action: the query
labels, or the predicted values. Reward: accuracy, or the negative mean squared error.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lazybench import counter, registry
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.episodes import Block, ClassSampler, FunctionSampler, Sampler
from lazybench.envs.picture import contact_sheet
from lazybench.errors import ContractError, UsageError, nearest
from lazybench.spaces import broadcast_box, labels
from lazybench.task import TaskShape

QUERIES = 15
"""Query instances of a class in official test trials."""

Observation = dict[str, Any]


class Trials:
    """The trials of one environment and split: opens them by index, judges answers to them.

    Nothing here keeps an answer: query targets are drawn again, from the trial's index, when it is
    judged. (They can be drawn again by anyone who reads this file: Python hides no memory. The official
    boards rely on it that agents get observations only.)
    """

    def __init__(
        self,
        data: str,
        way: int,
        shot: int,
        *,
        split: Split,
        noniid: bool,
        order: Literal["random", "sorted"],
        shots: int | None,
        queries: int | None,
    ) -> None:
        """Open the data and fix the shape of the tasks.

        Raises:
            UsageError: an unknown split or order, another shot or query on test, or tasks that the
                data can't serve.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        if split not in SPLITS:
            raise UsageError(
                f"split must be one of {', '.join(SPLITS)}, got '{split}'.{nearest(str(split), SPLITS)}"
            )
        if order not in ("random", "sorted"):
            raise UsageError(f"order must be 'random' or 'sorted', got '{order}'")
        if split == "test" and (shots not in (None, shot) or queries not in (None, QUERIES)):
            raise UsageError(
                f"test trials have {shot} shots and {QUERIES} queries, got shots={shots}, "
                f"queries={queries}; set them on the train or val split"
            )
        opened = registry.open_data(data)
        self.data = {
            "name": opened.name,
            "fingerprint": opened.fingerprint,
            "prep": opened.prep,
            "source": opened.source,
        }
        trap = noniid and split == "train"
        groups = "-noniid-sorted" if noniid and order == "sorted" else "-noniid" if noniid else ""
        name = f"{data}-{way}way-{shot}shot{groups}"
        self.split = split
        k, q = shot if shots is None else shots, QUERIES if queries is None else queries
        self.sampler: Sampler
        if hasattr(opened, "pool"):
            self.sampler = ClassSampler(
                opened.pool(split),
                way=way,
                shot=k,
                query=q,
                where=f"{data} {split}",
                noniid_key=name if trap else "",
                ordered=order == "sorted",
            )
        else:
            self.sampler = FunctionSampler(opened, shot=k, query=q)
        self._key = counter.mix(name, split)

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        return self.sampler.task

    def spaces(self, rows: tuple[int, ...]) -> tuple[spaces.Dict, spaces.Space[Any]]:
        """Return the observation and action space, with leading dimensions `rows`."""
        task = self.task
        support, query = (*rows, task.support_rows), (*rows, task.query_rows)
        image = (0, 255, np.uint8) if task.dtype == "uint8" else (-1e6, 1e6, np.float32)
        low, high, dtype = image

        def instances(shape: tuple[int, ...]) -> spaces.Box:
            return broadcast_box(low, high, (*shape, *task.instance), dtype)

        def targets(shape: tuple[int, ...], hidden: bool) -> spaces.Space[Any]:
            if task.target == "class":
                return labels(task.way, shape, hidden=hidden)
            return broadcast_box(-1e6, 1e6, (*shape, *task.target_shape), np.float32)

        observation = spaces.Dict(
            {
                "support_x": instances(support),
                "support_y": targets(support, True),
                "query_x": instances(query),
                "query_y": targets(query, True),
            }
        )
        return observation, targets(query, False)

    def keys(self, trials: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
        """Return one key for each trial; `stream` counts on train alone."""
        head = counter.mix(self._key, stream) if self.split == "train" else self._key
        return counter.mix(head, trials)

    def open(self, keys: NDArray[np.uint64]) -> Block:
        """Return the tasks, query targets hidden unless the split is train."""
        block = self.sampler.draw(keys)
        if self.split == "train":
            return block
        hidden = torch.full_like(block.query_y, -1 if self.task.target == "class" else 0)
        return block._replace(query_y=hidden)

    def judge(self, keys: NDArray[np.uint64], action: Any) -> NDArray[np.float64]:
        """Return each task's reward: accuracy in [0, 1], or the negative mean squared error.

        Raises:
            ContractError: an action of another shape or type, labels out of range, values not finite.
        """
        answers = self.sampler.answers(keys)
        given = np.asarray(action.detach().cpu() if isinstance(action, torch.Tensor) else action)
        if given.shape != answers.shape:
            raise ContractError(
                f"an action must have shape {list(answers.shape)} (one answer for each query row), "
                f"got {list(given.shape)}"
            )
        axes = tuple(range(1, answers.ndim))
        if self.task.target == "class":
            if given.dtype.kind not in "iu":
                raise ContractError(f"labels must be integers, got dtype {given.dtype}")
            if given.size and not 0 <= int(given.min()) <= int(given.max()) < self.task.way:
                raise ContractError(
                    f"labels must lie in [0, {self.task.way}), got {given.min()} to {given.max()}"
                )
            return np.asarray((given == answers).mean(axis=axes), dtype=np.float64)
        if given.dtype.kind not in "iuf" or not np.isfinite(given).all():
            raise ContractError(f"predictions must be finite numbers, got dtype {given.dtype}")
        return np.asarray(-np.square(given.astype(np.float64) - answers).mean(axis=axes))

    def metrics(self, rewards: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the headline metric of each task by name."""
        return {"accuracy": rewards} if self.task.target == "class" else {"mse": -rewards}


class FewShotVectorEnv(gymnasium.vector.VectorEnv[Observation, Any, Any]):
    """Blocks of few-shot episodes; each row is one trial, done after one step.

    `reset(seed=s)` opens trials s, s+1, … on val and test, and starts stream s on train; `reset()` opens
    the next ones; `options={"trials": array}` any; `options={"reset_mask": mask}` only some rows.
    Finished rows are no-ops: reward 0, at no cost.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
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
            backend: `numpy`, or `torch` for observations as tensors.
            device: where torch observations live.
            render_mode: None or `rgb_array`.
            max_episode_steps: accepted for `gymnasium.make_vec`; an episode has one step.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        if num_envs < 1:
            raise UsageError(f"num_envs must be at least 1, got {num_envs}")
        if backend not in ("numpy", "torch"):
            raise UsageError(f"backend must be 'numpy' or 'torch', got '{backend}'")
        _check_render_mode(render_mode)
        self.trials = Trials(
            data, way, shot, split=split, noniid=noniid, order=order, shots=shots, queries=queries
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.trials.spaces((num_envs,))
        self.single_observation_space, self.single_action_space = self.trials.spaces(())
        self._backend, self._device = backend, device
        self._stream = self._next = 0
        self._trial = np.full(num_envs, -1, dtype=np.int64)
        self._finished = np.ones(num_envs, dtype=np.bool_)
        self._block: Block | None = None

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        return self.trials.task

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        return self.trials.data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trials; see the class.

        Raises:
            UsageError: trials or a mask of another length than the rows, or negative trials.
        """
        super().reset(seed=seed)
        options = options or {}
        mask = self._rows(options.get("reset_mask", np.ones(self.num_envs, dtype=np.bool_)), "reset_mask")
        mask = mask.astype(np.bool_)
        if self._block is None:
            mask[:] = True
        if seed is not None:
            self._stream, self._next = (seed, 0) if self.trials.split == "train" else (0, seed)
        if "trials" in options:
            wanted = self._rows(options["trials"], "trials").astype(np.int64)
            if int(wanted.min()) < 0:
                raise UsageError(f"trials are numbered from 0, got {wanted.min()}")
        else:
            wanted = self._trial.copy()
            wanted[mask] = self._next + np.arange(int(mask.sum()))
        self._trial[mask] = wanted[mask]
        self._next = int(self._trial[mask].max()) + 1 if mask.any() else self._next
        self._finished[mask] = False
        fresh = self.trials.open(self._keys(mask))
        if mask.all() or self._block is None:
            self._block = fresh
        else:
            rows = torch.from_numpy(mask)
            parts = (old.clone() for old in self._block)
            self._block = Block(*(_put(old, rows, new) for old, new in zip(parts, fresh, strict=True)))
        return self._observe(), {"trial": self._trial.copy()}

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
            given = actions if live.all() else actions[live]
            rewards[live] = self.trials.judge(self._keys(live), given)
            for name, values in self.trials.metrics(rewards).items():
                info[name], info[f"_{name}"] = values, live
        self._finished[:] = True
        done = np.ones(self.num_envs, dtype=np.bool_)
        return self._observe(), rewards, done, np.zeros(self.num_envs, dtype=np.bool_), info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture for each row, uint8 `[height, width, 3]`, or None without a render mode."""
        if self.render_mode is None or self._block is None:
            return None
        return tuple(
            contact_sheet(*(part[row].numpy() for part in self._block), task=self.task)
            for row in range(self.num_envs)
        )

    def _keys(self, rows: NDArray[np.bool_]) -> NDArray[np.uint64]:
        return self.trials.keys(self._trial[rows], self._stream)

    def _rows(self, values: Any, name: str) -> NDArray[Any]:
        array = np.array(values)
        if array.shape != (self.num_envs,):
            raise UsageError(
                f"options['{name}'] needs one entry for each of {self.num_envs} rows, got shape "
                f"{list(array.shape)}"
            )
        return array

    def _observe(self) -> Observation:
        block = self._block
        if block is None:
            raise UsageError("no trial is open; call env.reset() first")
        if self._backend == "torch":
            return {name: part.to(self._device) for name, part in block._asdict().items()}
        return {name: part.numpy().copy() for name, part in block._asdict().items()}


class FewShotEnv(gymnasium.Env[Observation, Any]):
    """One few-shot episode at a time: one row of `FewShotVectorEnv`, without the leading dimension."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 1}

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
        observation, rewards, _, _, info = self._row.step(action[None])
        metrics = {
            name: float(info[name][0]) for name in self._row.trials.metrics(rewards)
        }
        judged = {"trial": int(info["trial"][0]), **metrics}
        return _first(observation), float(rewards[0]), True, False, judged

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Return a picture of the trial, uint8 `[height, width, 3]`, or None without a render mode."""
        pictures = self._row.render()
        return pictures[0] if pictures else None


def _first(observation: Observation) -> Observation:
    return {name: part[0] for name, part in observation.items()}


def _put(old: torch.Tensor, rows: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    old[rows] = new
    return old


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"render_mode must be None or 'rgb_array', got '{render_mode}'")
