"""`lazybench show` and `lazybench cite`: what an id or key names, as text, image or citation."""

from __future__ import annotations

import enum
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.arguments import is_key
from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.cli.listing import agent_facts, env_facts
from lazybench.errors import DataUnavailable, UnknownName, UsageError, nearest
from lazybench.specs import BUDGETS

if TYPE_CHECKING:
    from lazybench.records import Record
    from lazybench.runner.run_dir import RunInfo
    from lazybench.specs import AgentSpec, EnvSpec


def draw(
    name: str, path: Path, *, trial: int, attacker: str | None, root: Path, runs: Path
) -> None:
    """Write an image of an environment, a record or a finished run, and print its path.

    Args:
        name: id or alias of an environment, or a key, which may be abbreviated.
        path: file to write.
        trial: number of the trial of an environment.
        attacker: agent that attacks, in images of attacks.
        root: folder of the store.
        runs: folder of the runs.

    Raises:
        UnknownName: the name is unknown.
        UsageError: a file that doesn't end in .png, or a name of something without an image.
        DataUnavailable: the environment's data isn't installed.
        OutputUnavailable: the file can't be written.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--png takes a file that ends in .png, got '{path}'")
    from lazybench.boards.plots import check_picture, record_picture, write_picture

    check_picture(path)
    content = _environment(name, trial, attacker)
    if content is None:
        if trial or attacker is not None:
            raise UsageError(f"--trial and --agent go with environments, which '{name}' isn't")
        content = record_picture(_record(name, root, runs))
    console.line(f"{write_picture(path, content)}: drawn")


def _environment(name: str, trial: int, attacker: str | None) -> bytes | None:
    from lazybench.registry import AGENTS, DATASETS, ENVS

    try:
        resolved = ENVS.resolve(name)
    except UnknownName:
        if name in {spec.id for spec in AGENTS.specs()} or ":" in name:
            raise UsageError(
                f"'{name}' is an agent, which has no image; draw a record of it: lazybench list "
                "runs"
            ) from None
        if name in {spec.id for spec in DATASETS.specs()}:
            raise UsageError(
                f"'{name}' is a data set; draw one of its environments: lazybench list envs"
            ) from None
        return None
    if resolved.note:
        console.note(resolved.note)
    from lazybench.cli.env_picture import env_picture

    return env_picture(resolved.spec, trial=trial, attacker=attacker)


def _record(key: str, root: Path, runs: Path) -> Record:
    """The record of a key, or of a finished run; the key may be abbreviated."""
    from lazybench.errors import StoreError
    from lazybench.files import read_file
    from lazybench.records import Record, Store
    from lazybench.registry import ENVS

    if not is_key(key):
        known = [spec.id for spec in ENVS.specs()]
        raise UnknownName(
            f"unknown name '{key}': neither an environment nor a key (at least 6 hex digits)."
            f"{nearest(key, known)} See: lazybench list envs|runs"
        )
    record = Store(root).find(key)
    if record is not None:
        return record
    run = _run_of(key, root, runs)
    done = sorted(run.path.glob("done*.json"), key=lambda path: len(path.name))
    if not done:
        raise UsageError(
            f"the run {run.key12} has no record yet: it is {run.status}; let it finish "
            f"(lazybench run --agent {run.agent} --env {run.env} …)"
        )
    try:
        return Record.from_json(read_file(str(json.loads(read_file(done[0]))["record"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise StoreError(
            f"{done[0]} names no readable record ({error}); run again with --force"
        ) from error


class Format(enum.StrEnum):
    """Output formats of citations."""

    bibtex = "bibtex"
    text = "text"


@command(
    "cite",
    "lazybench cite omniglot-5way-1shot maml lazy_reptile > used.bib",
    "lazybench cite cifar100-lt-100 two_component --format text",
    "lazybench cite",
)
def cite_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV|AGENT|DATA]…",
            help="Environments, agents and data sets. [default: lazybench only]",
            autocompletion=options.complete_any,
        ),
    ] = None,
    form: Annotated[Format, options.Format] = Format.bibtex,
    json: options.Json = False,
) -> None:
    """Print the citations of lazybench, data sets and methods, as BibTeX or text."""
    from lazybench.references import cited

    works, silent = cited(names or [])
    for name in silent:
        console.note(f"{name} names no citation; please cite its authors yourself")
    if json:
        facts = [
            {"key": w.key, "for": list(w.for_), "bibtex": w.bibtex, "text": w.text} for w in works
        ]
        console.as_json({"works": facts, "unknown": silent})
    elif form is Format.text:
        for work in works:
            console.line(work.text)
    else:
        head = (f"% {', '.join(work.for_)}\n" if work.for_ else "" for work in works)
        console.line(
            "\n\n".join(f"{top}{work.bibtex}" for top, work in zip(head, works, strict=True))
        )


@command(
    "show",
    "lazybench show lazy_reptile",
    "lazybench show lazy_reptile --env tiered-20way --budget small",
    "lazybench show glyphs-20way-5shot",
    "lazybench show omniglot",
    "lazybench show 1a2b3c4d --json",
    "lazybench show 1a2b3c4d --png run.png",
    "lazybench show omniglot-5way-1shot --png trial.png --trial 7",
    "lazybench show glyphs-net4-untargeted --png attack.png --agent square",
)
def show_command(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id, alias, FILE.py:CLASS or key.",
            autocompletion=options.complete_shown,
        ),
    ],
    env: Annotated[
        str | None, options.env("With an agent: shows its settings on this environment.")
    ] = None,
    budget: Annotated[
        str | None, options.budget("With --env: only settings at this budget.")
    ] = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE",
            help="Write an image of an environment, record or run (needs the extra 'plots').",
        ),
    ] = None,
    trial: Annotated[
        int, typer.Option("--trial", min=0, help="With --png: number of the environment's trial.")
    ] = 0,
    agent: Annotated[
        str | None,
        options.agent(
            "With --png: the attacker to draw. [default: square; for labels: hopskipjump]"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show an agent, environment, data set, record or run. Keys may be abbreviated.

    With --png, an environment, a record or a run is drawn instead.
    """
    if png is None and (trial or agent is not None):
        raise UsageError("--trial and --agent go with --png: lazybench show ENV --png FILE")
    if png is not None:
        if env is not None or json:
            raise UsageError("--png writes an image; leave out --env and --json")
        draw(name, png, trial=trial, attacker=agent, root=out_dir, runs=runs)
        return
    if budget is not None and env is None:
        raise UsageError("--budget goes with --env: lazybench show AGENT --env ENV --budget small")
    facts = _facts(name, env, budget, out_dir, runs)
    if json:
        console.as_json(facts)
    else:
        console.line(console.facts(facts))


def _facts(
    name: str, env: str | None, budget: str | None, root: Path, runs: Path
) -> dict[str, Any]:
    """Facts about an agent, environment, data set, record or run."""
    from lazybench.registry import AGENTS, DATASETS, ENVS, agent_spec

    if env is not None or ":" in name or name in {spec.id for spec in AGENTS.specs()}:
        return _agent(agent_spec(name), env, budget)
    for registry in (ENVS, DATASETS):
        try:
            resolved = registry.resolve(name)
        except UnknownName:
            continue
        if resolved.note:
            console.note(resolved.note)
        return _env(resolved.spec) if registry is ENVS else _data(resolved.spec.id)
    if is_key(name):
        return _by_key(name, root, runs)
    known = [spec.id for registry in (AGENTS, ENVS, DATASETS) for spec in registry.specs()]
    raise UnknownName(
        f"unknown name '{name}': no agent, environment or data set, and no key (at least 6 hex "
        f"digits).{nearest(name, known)} See: lazybench list agents|envs|data|runs"
    )


def _agent(spec: AgentSpec, env: str | None, budget: str | None) -> dict[str, Any]:
    about = {"kind": "agent"} | agent_facts(spec) | {"code": spec.target}
    if env is None:
        return about | {"settings": "depend on the environment; add --env ENV"}
    from lazybench.agent import contract, setting_meanings
    from lazybench.runner.request import check_budget, make, resolve_env
    from lazybench.user_code import load

    budgets = BUDGETS if budget is None else (check_budget(budget),)
    played, note = resolve_env(env)
    if note:
        console.note(note)
    factory = load(spec.target)
    defaults = {} if contract(factory).Config else _arguments(factory)
    configs = {each: defaults | make(_loadable(spec), played, each, {}).config for each in budgets}
    facts = {"env": played.id, "settings": _side_by_side(configs)}
    meanings = setting_meanings(contract(factory))
    return about | facts | ({"meanings": meanings} if meanings else {})


def _arguments(factory: Any) -> dict[str, Any]:
    """The arguments of an agent's `__init__` that have plain defaults, by name."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(factory).parameters.values()
        if isinstance(parameter.default, str | int | float | None)
    }


def _loadable(spec: AgentSpec) -> str:
    """The name from which an agent is made: its id, or the file or module it was read from."""
    return spec.target if spec.origin == spec.target else spec.id


def _side_by_side(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings by budget, with the settings common to all budgets first."""
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

    facts = {"kind": "environment"} | env_facts(spec)
    facts |= {
        "validation_trials": dict(spec.val_trials),
        "protocol": dict(spec.kwargs),
        "code": spec.target,
        "data_set": _data_status(spec.data),
    }
    try:
        env = load(spec.target)(**spec.kwargs)
    except DataUnavailable as error:
        return facts | {"spaces": f"unknown until its data is installed: {error}"}
    spaces = {"observation": _space(env.observation_space), "action": _space(env.action_space)}
    env.close()
    return facts | {"spaces": spaces}


def _space(space: Any) -> Any:
    """A Gymnasium space in words; a dictionary space by name."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {name: _space(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and space.low.size:
        bounds = f" from {space.low.min():g} to {space.high.max():g}"
        return f"{space.dtype} {'x'.join(map(str, space.shape)) or 'scalar'}{bounds}"
    if isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec
        if sizes.size and sizes.min() == sizes.max():
            first = int(space.start.min())
            shape = "x".join(map(str, sizes.shape))
            return f"{space.dtype} {shape}, each from {first} to {first + int(sizes.max()) - 1}"
    return console.one_line(str(space))


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
    from lazybench.data.folders import status

    data = next((each for each in status() if each.name == name), None)
    if data is None:
        return {"installed": False, "detail": f"no data set is registered as '{name}'"}
    path = None if data.path is None else str(data.path)
    return {"installed": data.installed, "path": path, "detail": data.detail}


def _by_key(key: str, root: Path, runs: Path) -> dict[str, Any]:
    from lazybench.records import Store

    store = Store(root)
    record = store.find(key)
    if record is not None:
        head = {"kind": f"{record.kind} record", "file": str(store.path(record))}
        return head | _show_record(record)
    run = _run_of(key, root, runs)
    return {"kind": "run"} | asdict(run) | {"path": str(run.path)}


def _run_of(key: str, root: Path, runs: Path) -> RunInfo:
    """The run whose key begins so.

    Raises:
        UnknownName: there is none.
        UsageError: there are several.
    """
    from lazybench.runner.run_dir import list_runs

    fitting = [run for run in list_runs(runs) if run.key12.startswith(key[:12])]
    if not fitting:
        raise UnknownName(
            f"no record in {root} and no run in {runs} has key '{key}'; see: lazybench list runs"
        )
    if len(fitting) > 1:
        several = ", ".join(run.key12 for run in fitting)
        raise UsageError(f"key '{key}' is ambiguous: runs {several}; give more digits")
    return fitting[0]


def _show_record(record: Record) -> dict[str, Any]:
    """The record's facts, without per-trial arrays and empty parts."""
    facts = record.model_dump(mode="json", by_alias=True)
    del facts["kind"]
    facts["trials"] = record.trials.n
    facts["curve"] = [_point(point) for point in facts["curve"]]
    return {name: value for name, value in facts.items() if value not in (None, {}, [])}


def _point(point: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {console.value_text(value)}" for name, value in point.items())
