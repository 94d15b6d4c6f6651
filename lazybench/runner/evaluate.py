"""Evaluation on official trials: opened by index, played by a policy, scored by the environment."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.agent import (
    BatchedEnv,
    EnvFacts,
    OpenedBlock,
    OpenedEnv,
    Plan,
    Policy,
    TaskEnv,
    is_vectorized,
)
from lazybench.errors import ContractError, nearest
from lazybench.files import plain
from lazybench.runner.callbacks import Callback
from lazybench.runtime import distributed
from lazybench.specs import EnvSpec
from lazybench.tasks import CALIBRATION, Answers, HasProtocol, Summarised, Tracked
from lazybench.user_code import load

Scores = NDArray[np.float64]

_RESERVED = ("split", "backend", "device", "num_envs", "render_mode")


class Clock:
    """Measures wall and processor seconds since its construction."""

    def __init__(self) -> None:
        """Start."""
        self._start_s = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Return wall seconds and processor seconds over all threads."""
        return time.perf_counter() - self._start_s[0], time.process_time() - self._start_s[1]


class Evaluation(NamedTuple):
    """Evaluated trials: one block of them, or all.

    Attributes:
        first: index of the first trial.
        scores: the environment's metric of each trial, float64 `[R]`.
        answers: the actions, `[R, …]`; empty if they aren't arrays.
        wall_s: wall seconds of policy and environment.
        cpu_s: processor seconds of policy and environment.
        metrics: metrics over all trials by name, as JSON values: those of a pass over a whole test
            set, including the headline metric, or the environment's summary. Empty for a block of
            independent trials.
        columns: further numbers of each trial by name, each `[R]`.
        calibration: numbers of `lazybench.tasks.CALIBRATION` of each trial, `[R, …]`, if the agent
            says how sure it is; not part of a record.
    """

    first: int
    scores: Scores
    answers: NDArray[Any]
    wall_s: float
    cpu_s: float
    metrics: Mapping[str, Any] = MappingProxyType({})
    columns: Mapping[str, NDArray[Any]] = MappingProxyType({})
    calibration: Mapping[str, NDArray[Any]] = MappingProxyType({})

    def score(self, metric: str) -> float:
        """Return the headline metric: the environment's value, else the mean over trials."""
        return float(self.metrics.get(metric, self.scores.mean()))


def open_env(
    spec: EnvSpec, rows: int, split: str, device: str = "cpu", **settings: Any
) -> OpenedEnv:
    """Return a vector environment of `rows` rows with torch observations.

    A family without a vector form, whose test is one pass over a whole test set, returns a single
    environment.

    Raises:
        UsageError: settings that aren't allowed.
        DataUnavailable: its data isn't installed or is damaged.
    """
    arguments = {**spec.kwargs, "split": split, "backend": "torch", "device": device, **settings}
    if spec.vector_target is None:
        env: OpenedEnv = load(spec.target)(**arguments)
    else:
        env = load(spec.vector_target)(rows, **arguments)
    return env


def is_block(env: OpenedEnv) -> TypeGuard[OpenedBlock]:
    """Return whether an environment is a vector one, of blocks of trials."""
    return isinstance(env, gymnasium.vector.VectorEnv)


def open_training(spec: EnvSpec, plan: Plan | None, device: str = "cpu") -> BatchedEnv:
    """Return the training environment of an agent, with the settings of its plan.

    Args:
        spec: the environment.
        plan: the agent's plan; None for one row and default settings.
        device: device of the observations.

    Raises:
        ContractError: the plan changes a setting that belongs to the environment's id or scoring,
            or one that doesn't exist.
        UsageError: settings that aren't allowed.
        DataUnavailable: its data isn't installed or is damaged.
    """
    given = {} if plan is None else dict(plan.env)
    known = _arguments_of(spec)
    for name in given:
        if known is not None and name not in known:
            fixed = {*_RESERVED, *spec.training, *spec.kwargs} - {*spec.plan_options}
            allowed = [each for each in known if each not in fixed]
            raise ContractError(
                f"the training environment of {spec.id} has no setting '{name}', which an agent's "
                f"plan asks for.{nearest(name, allowed)} Plan(env=…) takes {', '.join(allowed)}"
            )
        protected = name in spec.kwargs and name not in spec.plan_options
        if protected or name in _RESERVED or name in spec.training:
            raise ContractError(
                f"an agent's plan can't set '{name}' of its training environment, which is part of "
                f"{spec.id} or of its scoring; leave it out of Plan(env=…)"
            )
    rows = 1 if plan is None else plan.meta_batch
    opened: Any = open_env(spec, rows, "train", device, **{**given, **spec.training})
    train: BatchedEnv = opened
    if isinstance(train, Tracked):
        usual = open_env(spec, 1, "train", **spec.training)
        if env_protocol(train) != env_protocol(usual):
            raise ContractError(
                f"an agent's plan changes which images {spec.id} trains on, got "
                f"{env_protocol(train)}, allowed is {env_protocol(usual)}; leave these out of "
                "Plan(env=…)"
            )
    return train


def _arguments_of(spec: EnvSpec) -> list[str] | None:
    """The names of the arguments of a training environment; None if it takes any."""
    parameters = inspect.signature(load(spec.vector_target or spec.target)).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return None if takes_any else list(parameters)


def for_init(env: OpenedEnv) -> TaskEnv:
    """Return the argument of an agent's `init`: the environment, or its facts if it has a track.

    With access to the environment, `init` could learn the dev set's labels from its scores.

    Args:
        env: opened for validation.
    """
    if not isinstance(env, Tracked):
        return env
    return EnvFacts(
        task=env.task,
        split="val",
        track=env.track,
        data=dict(env.data),
        protocol=env_protocol(env),
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


def evaluate_blocks(  # noqa: PLR0913 - what, by what, from where to where, and what to note
    env: OpenedEnv,
    policy: Policy,
    metric: str,
    trials: int,
    *,
    start: int = 0,
    seed: int = 0,
    columns: tuple[str, ...] = (),
) -> Iterator[Evaluation]:
    """Yield the evaluated blocks of trials start..trials-1 of a vector environment.

    The last block is filled up with further trials, which are discarded, so that every block is
    computed in the same way. The test of a single environment is one pass over its whole test set,
    scored as one block; `seed` is the run's, which selects its data. `columns` names further
    numbers in the last info of each trial. The ranks of a distributed run
    (`lazybench.runtime.distributed`) evaluate different blocks, and each rank yields all of them.

    Raises:
        ContractError: the policy isn't a function, or its answers have a wrong shape, type or
            range.
    """
    check_policy(policy)
    if not is_block(env):
        if start < trials:
            yield _whole_pass(env, policy, metric, seed)
        return
    rows = env.num_envs
    for turn in range(start, trials, rows * distributed.size()):
        first = turn + rows * distributed.rank()
        block = None
        if first < trials:
            whole = evaluate_block(env, policy, metric, np.arange(first, first + rows), columns)
            block = _first_of(whole, min(rows, trials - first))
        yield from (each for each in distributed.gathered(block) if each is not None)


def check_policy(policy: Any) -> None:
    """Check that a policy can be called.

    Raises:
        ContractError: it can't.
    """
    if not callable(policy):
        raise ContractError(
            "policy(state), or fit(env, budget, rng) of an agent with its own loop, must return a "
            "function that takes (observation, memory) and returns (action, memory), got "
            f"{type(policy).__name__}"
        )


def evaluate_block(
    env: OpenedBlock,
    policy: Policy,
    metric: str,
    trials: NDArray[np.int64],
    columns: tuple[str, ...],
) -> Evaluation:
    """Return one block of evaluated trials of a vector environment, in their order.

    The score and answers of a trial are those of its last step; later steps of its row are ignored.

    Args:
        env: environment with one row per trial.
        policy: the policy to evaluate.
        metric: name of the environment's metric.
        trials: `[R]` indices of trials.
        columns: names of further numbers in the last info of each trial.

    Raises:
        ContractError: the policy's answers have a wrong shape, type or range.
    """
    rows = env.num_envs
    clock = Clock()
    observation, _ = env.reset(options={"trials": trials})
    numbers = {name: np.zeros(rows) for name in (metric, *columns)}
    done = np.zeros(rows, dtype=np.bool_)
    memory: Any = None
    answers: NDArray[Any] | None = None
    sure: dict[str, NDArray[Any]] = {}
    while not done.all():
        action, memory = answer_rows(
            policy, observation, memory, rows, env.single_action_space.shape
        )
        observation, _, terminated, truncated, info = env.step(action)
        given = _array(action, rows)
        if answers is not None and answers.shape == given.shape:
            given[done] = answers[done]
        answers = given
        sure = {name: np.asarray(info[name]) for name in CALIBRATION if name in info}
        for name in numbers.keys() & info.keys():
            fresh = np.asarray(info.get(f"_{name}", np.ones(rows, dtype=np.bool_)))
            # A finished row may have begun another trial, which belongs to no row of this block.
            fresh = fresh & ~done
            numbers[name][fresh] = np.asarray(info[name])[fresh]
        done |= terminated | truncated
    if answers is None:
        raise ContractError("an environment must take at least one action in each trial")
    named = {name: numbers[name] for name in columns}
    # A plain dict, since ranks send blocks to each other.
    return Evaluation(int(trials[0]), numbers[metric], answers, *clock.seconds(), {}, named, sure)


def _first_of(block: Evaluation, count: int) -> Evaluation:
    """The first trials of a block."""
    named, sure = (
        {name: part[:count] for name, part in parts.items()}
        for parts in (block.columns, block.calibration)
    )
    return block._replace(
        scores=block.scores[:count],
        answers=block.answers[:count],
        columns=named,
        calibration=sure,
    )


def evaluate_all(  # noqa: PLR0913 - what, on what, the callback, and since when
    env: OpenedEnv,
    policy: Policy,
    spec: EnvSpec,
    trials: int,
    watch: Callback,
    clock: Clock,
    *,
    seed: int = 0,
) -> Evaluation:
    """Evaluate all trials and return them as one, with the seconds since `clock` was started.

    Raises:
        ContractError: the policy's answers have a wrong shape, type or range.
    """
    watch.stage("test", trials)
    blocks: list[Evaluation] = []
    for block in evaluate_blocks(env, policy, spec.metric, trials, seed=seed, columns=spec.columns):
        blocks.append(block)
        scores = np.concatenate([each.scores for each in blocks])
        watch.advance(len(block.scores), {spec.metric: float(scores.mean())})
    watch.finished()
    return combined(env, blocks, spec.columns, *clock.seconds())


def combined(
    env: OpenedEnv,
    blocks: Sequence[Evaluation],
    columns: tuple[str, ...],
    wall_s: float,
    cpu_s: float,
) -> Evaluation:
    """Return evaluated blocks as one, with the environment's metrics over all trials."""
    scores = np.concatenate([each.scores for each in blocks])
    numbers = {name: np.concatenate([each.columns[name] for each in blocks]) for name in columns}
    # An agent that says how sure it is says so in every block, or isn't scored by it.
    shared = set(CALIBRATION).intersection(*(each.calibration for each in blocks))
    sure = {name: np.concatenate([each.calibration[name] for each in blocks]) for name in shared}
    known = {**numbers, **sure}
    whole = dict(plain(env.summary(scores, known))) if isinstance(env, Summarised) else {}
    answers = np.concatenate([each.answers for each in blocks])
    metrics = whole or blocks[-1].metrics
    return Evaluation(blocks[0].first, scores, answers, wall_s, cpu_s, metrics, numbers)


def _whole_pass(env: OpenedEnv, policy: Policy, metric: str, seed: int) -> Evaluation:
    """One episode over a whole test set; its last info has each trial's score."""
    clock = Clock()
    observation, _ = env.reset(seed=seed)
    memory: Any = None
    info: dict[str, Any] = {}
    done = False
    while not done:
        action, memory = pair(policy(observation, memory))
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    missing = [name for name in (metric, "correct", "predictions") if name not in info]
    if missing:
        raise ContractError(
            f"the last info of a pass over a test set must have {metric}, correct and predictions; "
            f"missing: {', '.join(missing)}; return them in the last step"
        )
    scores = np.asarray(info["correct"], dtype=np.float64)
    metrics = {**info.get("metrics", {}), metric: info[metric]}
    return Evaluation(
        0, scores, np.asarray(info["predictions"]), *clock.seconds(), metrics=plain(metrics)
    )


def answer_rows(
    policy: Policy, observation: Any, memory: Any, rows: int, wanted: tuple[int, ...] | None
) -> tuple[Any, Any]:
    """Return one action for each row; a policy that isn't vectorised is called for each row.

    Args:
        policy: an agent's policy.
        observation: observation of a block.
        memory: memory of the policy, or of each row; None at the beginning.
        rows: number of rows of the block.
        wanted: shape of the action of one trial, if it must have one.

    Raises:
        ContractError: actions of another form or shape.
    """
    if is_vectorized(policy):
        return pair(policy(observation, memory))
    memories = memory if memory is not None else [None] * rows
    pairs = [
        # A copy, since a view would give access to the other trials of the block.
        pair(policy({name: _own(part[row]) for name, part in observation.items()}, memories[row]))
        for row in range(rows)
    ]
    if all(isinstance(action, Answers) for action, _ in pairs):
        return Answers.stacked([action for action, _ in pairs]), [kept for _, kept in pairs]
    try:
        actions = [torch.as_tensor(action) for action, _ in pairs]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContractError(
            f"a policy's action must be a tensor, array or number, got "
            f"{type(pairs[0][0]).__name__}; return an element of the action space"
        ) from error
    shapes = {tuple(action.shape) for action in actions}
    # Checked here, where an action still belongs to one trial.
    if wanted is not None and (wrong := shapes - {wanted}):
        raise ContractError(
            f"a policy's action must have shape {list(wanted)} for a trial (one answer for each "
            f"query row), got {list(min(wrong))}"
        )
    if len(shapes) > 1:
        raise ContractError(f"a policy's actions must all have one shape, got {sorted(shapes)}")
    return torch.stack(actions), [kept for _, kept in pairs]


def _array(action: Any, rows: int) -> NDArray[Any]:
    """A copy of a block's actions, one row per trial; without columns if they aren't an array."""
    if isinstance(action, Answers):
        action = torch.as_tensor(action.labels)
    if isinstance(action, torch.Tensor):
        return np.array(action.detach().cpu().numpy())
    return np.array(action) if isinstance(action, np.ndarray) else np.empty((rows, 0), np.uint8)


def _own(part: Any) -> Any:
    """A copy of an array or tensor; anything else unchanged."""
    if isinstance(part, torch.Tensor):
        return part.clone()
    return part.copy() if isinstance(part, np.ndarray) else part


def pair(answer: Any) -> tuple[Any, Any]:
    """Check that a policy returned an action and a memory, and return them.

    Raises:
        ContractError: it returned something else.
    """
    if isinstance(answer, tuple) and len(answer) == 2:
        return answer
    raise ContractError(
        f"a policy must return (action, memory), got {type(answer).__name__}; a policy without "
        "memory returns (action, None)"
    )


def env_protocol(env: OpenedEnv) -> dict[str, Any]:
    """Return an environment's protocol settings other than the arguments of its id."""
    # Few-shot environments of other packages may have nothing but the shape of their tasks.
    return dict(env.protocol) if isinstance(env, HasProtocol) else {"query": env.task.query}


def env_facts(spec: EnvSpec, env: OpenedEnv, trials: int) -> dict[str, Any]:
    """Return the `env` and `data` parts of a record."""
    protocol = {key: value for key, value in spec.kwargs.items() if key != "data"}
    protocol |= {**env_protocol(env), "trials": trials}
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
