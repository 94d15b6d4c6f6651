"""Options that several commands share, and the values that they are read into."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from lazybench.errors import UsageError
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
    """What a user can write."""

    agent = "agent"
    env = "env"


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def complete_agent(incomplete: str) -> list[str]:
    """Return the agent ids that begin so, for shells."""
    from lazybench.registry import AGENTS

    return _starting((spec.id for spec in AGENTS.specs()), incomplete)


def complete_env(incomplete: str) -> list[str]:
    """Return the environment ids that begin so, for shells."""
    from lazybench.registry import ENVS

    return _starting((spec.id for spec in ENVS.specs()), incomplete)


def complete_data(incomplete: str) -> list[str]:
    """Return the data set ids that begin so, for shells."""
    from lazybench.registry import DATASETS

    return _starting((spec.id for spec in DATASETS.specs()), incomplete)


def complete_any(incomplete: str) -> list[str]:
    """Return the ids of agents, environments and data sets that begin so, for shells."""
    return [
        *complete_agent(incomplete),
        *complete_env(incomplete),
        *complete_data(incomplete),
    ]


Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the records are kept in.")
]
Runs = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Folder of checkpoints and unfinished runs.")
]
Device = Annotated[str, typer.Option("--device", "-d", help="cpu, cuda, mps or auto.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, help="Tasks side by side. [default: all cores]"),
]
Budget = Annotated[
    str,
    typer.Option("--budget", "-b", help=f"Compute budget: {', '.join(BUDGETS)}."),
]
Env = Annotated[
    str,
    typer.Option("--env", "-e", help="Environment id or alias.", autocompletion=complete_env),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
TimeoutPerEpisode = Annotated[
    float | None,
    typer.Option(
        "--timeout-per-episode",
        metavar="S",
        help="Seconds an agent may take for an update, and for each trial of a block.",
    ),
]
Isolated = Annotated[
    bool,
    typer.Option(
        "--isolated",
        help="Let the trained policy play the test in a process of its own, without any "
        "environment in its memory.",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Judge on so many trials only; unranked.")
]
Protocol = Annotated[
    list[str] | None,
    typer.Option("--protocol", metavar="NAME=VALUE", help="Only boards of this setting."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
SomeFamily = Annotated[
    Family | None, typer.Option("--family", help="Only this family of environments.")
]


def parse_seeds(seed: int | None, seeds: str | None) -> list[int]:
    """Return the seeds asked for, in order, each once; 0 where none was.

    Args:
        seed: one seed.
        seeds: numbers and ranges with both ends, such as `0-2` or `0,3,5`.

    Raises:
        UsageError: both are given, or `seeds` isn't of that form.
    """
    if seeds is None:
        return [0 if seed is None else seed]
    if seed is not None:
        raise UsageError(
            "give either --seed or --seeds, not both; --seeds 0-2 runs seeds 0, 1 and 2"
        )
    found: list[int] = []
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
        found.extend(range(first, last + 1))
    return list(dict.fromkeys(found))


def parse_settings(pairs: Iterable[str], option: str = "--set") -> dict[str, str]:
    """Return settings by name from the `name=value` texts of an option.

    Raises:
        UsageError: one isn't of that form, or a name is given twice.
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
    """Look whether the options that say where a trained state comes from go together.

    Raises:
        UsageError: they don't.
    """
    if checkpoint is not None and retrain:
        raise UsageError("give either --checkpoint or --retrain, not both")
    if init is not None and not retrain:
        raise UsageError(
            "--init goes with --retrain: it names the weights that training starts from"
        )
    if checkpoint is not None and not checkpoint.exists():
        raise UsageError(
            f"no --checkpoint {checkpoint}; give a run's folder, or one of its ckpt/step-N"
        )
