"""Options that several commands share: their names, help and values, each defined once.

A function such as `env` makes an option whose help goes on with what a command adds to its meaning.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from lazybench.errors import LazybenchError, UsageError
from lazybench.specs import BUDGETS

_SEEDS = re.compile(r"(?P<first>\d{1,19})(?:-(?P<last>\d{1,19}))?")
_MOST_SEEDS = 1000
_LARGEST_SEED = 2**63 - 1


class Family(enum.StrEnum):
    """Families of environments."""

    fewshot = "fewshot"
    longtail = "longtail"
    attack = "attack"


class Kind(enum.StrEnum):
    """Kinds of plug-ins that a user can write and check."""

    agent = "agent"
    env = "env"


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def complete_agent(incomplete: str) -> list[str]:
    """Return the agent ids that begin with a text, for shell completion."""
    from lazybench.registry import AGENTS

    return _starting((spec.id for spec in AGENTS.specs()), incomplete)


def complete_env(incomplete: str) -> list[str]:
    """Return the environment ids that begin with a text, for shell completion."""
    from lazybench.registry import ENVS

    return _starting((spec.id for spec in ENVS.specs()), incomplete)


def complete_data(incomplete: str) -> list[str]:
    """Return the data set ids that begin with a text, for shell completion."""
    from lazybench.registry import DATASETS

    return _starting((spec.id for spec in DATASETS.specs()), incomplete)


def complete_any(incomplete: str) -> list[str]:
    """Return the ids of agents, environments and data sets that begin with a text."""
    return [
        *complete_agent(incomplete),
        *complete_env(incomplete),
        *complete_data(incomplete),
    ]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys and folders of runs that begin with a text."""
    from lazybench.runner.run_dir import list_runs

    known = list_runs(_folder(ctx, "runs"))
    return _starting([name for run in known for name in (run.key12, str(run.path))], incomplete)


def complete_record(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys of records that begin with a text, from the names of their files."""
    from lazybench.records import Store

    store = Store(_folder(ctx, "out_dir"))
    files = (path for folder in store.folders() for path in store.files_in(folder))
    return _starting(sorted(path.stem for path in files), incomplete)


def complete_key(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys of runs and records, and folders of runs, that begin with a text."""
    return [*dict.fromkeys([*complete_run(ctx, incomplete), *complete_record(ctx, incomplete)])]


def complete_row(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return agents, and keys of records, that begin with a text, as names of a board's rows."""
    return [*complete_agent(incomplete), *complete_record(ctx, incomplete)]


def complete_shown(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return what `lazybench show` takes that begins with a text: ids and keys."""
    return [*complete_any(incomplete), *complete_key(ctx, incomplete)]


def complete_budget(incomplete: str) -> list[str]:
    """Return the budgets that begin with a text."""
    return _starting(BUDGETS, incomplete)


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return settings of the agent named before as `name=`, and after it the values to choose from.

    Only of installed agents: a file of the user isn't run for a completion.
    """
    agent = ctx.params.get("agent")
    if not agent or ":" in agent:
        return []
    from lazybench.agent import contract
    from lazybench.registry import agent_spec
    from lazybench.user_code import load

    try:
        factory = load(agent_spec(agent).target)
        config = contract(factory).Config
    except LazybenchError:
        return []
    if config is None:
        names: dict[str, Any] = {name: None for name in inspect.signature(factory).parameters}
    else:
        names = {name: field.annotation for name, field in config.model_fields.items()}
    name, equals, _ = incomplete.partition("=")
    if not equals:
        return _starting([f"{each}=" for each in names], incomplete)
    return _starting([f"{name}={value}" for value in _choices(names.get(name))], incomplete)


def _choices(annotation: Any) -> list[str]:
    """The values that a type allows, where they are few."""
    if annotation is bool:
        return ["true", "false"]
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [str(value) for value in arguments]
    return [choice for each in arguments for choice in _choices(each)]


def complete_protocol(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return protocol settings of the environment named before, as `name=`."""
    from lazybench.registry import ENVS

    try:
        options = ENVS.resolve(ctx.params.get("env") or "").spec.options
    except LazybenchError:
        return []
    return _starting([f"{name}=" for name in options], incomplete)


def complete_envs(incomplete: str) -> list[str]:
    """Return lists of environments, separated by commas, whose last one is completed."""
    head, comma, last = incomplete.rpartition(",")
    return [f"{head}{comma}{name}" for name in complete_env(last)]


def complete_agents(incomplete: str) -> list[str]:
    """Return lists of agents, as `[LABEL=]NAME[|NAME],…`, whose last one is completed."""
    last = re.split(r"[,=|]", incomplete)[-1]
    head = incomplete.removesuffix(last)
    return [f"{head}{name}" for name in complete_agent(last)]


def complete_plug_in(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return ids of the kind named before, agents or environments."""
    kind = ctx.params.get("kind")
    return complete_env(incomplete) if kind == Kind.env else complete_agent(incomplete)


def complete_tracker(incomplete: str) -> list[str]:
    """Return the trackers that begin with a text."""
    from lazybench.runner.callbacks import TRACKERS

    return _starting(TRACKERS, incomplete)


def complete_suite(incomplete: str) -> list[str]:
    """Return the included suites that begin with a text."""
    from lazybench.sweep.suite import shipped

    return _starting(shipped(), incomplete)


def _folder(ctx: typer.Context, name: str) -> Path:
    """A folder option as given so far, or its default."""
    defaults = {"runs": Path("runs"), "out_dir": Path("leaderboards")}
    return Path(ctx.params.get(name) or defaults[name])


def _help(meaning: str, more: str) -> str:
    return f"{meaning} {more}".rstrip()


AGENT_HELP = "Agent: an id, or FILE.py:CLASS."
ENV_HELP = "Environment id or alias."
DATA_HELP = "Data set id."


def agent(more: str = "") -> Any:
    """Return the option `--agent`."""
    text = _help(AGENT_HELP, more)
    return typer.Option("--agent", "-a", help=text, autocompletion=complete_agent)


def env(more: str = "") -> Any:
    """Return the option `--env`."""
    text = _help(ENV_HELP, more)
    return typer.Option("--env", "-e", help=text, autocompletion=complete_env)


def budget(more: str = "") -> Any:
    """Return the option `--budget`."""
    names = f"{', '.join(BUDGETS[:-1])} or {BUDGETS[-1]}"
    return typer.Option(
        "--budget",
        "-b",
        help=_help(f"Compute budget: {names}.", more),
        autocompletion=complete_budget,
    )


def seed(of: str, short: str = "-s") -> Any:
    """Return the option `--seed`, whose help says what is seeded."""
    return typer.Option("--seed", *([short] * bool(short)), min=0, help=f"Seed of {of}")


def setting(more: str) -> Any:
    """Return the option `--set`."""
    text = _help("Value of a setting; repeatable.", more)
    return typer.Option("--set", metavar="NAME=VALUE", help=text, autocompletion=complete_setting)


def protocol(more: str) -> Any:
    """Return the option `--protocol`."""
    text = _help("Protocol setting of an environment, such as norm=linf; repeatable.", more)
    return typer.Option(
        "--protocol", metavar="NAME=VALUE", help=text, autocompletion=complete_protocol
    )


def init(more: str = "") -> Any:
    """Return the option `--init`."""
    text = _help("Initial weights: FILE.safetensors, a run's folder or its key.", more)
    return typer.Option("--init", metavar="FILE|RUN", help=text, autocompletion=complete_run)


def device(more: str = "") -> Any:
    """Return the option `--device`."""
    return typer.Option("--device", "-d", help=_help("Device: cpu, cuda, mps or auto.", more))


def trials(number_of: str, *, least: int) -> Any:
    """Return the option `--trials`, whose help says what is counted."""
    return typer.Option("--trials", "-n", min=least, help=f"Number of {number_of}")


def seeds(more: str = "") -> Any:
    """Return the option `--seeds`."""
    return typer.Option("--seeds", help=_help("Seeds of training, such as 0-2 or 0,3,5.", more))


def limit(more: str = "") -> Any:
    """Return the option `--limit`."""
    text = _help("Only the first N trials.", more)
    return typer.Option("--limit", metavar="N", min=1, help=text)


def batch_norm(more: str) -> Any:
    """Return the option `--batch-norm`."""
    text = _help("Only rows evaluated with this batch-norm mode.", more)
    return typer.Option("--batch-norm", help=text)


def board_data(more: str) -> Any:
    """Return the option `--data`, which chooses among boards of several data contents."""
    text = _help("First digits of the fingerprint of a board's data.", more)
    return typer.Option("--data", metavar="DIGITS", help=text)


def threads(more: str) -> Any:
    """Return the option `--threads`."""
    return typer.Option("--threads", "-t", min=1, help=_help("Tasks in parallel.", more))


def query_budget(least: int | None = None) -> Any:
    """Return the option `--query-budget`."""
    return typer.Option("--query-budget", min=least, help="Queries that an attacker has per image.")


def bad_query_budget() -> Any:
    """Return the option `--bad-query-budget`."""
    text = "Bad answers (still the class to leave) that end the attack of an image."
    return typer.Option("--bad-query-budget", metavar="N", min=1, help=text)


def size(more: str = "", *, least: int | None = None, most: int | None = None) -> Any:
    """Return the option `--size`."""
    text = _help("Side of the images in pixels, to which they are resized.", more)
    return typer.Option("--size", min=least, max=most, help=text)


def replace(more: str) -> Any:
    """Return the option `--replace`."""
    return typer.Option("--replace", help=_help("Replace what is there already.", more))


def family(more: str = "") -> Any:
    """Return the option `--family`."""
    return typer.Option("--family", help=_help("Family of environments.", more))


def timeout(per: str, *, least: float | None = None) -> Any:
    """Return the option `--timeout`, whose help says what is limited."""
    return typer.Option("--timeout", min=least, help=f"Time limit per {per}")


def row() -> Any:
    """Return an argument that names a row of a board."""
    return typer.Argument(help="Agent, row of the board or key.", autocompletion=complete_row)


Row = Annotated[str, row()]
RowNorm = Annotated[str | None, batch_norm("[default: transductive, if a name has several rows]")]
Agent = Annotated[str, agent()]
Env = Annotated[str, env()]
Budget = Annotated[str, budget()]
TrialBudget = Annotated[str, budget("Sets the number of test trials.")]
Device = Annotated[str, device()]
Limit = Annotated[int | None, limit("The record is then unranked.")]
Protocol = Annotated[list[str] | None, protocol("Only boards with this setting.")]
BoardData = Annotated[
    str | None, board_data("[default: the only data, or the import as it is installed here]")
]
SampleSeed = Annotated[int | None, seed("the sampled trials. [default: random]", short="")]
SomeFamily = Annotated[Family | None, family("Lists only this one.")]
DataName = Annotated[
    str, typer.Argument(metavar="ID", help=DATA_HELP, autocompletion=complete_data)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Confirm the removal.")]
Format = typer.Option("--format", help="Output format.")
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of records and boards.")
]
Runs = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Folder of runs and their checkpoints.")
]
Threads = Annotated[int | None, threads("[default: all cores]")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs in parallel.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Run nothing; list what is recorded and what is missing.")
]
Json = Annotated[
    bool, typer.Option("--json", help="JSON instead of text, and nothing else on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Less output: no progress, no boards, only problems."),
]
TimeoutPerEpisode = Annotated[
    float | None,
    typer.Option(
        "--timeout-per-episode",
        metavar="S",
        help="Time limit in seconds of an agent's update, and of each trial of a block.",
    ),
]
Isolated = Annotated[
    bool,
    typer.Option(
        "--isolated",
        help="Evaluate the trained policy in a separate process that holds no environment.",
    ),
]
AllowOverlap = Annotated[
    bool,
    typer.Option("--allow-overlap", help="Allow weights that have seen the test classes."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        "-c",
        metavar="PATH",
        help="Trained state: a run's folder, or its ckpt/step-N. [default: the run in --runs]",
    ),
]
Retrain = Annotated[
    bool, typer.Option("--retrain", help="Train again first; takes as long as the run did.")
]


def parse_seeds(seed: int | None, seeds: str | None) -> list[int]:
    """Return the chosen seeds in order, without repetitions; seed 0 by default.

    Args:
        seed: one seed.
        seeds: numbers and ranges with both ends, such as `0-2` or `0,3,5`.

    Raises:
        UsageError: both are given, or `seeds` has another form.
    """
    if seeds is None:
        return [0 if seed is None else seed]
    if seed is not None:
        raise UsageError(
            "give either --seed or --seeds, not both; --seeds 0-2 runs seeds 0, 1 and 2"
        )
    numbers: list[int] = []
    for part in seeds.split(","):
        match = _SEEDS.fullmatch(part.strip())
        first, last = (
            (int(match["first"]), int(match["last"] or match["first"])) if match else (1, 0)
        )
        if last < first or last - first >= _MOST_SEEDS or last > _LARGEST_SEED:
            raise UsageError(
                f"--seeds takes numbers and ranges of at most {_MOST_SEEDS}, such as 0-2 or 0,3,5, "
                f"none above {_LARGEST_SEED}; got '{seeds[:80]}'"
            )
        numbers.extend(range(first, last + 1))
    return list(dict.fromkeys(numbers))


def parse_settings(pairs: Iterable[str], option: str = "--set") -> dict[str, str]:
    """Return settings by name from the `name=value` texts of an option.

    Raises:
        UsageError: a text has another form, or a name is given twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(
                f"{option} takes name=value, such as --set inner_lr=0.01; got '{pair}'. "
                "See settings with: lazybench show AGENT --env ENV"
            )
        if name in settings:
            raise UsageError(f"{option} gives '{name}' twice; give it once")
        settings[name] = value.strip()
    return settings


def one_source(checkpoint: Path | None, retrain: bool, init: str | None) -> None:
    """Check that the options for the trained state are compatible.

    Raises:
        UsageError: they exclude each other, or the checkpoint doesn't exist.
    """
    if checkpoint is not None and retrain:
        raise UsageError("give either --checkpoint or --retrain, not both")
    if init is not None and not retrain:
        raise UsageError("--init goes with --retrain: it names the initial weights of the training")
    if checkpoint is not None and not checkpoint.exists():
        raise UsageError(
            f"no --checkpoint {checkpoint}; give a run's folder, or one of its ckpt/step-N"
        )
