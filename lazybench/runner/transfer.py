"""A finished run evaluated on other tasks than it was trained on, or at another step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lazybench.agent import Policy, is_vectorized
from lazybench.arguments import check_path, check_settings, check_text, check_whole, need_folder
from lazybench.errors import UsageError
from lazybench.nets import forget_loaded, published_source
from lazybench.records import Metric, NetworkFacts, Record, Store
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
)
from lazybench.runner.run_dir import writable
from lazybench.runner.trained import TrainedRun, find_run
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import using_threads
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape


@dataclass(frozen=True)
class TransferRequest:
    """Which run to evaluate, and on what.

    Attributes:
        run: a run's folder, or the first digits of its key.
        env: id or alias of the environment; None takes the run's own.
        step: `best`, `last`, or the number of updates of a kept checkpoint.
        split: `test` gives a record; `train` and `val` only numbers.
        overrides: settings of evaluation (`batch_norm`, `test_steps`, …).
        budget: whose number of trials; None takes the run's.
        limit: evaluate only the first trials, so many.
        device: `cpu`, `cuda`, `mps` or `auto`.
        threads: tasks side by side; None takes all usable cores.
        out: the store of records; None publishes nowhere.
        runs: folder of working state.
    """

    run: str
    env: str | None = None
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
        """Look at what was given, before anything is made.

        Raises:
            UsageError: a value of another type.
        """
        for name in ("run", "step", "split", "device"):
            check_text(name, vars(self)[name])
        check_settings("settings", self.overrides)
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
        trained_on: environment, key and step of what was evaluated.
        split: split of the trials.
        metric: mean over trials with its interval.
        record: the record, on the test split alone.
    """

    agent: str
    env: str
    trained_on: str
    split: str
    metric: Metric
    record: Record | None


def transfer(request: TransferRequest, *, watch: Callback = SILENT) -> TransferResult:
    """Return how the trained state of a run does on an environment's trials.

    Raises:
        UnknownName: no such run or environment.
        UsageError: a step that isn't kept, a setting of training, or tasks that the agent can't
            answer, such as other ways than its head has outputs.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store can't be written; checked before evaluating.
    """
    run = find_run(request.run, request.runs)
    home = resolve_env(run.identity["env"])[0]
    spec, note = resolve_env(request.env or run.identity["env"])
    if note:
        watch.note(note)
    if request.split not in ("test", "val", "train"):
        raise UsageError(f"split must be test, val or train, got '{request.split}'")
    if request.split == "train" and spec.vector_target is None:
        raise UsageError(f"{spec.id} streams its train split unjudged; choose --split val or test")
    budget = request.budget or str(run.identity["budget"])
    trials, limited = chosen_trials(spec, budget, request.limit)
    made = _judged_agent(run, home, dict(request.overrides or {}))
    state, step = run.state(request.step)
    device = check_device(request.device)
    precision = str(run.identity["precision"])
    publishes = request.split == "test" and request.out is not None
    if publishes and request.out is not None:
        writable(request.out)
    provenance.reset_peak_memory(device)
    started, clock = provenance.now(), Clock()
    env = open_env(spec, spec.rows(trials), request.split, device)
    # On train, trials of stream 0 are those that the first seed learned from.
    env.reset(seed=_FRESH_STREAM if request.split == "train" else 0)
    policy = made.agent.policy(to_device(moved(made, copied(state), env.task), device))
    if request.split == "train":
        policy = _without_answers(policy)
    seed = int(run.identity["seed"])
    with using_threads(request.threads), using_precision(precision, device):
        evaluation = evaluate_all(env, policy, spec, trials, watch, clock, seed=seed)
    # By what was kept and not by what was asked for, so that one state has one record.
    kept = {run.progress.step: "last", run.progress.best_step: "best"}.get(step, "kept")
    origin = f"{home.id} {run.key[:12]} {kept} (step {step})"
    result = TransferResult(
        made.spec.id, spec.id, origin, request.split, Metric(**headline(spec, evaluation)), None
    )
    if request.split != "test":
        return result
    record = evaluation_record(
        spec,
        env,
        trials,
        evaluation,
        on=device,
        agent=agent_facts(made, trained_by="lazybench", resumable=True),
        config=made.config,
        preset=str(run.identity["budget"]),
        overrides=made.overrides,
        budget=budget,
        limited=limited,
        untuned=not made.spec.tuned,
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
    """Return what a run has learned as a policy: `policy(observation, memory) -> (action, memory)`.

    It can be given to `lazybench.evaluate`, or asked by hand in any environment of those tasks.

    Args:
        run: the first digits of its key, its folder, or its record.
        env: tasks of another shape that it is to answer; None for those that it was trained for.
        step: `best`, `last` or the number of updates of a kept checkpoint.
        settings: settings of evaluation (`batch_norm`, …) that replace the run's.
        device: where it computes.
        runs: folder of runs that keys are looked up in.

    Raises:
        UnknownName: no such run or environment.
        UsageError: a run without a trained state, a step that isn't kept, a setting of training, or
            tasks that the agent can't answer.
    """
    name = (run.fit or run.key)[:12] if isinstance(run, Record) else str(check_path("run", run))
    overrides = check_settings("settings", settings)
    step = check_text("step", str(step) if isinstance(step, int) else step)
    check_text("device", device)
    found = find_run(name, check_path("runs", runs))
    home = resolve_env(found.identity["env"])[0]
    made = _judged_agent(found, home, overrides)
    state, _ = found.state(step)
    if env is not None:
        state = moved(made, state, open_env(resolve_env(env)[0], 1, "test").task)
    return made.agent.policy(to_device(state, check_device(device)))


_FRESH_STREAM = 2**31 - 1
"""A stream of training trials that no seed of a run is likely to have learned from."""


def _without_answers(policy: Policy) -> Policy:
    """A policy that sees training tasks as it sees test tasks: their query targets hidden."""

    def answer(observation: Any, memory: Any = None) -> tuple[Any, Any]:
        targets = observation.get("query_y")
        if targets is not None:
            hidden = targets.new_tensor(0 if targets.is_floating_point() else -1)
            observation = {**observation, "query_y": hidden.expand_as(targets)}
        return policy(observation, memory)

    answer.vectorized = is_vectorized(policy)  # type: ignore[attr-defined]
    return answer


def _judged_agent(run: TrainedRun, home: EnvSpec, overrides: dict[str, Any]) -> ResolvedAgent:
    """The run's agent with its own settings, those of evaluation replaced as requested.

    Raises:
        UsageError: a setting of training, which can't be changed any more; or code that has changed
            since the run.
    """
    config = dict(run.identity["config"])
    made = make(run.asked, home, str(run.identity["budget"]), config, whole=True)
    check_code(made, run.identity["agent_version"], run.identity["agent_source"])
    check_backbone(run.network, made, home)
    for name in overrides:
        if name in config and name not in made.eval_only and not name.startswith("test_"):
            raise UsageError(
                f"'{name}' is a setting of training and can't be changed in judging; settings of "
                f"judging: {', '.join(n for n in config if n in made.eval_only or 'test_' in n)}"
            )
    asked = {**config, **overrides}
    again = make(run.asked, home, str(run.identity["budget"]), asked, whole=True)
    both = {**run.overrides, **overrides}
    given = {name: again.config.get(name, value) for name, value in both.items()}
    return replace(again, overrides=given)


def check_code(made: ResolvedAgent, version: int, source: str | None) -> None:
    """Look whether an agent is the one that made a run.

    Args:
        made: the agent as it is here.
        version: the run's.
        source: sha256 of the user's file that defined it then; None for the package's own.

    Raises:
        UsageError: it has changed since.
    """
    if made.spec.version != version:
        raise UsageError(
            f"agent '{made.spec.id}' is at version {made.spec.version}, this run was made by "
            f"version {version}; judge it with that one, or run again"
        )
    if made.source != source:
        raise UsageError(
            f"{made.spec.origin} has changed since this run: its source hashes to {made.source}, "
            f"the run's to {source}; restore that version, or run again"
        )


def moved(made: ResolvedAgent, state: Any, task: TaskShape) -> Any:
    """Return a state that answers tasks of this shape.

    Raises:
        UsageError: the agent can't answer them.
    """
    if made.agent.can_transfer():
        return made.agent.transfer(state, task)
    raise UsageError(
        f"agent '{made.spec.id}' can't be judged on other tasks: it has no method "
        "transfer(state, task)"
    )


def check_backbone(network: NetworkFacts | None, made: ResolvedAgent, home: EnvSpec) -> None:
    """Look whether a network of the user's is made of what it was.

    Args:
        network: what was trained.
        made: the agent that did it.
        home: what it was trained on.

    Raises:
        UsageError: it has changed since.
        DataUnavailable: the data of `home` aren't installed.
    """
    if network is None or network.source_sha256 is None:
        return
    source = published_source(network.name)
    if source is None:
        forget_loaded()
        here = made.agent.describe_network(open_env(home, 1, "test").task)
        source = None if here is None else network_source(here)
    if source != network.source_sha256:
        raise UsageError(
            f"backbone {network.name} has changed since this run: its source hashes to {source}, "
            f"the run's to {network.source_sha256}; restore that version, or run again"
        )
