"""Official trials: opened by index, answered by a policy, judged by the environment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.errors import ContractError
from lazybench.harness.watch import Watch
from lazybench.records.atomic import plain
from lazybench.registry import load
from lazybench.specs import EnvSpec

Scores = NDArray[np.float64]

BLOCK = 8
"""Trials that are opened together."""


class Clock:
    """Tells the wall and processor seconds since it was made."""

    def __init__(self) -> None:
        """Start."""
        self._start_s = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Return wall seconds and processor seconds over all threads."""
        return time.perf_counter() - self._start_s[0], time.process_time() - self._start_s[1]


class Judged(NamedTuple):
    """One block of judged trials.

    Attributes:
        first: index of its first trial.
        scores: the environment's metric of each trial, float64 `[R]`.
        answers: the actions, `[R, …]`.
        wall_s: seconds that answering and judging took.
        cpu_s: processor seconds of that.
        metrics: what a pass over a whole test set tells beside the trials, JSON values by name; the
            headline metric is among them. Empty for independent trials.
    """

    first: int
    scores: NDArray[np.float64]
    answers: NDArray[Any]
    wall_s: float
    cpu_s: float
    metrics: Mapping[str, Any] = MappingProxyType({})

    def score(self, metric: str) -> float:
        """Return the headline metric: what the environment says, else the mean over trials."""
        return float(self.metrics.get(metric, self.scores.mean()))


@dataclass(frozen=True)
class Scored:
    """The judged trials: score of each, answers block by block, wall and processor seconds.

    `metrics` has what a pass over a whole test set tells beside them.
    """

    scores: Scores
    answers: list[NDArray[Any]]
    eval_wall_s: float
    eval_cpu_s: float
    metrics: Mapping[str, Any] = field(default_factory=dict)


def open_env(spec: EnvSpec, rows: int, split: str, device: str = "cpu", **settings: Any) -> Any:
    """Return an environment with torch observations: a native vector one of `rows` rows.

    A family without a vector form, whose test is one pass over a whole test set, gives the single
    environment.

    Raises:
        UsageError: settings that aren't allowed.
        DataUnavailable: its data isn't installed or is damaged.
    """
    arguments = {**spec.kwargs, "split": split, "backend": "torch", "device": device, **settings}
    if spec.vector_target is None:
        return load(spec.target)(**arguments)
    return load(spec.vector_target)(rows, **arguments)


def judge(
    env: Any, policy: Any, metric: str, trials: int, *, start: int = 0, seed: int = 0
) -> Iterator[Judged]:
    """Yield the judged blocks of trials start..trials-1 of a vector environment.

    Trials past the last one of a block that isn't full are opened and thrown away, so that every
    block is computed alike. A single environment's test is one pass over its whole test set, the
    trials of which are judged together, as one block; `seed` is the run's, which chose its data.

    Raises:
        ContractError: the policy's answers have a wrong shape, type or range.
    """
    if not isinstance(env, gymnasium.vector.VectorEnv):
        if start < trials:
            yield _whole_pass(env, policy, metric, seed)
        return
    rows = env.num_envs
    for first in range(start, trials, rows):
        clock = Clock()
        observation, _ = env.reset(options={"trials": np.arange(first, first + rows)})
        scores = np.zeros(rows)
        done = np.zeros(rows, dtype=np.bool_)
        memory: Any = None
        answers: NDArray[Any] | None = None
        while not done.all():
            action, memory = _answer(policy, observation, memory, rows)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated | truncated
            answers = np.asarray(action.cpu() if isinstance(action, torch.Tensor) else action)
            if metric in info:
                fresh = np.asarray(info.get(f"_{metric}", np.ones(rows, dtype=np.bool_)))
                scores[fresh] = np.asarray(info[metric])[fresh]
        count = min(rows, trials - first)
        if answers is None:
            raise ContractError("an environment must take at least one action in each trial")
        yield Judged(first, scores[:count], answers[:count], *clock.seconds())


def judge_all(  # noqa: PLR0913 - what is judged, on what, who hears, and since when
    env: Any, policy: Any, metric: str, trials: int, watch: Watch, clock: Clock, *, seed: int = 0
) -> Scored:
    """Return all trials judged at once, with the seconds since `clock` was made.

    Raises:
        ContractError: the policy's answers have a wrong shape, type or range.
    """
    watch.stage("test", trials)
    blocks: list[Judged] = []
    for block in judge(env, policy, metric, trials, seed=seed):
        blocks.append(block)
        scores = np.concatenate([each.scores for each in blocks])
        watch.advance(len(block.scores), {metric: float(scores.mean())})
    watch.finished()
    return Scored(scores, [each.answers for each in blocks], *clock.seconds(), blocks[-1].metrics)


def _whole_pass(env: Any, policy: Any, metric: str, seed: int) -> Judged:
    """One episode over a whole test set, whose last info tells each trial's score."""
    clock = Clock()
    observation, _ = env.reset(seed=seed)
    memory: Any = None
    info: dict[str, Any] = {}
    done = False
    while not done:
        action, memory = _pair(policy(observation, memory))
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    missing = [name for name in (metric, "correct", "predictions") if name not in info]
    if missing:
        raise ContractError(
            f"the last info of a pass over a test set tells {metric}, correct and predictions; "
            f"missing: {', '.join(missing)}; give them in the step that terminates"
        )
    scores = np.asarray(info["correct"], dtype=np.float64)
    told = {**info.get("metrics", {}), metric: info[metric]}
    return Judged(0, scores, np.asarray(info["predictions"]), *clock.seconds(), metrics=plain(told))


def _answer(policy: Any, observation: Any, memory: Any, rows: int) -> tuple[Any, Any]:
    """One action for each row; a policy that isn't vectorised is asked row by row."""
    if getattr(policy, "vectorized", False):
        return _pair(policy(observation, memory))
    memories = memory if memory is not None else [None] * rows
    pairs = [
        _pair(policy({name: part[row] for name, part in observation.items()}, memories[row]))
        for row in range(rows)
    ]
    actions = [torch.as_tensor(action) for action, _ in pairs]
    shapes = {tuple(action.shape) for action in actions}
    if len(shapes) > 1:
        raise ContractError(f"a policy's actions must all have one shape, got {sorted(shapes)}")
    return torch.stack(actions), [kept for _, kept in pairs]


def _pair(answer: Any) -> tuple[Any, Any]:
    if isinstance(answer, tuple) and len(answer) == 2:
        return answer
    raise ContractError(
        f"a policy returns (action, memory), got {type(answer).__name__}; for a policy without "
        "memory return (action, None)"
    )


def env_facts(spec: EnvSpec, env: Any, trials: int) -> dict[str, Any]:
    """Return the `env` and `data` parts of a record."""
    protocol = {key: value for key, value in spec.kwargs.items() if key != "data"}
    # Few-shot environments of other packages needn't tell more than the shape of their tasks.
    more = env.protocol if hasattr(env, "protocol") else {"query": env.task.query}
    protocol |= {**more, "trials": trials}
    return {
        "env": {
            "id": spec.id,
            "version": spec.version,
            "family": spec.family,
            "metric": spec.metric,
            "better": spec.better,
            "unit": spec.unit,
            "protocol": protocol,
        },
        "data": dict(env.data),
    }
