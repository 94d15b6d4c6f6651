"""Resolves a run's request to an environment, an agent, settings, data and a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lazybench.agent import OpenedEnv
from lazybench.data.importing.catalogue import check_overlap
from lazybench.errors import UsageError
from lazybench.nets import forget_loaded
from lazybench.nets.pretrained import seen
from lazybench.records import NetworkFacts, Store, make_key, slug
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import env_facts, for_init, open_env, open_training
from lazybench.runner.request import (
    ResolvedAgent,
    RunRequest,
    check_budget,
    check_device,
    check_isolable,
    chosen_trials,
    make,
    network_source,
    resolve_env,
    with_protocol,
)
from lazybench.runner.trained import Weights, read_weights
from lazybench.runtime import distributed
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import Tracked


@dataclass(frozen=True)
class ResolvedRun:
    """A resolved request, and its key.

    Runs that differ only in evaluation settings share one training run, with those settings at
    their defaults: `trainer` is the agent that is trained, and `fit_key` the key of the run that
    is evaluated with the defaults.

    Attributes:
        request: the request.
        spec: the environment.
        agent: the agent whose policy is evaluated.
        trainer: the agent that is trained; `agent` itself if the request sets no evaluation
            setting.
        device: device of all computations.
        trials: number of test trials.
        identity: fields that the key is computed from.
        fit_identity: fields that the key of the training run is computed from.
        facts: the `env` and `data` parts of the record.
        network: the trained network, if the agent describes it.
        weights: initial weights of training; None for fresh weights.
        track: which data training sees, if the environment offers a choice.
    """

    request: RunRequest
    spec: EnvSpec
    agent: ResolvedAgent
    trainer: ResolvedAgent
    device: str
    trials: int
    identity: dict[str, Any]
    fit_identity: dict[str, Any]
    facts: dict[str, Any]
    network: NetworkFacts | None
    weights: Weights | None
    track: str | None

    @cached_property
    def key(self) -> str:
        """The run's key, 64 hex digits."""
        return make_key(self.identity)

    @cached_property
    def fit_key(self) -> str:
        """The key of the training run, equal to `key` unless an evaluation setting is changed."""
        return make_key(self.fit_identity)

    @property
    def folder(self) -> Path:
        """The working folder of the training run."""
        agent, env = slug(self.agent.spec.id), slug(self.spec.id)
        return self.request.runs / f"{agent}-{env}-s{self.request.seed}-{self.fit_key[:12]}"

    def file(self, name: str, ending: str) -> Path:
        """Return the path of a file in the folder; each evaluation of a training has its own."""
        mark = "" if self.key == self.fit_key else f"-{self.key[:12]}"
        return self.folder / f"{name}{mark}.{ending}"


def _check_effect(agent: ResolvedAgent, overrides: Mapping[str, Any]) -> None:
    """Check that each replaced setting can have an effect.

    Raises:
        UsageError: one can't, so that the run would be another row with the same result.
    """
    for name in overrides:
        needs = _unmet(agent, name)
        if needs:
            wanted = " or ".join(
                f"{other}={' or '.join(_setting_text(value) for value in values)}"
                for other, values in needs.items()
            )
            has = ", ".join(f"{o}={_setting_text(agent.config.get(o))}" for o in needs)
            raise UsageError(
                f"{name} has no effect on agent '{agent.spec.id}' without {wanted}, got {has}; "
                f"leave {name} out"
            )


def _unmet(agent: ResolvedAgent, name: str) -> Mapping[str, tuple[Any, ...]]:
    """What a setting needs and lacks, or what it needs does itself; empty if it has an effect."""
    needs = agent.instance.NEEDS.get(name, {})
    lacking: Mapping[str, tuple[Any, ...]] = needs
    for other, values in needs.items():
        if agent.config.get(other) in values:
            lacking = _unmet(agent, other)
            if not lacking:
                return {}
    return lacking


def _setting_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolve(request: RunRequest, watch: Callback = SILENT, *, here: bool = True) -> ResolvedRun:
    """Resolve the names, presets, data and key of a request; writes nothing.

    Args:
        request: the request.
        watch: called with the environment of an alias.
        here: check that this machine has the device; False for a run on another machine.

    Raises:
        UsageError: a name, setting, device or limit that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
    """
    check_budget(request.budget)
    forget_loaded()
    device = check_device(request.device, here=here)
    spec, note = resolve_env(request.env)
    if note:
        watch.note(note)
    spec = with_protocol(spec, request.protocol)
    find = Store(request.out).find
    agent = make(request.agent, spec, request.budget, request.overrides, find=find)
    _check_effect(agent, request.overrides)
    trainer = _trainer(agent, request, spec)
    if request.isolated:
        check_isolable(agent)
    trials, limited = chosen_trials(spec, request.budget, request.limit)
    test = open_env(spec, 1, "test")
    train: OpenedEnv | None = None
    plan = agent.plan(test.task)
    distributed.check(
        agent.instance.SHARDED, agent.spec.id, None if plan is None else plan.meta_batch
    )
    if plan is not None and (plan.updates or isinstance(test, Tracked)):
        # Opened here, so that shots beyond the data are reported before anything is written.
        train = open_training(spec, replace(plan, meta_batch=1))
    elif agent.instance.has_own_loop():
        train = open_training(spec, None)
    weights = _weights(agent, request)
    if weights is not None:
        # Loaded here, so that weights that don't fit are reported before anything is written.
        first = agent.instance.init(
            for_init(open_env(spec, 1, "val")), Rng(request.seed).at("init")
        )
        agent.instance.load_weights(first, weights.params)
    network = _network(agent, test.task, weights)
    if not request.allow_overlap and network is not None:
        check_overlap(spec.data, f"backbone '{network.name}'", network.weights)
    described = env_facts(spec, test, trials)
    identity = {
        "env": spec.id,
        "env_version": spec.version,
        "protocol": described["env"]["protocol"],
        "data": described["data"]["fingerprint"],
        "prep": described["data"]["prep"],
        "agent": agent.spec.id,
        "agent_version": agent.spec.version,
        "agent_source": agent.source,
        "config": agent.config,
        "budget": request.budget,
        "seed": request.seed,
        "precision": request.precision,
        "device": device.partition(":")[0],
        "world_size": distributed.size(),
        "limited": limited,
        **({} if network is None else network.identity()),
    }
    return ResolvedRun(
        request=request,
        spec=spec,
        agent=agent,
        trainer=trainer,
        device=device,
        trials=trials,
        identity=identity,
        fit_identity={**identity, "config": trainer.config},
        facts=described,
        network=network,
        weights=weights,
        track=train.track if isinstance(train, Tracked) else None,
    )


def _trainer(agent: ResolvedAgent, request: RunRequest, spec: EnvSpec) -> ResolvedAgent:
    """The agent that is trained: the same agent with evaluation settings at their defaults."""
    kept = {k: v for k, v in request.overrides.items() if k not in agent.eval_only}
    if len(kept) == len(request.overrides):
        return agent
    return make(request.agent, spec, request.budget, kept, find=Store(request.out).find)


def _weights(agent: ResolvedAgent, request: RunRequest) -> Weights | None:
    """The initial weights that the request names, or None.

    Raises:
        UsageError: the agent can't start from given weights.
    """
    if request.init is None:
        return None
    if not agent.instance.can_load_weights():
        raise UsageError(
            f"agent '{agent.spec.id}' can't start from given weights: it has no method "
            "load_weights(state, weights); leave --init out"
        )
    return read_weights(request.init, request.runs)


def _network(agent: ResolvedAgent, task: Any, weights: Weights | None) -> NetworkFacts | None:
    """Facts about the trained network, with the source hash of a user's network."""
    network = agent.network(task)
    if network is None:
        return None
    if not network.batch_norm and "batch_norm" in agent.overrides:
        raise UsageError(
            f"{network.name} has no batch norm, so every value of batch_norm gives the same "
            "record; leave batch_norm out"
        )
    return NetworkFacts(
        name=network.name,
        parameters=network.parameters,
        batch_norm=network.batch_norm,
        weights=_seen(agent, network.name) if weights is None else weights.source,
        weights_sha256=None if weights is None else weights.sha256,
        source_sha256=network_source(network),
    )


def _seen(agent: ResolvedAgent, network: str) -> str:
    """Training data of the backbone's initial weights; `fresh` for random weights."""
    return (seen(network) if agent.config.get("backbone") == network else "") or "fresh"
