"""The training loop.

A `Progress` holds everything that a run has learned and counted, and is stored as a checkpoint.
Training batches and random streams are functions of the step, so resuming from a checkpoint is the
same computation as an uninterrupted run.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazybench.agent import COUNTED, Agent, BatchedEnv, Logs, OpenedEnv, Plan, Policy
from lazybench.errors import ContractError, Diverged, Interrupted, StoreError
from lazybench.nets import training_passes
from lazybench.runner import checkpoint, provenance
from lazybench.runner.callbacks import Callback
from lazybench.runner.evaluate import Clock, evaluate_blocks, for_init, open_env, open_training
from lazybench.runner.run_dir import need_space
from lazybench.runner.signals import Signals
from lazybench.runtime import distributed
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec

if TYPE_CHECKING:
    from lazybench.runner.resolve import ResolvedRun

CHECKPOINT_EVERY_S = 20.0
"""Seconds of training between checkpoints, which don't affect results."""

_KEPT_STATES = 6
"""Largest number of states on the disk: current and best, in two checkpoints and a third."""


_LATER = frozenset({"peak_gpu_memory_bytes"})
"""Fields of `Progress` that checkpoints of older versions lack."""


@dataclass
class Progress:
    """Progress of a training run.

    Attributes:
        step: finished updates.
        state: the agent's state after them.
        best: the state with the best validation score so far (None before the first validation).
        best_step: number of updates of that state.
        best_score: its validation score, higher is better.
        curve: `{step, val, loss, train_cpu_s, image_gradients}` of each validation; costs are those
            of training so far.
        totals: sums of the counted logs.
        train_wall_s: seconds of updates so far, including those before a resume.
        val_wall_s: seconds of validation so far, including those before a resume.
        train_cpu_s: processor seconds of updates so far, over all threads.
        val_cpu_s: processor seconds of validation so far, over all threads.
        peak_memory_bytes: largest resident size so far.
        peak_gpu_memory_bytes: largest GPU memory of tensors so far; 0 without a GPU.
        last_loss: last finite loss.
    """

    step: int = 0
    state: Any = None
    best: Any = None
    best_step: int = 0
    best_score: float = -math.inf
    curve: list[dict[str, float]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    train_wall_s: float = 0.0
    val_wall_s: float = 0.0
    train_cpu_s: float = 0.0
    val_cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    last_loss: float | None = None

    def tree(self) -> dict[str, Any]:
        """Return the progress as a checkpoint's tree."""
        return dict(vars(self))

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Progress:
        """Return the progress of a checkpoint's tree.

        Raises:
            StoreError: another version wrote it.
        """
        fields = set(cls.__dataclass_fields__)
        if not isinstance(tree, dict) or not fields - _LATER <= set(tree) <= fields:
            raise StoreError(
                "the run's checkpoint was written by another version of lazybench; resume with "
                "that version, or start again with --force"
            )
        return cls(**tree)


def saved_progress(folder: Path) -> Progress:
    """Return the progress in the newest checkpoint of a folder, with its costs and its curve.

    A new one if there is none.
    """
    saved = checkpoint.load(folder)
    return Progress.of(saved[1]) if saved is not None and saved[1] is not None else Progress()


@dataclass(frozen=True)
class Training:
    """Agent, environment, folder of checkpoints (None for none) and initial weights of training."""

    agent: Agent
    spec: EnvSpec
    budget: str
    seed: int
    device: str
    folder: Path | None
    weights: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, resolved: ResolvedRun, folder: Path) -> Training:
        """Return the training of a resolved run, with its folder of checkpoints."""
        weights = None if resolved.weights is None else resolved.weights.params
        request = resolved.request
        return cls(
            resolved.trainer.instance,
            resolved.spec,
            request.budget,
            request.seed,
            resolved.device,
            folder,
            weights,
        )

    def open_val(self) -> OpenedEnv:
        """Return the environment of the validation trials."""
        trials = math.ceil(self.spec.val_trials[self.budget] / distributed.size())
        return open_env(self.spec, self.spec.rows(trials), "val", self.device)


def fit(training: Training, callback: Callback, signals: Signals) -> Progress:
    """Train, resuming from the newest valid checkpoint if there is one; return the progress.

    Raises:
        Diverged: a loss isn't finite; the message names the step and the last finite loss.
        Interrupted: a signal arrived; a checkpoint was written.
        DataUnavailable: the data isn't installed or is damaged.
        StoreError: the disk is full; checked before training starts, too.
    """
    spec, agent, rng = training.spec, training.agent, Rng(training.seed)
    val_env = training.open_val()
    plan = agent.plan(val_env.task)
    progress = _start(training, val_env, rng, callback)
    if plan is not None and progress.step:
        whole = f"training is complete ({progress.step} updates): nothing is trained again"
        part = f"resuming from the checkpoint at meta-iteration {progress.step}"
        callback.note(whole if progress.step >= plan.updates else part)
    if plan is None or plan.updates == 0 or not agent.learns():
        progress.best, progress.best_step = progress.state, progress.step
        return progress
    if training.folder is not None and progress.step < plan.updates:
        need_space(training.folder, _KEPT_STATES * checkpoint.digest(progress.state)[1])
    train = open_training(spec, plan, training.device)
    train.reset(seed=training.seed)
    callback.stage("train", plan.updates, progress.step)
    saved = time.monotonic()
    while progress.step < plan.updates or _due(progress, plan):
        # A run that was stopped during validation validates before the next update.
        if not _due(progress, plan):
            try:
                logs = _update(training, progress, train, rng, signals)
            except Diverged:
                # What training cost so far counts in the record and in a search.
                _save(training, progress)
                raise
            callback.log(progress.step, logs)
            shown = {"loss": progress.last_loss} if progress.last_loss is not None else {}
            last = {"val": progress.curve[-1]["val"]} if progress.curve else {}
            callback.advance(1, {**shown, **last})
        where = f"interrupted at meta-iteration {progress.step} of {plan.updates}"
        due = _due(progress, plan)
        if due:
            try:
                with signals.in_time(
                    spec.val_trials[training.budget], f"validation at step {progress.step}"
                ):
                    _validate(training, progress, val_env, plan, signals.at_once(where))
            except Interrupted:
                _save(training, progress)
                raise
            metrics = {spec.validation[0]: progress.curve[-1]["val"]}
            callback.evaluated(progress.step, "val", metrics)
        stop = distributed.stop_of(signals.number)
        if due or stop or time.monotonic() - saved > CHECKPOINT_EVERY_S:
            _save(training, progress)
            saved = time.monotonic()
        if stop:
            raise Interrupted(stop, where)
    callback.finished()
    return progress


def _due(progress: Progress, plan: Plan) -> bool:
    """Whether the current state must be validated."""
    step = progress.step
    known = bool(progress.curve) and progress.curve[-1]["step"] == step
    asked = bool(plan.validate_every) and step % plan.validate_every == 0
    return step > 0 and not known and (asked or step == plan.updates)


def fit_whole(training: Training, signals: Signals) -> tuple[Progress, Any]:
    """Train an agent with its own loop, and return its costs and its policy.

    `agent.fit(env, budget, rng)` gets a training environment, with one row and default settings
    unless the agent has a plan, and makes its own batches; it has no access to the test. It can't
    be resumed after an interruption, and its record says so.

    Raises:
        Interrupted: a signal arrived; there is nothing to save, so training ends at once.
    """
    plan = training.agent.plan(open_env(training.spec, 1, "val").task)
    env = open_training(training.spec, plan, training.device)
    env.reset(seed=training.seed)
    clock = Clock()
    rng = Rng(training.seed).at("fit")
    stoppable = signals.at_once(
        "interrupted; this agent has its own training loop, which starts again"
    )
    with stoppable, seeded(rng):
        policy = training.agent.fit(env, training.budget, rng)
    wall_s, cpu_s = clock.seconds()
    return Progress(train_wall_s=wall_s, train_cpu_s=cpu_s), policy


@contextmanager
def seeded(rng: Rng) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python in a block, and restore them.

    Modules such as `torch.nn.Linear` draw their first weights from them and take no generator.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(rng.at("global", "torch").integer)
    np.random.seed(rng.at("global", "numpy").integer % 2**32)
    random.seed(rng.at("global", "python").integer)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _start(training: Training, val_env: OpenedEnv, rng: Rng, callback: Callback) -> Progress:
    folder = training.folder
    found = distributed.of_first(lambda: checkpoint.load(folder)) if folder is not None else None
    if found is not None:
        _, tree, notes = found
        for note in notes:
            callback.note(note)
        if tree is not None:
            progress = Progress.of(tree)
            progress.state = checkpoint.to_device(progress.state, training.device)
            progress.best = checkpoint.to_device(progress.best, training.device)
            return progress
    with seeded(rng.at("init")):
        fresh = training.agent.init(for_init(val_env), rng.at("init"))
    if training.weights is not None:
        fresh = training.agent.load_weights(fresh, training.weights)
    return Progress(state=checkpoint.to_device(fresh, training.device))


def _update(
    training: Training, progress: Progress, train: BatchedEnv, rng: Rng, signals: Signals
) -> Logs:
    """Do one update; return its logs."""
    clock = Clock()
    distributed.begin_update(signals.number)
    step, rows = progress.step, train.num_envs
    batch, _ = train.reset(options={"trials": np.arange(step * rows, (step + 1) * rows)})
    with signals.in_time(1, f"the update of meta-iteration {step + 1}"), training_passes():
        answer = training.agent.update(progress.state, batch, rng.at("update", step))
    state, logs = updated(answer)
    loss = logs.get("loss")
    if loss is not None and not math.isfinite(loss):
        last = "none" if progress.last_loss is None else f"{progress.last_loss:.4g}"
        raise Diverged(f"the loss is {loss} at meta-iteration {step + 1}; last finite loss: {last}")
    progress.state, progress.step = state, step + 1
    progress.last_loss = progress.last_loss if loss is None else loss
    for name in COUNTED:
        if name in logs:
            amount = logs[name]
            if not (math.isfinite(amount) and amount >= 0):
                raise ContractError(f"the log '{name}' is a count, at least 0, got {amount}")
            progress.totals[name] = progress.totals.get(name, 0.0) + amount
    wall_s, cpu_s = clock.seconds()
    progress.train_wall_s += wall_s
    progress.train_cpu_s += distributed.cpu_s_of(cpu_s)
    return dict(logs)


def updated(answer: Any) -> tuple[Any, dict[str, float]]:
    """Return the state and logs of an agent's `update`, of the logs the loss and counts as numbers.

    Raises:
        ContractError: it returned something else.
    """
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise ContractError(
            "update must return (state, logs), logs a dict that may be empty, got "
            f"{type(answer).__name__}"
        )
    state, logs = answer
    numbers = {name: logs[name] for name in ("loss", *COUNTED) if logs.get(name) is not None}
    try:
        return state, {name: float(value) for name, value in numbers.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContractError(
            f"the logs of update must be numbers, got {numbers}; return floats, as in loss.item()"
        ) from error


def validation_score(training: Training, policy: Policy, val_env: OpenedEnv) -> tuple[float, float]:
    """Return the mean score of a policy on the validation trials, and their CPU seconds."""
    spec = training.spec
    metric, trials = spec.validation[0], spec.val_trials[training.budget]
    blocks = list(evaluate_blocks(val_env, policy, metric, trials, seed=training.seed))
    value = blocks[0].score(metric)
    if len(blocks) > 1:
        value = float(np.concatenate([block.scores for block in blocks]).mean())
    return value, sum(block.cpu_s for block in blocks)


def _validate(
    training: Training,
    progress: Progress,
    val_env: OpenedEnv,
    plan: Plan,
    stoppable: AbstractContextManager[None],
) -> None:
    """Evaluate the current state on the validation trials and keep it if it is the best so far.

    A signal may interrupt the evaluation; the progress changes only after it.
    """
    clock = Clock()
    with stoppable:
        policy = training.agent.policy(checkpoint.copied(progress.state))
        value, blocks_cpu_s = validation_score(training, policy, val_env)
    point = {
        "step": float(progress.step),
        "val": value,
        "train_cpu_s": round(progress.train_cpu_s, 3),
    }
    if "image_gradients" in progress.totals:
        point["image_gradients"] = progress.totals["image_gradients"]
    if progress.last_loss is not None:
        point["loss"] = progress.last_loss
    progress.curve.append(point)
    _, better = training.spec.validation
    score = value if better == "higher" else -value
    if plan.select == "last" or score > progress.best_score or progress.best is None:
        # A copy, since an agent may change the tensors of its state later.
        progress.best, progress.best_step, progress.best_score = (
            checkpoint.copied(progress.state),
            progress.step,
            score,
        )
    wall_s, cpu_s = clock.seconds()
    progress.val_wall_s += wall_s
    progress.val_cpu_s += cpu_s if distributed.size() == 1 else blocks_cpu_s


def _save(training: Training, progress: Progress) -> None:
    progress.peak_memory_bytes = max(progress.peak_memory_bytes, provenance.peak_memory_bytes())
    progress.peak_gpu_memory_bytes = max(
        progress.peak_gpu_memory_bytes, provenance.peak_gpu_memory_bytes(training.device)
    )
    if training.folder is not None and distributed.rank() == 0:
        checkpoint.save(training.folder, progress.step, progress.tree())
