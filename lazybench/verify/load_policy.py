"""Loads the policy behind a record: the agent with its settings, and the evaluated state."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazybench.agent import OpenedEnv
from lazybench.errors import StoreError, UnknownName, UsageError
from lazybench.files import plain
from lazybench.findings import Finding
from lazybench.records import Record, Store
from lazybench.records.store import first_difference
from lazybench.runner import checkpoint
from lazybench.runner.callbacks import Callback
from lazybench.runner.request import ResolvedAgent, make, resolve_env
from lazybench.runner.run_dir import list_runs, writable
from lazybench.runner.signals import Signals
from lazybench.runner.train import Progress, Training, fit, fit_whole
from lazybench.runner.trained import find_run, read_weights
from lazybench.runner.transfer import check_backbone, check_code, policy_elsewhere
from lazybench.specs import EnvSpec
from lazybench.verify.static_checks import spec_of


@dataclass(frozen=True)
class StateSource:
    """Source of the trained state.

    Attributes:
        checkpoint: a run's folder, one of its `ckpt/step-N`, or a file in that; None searches for
            the run in `runs`.
        retrain: whether to train again, with the record's settings and seed.
        init: initial weights of that training, if the record started from given ones.
        out: the store with the record of the training run.
        runs: folder of working state.
    """

    checkpoint: Path | None = None
    retrain: bool = False
    init: str | None = None
    out: Path = Path("leaderboards")
    runs: Path = Path("runs")


def agent_name(record: Record) -> str:
    """An agent's name in the request: an id, or `file.py:Class`."""
    return record.agent.origin if ":" in record.agent.origin else record.agent.id


def remade(record: Record) -> tuple[ResolvedAgent, EnvSpec]:
    """Return a record's agent with its settings, and its training environment.

    Raises:
        UnknownName: no such agent or environment.
        UsageError: settings that it doesn't have, or code that has changed since.
    """
    home = spec_of(record)
    if record.trained_on is not None:
        home = resolve_env(record.trained_on.split()[0])[0]
    agent = make(agent_name(record), home, record.preset, record.config, whole=True)
    check_code(agent, record.agent.version, record.agent.source_sha256)
    check_backbone(record.network, agent, home)
    return agent, home


def check_settings(record: Record, agent: ResolvedAgent, home: EnvSpec) -> Finding:
    """Check that an agent constructed with a record's settings has these settings.

    The same must hold for an agent constructed from the run's budget and overrides. The finding
    names settings that the package added after the run.
    """
    if agent.spec.id != record.agent.id:
        detail = f"{agent_name(record)} is {agent.spec.id}, the record says {record.agent.id}"
        return Finding("settings", False, detail)
    # An evaluation on other tasks may have another budget than the training.
    if record.trained_on is None and record.preset != record.budget:
        detail = f"preset is {record.preset} in the record, whose budget is {record.budget}"
        return Finding("settings", False, detail)
    here = {name: agent.config.get(name) for name in record.config}
    difference = first_difference(record.config, here)
    if difference is not None:
        name, old, new = difference
        return Finding(
            "settings", False, f"{name} is {old} in the record; the agent changes it to {new}"
        )
    if agent.instance.Config is None and not record.overrides:
        # Attributes of an instance were settings without being overrides.
        return Finding("settings", True, f"{record.agent.id} has them")
    again = make(agent_name(record), home, record.preset, record.overrides).config
    difference = first_difference(record.config, {name: again.get(name) for name in record.config})
    if difference is not None:
        name, old, new = difference
        given = ", ".join(f"{k}={v}" for k, v in sorted(record.overrides.items())) or "no setting"
        detail = f"{name} is {old} in the record; {record.preset} with {given} gives {new}"
        return Finding("settings", False, detail)
    added = sorted(set(agent.config) - set(record.config))
    more = f"; settings added since, at their defaults: {', '.join(added)}" if added else ""
    return Finding("settings", True, f"{record.agent.id} accepts them unchanged{more}")


def check_network(record: Record, agent: ResolvedAgent, task: Any) -> Finding | None:
    """Whether an agent's network on its task is the recorded one; None if one is unknown.

    Args:
        record: the record.
        agent: its agent.
        task: task shape of its training environment.
    """
    here = agent.network(task)
    if record.network is None or here is None:
        return None
    recorded, present = (
        {"name": net.name, "parameters": net.parameters, "batch_norm": net.batch_norm}
        for net in (record.network, here)
    )
    found = first_difference(recorded, present)
    if found is None:
        return Finding("network", True, f"{here.name}, {here.parameters:,} parameters")
    name, old, new = found
    return Finding("network", False, f"{name} is {old} in the record; the agent has {new}")


def trained_policy(
    record: Record,
    agent: ResolvedAgent,
    env: OpenedEnv,
    source: StateSource,
    device: str,
    watch: Callback,
) -> tuple[Any, list[Finding]]:
    """The policy that a record evaluated, and whether its state is the recorded one.

    Args:
        record: the record.
        agent: its agent.
        env: the opened environment.
        source: source of its state.
        device: device of the computations.
        watch: called with the progress of training.

    Raises:
        UnknownName: the run doesn't exist.
        UsageError: no state, or none of the recorded step; the message says what to do.
        Interrupted: a signal stopped a training at a checkpoint; the same call resumes it.
    """
    whole = agent.instance.has_own_loop()
    counters: list[Finding] = []
    if source.retrain or not agent.spec.trains:
        progress, policy = _trained(record, agent, source, device, watch)
        if whole:
            return policy, [Finding("checkpoint", None, "trained again; the agent keeps no state")]
        state = _state_at(progress, record)
        counters += [_check_counters(record, progress)] if agent.spec.trains else []
    elif whole:
        raise UsageError(
            f"'{record.agent.id}' has its own training loop and keeps no state; train it again "
            f"with --retrain ({_how_long(record)})"
        )
    else:
        state, found = _kept_state(record, source)
        if isinstance(found, Finding):
            return None, [found]
        counters.append(_check_counters(record, found))
    findings = [*counters, *([_check_state(record, state)] if agent.spec.trains else [])]
    if record.trained_on is not None:
        home = resolve_env(record.trained_on.split()[0])[0]
        return policy_elsewhere(agent, state, env.task, home, device), findings
    return agent.instance.policy(checkpoint.to_device(state, device)), findings


def _trained(
    record: Record, agent: ResolvedAgent, source: StateSource, device: str, watch: Callback
) -> tuple[Progress, Any]:
    """Train again as for a record; return the progress, and the policy of an agent without state.

    After an interruption, the next call resumes the training.
    """
    kept = source.runs / f"verify-{record.key[:12]}"
    fitted = record
    if record.trained_on is not None:
        found = Store(source.out).find(record.fit or "")
        if found is None:
            raise UsageError(
                f"the record evaluates the run {str(record.fit)[:12]}, whose own record "
                f"isn't in {source.out}, so it can't be trained again; give --checkpoint"
            )
        fitted = found
    # Its validations, which choose the best state, have settings of evaluation at their defaults.
    trained = {name: v for name, v in fitted.config.items() if name not in agent.eval_only}
    if fitted is not record or len(trained) < len(fitted.config):
        agent = make(agent_name(fitted), spec_of(fitted), fitted.preset, trained, whole=True)
    training = Training(
        agent.instance,
        spec_of(fitted),
        fitted.preset,
        fitted.seed,
        device,
        kept / "ckpt" if agent.spec.trains else None,
        _weights(fitted, source),
    )
    if agent.spec.trains:
        watch.note(f"training again: {_how_long(fitted)}")
    if agent.spec.trains:
        writable(kept)
    with Signals(watch.note) as signals:
        if agent.instance.has_own_loop():
            return fit_whole(training, signals)
        progress = fit(training, watch, signals)
    shutil.rmtree(kept, ignore_errors=True)
    return progress, None


def _weights(record: Record, source: StateSource) -> Any:
    """The initial weights of a training; None for fresh weights.

    Raises:
        UsageError: it started from weights that aren't given, or that differ from the given ones.
    """
    wanted = None if record.network is None else record.network.weights_sha256
    if wanted is None:
        return None
    recorded = f"{record.network.weights if record.network else ''} (sha256 {wanted[:12]})"
    if source.init is None:
        raise UsageError(f"this run started from weights, {recorded}; give them with --init")
    weights = read_weights(source.init, source.runs)
    if weights.sha256 != wanted:
        raise UsageError(
            f"this run started from {recorded}; --init {source.init} has sha256 "
            f"{weights.sha256[:12]}"
        )
    return weights.params


def _how_long(record: Record) -> str:
    """How long a run trained, and on which machine, as an estimate for training it again."""
    took, machine = record.cost.train_wall_s, record.machine
    if took is None:
        return "the record doesn't say how long it took"
    time = f"{took:.0f} s" if took < 120 else f"{took / 60:.0f} min"
    return (
        f"the run took {time} ({machine.processor}, {machine.threads} threads, {record.device}), "
        "without validation"
    )


def _state_at(progress: Progress, record: Record) -> Any:
    """The state of a finished training at the step that a record evaluated.

    If that step isn't stored, it is the best state; its sha256 shows whether it is the right one.
    """
    step = None if record.checkpoint is None else record.checkpoint.step
    return progress.state if step == progress.step != progress.best_step else progress.best


def _kept_state(record: Record, source: StateSource) -> tuple[Any, Progress | Finding]:
    """The stored state of a run, and its progress, or a finding if it belongs to another run.

    Raises:
        UnknownName: the run doesn't exist.
        UsageError: a damaged checkpoint, or none of the recorded step.
    """
    step = None if record.checkpoint is None else record.checkpoint.step
    folder = source.checkpoint
    if folder is not None and folder.is_file():
        folder = folder.parent
    if folder is not None and not (folder / "config.json").is_file():
        try:
            progress = Progress.of(checkpoint.read(folder))
        except StoreError as error:
            raise UsageError(
                f"--checkpoint {source.checkpoint} is neither a run's folder nor one of its "
                f"ckpt/step-N: {error}"
            ) from error
        return _state_at(progress, record), progress
    fit = record.fit or record.key
    name = str(folder) if folder is not None else fit[:12]
    if folder is None and not any(run.key12 == fit[:12] for run in list_runs(source.runs)):
        raise UnknownName(
            f"the run {fit[:12]} isn't in {source.runs}: name its folder or a checkpoint of it "
            f"with --checkpoint, train it again with --retrain ({_how_long(record)}), or check the "
            "stored answers alone with --trials 0"
        )
    run = find_run(name, source.runs)
    if run.key != fit:
        recorded = {k: v for k, v in record.identity().items() if k in run.identity}
        name, old, new = first_difference(recorded, run.identity) or ("key", fit[:12], run.key[:12])
        detail = f"{run.folder} is another run: {name} is {old} in the record and {new} there"
        return None, Finding("checkpoint", False, detail)
    if step is None or step == run.progress.best_step:
        return run.progress.best, run.progress
    return run.state(str(step))[0], run.progress


def check_updates(record: Record, agent: ResolvedAgent, task: Any) -> Finding | None:
    """Whether a record has as many updates as its settings plan.

    None for agents without training, or with their own training loop.

    Args:
        record: the record.
        agent: its agent.
        task: task shape of its training environment.
    """
    if not agent.spec.trains or agent.instance.has_own_loop():
        return None
    plan = agent.plan(task)
    planned = 0 if plan is None else plan.updates
    counted = record.cost.outer_steps
    step = 0 if record.checkpoint is None else record.checkpoint.step
    last = max((int(point.get("step") or 0) for point in record.curve), default=0)
    if counted is not None and counted != planned:
        detail = f"the record has {counted} updates; its settings plan {planned}"
        return Finding("updates", False, detail)
    if max(step, last) > planned:
        where = "checkpoint" if step > planned else "curve"
        detail = f"the {where} of the record has {max(step, last)} updates, planned are {planned}"
        return Finding("updates", False, detail)
    return Finding("updates", True, f"{planned}, as its settings plan")


_CURVE = ("step", "val", "loss")
_COUNTS = ("inner_steps", "image_gradients", "gradient_equivalents")


def _check_counters(record: Record, progress: Progress) -> Finding:
    """Whether a training has the record's counters: updates, work and validation scores.

    A checkpoint from the middle of a training has smaller counts, and the beginning of the curve.
    """
    updates = record.cost.outer_steps
    if updates is not None and updates < progress.step:
        detail = f"updates are {updates} in the record, and {progress.step} in the training"
        return Finding("counters", False, detail)
    whole = updates in (None, progress.step)
    costs = record.cost.model_dump(include=set(_COUNTS))
    recorded: dict[str, Any] = {}
    here: dict[str, Any] = {}
    for name in _COUNTS:
        counted = progress.totals.get(name)
        if whole and counted is not None and costs[name] is not None:
            recorded[name] = float(costs[name])
            # Records store whole counts.
            here[name] = counted if recorded[name] == counted else float(round(counted))
    # An evaluation of a transferred state has no curve, and its training's record may be missing.
    if record.curve:
        points = len(record.curve) if whole else len(progress.curve)
        for where, curve in ((recorded, record.curve), (here, progress.curve)):
            where["curve"] = [
                [plain(point.get(name)) for name in _CURVE] for point in curve[:points]
            ]
    found = first_difference(recorded, here)
    if found is None:
        return Finding("counters", True, f"{progress.step} updates; work and curve as recorded")
    name, old, new = found
    return Finding("counters", False, f"{name} is {old} in the record, and {new} in the training")


def _check_state(record: Record, state: Any) -> Finding:
    """Whether a state is the recorded one, by its sha256."""
    if record.checkpoint is None:
        return Finding("checkpoint", None, "the record names none")
    found, _ = checkpoint.digest(state)
    wanted = record.checkpoint.sha256
    if found == wanted:
        detail = f"sha256 {wanted[:12]}, after {record.checkpoint.step} updates"
        return Finding("checkpoint", True, detail)
    detail = (
        f"sha256 is {wanted[:12]} in the record, after {record.checkpoint.step} updates, and "
        f"{found[:12]} of the state that was evaluated now"
    )
    return Finding("checkpoint", False, detail)
