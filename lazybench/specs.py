"""Specs, the entries of the registries: environments, agents and data sets as plain data.

Nothing here imports torch, numpy or gymnasium, so that listing costs milliseconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from lazybench.tables import html_table

_Spec = TypeVar("_Spec")

Family = Literal["fewshot", "longtail", "attack"]
Better = Literal["higher", "lower"]

FAMILIES: tuple[Family, ...] = get_args(Family)
"""Families of environments."""

OWN = "lazybench"
"""Origin of what this package registers itself."""

BUDGETS: tuple[str, ...] = ("smoke", "small", "medium", "paper")
"""Compute budgets: seconds, unranked; minutes; 15 to 30 minutes on two cores; the full
protocol."""


class Measure(NamedTuple):
    """A metric of a run besides the headline metric: name, unit, and which direction is better."""

    name: str
    unit: str = "fraction"
    better: Better = "higher"


def _frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(values))


def _takes_apart(cls: type[_Spec]) -> type[_Spec]:
    """Accept `apart`, the former name of `independent_trials`, in a constructor for one release."""
    init = cls.__init__

    @wraps(init)
    def with_former_name(self: Any, *args: Any, **kwargs: Any) -> None:
        if "apart" in kwargs:
            kwargs["independent_trials"] = kwargs.pop("apart")
            warnings.warn(
                "EnvSpec(apart=…) is now EnvSpec(independent_trials=…); the next release removes "
                "the former name",
                DeprecationWarning,
                stacklevel=2,
            )
        init(self, *args, **kwargs)

    cls.__init__ = with_former_name  # type: ignore[method-assign]
    return cls


@_takes_apart
@dataclass(frozen=True)
class EnvSpec:
    """An environment: its id, and everything needed to construct and score it.

    Attributes:
        id: canonical id, which always names its data (`glyphs-20way-5shot`).
        family: family of environments; agents support one or more.
        target: `module:Class` of the single Gymnasium environment.
        vector_target: `module:Class` of the native vector environment, or None.
        data: id of its data set.
        kwargs: arguments of both classes.
        trials: number of official test trials, by budget.
        val_trials: number of official validation trials, by budget.
        metric: name of the headline metric; `better` is its better direction, `unit` its unit.
        val_metric: name and better direction of the validation metric, if it isn't the headline
            metric.
        targets: levels of the validation metric, in its own unit; boards show the training cost
            until validation first reached each.
        measures: further metrics of a whole test.
        columns: names of further numbers of each trial, which its last info contains and the
            record stores.
        later_columns: those of `columns` that earlier records lack, all of them or none.
        block: number of trials that are opened together; `rows` gives it for fewer trials.
        independent_trials: whether a trial's result is independent of the trials opened with it.
        options: names of `kwargs` that a run may change; they are part of its key.
        left_out: defaults of options that earlier records lack: a run that chooses one of them has
            the key of a run that doesn't.
        option_columns: columns that a run which changes an option has more, by option.
        plan_options: names of `kwargs` that an agent's plan may set for its training tasks.
        training: further arguments of training environments, such as those that keep them from the
            official test; not part of a key.
        trial_classes: `module:function` that gives the classes of official test trials from the
            spec, the data's fingerprint and a number of trials, as `class_effects.TrialClasses`, or
            None if it can't; empty if the classes are no sample (see docs/boards.md).
        about: one line for listings.
        version: incremented by any change that can affect a score.
        origin: who registered it.
        cites: keys of `lazybench/references.bib` or BibTeX entries of the protocol's works; the
            data set cites its own.
    """

    id: str
    family: Family
    target: str
    vector_target: str | None
    data: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    trials: Mapping[str, int] = field(default_factory=dict)
    val_trials: Mapping[str, int] = field(default_factory=dict)
    metric: str = "accuracy"
    better: Better = "higher"
    unit: str = "fraction"
    val_metric: tuple[str, Better] | None = None
    targets: tuple[float, ...] = ()
    measures: tuple[Measure, ...] = ()
    columns: tuple[str, ...] = ()
    later_columns: tuple[str, ...] = ()
    block: int = 8
    independent_trials: bool = False
    options: tuple[str, ...] = ()
    left_out: Mapping[str, Any] = field(default_factory=dict)
    option_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plan_options: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    trial_classes: str = ""
    about: str = ""
    version: int = 1
    origin: str = OWN
    cites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the mappings, since a spec is shared."""
        for name in ("kwargs", "trials", "val_trials", "training", "left_out", "option_columns"):
            object.__setattr__(self, name, _frozen(vars(self)[name]))

    @property
    def apart(self) -> bool:
        """The former name of `independent_trials`, for one release."""
        return self.independent_trials

    def rows(self, trials: int) -> int:
        """Return how many of `trials` trials to open together.

        It is always a whole block, since rounding may depend on its size; fewer if trials are
        independent.
        """
        return min(self.block, trials) if self.independent_trials else self.block

    @property
    def validation(self) -> tuple[str, Better]:
        """The metric of validation trials and its better direction."""
        return self.val_metric or (self.metric, self.better)

    def _repr_html_(self) -> str:
        """Return the environment's main facts as an HTML table for notebooks."""
        trials = ", ".join(f"{budget} {n}" for budget, n in self.trials.items())
        settings = ", ".join(f"{name}={value}" for name, value in self.kwargs.items())
        facts = {
            "about": self.about,
            "family": self.family,
            "data": self.data,
            "score": f"{self.metric} ({self.unit}), {self.better} is better",
            "test trials": trials,
            "settings": settings,
            "a run may change": ", ".join(self.options),
            "in Gymnasium": self.gymnasium_id,
            "from": self.origin,
        }
        rows = [(name, text) for name, text in facts.items() if text]
        return html_table(("", ""), rows, title=f"{self.id}-v{self.version}")

    @property
    def gymnasium_id(self) -> str:
        """The id in Gymnasium's registry (`lazybench/glyphs-20way-5shot-v1`), which has no @."""
        return f"lazybench/{self.id.replace('@', '.')}-v{self.version}"


@dataclass(frozen=True)
class AgentSpec:
    """An agent: its id, and how to construct it.

    Attributes:
        id: snake_case name.
        families: families of environments that it supports.
        target: `module:Class` (or `path/to/file.py:Class`).
        kwargs: arguments that distinguish this agent from others of the same class.
        trains: False for baselines that learn nothing before the test.
        tuned: False if its presets weren't tuned; shown on boards.
        about: one line for listings.
        reference: paper, equation or algorithm.
        version: incremented by any change that can affect a score.
        origin: who registered it.
        cites: keys of `lazybench/references.bib` or BibTeX entries of the works it comes from.
    """

    id: str
    families: tuple[Family, ...]
    target: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True
    tuned: bool = True
    about: str = ""
    reference: str = ""
    version: int = 1
    origin: str = OWN
    cites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the arguments."""
        object.__setattr__(self, "kwargs", _frozen(self.kwargs))


@dataclass(frozen=True)
class DataSpec:
    """A data set, and how to open it.

    Attributes:
        id: its name in environment ids.
        target: `module:function` that returns an opened data set.
        kwargs: its arguments.
        embedded: True if the data is included in the package.
        probe: paths below the data folder, any of which shows that it is installed.
        licence: as stated by the authors.
        about: one line for listings.
        origin: who registered it.
        cites: keys of `lazybench/references.bib` or BibTeX entries of the works it comes from.
        sheet: sections of its data sheet by heading, in Markdown.
    """

    id: str
    target: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    embedded: bool = False
    probe: tuple[str, ...] = ()
    licence: str = ""
    about: str = ""
    origin: str = OWN
    cites: tuple[str, ...] = ()
    sheet: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("kwargs", "sheet"):
            object.__setattr__(self, name, _frozen(vars(self)[name]))


@dataclass(frozen=True)
class Resolved:
    """A resolved id, with a line for the user if it isn't the name that they typed."""

    spec: Any
    note: str = ""
