"""Few-shot environments: one step an episode, native in blocks, the single one a block of one.

Observation (a dict; R rows lead in the vector environment): `support_x [rows, *instance]`,
`support_y [rows]`, `query_x`, `query_y`; `query_y` is -1 (0 for regression) on val and test.
Action: the query labels, or the predicted values. Reward: accuracy, or the negative mean squared
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lazybench.data.pool import Split
from lazybench.envs.fewshot.episodes import Labels
from lazybench.envs.fewshot.trial_sampler import TrialSampler, summary
from lazybench.envs.single_step import Backend, Observation, SingleStepVectorEnv
from lazybench.envs.trial_index import SingleEnv, first_row
from lazybench.errors import UsageError
from lazybench.tasks import Answers, TaskShape


class FewShotVectorEnv(SingleStepVectorEnv):
    """Blocks of few-shot episodes; each row is one trial, done after one step.

    `reset(seed=s)` opens trials s, s+1, … on val and test, and starts stream s on train; `reset()`
    opens the next ones; `options={"trials": array}` any; `options={"reset_mask": mask}` only some
    rows. A list of seeds, on val and test, has the trial of each row. Finished rows are no-ops:
    reward 0, at no cost.
    """

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
        concentration: int | None = None,
        uneven: bool = False,
        backend: Backend = "numpy",
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
            concentration: on val and test, draw the queries' classes from a Dirichlet distribution
                of this whole parameter (0: balanced); None for 15 queries of each class. A task
                then has 15 query rows a way, or as many as a single class can fill (Omniglot, whose
                classes have 20 instances: 3 a way at 5 ways).
            uneven: draw tasks of 2 to `way` classes and 1 to `shot` support instances a class, each
                as far as the data allow, with 5 queries a class; rows that a task doesn't have come
                last, with the label `lazybench.tasks.PADDING`, and answers to them aren't scored.
            backend: `numpy`, or `torch` for observations as tensors.
            device: where torch observations live.
            render_mode: None or `rgb_array`.
            max_episode_steps: accepted for `gymnasium.make_vec`; an episode has one step.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        del max_episode_steps
        trials = TrialSampler(
            data,
            way,
            shot,
            split=split,
            noniid=noniid,
            order=order,
            shots=shots,
            queries=queries,
            labels=labels,
            concentration=concentration,
            uneven=uneven,
        )
        super().__init__(num_envs, trials, backend=backend, device=device, render_mode=render_mode)
        self._sampler = trials

    def step(
        self, actions: Any
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Score the answers of all open rows; every row is done afterwards.

        For `lazybench.tasks.Answers` the info also says how well the agent knew what it knows.

        Raises:
            UsageError: called before the first reset.
            ContractError: an action of the wrong shape, type or range.
        """
        if not isinstance(actions, Answers):
            return super().step(actions)
        live = ~self._finished
        found = super().step(actions.labels)
        if live.any():
            for name, values in self._sampler.calibration(self._keys, actions).items():
                values[~live] = 0
                found[-1][name], found[-1][f"_{name}"] = values, live.copy()
        return found

    def summary(self, scores: Any, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return metrics of all trials together: calibration, if the agent said how sure it is."""
        return summary(columns)


class FewShotEnv(SingleEnv):
    """One few-shot episode at a time: a block of one of `FewShotVectorEnv`."""

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        """Open one row; settings are those of `FewShotVectorEnv`.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        super().__init__(FewShotVectorEnv(1, render_mode=render_mode, **settings))

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        task: TaskShape = self._row.task
        return task

    @property
    def train_classes(self) -> int:
        """Classes of the train split, whatever split this is; 0 if there are none."""
        return int(self._row.train_classes)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Score the answers; the episode is over.

        Raises:
            UsageError: the episode is over already, or none was opened.
            ContractError: an action of the wrong shape, type or range.
        """
        if bool(self._row._finished[0]):
            raise UsageError("the episode is over after one step; call env.reset()")
        labels = action.labels if isinstance(action, Answers) else action
        given = self._row.trials.answer(labels, ())[None]
        block = Answers.stacked([action]) if isinstance(action, Answers) else given
        observation, rewards, _, _, info = self._row.step(block)
        metrics = {name: float(info[name][0]) for name in self._row.trials.metrics(rewards)}
        scored = {"trial": int(info["trial"][0]), **metrics}
        return first_row(observation), float(rewards[0]), True, False, scored
