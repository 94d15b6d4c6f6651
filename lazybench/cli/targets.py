"""`lazybench targets`: networks to attack and white boxes to learn from, listed and trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import options, out
from lazybench.errors import DataUnavailable

if TYPE_CHECKING:
    from lazybench.harness.watch import Watch

HELP = "List and train the networks that are attacked, and their white boxes."
EXAMPLES = ("lazybench targets list", "lazybench targets train mnist-net4")
LIST_HELP = "List the networks and whether they are trained on this machine."
LIST_EXAMPLES = ("lazybench targets list", "lazybench targets list --json")
TRAIN_HELP = "Train networks and keep them in the cache folder."
TRAIN_EXAMPLES = (
    "lazybench targets train mnist-net4",
    "lazybench targets train mnist-net2 mnist-net3 --only",
    "lazybench targets train cifar10-resnet8 --budget paper --replace",
)

_NETS = "lazybench.envs.targets"
_TRAINING = "lazybench.envs.target_training"


def _complete(incomplete: str) -> list[str]:
    return [name for name in _loaded(_NETS, "names")() if name.startswith(incomplete)]


Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="Networks; a target's white boxes come with it.",
        autocompletion=_complete,
    ),
]
Budget = Annotated[str, typer.Option("--budget", "-b", help="smoke, small or paper.")]
Seed = Annotated[int, typer.Option("--seed", "-s", min=0, help="Of first weights and order.")]
Replace = Annotated[bool, typer.Option("--replace", help="Train what is trained already too.")]
Only = Annotated[bool, typer.Option("--only", help="Leave the white boxes of a target out.")]
Into = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write one safetensors file, keep nothing."),
]


def list_command(json: options.Json = False) -> None:
    """Print all networks, one a line."""
    found = [_status(name) for name in _loaded(_NETS, "names")()]
    if json:
        out.as_json({"targets": found})
        return
    rows = [
        (
            each["name"],
            "yes" if each["trained"] else "no",
            "" if each["accuracy"] is None else f"{100 * each['accuracy']:.2f} %",
            each["role"],
            each["detail"],
        )
        for each in found
    ]
    header = ("network", "trained", "accuracy", "role", "what to know")
    out.line(out.table(header, rows, columns=out.width()))


def train_command(  # noqa: PLR0913 - one argument for each option
    names: Names,
    budget: Budget = "small",
    seed: Seed = 0,
    replace: Replace = False,
    only: Only = False,
    into: Into = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Print each network's accuracy, once it is trained.

    Raises:
        UsageError: no such network or budget.
        DataUnavailable: their data aren't installed.
        Diverged: a training failed.
        OutputUnavailable: the folder can't be written.
    """
    from lazybench.cli.progress import watching

    wanted = _wanted(names, only=only)
    told = []
    with watching(quiet=quiet or json) as watch:
        if into is not None:
            told = _written(wanted, into, budget, seed, watch)
        else:
            keep = _loaded(_TRAINING, "keep_net")
            for name in wanted:
                held, fresh = keep(name, budget=budget, seed=seed, replace=replace, watch=watch)
                told.append(held.facts() | {"fresh": fresh, "sha256": held.sha256})
    if json:
        out.as_json({"targets": told})
        return
    for each in told:
        why = "" if each["fresh"] else "; was there already, --replace trains it anew"
        if each["name"].startswith("glyphs-") and not each["fresh"]:
            why = "; it comes with the package"
        out.line(
            f"{each['name']}: {100 * each['accuracy']:.2f} % of the test images right "
            f"({each['budget']}, {each['epochs']:g} epochs, seed {each['seed']}){why}"
        )


def _written(
    names: list[str], path: Path, budget: str, seed: int, watch: Watch
) -> list[dict[str, Any]]:
    train, write = (
        _loaded(_TRAINING, "train_net"),
        _loaded("lazybench.envs.target_files", "write_nets"),
    )
    nets = {name: train(name, budget=budget, seed=seed, watch=watch) for name in names}
    write(path, nets)
    return [held.facts() | {"fresh": True, "sha256": held.sha256} for held in nets.values()]


def _wanted(names: list[str], *, only: bool) -> list[str]:
    """The networks asked for, each once, the targets' white boxes after them.

    Raises:
        UsageError: no such network.
    """
    boxes, parted = _loaded(_NETS, "WHITEBOXES"), _loaded(_NETS, "parted")
    found: list[str] = []
    for name in names:
        parted(name)
        found.append(name)
        if name in boxes and not only:
            found += [*boxes[name].train, boxes[name].val]
    return list(dict.fromkeys(found))


def _status(name: str) -> dict[str, Any]:
    boxes = _loaded(_NETS, "WHITEBOXES")
    role = "target" if name in boxes else "white box"
    try:
        trained = _loaded(_NETS, "is_trained")(name)
        detail = "" if trained else f"train it with: lazybench targets train {name}"
        accuracy = None
        if trained:
            held = _loaded(_NETS, "load_net")(name)[1]
            accuracy, detail = held.accuracy, f"{held.budget}, seed {held.seed}"
    except DataUnavailable as error:
        trained, accuracy, detail = False, None, str(error)
    return {
        "name": name,
        "trained": trained,
        "accuracy": accuracy,
        "role": role,
        "detail": detail,
    }


def _loaded(module: str, name: str) -> Any:
    from lazybench.user_code import load

    return load(f"{module}:{name}")
