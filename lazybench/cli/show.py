"""`lazybench show`: all that is known of one agent, environment, data set, record or run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import options, out
from lazybench.cli.listing import agent_facts, env_facts
from lazybench.errors import DataUnavailable, UnknownName, UsageError, nearest
from lazybench.specs import BUDGETS

if TYPE_CHECKING:
    from lazybench.records import Record
    from lazybench.specs import AgentSpec, EnvSpec

HELP = "Show what an id names, or the record or run whose key begins so."
EXAMPLES = (
    "lazybench show lazy_reptile",
    "lazybench show lazy_reptile --env tiered-20way --budget small",
    "lazybench show glyphs-20way-5shot",
    "lazybench show omniglot",
    "lazybench show 1a2b3c4d --json",
    "lazybench show 1a2b3c4d --png run.png",
    "lazybench show omniglot-5way-1shot --png trial.png --trial 7",
    "lazybench show glyphs-net4-untargeted --png attack.png --agent square",
)
KEY = re.compile(r"[0-9a-f]{6,64}")
"""The first digits of a key, or all of them."""


def show_command(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[str, typer.Argument(metavar="ID", help="Id, alias, FILE.py:CLASS, or key.")],
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            "-e",
            help="With an agent: its settings on this environment.",
            autocompletion=options.complete_env,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", "-b", help="With --env: settings at this budget only."),
    ] = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE",
            help="Draw an environment, a record or a run instead (needs the extra 'plots').",
        ),
    ] = None,
    trial: Annotated[
        int, typer.Option("--trial", min=0, help="With --png: which trial of an environment.")
    ] = 0,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            "-a",
            help="With --png and an attack: who attacks. [default: square; labels: hopskipjump]",
            autocompletion=options.complete_agent,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Print or draw what is known.

    Raises:
        UnknownName: nothing is called so.
        UsageError: options that don't go with it, a key that fits several records, or nothing that
            could be drawn.
        DataUnavailable: what is to be drawn isn't installed.
        OutputUnavailable: the file can't be written.
    """
    if png is None and (trial or agent is not None):
        raise UsageError("--trial and --agent go with --png: lazybench show ENV --png FILE")
    if png is not None:
        if env is not None or json:
            raise UsageError("--png draws; leave out --env and --json")
        from lazybench.cli.draw import draw

        draw(name, png, trial=trial, attacker=agent, root=out_dir, runs=runs)
        return
    if budget is not None and env is None:
        raise UsageError("--budget goes with --env: lazybench show AGENT --env ENV --budget small")
    found = _facts(name, env, budget, out_dir, runs)
    if json:
        out.as_json(found)
    else:
        out.line(out.facts(found))


def _facts(
    name: str, env: str | None, budget: str | None, root: Path, runs: Path
) -> dict[str, Any]:
    """Facts about what `name` names: an agent, environment, data set, record or run."""
    from lazybench.registry import AGENTS, DATASETS, ENVS, agent_spec

    if env is not None or ":" in name or name in {spec.id for spec in AGENTS.specs()}:
        return _agent(agent_spec(name), env, budget)
    for registry in (ENVS, DATASETS):
        try:
            found = registry.resolve(name)
        except UnknownName:
            continue
        if found.note:
            out.note(found.note)
        return _env(found.spec) if registry is ENVS else _data(found.spec.id)
    if KEY.fullmatch(name):
        return _by_key(name, root, runs)
    known = [spec.id for registry in (AGENTS, ENVS, DATASETS) for spec in registry.specs()]
    raise UnknownName(
        f"nothing is called '{name}': no agent, environment or data set, nor the start of a key (6 "
        f"or more hex digits).{nearest(name, known)} See: lazybench list agents|envs|data|runs"
    )


def _agent(spec: AgentSpec, env: str | None, budget: str | None) -> dict[str, Any]:
    found = {"kind": "agent"} | agent_facts(spec) | {"code": spec.target}
    if env is None:
        return found | {"settings": "they depend on the environment; add --env ENV"}
    from lazybench.harness.environment import check_budget, resolve_env
    from lazybench.harness.request import make

    budgets = BUDGETS if budget is None else (check_budget(budget),)
    played, note = resolve_env(env)
    if note:
        out.note(note)
    configs = {each: make(_asked(spec), played, each, {}).config for each in budgets}
    return found | {"env": played.id, "settings": _side_by_side(configs)}


def _asked(spec: AgentSpec) -> str:
    """The name that makes the agent of a spec: its id, or the file or module it was read from."""
    return spec.target if spec.origin == spec.target else spec.id


def _side_by_side(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings by budget, those that all budgets share apart."""
    if len(configs) == 1:
        return {budget: dict(config) for budget, config in configs.items()}
    first = next(iter(configs.values()))
    shared = {
        name: value
        for name, value in first.items()
        if all(name in config and config[name] == value for config in configs.values())
    }
    rest = {
        budget: {name: value for name, value in config.items() if name not in shared}
        for budget, config in configs.items()
    }
    return {"every budget": shared} | rest


def _env(spec: EnvSpec) -> dict[str, Any]:
    from lazybench.user_code import load

    found = {"kind": "environment"} | env_facts(spec)
    found |= {
        "validation_trials": dict(spec.val_trials),
        "protocol": dict(spec.kwargs),
        "code": spec.target,
        "data_set": _data_status(spec.data),
    }
    try:
        made = load(spec.target)(**spec.kwargs)
    except DataUnavailable as error:
        return found | {"spaces": f"unknown until its data is installed: {error}"}
    spaces = {"observation": _space(made.observation_space), "action": _space(made.action_space)}
    made.close()
    return found | {"spaces": spaces}


def _space(space: Any) -> Any:
    """A Gymnasium space in words, dictionaries of them name by name."""
    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping):
        return {name: _space(part) for name, part in parts.items()}
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is not None and high is not None and low.size:
        bounds = f" from {low.min():g} to {high.max():g}"
        return f"{space.dtype} {'x'.join(map(str, space.shape)) or 'scalar'}{bounds}"
    sizes = getattr(space, "nvec", None)
    if sizes is not None and sizes.size and sizes.min() == sizes.max():
        first = int(space.start.min())
        shape = "x".join(map(str, sizes.shape))
        return f"{space.dtype} {shape}, each from {first} to {first + int(sizes.max()) - 1}"
    return out.one_line(str(space))


def _data(name: str) -> dict[str, Any]:
    from lazybench.registry import DATASETS

    spec = DATASETS.resolve(name).spec
    return {
        "kind": "data set",
        "id": spec.id,
        "about": spec.about,
        "embedded": spec.embedded,
        "licence": spec.licence,
        "origin": spec.origin,
        "status": _data_status(name),
        "sheet": dict(spec.sheet),
        "cite": f"lazybench cite {spec.id}",
    }


def _data_status(name: str) -> dict[str, Any]:
    from lazybench.data.catalogue import status

    found = next((each for each in status() if each.name == name), None)
    if found is None:
        return {"installed": False, "detail": f"no data set is registered as '{name}'"}
    path = None if found.path is None else str(found.path)
    return {"installed": found.installed, "path": path, "detail": found.detail}


def _by_key(key: str, root: Path, runs: Path) -> dict[str, Any]:
    from lazybench.harness.runs import list_runs
    from lazybench.records import Store

    store = Store(root)
    record = store.find(key)
    if record is not None:
        head = {"kind": f"{record.kind} record", "file": str(store.path(record))}
        return head | _record(record)
    found = [run for run in list_runs(runs) if run.key12.startswith(key[:12])]
    if len(found) == 1:
        return {"kind": "run"} | asdict(found[0]) | {"path": str(found[0].path)}
    if found:
        several = ", ".join(run.key12 for run in found)
        raise UsageError(f"key '{key}' fits several runs: {several}; give more digits")
    raise UnknownName(
        f"no record in {root} and no run in {runs} has a key that begins with '{key}'; "
        "see: lazybench list runs"
    )


def _record(record: Record) -> dict[str, Any]:
    """The record's facts without per-trial arrays; empty parts are left out."""
    facts = record.model_dump(mode="json", by_alias=True)
    del facts["kind"]
    facts["trials"] = record.trials.n
    facts["curve"] = [_point(point) for point in facts["curve"]]
    return {name: value for name, value in facts.items() if value not in (None, {}, [])}


def _point(point: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {out.value_text(value)}" for name, value in point.items())
