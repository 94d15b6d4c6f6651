"""The contract of agents, one for all families: the base class `Agent`.

An agent has `init` and `policy`. One that learns has `plan` and `update` as well: the runner owns
the loop, so progress, validation, checkpoints and resume come with the contract. An agent with its
own training loop has `fit` instead. Every other hook is optional; `Agent` documents each with its
default.

`state` is a tree of dicts, lists, tensors, numbers, strings and None; the runner saves it. `batch`
is an observation of the training environment, as tensors. All randomness comes from `rng`, which
is a function of seed, role and step.

Classes that have these methods and don't inherit `Agent` are agents, too: `contract` and `adapted`
wrap them in it. Both also accept the former names of hooks (`FORMER`), for one release.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from lazybench.arguments import check_one_of, check_settings, check_whole
from lazybench.errors import ContractError

if TYPE_CHECKING:
    from gymnasium.spaces import Space
    from pydantic import BaseModel

    from lazybench.seeding import Rng
    from lazybench.specs import EnvSpec, Family

State = Any
Observation = Mapping[str, Any]
Logs = Mapping[str, float]

COUNTED = ("inner_steps", "image_gradients", "queries", "gradient_equivalents")
"""Logs that are summed over updates and become cost columns; `loss` is shown as progress."""

Needs = Mapping[str, Mapping[str, tuple[Any, ...]]]
"""What settings need to have an effect: `{setting: {other: values}}`, as `Agent.NEEDS`."""

FORMER = {
    "JUDGED": "EVAL_ONLY",
    "network": "describe_network",
    "settle": "resolve_settings",
    "warm": "load_weights",
}
"""New names of hooks, by former name; the next release removes the former names."""

HOOKS = (
    "families",
    "name",
    "cites",
    "Config",
    "LATER",
    "preset",
    "resolve_settings",
    "EVAL_ONLY",
    "NEEDS",
    "SHARDED",
    "init",
    "plan",
    "update",
    "policy",
    "fit",
    "describe_network",
    "load_weights",
    "transfer",
    "diagnostics",
)
"""Names that an agent may define."""


@dataclass(frozen=True)
class Plan:
    """The training plan of an agent.

    Attributes:
        updates: number of calls of `update`, i.e. meta-iterations or mini-batches.
        meta_batch: rows of the training environment, tasks in a meta-batch.
        env: arguments for the training environment (`shots`, `queries`).
        validate_every: updates between validations; 0 validates at the end only.
        select: keep the state that validates best, or the last one.

    Raises:
        UsageError: a number that isn't whole or is too small, arguments without names, or another
            `select`.
    """

    updates: int
    meta_batch: int = 1
    env: Mapping[str, Any] = field(default_factory=dict)
    validate_every: int = 0
    select: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        """Check every value, since a user's agent gives them."""
        for name, least in (("updates", 0), ("meta_batch", 1), ("validate_every", 0)):
            whole = check_whole(f"{name} of a plan", vars(self)[name], least=least)
            object.__setattr__(self, name, whole)
        object.__setattr__(self, "env", check_settings("env of a plan", self.env))
        check_one_of("select of a plan", self.select, ("best", "last"))


@dataclass(frozen=True)
class EnvFacts:
    """Facts about an environment that an agent gets before training, without access to its data.

    Attributes:
        task: shape of its tasks.
        split: `train`, `val` or `test`.
        track: which data the training sees.
        data: name, fingerprint, preparation and source of the data.
        protocol: settings of the protocol that the environment's id doesn't name.
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
        """Raise an error that lists the existing attributes.

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
    """Facts about the network that an agent trains.

    Attributes:
        name: the backbone's name.
        parameters: number of parameters, head included.
        batch_norm: whether its output can depend on batch statistics.
        source_sha256: hash that represents its source in a run's key, as
            `lazybench.nets.source_sha256` gives it; None for a network of the package.
    """

    name: str
    parameters: int
    batch_norm: bool = True
    source_sha256: str | None = None


class Policy(Protocol):
    """A function from observations to actions.

    It is called with one trial at a time, unless it has `vectorized = True`: then observations and
    actions have a leading axis with a row for each trial of a block. `memory` is None at the start
    of a trial.
    """

    def __call__(self, observation: Observation, memory: Any = None, /) -> tuple[Any, Any]:
        """Return the action and the memory for the trial's next step."""
        ...


def is_vectorized(policy: Policy) -> bool:
    """Return whether a policy takes whole blocks of trials; functions may have the attribute."""
    return bool(getattr(policy, "vectorized", False))


class TaskEnv(Protocol):
    """The argument of an agent's `init`: an environment, or facts about one that it can't open."""

    @property
    def task(self) -> Any:
        """Shape of its tasks: a `TaskShape`, `LongTailTask` or `AttackTask`."""
        ...


class OpenedEnv(TaskEnv, Protocol):
    """An opened environment: a vector one of a block of trials, or a single one of a whole pass."""

    @property
    def data(self) -> Mapping[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        ...

    @property
    def observation_space(self) -> Space[Any]:
        """Gymnasium's space of observations."""
        ...

    @property
    def action_space(self) -> Space[Any]:
        """Gymnasium's space of actions."""
        ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return the first observation and info of an episode, or of a block of them."""
        ...

    def step(self, action: Any, /) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Return observation, reward, terminated, truncated and info after an action."""
        ...

    def render(self) -> Any:
        """Return a picture, where it was opened to give some."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class BatchedEnv(OpenedEnv, Protocol):
    """An opened environment whose batches have `num_envs` rows: a vector one, or a stream."""

    num_envs: int


class OpenedBlock(BatchedEnv, Protocol):
    """An opened vector environment."""

    @property
    def single_action_space(self) -> Space[Any]:
        """Gymnasium's space of the actions of one trial."""
        ...


class AgentLike(Protocol):
    """The methods of every agent, whether it inherits `Agent` or not."""

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return the state before any update."""
        ...

    def policy(self, state: State) -> Policy:
        """Return a policy with what `state` has learned."""
        ...


class Agent:
    """Base class of agents: every hook, with its default.

    A class with a `Config` is constructed as `cls(config)`, one without as `cls(**settings)`.

    Attributes:
        families: families of environments that it supports.
        name: its id on boards; empty for the class's name. Registered agents use their spec's id.
        cites: keys of `lazybench/references.bib`, or BibTeX entries.
        Config: pydantic model of its settings; None for the arguments of `__init__`.
        LATER: settings that later versions of the agent added. Records of older versions lack
            them, and take their defaults rather than the preset's values.
        EVAL_ONLY: settings that affect evaluation and not training. Runs that differ only in these
            share one training run, which is validated at their defaults.
        NEEDS: settings that have no effect unless another setting has one of some values, as
            `{setting: {other: values}}`; of several others, one is enough, which must have an
            effect itself. A run that replaces such a setting in vain is refused.
        REPLACES: settings of which a run's own value, above 0, replaces others of the preset, which
            take their defaults: `{setting: others}`.
        SHARDED: whether `update` computes `distributed.mine` and adds up by `distributed.summed`,
            so that a meta-batch can be spread over processes.
    """

    families: ClassVar[tuple[Family, ...]] = ("fewshot",)
    name: ClassVar[str] = ""
    cites: ClassVar[tuple[str, ...]] = ()
    Config: ClassVar[type[BaseModel] | None] = None
    LATER: ClassVar[tuple[str, ...]] = ()
    EVAL_ONLY: ClassVar[tuple[str, ...]] = ()
    NEEDS: ClassVar[Needs] = MappingProxyType({})
    REPLACES: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    SHARDED: ClassVar[bool] = False

    def __init_subclass__(cls, **given: Any) -> None:
        """Take hooks that a subclass defines under their former names."""
        super().__init_subclass__(**given)
        for former, hook in FORMER.items():
            if former in vars(cls) and hook not in vars(cls):
                _warn_of(former, cls.__name__)
                setattr(cls, hook, vars(cls)[former])

    @staticmethod
    def preset(algorithm: str, env: EnvSpec, budget: str) -> Mapping[str, Any]:
        """Return settings for an environment and budget; the default leaves all to `Config`."""
        return {}

    @staticmethod
    def resolve_settings(given: Mapping[str, Any], find: Callable[[str], Any]) -> Mapping[str, Any]:
        """Return the settings to use, from the settings as typed; unchanged by default.

        Args:
            given: settings that replace the preset's.
            find: gives the record of a key, or None; for settings that match another run.
        """
        return given

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return the state before any update; required unless there is `fit`.

        Args:
            env: an environment, whose `task` is the shape of its tasks. If the data depends on the
                track (`LT` and `LT+dev`), it is an `EnvFacts`, which has no access to data.
            rng: source of all randomness.
        """
        raise NotImplementedError

    def plan(self, task: Any) -> Plan | None:
        """Return the training plan; None, the default, for an agent without training."""
        return None

    def update(self, state: State, batch: Observation, rng: Rng) -> tuple[State, Logs]:
        """Return the state after one meta-iteration or mini-batch, and its logs.

        It must not change the given state. `loss` is shown and checked; logs named in `COUNTED` are
        summed.
        """
        raise NotImplementedError

    def policy(self, state: State) -> Policy:
        """Return a policy with what `state` has learned; required unless there is `fit`.

        It must not change the state.
        """
        raise NotImplementedError

    def fit(self, env: OpenedEnv, budget: str, rng: Rng) -> Policy:
        """Train in the agent's own loop, instead of `init`, `update` and `policy`; return a policy.

        Such a run can't be resumed, and its record says so. `env` is a training environment: the
        one that `plan` describes, if it returns a plan. Its last pass is over the dev set, never
        over the test set.
        """
        raise NotImplementedError

    def describe_network(self, task: Any) -> Network | None:
        """Return facts about the trained network, for boards; by default None for no network."""
        return None

    def load_weights(self, state: State, weights: Mapping[str, Any]) -> State:
        """Return an initial state with the weights of another training run; optional."""
        raise NotImplementedError

    def transfer(self, state: State, task: Any) -> State:
        """Return a trained state adapted to tasks of another shape; optional."""
        raise NotImplementedError

    def diagnostics(self, state: State) -> Mapping[str, Any]:
        """Return JSON values for the record; none by default.

        Boards mark the row with the name of each value that is True (`under_trained`).
        """
        return {}

    @classmethod
    def learns(cls) -> bool:
        """Return whether the runner trains it, update by update."""
        return cls.update is not Agent.update

    @classmethod
    def has_own_loop(cls) -> bool:
        """Return whether it trains in its own loop, `fit`."""
        return cls.fit is not Agent.fit

    @classmethod
    def can_load_weights(cls) -> bool:
        """Return whether it can start from given weights."""
        return cls.load_weights is not Agent.load_weights

    @classmethod
    def can_transfer(cls) -> bool:
        """Return whether a trained state can be evaluated on tasks of another shape."""
        return cls.transfer is not Agent.transfer


def contract(source: Any) -> type[Agent]:
    """Return a subclass of `Agent` for an agent's class, factory or instance.

    A subclass of `Agent` is returned as it is. Anything else gets a new subclass with the hooks
    that `source` has; for an instance, its methods are the instance's.
    """
    given = source if inspect.isclass(source) else type(source)
    if issubclass(given, Agent):
        return given
    label = source.__name__ if inspect.isclass(source) else given.__name__
    names = [*((hook, hook) for hook in HOOKS), *FORMER.items()]
    found: dict[str, Any] = {}
    for name, hook in names:
        value = None if hook in found else getattr(source, name, None)
        if value is None:
            continue
        if name in FORMER:
            _warn_of(name, label)
        function = callable(value) and not inspect.isclass(value)
        found[hook] = staticmethod(value) if function else value
    return type(label, (Agent,), found)


def adapted(agent: Any) -> Agent:
    """Return an agent as an `Agent`: itself, or a wrapper if it doesn't inherit `Agent`."""
    return agent if isinstance(agent, Agent) else contract(agent)()


def check_contract(agent: Agent, name: str) -> None:
    """Check that an agent has all methods that the contract requires.

    Args:
        agent: the agent.
        name: its id, for the message.

    Raises:
        ContractError: a method is missing.
    """
    kind = type(agent)
    required = (("init", kind.init, Agent.init), ("policy", kind.policy, Agent.policy))
    for hook, method, default in () if agent.has_own_loop() else required:
        if method is default or not callable(method):
            raise ContractError(
                f"agent '{name}' has no method '{hook}'; every agent has init(env, rng) and "
                "policy(state); an agent that learns also has plan(task) and update(state, batch, "
                "rng); an agent with its own training loop has fit(env, budget, rng) instead"
            )
    # An agent with its own loop may have `plan`, which sets up its environment, and no `update`.
    if agent.learns() != (kind.plan is not Agent.plan) and not agent.has_own_loop():
        raise ContractError(
            f"agent '{name}' has only one of the methods plan(task) and update(state, batch, "
            "rng); an agent that learns needs both, an agent that doesn't learn needs neither"
        )


def _warn_of(former: str, label: str) -> None:
    warnings.warn(
        f"{former} of agent {label} is now {FORMER[former]}; the next release removes the former "
        "name",
        DeprecationWarning,
        stacklevel=3,
    )


def setting_meanings(kind: type[Agent]) -> dict[str, str]:
    """Return a sentence on each setting, from the docstrings of `Config` and its base classes.

    Settings that no docstring mentions are missing, and so are all those of an agent without
    `Config`.
    """
    config = kind.Config
    meanings: dict[str, str] = {}
    if config is None:
        return meanings
    for base in config.__mro__:
        _, _, text = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")
        block = re.split(r"\n(?=\S)", text)[0]
        for entry in re.split(r"\n(?=    \w)", "\n" + block)[1:]:
            names, _, meaning = " ".join(entry.split()).partition(": ")
            first = re.split(r"\. (?=[A-Z`])", meaning)[0].rstrip(".")
            for name in names.split(", "):
                meanings.setdefault(name, first)
    return {name: meanings[name] for name in config.model_fields if name in meanings}
