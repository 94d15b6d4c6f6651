"""Evaluations without a training of their own: of a finished run elsewhere, and of a policy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lazybench.agent import Policy, is_vectorized
from lazybench.arguments import check_path, check_settings, check_text, check_whole
from lazybench.errors import ContractError, UsageError, nearest
from lazybench.files import need_folder, plain
from lazybench.nets import forget_loaded, published_source
from lazybench.records import AgentFacts, Metric, NetworkFacts, Record, Store
from lazybench.registry import AGENTS
from lazybench.runner import provenance
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.checkpoint import copied, to_device
from lazybench.runner.evaluate import Clock, evaluate_all, open_env
from lazybench.runner.record import agent_facts, checkpoint_facts, evaluation_record, headline
from lazybench.runner.request import (
    ResolvedAgent,
    check_device,
    chosen_trials,
    make,
    network_source,
    resolve_env,
    with_protocol,
    with_recorded,
)
from lazybench.runner.run_dir import writable
from lazybench.runner.trained import TrainedRun, find_run
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import using_threads
from lazybench.specs import OWN, EnvSpec
from lazybench.tasks import PADDING, TaskShape


@dataclass(frozen=True)
class TransferRequest:
    """A request to evaluate a finished run.

    Attributes:
        run: a run's folder, or the first digits of its key.
        env: id or alias of the environment; None uses the run's own, with its protocol.
        protocol: settings of the environment that replace its own, or the run's.
        step: `best`, `last`, or the number of updates of a stored checkpoint.
        split: `test` gives a record; `train` and `val` only numbers.
        overrides: evaluation settings (`batch_norm`, `test_steps`, …).
        budget: budget that sets the number of trials; None uses the run's.
        limit: evaluate only the first `limit` trials.
        device: `cpu`, `cuda`, `mps` or `auto`.
        threads: tasks in parallel; None uses all available cores.
        out: the store for the record; None saves nothing.
        runs: folder of working state.
    """

    run: str
    env: str | None = None
    protocol: Mapping[str, Any] | None = None
    step: str = "best"
    split: str = "test"
    overrides: Mapping[str, Any] | None = None
    budget: str | None = None
    limit: int | None = None
    device: str = "cpu"
    threads: int | None = None
    out: Path | None = Path("leaderboards")
    runs: Path = Path("runs")

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            UsageError: a value of another type.
        """
        for name in ("run", "step", "split", "device"):
            check_text(name, vars(self)[name])
        check_settings("settings", self.overrides)
        check_settings("protocol", self.protocol)
        for name in ("threads", "limit"):
            if (value := vars(self)[name]) is not None:
                check_whole(name, value, least=None)
        check_path("runs", self.runs)
        if self.out is not None:
            need_folder(check_path("out", self.out), "--out")


@dataclass(frozen=True)
class TransferResult:
    """The result of an evaluation.

    Attributes:
        agent: agent id.
        env: environment id.
        trained_on: environment, key and step of the evaluated run.
        split: split of the trials.
        metric: mean over trials with its interval.
        record: the record; None unless the split is test.
    """

    agent: str
    env: str
    trained_on: str
    split: str
    metric: Metric
    record: Record | None


def transfer(request: TransferRequest, *, watch: Callback = SILENT) -> TransferResult:
    """Evaluate the trained state of a run on an environment's trials.

    Raises:
        UnknownName: no such run or environment.
        UsageError: a step that isn't stored, a training setting, or tasks that the agent can't
            play, such as ones with more classes than its head has outputs.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store can't be written; checked before evaluating.
    """
    run = find_run(request.run, request.runs)
    home = home_of(run)
    spec, note = (home, "") if request.env is None else resolve_env(request.env)
    if note:
        watch.note(note)
    spec = with_protocol(spec, request.protocol or {})
    if request.split not in ("test", "val", "train"):
        raise UsageError(f"split must be test, val or train, got '{request.split}'")
    if request.split == "train" and spec.vector_target is None:
        raise UsageError(f"{spec.id} doesn't score its train split; choose --split val or test")
    budget = request.budget or str(run.identity["budget"])
    trials, limited = chosen_trials(spec, budget, request.limit)
    agent = _evaluated_agent(run, home, dict(request.overrides or {}))
    state, step = run.state(request.step)
    device = check_device(request.device)
    precision = str(run.identity["precision"])
    publishes = request.split == "test" and request.out is not None
    if publishes and request.out is not None:
        writable(request.out)
    provenance.reset_peak_memory(device)
    started, clock = provenance.now(), Clock()
    env = open_env(spec, spec.rows(trials), request.split, device)
    # On train, the trials of stream 0 are the training tasks of the first seed.
    env.reset(seed=_FRESH_STREAM if request.split == "train" else 0)
    policy = policy_elsewhere(agent, copied(state), env.task, home, device)
    if request.split == "train":
        policy = _without_answers(policy)
    seed = int(run.identity["seed"])
    with using_threads(request.threads), using_precision(precision, device):
        evaluation = evaluate_all(env, policy, spec, trials, watch, clock, seed=seed)
    # Named by the stored step and not by the requested one, so that one state has one record.
    kept = {run.progress.step: "last", run.progress.best_step: "best"}.get(step, "kept")
    origin = f"{home.id} {run.key[:12]} {kept} (step {step})"
    result = TransferResult(
        agent.spec.id, spec.id, origin, request.split, Metric(**headline(spec, evaluation)), None
    )
    if request.split != "test":
        return result
    record = evaluation_record(
        spec,
        env,
        trials,
        evaluation,
        on=device,
        agent=agent_facts(agent, trained_by="lazybench", resumable=True),
        config=agent.config,
        preset=str(run.identity["budget"]),
        overrides=agent.overrides,
        budget=budget,
        limited=limited,
        untuned=not agent.spec.tuned,
        seed=seed,
        precision=precision,
        device=device.partition(":")[0],
        checkpoint=checkpoint_facts(state, step),
        network=run.network,
        fit=run.key,
        trained_on=origin,
        started=started,
    )
    if request.out is not None:
        Store(request.out).publish(record)
    return replace(result, record=record)


def load_policy(
    run: str | Path | Record,
    *,
    env: str | None = None,
    step: str | int = "best",
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    runs: str | Path = "runs",
) -> Policy:
    """Return the trained policy of a run: `policy(observation, memory) -> (action, memory)`.

    It can be passed to `lazybench.evaluate`, or called in any environment of those tasks.

    Args:
        run: the first digits of its key, its folder, or its record.
        env: environment with tasks of another shape, as `policy_elsewhere` takes them; None for
            the run's own environment.
        step: `best`, `last` or the number of updates of a stored checkpoint.
        settings: evaluation settings (`batch_norm`, …) that replace the run's.
        device: device of the computations.
        runs: folder of runs in which keys are looked up.

    Raises:
        UnknownName: no such run or environment.
        UsageError: a run without a trained state, a step that isn't stored, a training setting, or
            tasks that the agent can't play.
    """
    name = (run.fit or run.key)[:12] if isinstance(run, Record) else str(check_path("run", run))
    overrides = check_settings("settings", settings)
    step = check_text("step", str(step) if isinstance(step, int) else step)
    check_text("device", device)
    trained = find_run(name, check_path("runs", runs))
    home = home_of(trained)
    agent = _evaluated_agent(trained, home, overrides)
    state, _ = trained.state(step)
    on = check_device(device)
    if env is None:
        return agent.instance.policy(to_device(state, on))
    task = open_env(resolve_env(env)[0], 1, "test").task
    return policy_elsewhere(agent, state, task, home, on)


def home_of(run: TrainedRun) -> EnvSpec:
    """Return the environment of a run, with its protocol."""
    return with_recorded(resolve_env(run.identity["env"])[0], run.identity["protocol"])


_FRESH_STREAM = 2**31 - 1
"""A stream of training trials that no run is likely to have been trained on."""


def _without_answers(policy: Policy) -> Policy:
    """A policy that gets training tasks like test tasks, without their query targets."""

    def answer(observation: Any, memory: Any = None) -> tuple[Any, Any]:
        targets = observation.get("query_y")
        if targets is not None:
            hidden = targets.new_tensor(0 if targets.is_floating_point() else -1)
            shown = targets.where(targets == PADDING, hidden)
            observation = {**observation, "query_y": shown}
        return policy(observation, memory)

    answer.vectorized = is_vectorized(policy)  # type: ignore[attr-defined]
    return answer


def _evaluated_agent(run: TrainedRun, home: EnvSpec, overrides: dict[str, Any]) -> ResolvedAgent:
    """The run's agent with its settings, and evaluation settings replaced as requested.

    Raises:
        UsageError: a training setting, which can't be changed any more; or code that has changed
            since the run.
    """
    config = dict(run.identity["config"])
    agent = make(run.asked, home, str(run.identity["budget"]), config, whole=True)
    check_code(agent, run.identity["agent_version"], run.identity["agent_source"])
    check_backbone(run.network, agent, home)
    for name in overrides:
        if name not in agent.eval_only:
            allowed = sorted(agent.eval_only)
            raise UsageError(
                f"'{name}' isn't a setting of evaluation, and those of training can't be changed "
                f"any more.{nearest(name, allowed)} Settings of evaluation: "
                f"{', '.join(allowed) or 'none'}"
            )
    asked = {**config, **overrides}
    again = make(run.asked, home, str(run.identity["budget"]), asked, whole=True)
    both = {**run.overrides, **overrides}
    given = {name: again.config.get(name, value) for name, value in both.items()}
    return replace(again, overrides=given)


def check_code(agent: ResolvedAgent, version: int, source: str | None) -> None:
    """Check that an agent hasn't changed since a run.

    Args:
        agent: the current agent.
        version: version of the run's agent.
        source: sha256 of the user's file that defined it then; None for the package's own.

    Raises:
        UsageError: it has changed.
    """
    if agent.spec.version != version:
        raise UsageError(
            f"agent '{agent.spec.id}' has version {agent.spec.version}, but this run is of version "
            f"{version}; evaluate it with that version, or run again"
        )
    _need_same(agent.spec.origin, agent.source, source)


def _need_same(name: str, source: str | None, recorded: str | None) -> None:
    if source != recorded:
        raise UsageError(
            f"{name} has changed since this run: its source hashes to {source}, the run's to "
            f"{recorded}; restore that version, or run again"
        )


def policy_elsewhere(
    agent: ResolvedAgent, state: Any, task: TaskShape, home: EnvSpec, device: str
) -> Policy:
    """Return the policy of a trained state for the tasks of another environment.

    An agent without `transfer` takes tasks of the shape that it was trained on.

    `Choice:` where the agent can't take images of another size or number of channels, it sees them
    in the shape that it was trained on: resized (bilinear, antialiased), grey ones as three equal
    channels, coloured ones as their luminance.

    Args:
        agent: the agent.
        state: its trained state.
        task: shape of the tasks to answer.
        home: environment of its training.
        device: device of the computations.

    Raises:
        UsageError: the agent can't play them.
        DataUnavailable: images are of another shape, and the data of `home` aren't installed.
    """
    if not agent.instance.can_transfer() and _same_shape(task, open_env(home, 1, "test").task):
        return agent.instance.policy(to_device(state, device))
    try:
        return agent.instance.policy(to_device(_moved(agent, state, task), device))
    except UsageError:
        if not agent.instance.can_transfer() or not _are_images(task):
            raise
        own = open_env(home, 1, "test").task
        if not _are_images(own) or own.instance == task.instance:
            raise
    shown = _moved(agent, state, replace(task, instance=own.instance))
    return _seeing(agent.instance.policy(to_device(shown, device)), own.instance)


def _same_shape(task: Any, own: Any) -> bool:
    """Return whether tasks are alike; they may be drawn from another number of classes."""
    if isinstance(task, TaskShape) and isinstance(own, TaskShape):
        task = replace(task, classes=own.classes)
    return bool(task == own)


def _are_images(task: TaskShape) -> bool:
    return task.dtype == "uint8" and len(task.instance) == 3 and task.instance[0] in (1, 3)


def _seeing(policy: Policy, instance: tuple[int, ...]) -> Policy:
    """A policy that sees images `[..., channels, height, width]` in the shape of `instance`."""

    def answer(observation: Any, memory: Any = None) -> tuple[Any, Any]:
        shown = {name: in_shape(observation[name], instance) for name in ("support_x", "query_x")}
        return policy({**observation, **shown}, memory)

    answer.vectorized = is_vectorized(policy)  # type: ignore[attr-defined]
    return answer


_LUMINANCE = (0.299, 0.587, 0.114)


def in_shape(images: torch.Tensor, instance: tuple[int, ...]) -> torch.Tensor:
    """Return uint8 images `[..., channels, height, width]` in another shape.

    Args:
        images: grey or coloured ones.
        instance: channels, 1 or 3, height and width.
    """
    x = images.reshape(-1, *images.shape[-3:]).float()
    if x.shape[1] > instance[0]:
        x = (x * x.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    if x.shape[2:] != instance[1:]:
        x = F.interpolate(x, instance[1:], mode="bilinear", antialias=True, align_corners=False)
    x = x.expand(-1, instance[0], -1, -1).round().clamp(0, 255)
    return x.to(images.dtype).reshape(*images.shape[:-3], *instance)


def _moved(agent: ResolvedAgent, state: Any, task: TaskShape) -> Any:
    """Return a state for tasks of this shape.

    Raises:
        UsageError: the agent can't play them.
    """
    if agent.instance.can_transfer():
        return agent.instance.transfer(state, task)
    raise UsageError(
        f"agent '{agent.spec.id}' can't be evaluated on tasks of another shape: it has no method "
        "transfer(state, task), which returns the state for them (docs/extend.md)"
    )


def check_backbone(network: NetworkFacts | None, agent: ResolvedAgent, home: EnvSpec) -> None:
    """Check that a user's network hasn't changed since a run.

    Args:
        network: the trained network.
        agent: its agent.
        home: its training environment.

    Raises:
        UsageError: it has changed.
        DataUnavailable: the data of `home` isn't installed.
    """
    if network is None or network.source_sha256 is None:
        return
    source = published_source(network.name)
    if source is None:
        forget_loaded()
        here = agent.network(open_env(home, 1, "test").task)
        source = None if here is None else network_source(here)
    _need_same(f"backbone {network.name}", source, network.source_sha256)


def evaluate(  # noqa: PLR0913 - public arguments
    policy: Any,
    env: str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: str = "small",
    limit: int | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
    watch: Callback = SILENT,
) -> Record:
    """Evaluate a policy on the official test trials of `env`, and return the record.

    Args:
        policy: `policy(observation, memory) -> (action, memory)`. It gets one trial at a time:
            tensors `support_x [rows, *instance]`, `support_y [rows]`, `query_x`; its action are
            the predictions for `query_x`. With `policy.vectorized = True` observations have a
            leading axis over the trials of a block. A function `policy(observation) -> action` of
            one argument is accepted, too.
        env: environment id or alias.
        name: agent name for the board.
        config: settings that distinguish variants of the same name; part of the key.
        seed: the seed of its training; part of the key.
        budget: sets the number of test trials, and the board.
        limit: evaluate only the first `limit` trials; the record is marked and never ranked.
        out: store for the record; None saves nothing.
        threads: tasks in parallel, for vectorised built-in policies.
        watch: called with the progress.

    Raises:
        UsageError: an unknown environment or budget, a limit below 1, or a name that is empty or
            that of a built-in agent.
        ContractError: the policy isn't callable or its answers have a wrong shape, type or range.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store can't be written; checked before evaluating.
        RecordConflict: the store holds the same name, config and seed with other scores.
    """
    if not callable(policy):
        raise ContractError(f"a policy is called with an observation, got {type(policy).__name__}")
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"name must say who is evaluated, got {name!r}")
    if any(name == each.id and each.origin == OWN for each in AGENTS.specs()):
        raise UsageError(
            f"'{name}' is an agent of lazybench, whose rows this one would be taken for; give "
            f"another name, such as my-{name}"
        )
    seed, config = check_whole("seed", seed), check_settings("config", config)
    out = None if out is None else check_path("out", out)
    spec, note = resolve_env(env)
    if note:
        watch.note(note)
    trials, limited = chosen_trials(spec, budget, limit)
    if out is not None:
        writable(out)
    provenance.reset_peak_memory()
    started, clock = provenance.now(), Clock()
    opened = open_env(spec, spec.rows(trials), "test")
    with using_threads(threads):
        evaluation = evaluate_all(opened, _two_arguments(policy), spec, trials, watch, clock)
    record = evaluation_record(
        spec,
        opened,
        trials,
        evaluation,
        agent=AgentFacts(id=name, origin="external", trained_by="external", resumable=False),
        config=dict(plain(config)),
        preset="external",
        budget=budget,
        limited=limited,
        untuned=True,
        seed=seed,
        started=started,
    )
    if out is not None:
        Store(out).publish(record)
    return record


def _two_arguments(policy: Any) -> Any:
    """A policy of the contract around one that takes the observation alone."""
    # A torch module's own call takes anything; what it hands on to is `forward`.
    called = policy.forward if isinstance(policy, torch.nn.Module) else policy
    try:
        parameters = [
            parameter
            for parameter in inspect.signature(called).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return policy
    if len(parameters) != 1:
        return policy

    def with_memory(observation: Any, memory: Any = None) -> tuple[Any, Any]:
        return policy(observation), None

    with_memory.vectorized = is_vectorized(policy)  # type: ignore[attr-defined]
    return with_memory
