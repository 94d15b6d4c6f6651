"""`lazybench list` and `lazybench version`: what is available here."""

from __future__ import annotations

import enum
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench._version import __version__
from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from lazybench.specs import AgentSpec, EnvSpec


class Kind(enum.StrEnum):
    """Kinds of things to list."""

    agents = "agents"
    envs = "envs"
    data = "data"
    runs = "runs"


@command(
    "list",
    "lazybench list agents",
    "lazybench list envs --family fewshot",
    "lazybench list envs --all",
    "lazybench list runs",
    "lazybench list data --json",
)
def list_command(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    family: options.SomeFamily = None,
    every: Annotated[
        bool, typer.Option("--all", help="With envs: one line for each, not for each pattern.")
    ] = False,
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
) -> None:
    """List agents, environments, data sets or runs.

    Environments are listed by pattern: `{1,5}` means one of these values, and `[-noniid]` an
    ending that may be left out. --json lists each of them.
    """
    if family is not None and kind not in (Kind.agents, Kind.envs):
        raise UsageError(
            f"--family goes with agents and envs, not with 'list {kind}'; leave it out"
        )
    if every and kind is not Kind.envs:
        raise UsageError(f"--all goes with envs, not with 'list {kind}'; leave it out")
    if kind is Kind.agents:
        _list_agents(family, json=json)
    elif kind is Kind.envs:
        _list_envs(family, every=every, json=json)
    elif kind is Kind.data:
        from lazybench.cli.data import list_data

        list_data(json=json)
    else:
        _list_runs(runs, json=json)


def agent_facts(spec: AgentSpec) -> dict[str, Any]:
    """Return the facts that the registry has of an agent."""
    return {
        "id": spec.id,
        "about": spec.about,
        "families": list(spec.families),
        "trains": spec.trains,
        "tuned": spec.tuned,
        "reference": spec.reference,
        "origin": spec.origin,
    }


def env_facts(spec: EnvSpec) -> dict[str, Any]:
    """Return the facts that the registry has of an environment, and whether its data is there."""
    return {
        "id": spec.id,
        "about": spec.about,
        "family": spec.family,
        "version": spec.version,
        "gymnasium_id": spec.gymnasium_id,
        "data": spec.data,
        "data_installed": is_installed(spec.data),
        "metric": spec.metric,
        "better": spec.better,
        "trials": dict(spec.trials),
        "origin": spec.origin,
    }


def is_installed(data: str) -> bool | None:
    """Return whether a data set is included or in the data folder; None if unknown."""
    from lazybench.data.folders import data_root
    from lazybench.registry import DATASETS

    spec = next((each for each in DATASETS.specs() if each.id == data), None)
    if spec is None or not (spec.embedded or spec.probe):
        return None
    return spec.embedded or any((data_root() / path).exists() for path in spec.probe)


def show_broken(broken: Mapping[str, str]) -> None:
    """Print the plug-ins that failed to load, each with its error."""
    if broken:
        console.line("broken plug-ins:")
        for name, error in sorted(broken.items()):
            console.line(f"  {console.one_line(name)}: {console.one_line(error)}")


def _list_agents(family: options.Family | None, *, json: bool) -> None:
    from lazybench.registry import AGENTS

    found = [
        agent_facts(spec) for spec in AGENTS.specs() if family is None or family in spec.families
    ]
    if json:
        console.as_json({"agents": found, "broken": AGENTS.broken})
        return
    rows = [
        (
            each["id"],
            ", ".join(each["families"]),
            _yes(each["trains"]),
            _yes(each["tuned"]),
            "" if each["origin"] == "lazybench" else each["origin"],
            each["about"],
        )
        for each in found
    ]
    header = ("agent", "families", "trains", "tuned", "from", "about")
    _show(header, rows, f"agents of family {family}" if family else "agents")
    show_broken(AGENTS.broken)


def _list_envs(family: options.Family | None, *, every: bool, json: bool) -> None:
    from lazybench.registry import ENVS

    specs = [spec for spec in ENVS.specs() if family is None or family == spec.family]
    if json:
        found = [env_facts(spec) for spec in specs]
        console.as_json({"envs": found, "broken": ENVS.broken})
        return
    grouped = [(spec.id, [spec]) for spec in specs] if every else patterns(specs)
    rows = []
    for name, members in grouped:
        first, trials = members[0], sorted({spec.trials.get("small", 0) for spec in members})
        about = first.about if len(members) == 1 else f"{len(members)}, such as {first.about}"
        rows.append(
            (
                name,
                first.family,
                {True: "yes", False: "no", None: ""}[is_installed(first.data)],
                first.metric,
                " to ".join(str(n) for n in dict.fromkeys((trials[0], trials[-1])) if n),
                "" if first.origin == "lazybench" else first.origin,
                about,
            )
        )
    header = ("environment", "family", "data installed", "metric", "trials", "from", "about")
    _show(header, rows, f"environments of family {family}" if family else "environments")
    show_broken(ENVS.broken)


_VALUE = re.compile(r"\d+(?=way)|\d+(?=shot)|(?<=-lt-)\d+|(?:un)?targeted")
"""The parts of an id that vary within a pattern."""
_ENDINGS = ("-noniid", "-dirichlet", "-label", "-linf")
"""Endings that ids may have, in the order of their appearance."""


def patterns(specs: Sequence[EnvSpec]) -> list[tuple[str, list[EnvSpec]]]:
    """Return patterns of ids, each with its environments: each spells out to exactly those.

    `glyphs-{5,20}way-{1,5}shot[-noniid]` are eight environments. Ids that make no complete pattern
    stay alone.
    """
    alike: dict[tuple[str, ...], dict[tuple[str, ...], dict[tuple[str, ...], EnvSpec]]] = {}
    for spec in specs:
        bare = spec.id
        ends: list[str] = []
        for ending in reversed(_ENDINGS):
            if bare.endswith(ending):
                bare = bare.removesuffix(ending)
                ends.insert(0, ending)
        key = (_VALUE.sub("{}", bare), spec.family, spec.data, spec.metric, spec.origin)
        values = tuple(_VALUE.findall(bare))
        alike.setdefault(key, {}).setdefault(tuple(ends), {})[values] = spec
    found = []
    for (template, *_), by_endings in alike.items():
        same: dict[frozenset[tuple[str, ...]], list[tuple[str, ...]]] = {}
        for endings, held in by_endings.items():
            same.setdefault(frozenset(held), []).append(endings)
        for values_of, several in same.items():
            for shown, chosen in _optional(several):
                members = [spec for each in chosen for spec in by_endings[each].values()]
                found += _spelled(template, sorted(values_of, key=_order), shown, members)
    return sorted(found, key=lambda pattern: min(spec.id for spec in pattern[1]))


def _optional(several: list[tuple[str, ...]]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Texts of endings, each with those it spells out to; one text if all subsets are there."""
    union = [ending for ending in _ENDINGS if any(ending in each for each in several)]
    if len(several) == 2 ** len(union):
        return [("".join(f"[{ending}]" for ending in union), several)]
    return [("".join(each), [each]) for each in several]


def _spelled(
    template: str, values: list[tuple[str, ...]], endings: str, members: list[EnvSpec]
) -> list[tuple[str, list[EnvSpec]]]:
    """The pattern of all values; each id alone if some combination of them is missing."""
    places = [sorted(set(place), key=lambda v: _order((v,))) for place in zip(*values, strict=True)]
    if math.prod(map(len, places)) != len(values):
        return [(spec.id, [spec]) for spec in members]
    texts = [place[0] if len(place) == 1 else f"{{{','.join(place)}}}" for place in places]
    return [(template.format(*texts) + endings, members)]


def _order(values: tuple[str, ...]) -> list[tuple[int, str]]:
    return [(int(value), "") if value.isdecimal() else (0, value) for value in values]


def _list_runs(runs: Path, *, json: bool) -> None:
    from lazybench.runner.run_dir import list_runs

    found = list_runs(runs)
    if json:
        console.as_json({"runs": [asdict(each) for each in found]})
        return
    rows = [
        (
            each.key12,
            each.agent,
            each.env,
            each.budget,
            str(each.seed),
            each.status,
            str(each.step or ""),
            str(each.path),
        )
        for each in found
    ]
    header = ("key", "agent", "environment", "budget", "seed", "status", "step", "folder")
    _show(header, rows, f"runs in {runs}")


def _show(header: tuple[str, ...], rows: Sequence[Sequence[str]], what: str) -> None:
    if rows:
        console.line(console.table(header, rows, columns=console.width()))
    else:
        console.line(f"no {what}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


PACKAGES = (
    "torch",
    "gymnasium",
    "numpy",
    "scipy",
    "foolbox",
    "pydantic",
    "safetensors",
    "tabulate",
    "typer",
    "rich",
)


def versions() -> dict[str, str | None]:
    """Return versions by package; None for a package that isn't installed."""
    found: dict[str, str | None] = {"lazybench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@command(
    "version",
    "lazybench version",
    "lazybench version --json",
)
def version_command(json: options.Json = False) -> None:
    """Print the versions of lazybench, Python and key libraries."""
    found = versions()
    if json:
        console.as_json(found)
    else:
        console.line(
            console.facts({name: value or "not installed" for name, value in found.items()})
        )
