"""A request with everything resolved, and the key that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lazybench.errors import UsageError
from lazybench.nets import forget_loaded
from lazybench.records import NetworkFacts, Store, make_key, slug
from lazybench.runner.callbacks import SILENT, Watch
from lazybench.runner.evaluate import env_facts, for_init, open_env, open_training
from lazybench.runner.request import (
    Made,
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
class Cell:
    """A request with everything resolved: what will be run, and its key.

    Runs that differ only in how a trained state is judged share one fit, made with those settings
    at their defaults: `trainer` is the agent that makes it and `fit_key` the key of the run that
    judges it with them.

    Attributes:
        request: what was asked for.
        spec: the environment.
        made: the agent whose policy is judged.
        trainer: the agent that is trained; `made` itself where no such setting was given.
        device: where it computes.
        trials: how many test trials to judge.
        identity: what the key is made of.
        fit_identity: what the fit's key is made of.
        facts: the `env` and `data` parts of the record.
        network: what is trained, where the agent tells.
        weights: what training starts from; None for fresh weights.
        track: what data the training uses, where the environment offers more than one kind.
    """

    request: RunRequest
    spec: EnvSpec
    made: Made
    trainer: Made
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
        """The fit's key, equal to `key` unless a setting of judging was given."""
        return make_key(self.fit_identity)

    @property
    def folder(self) -> Path:
        """The fit's working folder."""
        agent, env = slug(self.made.spec.id), slug(self.spec.id)
        return self.request.runs / f"{agent}-{env}-s{self.request.seed}-{self.fit_key[:12]}"

    def file(self, name: str, ending: str) -> Path:
        """A file of this run in the folder; judgements of one fit keep theirs apart."""
        mark = "" if self.key == self.fit_key else f"-{self.key[:12]}"
        return self.folder / f"{name}{mark}.{ending}"


def resolve(request: RunRequest, watch: Watch = SILENT, *, here: bool = True) -> Cell:
    """Return the request with names, presets, data and key resolved; nothing is written.

    Args:
        request: what was asked for.
        watch: hears which environment an alias is.
        here: look whether this machine has the device; False for a run on another one.

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
    made = make(request.agent, spec, request.budget, request.overrides, find=find)
    trainer = _trainer(made, request, spec)
    if request.isolated:
        check_isolable(made)
    trials, limited = chosen_trials(spec, request.budget, request.limit)
    judged = open_env(spec, 1, "test")
    train: Any = None
    plan = made.agent.plan(judged.task)
    distributed.check(made.agent.SHARDED, made.spec.id, None if plan is None else plan.meta_batch)
    if plan is not None:
        # Opened here so that shots that the data can't serve are told before anything is written.
        train = open_training(spec, replace(plan, meta_batch=1))
    elif made.agent.has_own_loop():
        train = open_training(spec, None)
    weights = _weights(made, request)
    if weights is not None:
        # Tried here, so that weights that don't fit are told before anything is written.
        first = made.agent.init(for_init(open_env(spec, 1, "val")), Rng(request.seed).at("init"))
        made.agent.load_weights(first, weights.params)
    network = _network(made, judged.task, weights)
    described = env_facts(spec, judged, trials)
    identity = {
        "env": spec.id,
        "env_version": spec.version,
        "protocol": described["env"]["protocol"],
        "data": described["data"]["fingerprint"],
        "prep": described["data"]["prep"],
        "agent": made.spec.id,
        "agent_version": made.spec.version,
        "agent_source": made.source,
        "config": made.config,
        "budget": request.budget,
        "seed": request.seed,
        "precision": request.precision,
        "device": device.partition(":")[0],
        "world_size": distributed.size(),
        "limited": limited,
        **({} if network is None else network.identity()),
    }
    return Cell(
        request=request,
        spec=spec,
        made=made,
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


def _trainer(made: Made, request: RunRequest, spec: EnvSpec) -> Made:
    """The agent that makes the fit: the same, but for settings that only judging looks at."""
    kept = {k: v for k, v in request.overrides.items() if k not in made.judged}
    if len(kept) == len(request.overrides):
        return made
    return make(request.agent, spec, request.budget, kept, find=Store(request.out).find)


def _weights(made: Made, request: RunRequest) -> Weights | None:
    """The weights to start from, where the request names some.

    Raises:
        UsageError: an agent that can't start from given weights.
    """
    if request.init is None:
        return None
    if not made.agent.can_load_weights():
        raise UsageError(
            f"agent '{made.spec.id}' can't start from given weights: it has no method "
            "load_weights(state, weights); leave --init out"
        )
    return read_weights(request.init, request.runs)


def _network(made: Made, task: Any, weights: Weights | None) -> NetworkFacts | None:
    """What the agent trains, with the source of a network that the user wrote."""
    network = made.agent.describe_network(task)
    if network is None:
        return None
    if not network.batch_norm and "batch_norm" in made.overrides:
        raise UsageError(
            f"{network.name} has no batch norm, so all ways of judging it are one record; leave "
            "batch_norm out"
        )
    return NetworkFacts(
        name=network.name,
        parameters=network.parameters,
        batch_norm=network.batch_norm,
        weights="fresh" if weights is None else weights.source,
        weights_sha256=None if weights is None else weights.sha256,
        source_sha256=network_source(network),
    )
