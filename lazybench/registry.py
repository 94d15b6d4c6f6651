"""The registries of environments, agents and data sets.

A registry has four sources, in this order: the built-in catalogue (strings only, so listing imports
nothing heavy), entry points of other packages, registrations at run time, and data imported into
this machine's data folder, which is read each time. A name may occur only once.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any, Generic, Protocol, TypeVar

from lazybench.agent import contract
from lazybench.errors import DuplicateName, UnknownName, UsageError, nearest
from lazybench.plugins import check_spec, contained, describe, package, points
from lazybench.specs import OWN, AgentSpec, DataSpec, EnvSpec, Resolved
from lazybench.user_code import (
    USER_MODULE,
    defining_file,
    function_of,
    is_of_script,
    load,
    spelled,
)

MOST_SPECS = 10_000
"""Largest number of specs of one entry point."""


class _Spec(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def target(self) -> str: ...


S = TypeVar("S", bound=_Spec)


class Registry(Generic[S]):
    """Specs by id: built-in ones, those of entry points, registered ones and imported ones."""

    def __init__(
        self,
        kind: str,
        spec_type: type[S],
        catalogue: str,
        resolver: str | None,
        group: str,
        finder: str | None = None,
    ) -> None:
        """Set up an empty registry; sources are read at first use.

        Args:
            kind: the kind of its entries, for messages (`environment`).
            spec_type: the class that entries must have.
            catalogue: `module:NAME` of the built-in tuple of specs.
            resolver: `module:function` from a name to `Resolved` or None, for aliases and patterns.
            group: entry-point group of other packages.
            finder: `module:function` that returns the specs on disk, and the errors of unusable
                ones by name.
        """
        self.kind = kind
        self.group = group
        self.broken: dict[str, str] = {}
        self._spec_type = spec_type
        self._catalogue = catalogue
        self._resolver = resolver
        self._finder = finder
        self._found_broken: dict[str, str] = {}
        self._specs: dict[str, S] | None = None
        self._at_run_time: set[str] = set()

    def specs(self) -> list[S]:
        """Return all specs, sorted by id."""
        found = self._all()
        return [found[name] for name in sorted(found)]

    def register(self, spec: S) -> None:
        """Add a spec at run time.

        Raises:
            UsageError: not a spec of this registry's type.
            DuplicateName: the id is taken; the message names both origins.
        """
        target = spec.target if isinstance(spec, self._spec_type) else ""
        named = self._from(spec, str(target).rpartition(":")[0])
        self._add(self._all(), named)
        self._known()[spec.id] = named
        self._at_run_time.add(spec.id)

    def forget(self, name: str) -> None:
        """Remove the spec that was registered at run time under `name`, if there is one."""
        if name in self._at_run_time:
            self._at_run_time.remove(name)
            self._known().pop(name, None)

    def resolve(self, name: str) -> Resolved:
        """Return the spec of an id or alias, with a note if an alias was resolved.

        Raises:
            UnknownName: no such id; the message names the nearest ones and the listing command.
        """
        if not isinstance(name, str):
            raise UsageError(f"{self.kind} must be an id, as text, got {name!r}")
        known = self._all()
        found = known.get(name)
        if found is not None:
            return Resolved(found)
        if self._resolver is not None:
            resolved: Resolved | None = load(self._resolver)(name, known)
            if resolved is not None:
                return resolved
        hint = nearest(name, known)
        broken = f" (broken plug-ins: {', '.join(self.broken)})" if self.broken else ""
        plural = {"data set": "data list"}.get(self.kind, f"list {self._short}s")
        raise UnknownName(
            f"unknown {self.kind} '{name}'.{hint} See all with: lazybench {plural}{broken}"
        )

    @property
    def _short(self) -> str:
        return {"environment": "env"}.get(self.kind, self.kind)

    def _all(self) -> dict[str, S]:
        """All specs, including those on disk; one whose name is taken is reported as broken."""
        known = dict(self._known())
        if self._finder is None:
            return known
        found, broken = load(self._finder)()
        for name in self._found_broken:
            self.broken.pop(name, None)
        for spec in found:
            try:
                self._add(known, spec)
            except DuplicateName as error:
                broken[f"{spec.id} ({spec.origin})"] = str(error)
        self._found_broken = broken
        self.broken.update(broken)
        return known

    def _known(self) -> dict[str, S]:
        if self._specs is None:
            specs: dict[str, S] = {}
            for spec in load(self._catalogue):
                self._add(specs, spec)
            self._specs = specs
            for point in points(self.group, self.broken):
                self._plug_in(specs, point)
        return self._specs

    def _plug_in(self, specs: dict[str, S], point: EntryPoint) -> None:
        """Add the spec or specs of an entry point; broken ones go to `broken`, with their error."""
        origin = package(point)
        label = f"{origin}: {point.name} ({point.value})"
        try:
            with contained():
                got = point.load()
                # An iterator may have no end.
                many = isinstance(got, Iterable)
                found = list(itertools.islice(got, MOST_SPECS + 1)) if many else [got]
            if len(found) > MOST_SPECS:
                raise UsageError(f"an entry point gives at most {MOST_SPECS} specs")
        except Exception as error:
            self.broken[label] = describe(error)
            return
        for number, spec in enumerate(found):
            try:
                with contained():
                    self._add(specs, self._from(spec, origin))
            except Exception as error:
                known = isinstance(spec, self._spec_type) and isinstance(error, UsageError)
                name = spec.id if known else number
                more = f" [{name}]" if len(found) > 1 else ""
                self.broken[label + more] = describe(error)

    def _from(self, spec: S, origin: str) -> S:
        """A spec with its true origin: other packages can't claim this package's."""
        if not isinstance(spec, self._spec_type) or spec.origin != OWN or not origin:
            return spec
        renamed: S = replace(spec, origin=origin)  # type: ignore[type-var]
        return renamed

    def _add(self, specs: dict[str, S], spec: S) -> None:
        if not isinstance(spec, self._spec_type):
            raise UsageError(
                f"the {self.kind} registry takes entries of type {self._spec_type.__name__}, got "
                f"{type(spec).__name__}; wrap it in a {self._spec_type.__name__}"
            )
        check_spec(self.kind, spec)
        taken = specs.get(spec.id)
        if taken is not None:
            raise DuplicateName(
                f"{self.kind} id '{spec.id}' is registered twice: by {taken.origin} "
                f"({taken.target}) and by {spec.origin} ({spec.target}); rename one"
            )
        specs[spec.id] = spec


ENVS: Registry[EnvSpec] = Registry(
    "environment",
    EnvSpec,
    "lazybench.envs:CATALOGUE",
    "lazybench.envs:resolve",
    "lazybench.envs",
    "lazybench.envs:imported_envs",
)
AGENTS: Registry[AgentSpec] = Registry(
    "agent", AgentSpec, "lazybench.agents:CATALOGUE", None, "lazybench.agents"
)
DATASETS: Registry[DataSpec] = Registry(
    "data set",
    DataSpec,
    "lazybench.envs:DATA_CATALOGUE",
    None,
    "lazybench.data",
    "lazybench.data.importing.catalogue:data_specs",
)
DATA_ALIASES = "lazybench.envs:ALIASES"
"""Where reserved names are listed: aliases, which no data set may have as its name."""


def open_data(name: str) -> Any:
    """Open the data set of an id and return it.

    Raises:
        UnknownName: no such data set.
        DataUnavailable: it isn't installed or is damaged.
    """
    spec = DATASETS.resolve(name).spec
    return load(spec.target)(**spec.kwargs)


def agent_spec(name: str) -> AgentSpec:
    """Return the spec of an agent id, `path/to/file.py:Class` or `module:Class`.

    Raises:
        UnknownName: no such agent.
        UsageError: the file or class doesn't exist.
    """
    if not isinstance(name, str) or ":" not in name:
        try:
            spec: AgentSpec = AGENTS.resolve(name).spec
        except UnknownName as error:
            if not str(name).endswith(".py"):
                raise
            raise UsageError(
                f"'{name}' names no agent; name the class in the file, too: {name}:CLASS"
            ) from error
        return spec
    name = spelled(name)
    return _spec_for(load(name), name)


def class_spec(given: type) -> AgentSpec:
    """Return the spec of an agent's class: the registered one, or a new one.

    Raises:
        UsageError: several agents use this class, or its methods use variables of an enclosing
            function, which neither its file nor its settings contain.
    """
    place = f"{given.__module__}:{given.__qualname__}"
    own = [spec for spec in AGENTS.specs() if spec.target == place]
    if len(own) == 1:
        return own[0]
    if own:
        ids = ", ".join(spec.id for spec in own)
        raise UsageError(f"{given.__name__} is the class of several agents; name one: {ids}")
    _need_no_closure(given)
    path, module = defining_file(given), given.__module__
    own_module = module == "__main__" or module.startswith(USER_MODULE) or is_of_script(module)
    if path is not None and path.suffix == ".py" and own_module:
        place = spelled(f"{path}:{given.__qualname__}")
    return _spec_for(given, place)


def _need_no_closure(given: type) -> None:
    """Check that a class's methods use no variables of an enclosing function.

    Modules, functions and classes are allowed: they are code, and don't vary from call to call.

    Raises:
        UsageError: they use one.
    """
    for function in filter(None, map(function_of, vars(given).values())):
        try:
            around = inspect.getclosurevars(function).nonlocals
        except ValueError:
            # A variable that has no value yet.
            continue
        for name, held in around.items():
            code = inspect.ismodule(held) or inspect.isroutine(held) or inspect.isclass(held)
            if name != "__class__" and not code:
                raise UsageError(
                    f"agent class '{given.__qualname__}' uses the variable '{name}' of an "
                    "enclosing function, which can't be part of the record's key; make it a "
                    "setting: an argument of its __init__"
                )


def _spec_for(factory: Any, name: str) -> AgentSpec:
    """The spec of a user's agent at `name`, such as `file.py:Class`."""
    agent = contract(factory)
    return AgentSpec(
        id=str(agent.name or name.rpartition(":")[2]),
        families=tuple(agent.families),
        target=name,
        trains=agent.learns() or agent.has_own_loop(),
        tuned=False,
        about=(factory.__doc__ or "").strip().partition("\n")[0],
        origin=name,
        cites=tuple(agent.cites),
    )
