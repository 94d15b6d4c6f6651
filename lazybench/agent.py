"""The contract of agents, one for all families.

Its methods::

    init(env, rng) -> state
    update(state, batch, rng) -> (state, logs)      one meta-iteration or mini-batch
    policy(state) -> p        p(observation, memory) -> (action, memory)

`state` is a tree of dicts, lists, tensors, numbers, strings and None; the runner saves it. `batch`
is an observation of the training environment, as tensors. Randomness comes from `rng` alone, which
is a function of seed, role and step. An agent without training has no `update`. The runner owns the
loop, so progress, validation, checkpoints and resume come with the contract.

More is taken where an agent has it::

    diagnostics(state) -> dict          JSON values for the record; the names of those that are
                                        True mark its row on the boards (`under_trained`)
    network(task) -> Network            what it trains, for the boards' columns
    warm(state, weights) -> state       the first state with the weights of another training in it
    transfer(state, task) -> state      a trained state made ready for tasks of another shape
    JUDGED = ("batch_norm",)            settings that change how a trained state is judged and
                                        nothing of the training: runs that differ in these alone are
                                        judgements of one fit, validated at their defaults
    settle(given, find) -> given        (static) settings as typed to settings as they are; `find`
                                        gives the record of a key, to match another run
    fit(env, budget, rng) -> policy     instead of all of the above, a loop of its own on a training
                                        environment; such a run can't be continued, and its record
                                        says so; `env` of its `plan(task)`, where it has
                                        one, opens that environment

What `init` is given tells of tasks. Where data are kept apart by track (`LT` and `LT+dev`) it is an
`EnvFacts`, which opens none. The environment that `fit` is given ends with a pass over the dev set,
never with one over the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from lazybench.seeding import Rng

State = Any
Observation = Mapping[str, Any]
Logs = Mapping[str, float]

COUNTED = ("inner_steps", "image_gradients", "queries", "gradient_equivalents")
"""Logs that are summed over updates and become cost columns; `loss` is shown as progress."""


@dataclass(frozen=True)
class Plan:
    """How an agent wants to be trained.

    Attributes:
        updates: number of calls of `update`, i.e. meta-iterations or mini-batches.
        meta_batch: rows of the training environment, tasks in a meta-batch.
        env: arguments for the training environment (`shots`, `queries`).
        validate_every: updates between validations; 0 validates at the end only.
        select: keep the state that validates best, or the last one.
    """

    updates: int
    meta_batch: int = 1
    env: Mapping[str, Any] = field(default_factory=dict)
    validate_every: int = 0
    select: Literal["best", "last"] = "best"


@dataclass(frozen=True)
class EnvFacts:
    """What may be known of an environment before training, without a way to its data.

    Attributes:
        task: shape of its tasks.
        split: `val`, or what else it is opened for.
        track: what data the training sees.
        data: name, fingerprint, preparation and source of the data.
        protocol: what belongs to the protocol beside the arguments of the environment's id.
        observation_space: of the environment.
        action_space: of the environment.
    """

    task: Any
    split: str = ""
    track: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    observation_space: Any = None
    action_space: Any = None

    def __getattr__(self, name: str) -> Any:
        """Refuse what isn't there.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"init gets the facts of an environment, which have no '{name}'; there are "
            f"{', '.join(type(self).__dataclass_fields__)}. Images come with the batches of "
            "update, or with the environment of fit"
        )


@dataclass(frozen=True)
class Network:
    """What an agent trains.

    Attributes:
        name: the backbone's name.
        parameters: how many numbers, head included.
        batch_norm: whether batch statistics can make a difference to it.
        source_sha256: what stands for its source in a run's key, as `lazybench.nets.source_sha256`
            gives it; None for a network of the package's.
    """

    name: str
    parameters: int
    batch_norm: bool = True
    source_sha256: str | None = None


class Policy(Protocol):
    """Answers observations.

    Called with one trial at a time, unless it has `vectorized = True`: then observations carry a
    leading row for each trial of a block, and actions must, too. `memory` is None at a trial's
    start.
    """

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Any, Any]:
        """Return the action and the memory for the trial's next step."""
        ...


@runtime_checkable
class Agent(Protocol):
    """What every agent has; training agents also have `plan(task) -> Plan` and `update`."""

    def init(self, env: Any, rng: Rng) -> State:
        """Return the state before any update; `env.task` tells the shape of tasks."""
        ...

    def policy(self, state: State) -> Policy:
        """Return a policy with what `state` has learned; the state isn't changed."""
        ...
