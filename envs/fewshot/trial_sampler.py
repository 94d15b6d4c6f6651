"""Trials of few-shot environments: opened by index, scored without ever keeping an answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from lazybench import registry, seeding
from lazybench.arguments import check_whole
from lazybench.data.importing.storage import ImportedSet
from lazybench.data.pool import SPLITS, DataSet, Split, data_facts
from lazybench.data.splits import QUERIES
from lazybench.envs.fewshot.episodes import (
    Block,
    ClassSampler,
    DirichletSampler,
    FunctionSampler,
    Labels,
    Sampler,
    UnevenSampler,
    class_groups,
)
from lazybench.envs.observations import instances, labels
from lazybench.envs.trial_classes import protocol_name, spread_queries
from lazybench.errors import ContractError, UsageError, nearest
from lazybench.tasks import CALIBRATION, PADDING, Answers, TaskShape

BINS = 15
"""Bins of confidence, of equal width, as on the long-tailed boards."""

_SUM_WITHIN = 1e-3


def calibration(
    answers: Answers, truth: NDArray[np.int64], classes: int
) -> dict[str, NDArray[np.float64]]:
    """Return what `summary` needs of each trial, by the names in `lazybench.tasks.CALIBRATION`.

    Those are, for each bin of confidence, right answers less confidence `[R, BINS]`; the number of
    queries `[R]`; the sum of their squared errors `[R]`, and the error of the agent's estimate of
    its own accuracy `[R]`. Without probabilities only the last.

    Args:
        answers: of R trials.
        truth: `[R, Q]`, `PADDING` for rows that aren't scored.
        classes: number of classes.

    Raises:
        ContractError: numbers of another shape, or that are no probabilities.
    """
    labels = _numbers(answers.labels, truth.shape, "labels").astype(np.int64)
    real = truth != PADDING
    rows = real.sum(1)
    right = (labels == truth) & real
    accuracy = right.sum(1) / rows
    columns: dict[str, NDArray[np.float64]] = {}
    estimate = None
    if answers.probabilities is not None:
        p = _numbers(answers.probabilities, (*truth.shape, classes), "probabilities")
        off = np.abs(p.sum(2) - 1)
        if (off[real] > _SUM_WITHIN).any() or (p[real] < 0).any():
            raise ContractError(
                f"probabilities must be at least 0 and sum to 1, got {p[real].min():.3g} to "
                f"{p[real].max():.3g} with sums up to {off[real].max():.3g} off"
            )
        own = np.take_along_axis(p, np.where(real, labels, 0)[..., None], 2)[..., 0]
        bins = np.minimum((own * BINS).astype(np.int64), BINS - 1)
        place = np.arange(len(truth))[:, None] * BINS + bins
        gaps = np.bincount(
            place.ravel(), ((right - own) * real).ravel(), minlength=len(truth) * BINS
        )
        squares = np.square(p - (truth[..., None] == np.arange(classes))).sum(2)
        names = iter(CALIBRATION)
        columns[next(names)] = gaps.reshape(-1, BINS).astype(np.float64)
        columns[next(names)] = rows.astype(np.float64)
        columns[next(names)] = (squares * real).sum(1)
        estimate = (own * real).sum(1) / rows
    if answers.accuracy is not None:
        estimate = _numbers(answers.accuracy, truth.shape[:1], "accuracy")
        if ((estimate < 0) | (estimate > 1)).any():
            raise ContractError(
                f"accuracy must lie in [0, 1], got {estimate.min():.3g} to {estimate.max():.3g}"
            )
    if estimate is not None:
        columns[CALIBRATION[-1]] = np.abs(estimate - accuracy)
    return columns


def summary(columns: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics over all trials; {} without any numbers for them.

    `ece` is the expected calibration error over all queries of all trials, `brier` the mean over
    them of the squared errors of all class probabilities, in [0, 2], and `self_estimate_error` the
    mean over trials of the distance between a trial's accuracy and what the agent expects of it.

    Reference: Guo et al. 2017, eq. (3); Brier 1950.
    """
    measures: dict[str, float] = {}
    gaps, rows, squares, error = (columns.get(name) for name in CALIBRATION)
    if gaps is not None and rows is not None and squares is not None:
        total = float(rows.sum())
        measures["ece"] = float(np.abs(gaps.sum(0)).sum() / total)
        measures["brier"] = float(squares.sum() / total)
    if error is not None:
        measures["self_estimate_error"] = float(error.mean())
    return measures


def _numbers(given: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
    held = given.detach().cpu() if isinstance(given, torch.Tensor) else given
    try:
        array = np.asarray(held, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{name} must be numbers of shape {list(shape)} ({error})") from error
    if array.shape != shape or not np.isfinite(array).all():
        what = (
            "numbers that aren't finite" if array.shape == shape else f"shape {list(array.shape)}"
        )
        raise ContractError(f"{name} must be finite, of shape {list(shape)}, got {what}")
    return array


UNEVEN_QUERIES = 5
"""Query instances of a class in trials of uneven tasks, few enough for 15 shots of 20 instances."""


class TrialSampler:
    """The trials of one environment and split: opens them by index, scores their answers.

    Nothing here keeps an answer: query targets are drawn again, from the trial's index, when it is
    scored. (Anyone who reads this file can draw them too: Python hides no memory. The official
    boards rely on it that agents get observations only.)
    """

    def __init__(  # noqa: PLR0913 - one name for each setting of the environment
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
        labels: Labels = "task",
        concentration: int | None = None,
        uneven: bool = False,
    ) -> None:
        """Open the data and fix the shape of the tasks.

        Raises:
            UsageError: an unknown split, order or kind of labels, another shot or query on test,
                class labels off train, or tasks that the data can't serve.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        if split not in SPLITS:
            hint = nearest(str(split), SPLITS)
            raise UsageError(f"split must be one of {', '.join(SPLITS)}, got '{split}'.{hint}")
        if order not in ("random", "sorted"):
            raise UsageError(f"order must be 'random' or 'sorted', got '{order}'")
        if split == "test" and (shots not in (None, shot) or queries not in (None, QUERIES)):
            raise UsageError(
                f"test trials have {shot} shots and {QUERIES} queries, got shots={shots}, "
                f"queries={queries}; set them on the train or val split"
            )
        _check_labels(labels, split)
        opened = registry.open_data(data)
        self.data = data_facts(opened)
        settings = {"data": data, "way": way, "shot": shot, "noniid": noniid, "order": order}
        settings["uneven"] = uneven
        if split != "train":
            settings["concentration"] = concentration
        name = protocol_name(settings)
        self.split = split
        self._data_set = data
        k, q = shot if shots is None else shots, QUERIES if queries is None else queries
        self.sampler: Sampler
        if hasattr(opened, "pool"):
            if uneven:
                q = UNEVEN_QUERIES if queries is None else queries
                pools = [opened.pool(each) for each in SPLITS]
                way = min(way, pools[0].classes, pools[-1].classes)
                k = min(k, *(int(pool.count.min()) - q for pool in pools))
            drawn: Split = split
            if _classes(opened, "val") < way <= _classes(opened, "train"):
                # `Choice:` with more ways than val has classes (miniImageNet: 16), validation tasks
                # are fresh ones of the train classes; dropping validation would be the other way.
                drawn = "train" if split == "val" else split
                self.data["source"] += "; validated on train classes, val has fewer than the ways"
            where, pool = f"{data} {split}", opened.pool(drawn)
            if concentration is not None and queries is None:
                # As many as a single class can fill.
                q = spread_queries(q, int(pool.count.min()), k, way)
            if uneven:
                self.sampler = UnevenSampler(pool, way=way, shot=k, query=q, where=where)
            elif concentration is None or split == "train":
                self.sampler = ClassSampler(pool, way=way, shot=k, query=q, where=where)
            else:
                check_whole("concentration", concentration)
                self.sampler = DirichletSampler(
                    pool, way=way, shot=k, query=q, where=where, concentration=concentration
                )
            self.sampler.labels = labels
            if noniid and split == "train":
                self.sampler.groups = class_groups(
                    pool.classes, way, name, ordered=order == "sorted"
                )
        elif noniid:
            raise UsageError(f"{data} has no classes to keep in order; leave noniid out")
        elif uneven or concentration is not None:
            raise UsageError(f"{data} has no classes to draw unevenly; choose data with classes")
        elif labels == "class":
            raise UsageError(f"{data} has no classes to label; leave labels='class' out")
        else:
            self.sampler = FunctionSampler(opened, shot=k, query=q)
        self._key = seeding.mix(name, split)
        self._names = self.task.classes if labels == "class" else self.task.way

    @property
    def task(self) -> TaskShape:
        """Shape of every task."""
        return self.sampler.task

    @cached_property
    def train_classes(self) -> int:
        """Classes of the train split, whatever split this is; 0 if there are none."""
        if self.task.target != "class":
            return 0
        return int(registry.open_data(self._data_set).pool("train").classes)

    def spaces(self, rows: tuple[int, ...]) -> tuple[spaces.Dict, spaces.Space[Any]]:
        """Return the observation and action space, with leading dimensions `rows`."""
        task = self.task
        support, query = (*rows, task.support_rows), (*rows, task.query_rows)

        def targets(shape: tuple[int, ...], hidden: bool) -> spaces.Space[Any]:
            if task.target == "class":
                return labels(self._names, shape, hidden=hidden, padded=task.uneven)
            return instances("float32", (*shape, *task.target_shape))

        observation = spaces.Dict(
            {
                "support_x": instances(task.dtype, (*support, *task.instance)),
                "support_y": targets(support, True),
                "query_x": instances(task.dtype, (*query, *task.instance)),
                "query_y": targets(query, True),
            }
        )
        return observation, targets(query, False)

    def keys(self, trials: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
        """Return one key for each trial; `stream` counts on train alone."""
        head = seeding.mix(self._key, stream) if self.split == "train" else self._key
        return seeding.mix(head, trials)

    def open(self, keys: NDArray[np.uint64]) -> Block:
        """Return the tasks, query targets hidden unless the split is train."""
        block = self.sampler.draw(keys)
        if self.split == "train":
            return block
        hidden = torch.full_like(block.query_y, -1 if self.task.target == "class" else 0)
        if self.task.uneven:
            hidden[block.query_y == PADDING] = PADDING
        return block._replace(query_y=hidden)

    def answer(self, action: Any, rows: tuple[int, ...]) -> NDArray[Any]:
        """Return an action as an array, its shape and type checked; leading dimensions `rows`.

        Raises:
            ContractError: an action of another shape or type.
        """
        held = action.detach().cpu() if isinstance(action, torch.Tensor) else action
        try:
            given = np.asarray(held)
        except (TypeError, ValueError):
            given = np.asarray(held, dtype=object)
        wanted = (*rows, self.task.query_rows, *self.task.target_shape)
        if given.shape != wanted:
            raise ContractError(
                f"an action must have shape {list(wanted)} (one answer for each query row), "
                f"got {list(given.shape)}"
            )
        if self.task.target == "class" and given.dtype.kind not in "iu":
            raise ContractError(f"labels must be integers, got dtype {given.dtype}")
        if given.dtype.kind not in "iuf":
            raise ContractError(f"predictions must be finite numbers, got dtype {given.dtype}")
        # Records keep values in single precision, and must give the same scores.
        return given if self.task.target == "class" else given.astype(np.float32)

    def score(self, keys: NDArray[np.uint64], given: NDArray[Any]) -> NDArray[np.float64]:
        """Return each task's reward: accuracy in [0, 1], or the negative mean squared error.

        Args:
            keys: one for each task.
            given: what `answer` returned, for these tasks.

        Raises:
            ContractError: labels out of range, values not finite.
        """
        answers = self.sampler.answers(keys)
        axes = tuple(range(1, answers.ndim))
        if self.task.target == "class":
            if self.task.uneven:
                # Answers to rows that a task doesn't have mean nothing.
                given = np.where(answers == PADDING, 0, given)
            low, high = int(given.min()), int(given.max())
            if not 0 <= low <= high < self._names:
                raise ContractError(f"labels must lie in [0, {self._names}), got {low} to {high}")
            right = given == answers
            if self.task.uneven:
                return np.asarray(right.sum(axis=axes) / (answers != PADDING).sum(axis=axes))
            return np.asarray(right.mean(axis=axes), dtype=np.float64)
        if not np.isfinite(given).all():
            raise ContractError("predictions must be finite numbers, got inf or nan")
        error = given.astype(np.float64) - answers.astype(np.float64)
        return np.asarray(-np.square(error).mean(axis=axes), dtype=np.float64)

    def calibration(
        self, keys: NDArray[np.uint64], answers: Answers
    ) -> dict[str, NDArray[np.float64]]:
        """Return how well an agent knew what it knows, as the function `calibration`.

        Args:
            keys: one for each task.
            answers: to these tasks.

        Raises:
            ContractError: tasks without classes, or numbers that are no probabilities.
        """
        if self.task.target != "class":
            raise ContractError(
                "probabilities are for tasks with classes, got real-valued targets; return the "
                "predictions alone"
            )
        return calibration(answers, self.sampler.answers(keys), self._names)

    def metrics(self, rewards: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the headline metric of each task by name."""
        return {"accuracy": rewards} if self.task.target == "class" else {"mse": -rewards}


def _classes(opened: DataSet, split: Split) -> int:
    # Splits of features may not be embedded yet.
    return opened.classes(split) if isinstance(opened, ImportedSet) else opened.pool(split).classes


def _check_labels(labels: str, split: Split) -> None:
    if labels not in get_args(Labels):
        raise UsageError(f"labels must be 'task' or 'class', got '{labels}'")
    if labels == "class" and split != "train":
        raise UsageError(
            f"labels='class' is for the train split, got split '{split}', whose trials are scored "
            "by the labels of their tasks; leave it out"
        )
