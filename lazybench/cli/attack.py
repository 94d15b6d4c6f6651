"""`lazybench attack`: how robust a model of one's own is, in a function or behind an address."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.errors import DataUnavailable, UsageError

if TYPE_CHECKING:
    from lazybench.runner.callbacks import Watch


HELP = "Attack a model of your own, and report what it withstands. Attack only what you may."
EXAMPLES = (
    "lazybench attack --target my_model.py:predict --images pictures/ --norm linf --eps 8/255",
    "lazybench attack --target my.module:net --images test.npz --bounds 0,255 --layout nhwc",
    "lazybench attack --target my.module:net --images test.npz --attacks square,nes,hopskipjump",
    "lazybench attack --target http://localhost:8501/v1/models/m:predict --images pictures/ "
    "--answers probs --concurrency 8 --rate 50",
    "lazybench attack --target my.module:net --images test.npz --eps 0.5 --fail-under 0.60",
)
_WEAK = 3


def _complete(incomplete: str) -> list[str]:
    from lazybench.registry import AGENTS

    return [
        spec.id
        for spec in AGENTS.specs()
        if "attack" in spec.families and not spec.trains and spec.id.startswith(incomplete)
    ]


def attack_command(  # noqa: PLR0913 - one parameter for each option
    target: Annotated[
        str,
        typer.Option(
            "--target", help="MODULE:PREDICT or FILE.py:PREDICT, a function or network; or http://…"
        ),
    ],
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR|NPZ", help="Images: class/image, or x and y.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Labels: name,label lines, JSON or .npy."),
    ] = None,
    norm: Annotated[str, typer.Option("--norm", help="l2 or linf.")] = "l2",
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Largest distance: a number, a fraction (8/255), or inf."),
    ] = None,
    query_budget: Annotated[
        int, typer.Option("--query-budget", help="Queries an attacker has for an image.")
    ] = 1000,
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks",
            metavar="A,B",
            help="Attackers. [default: square,hopskipjump; of labels: hopskipjump,boundary]",
            autocompletion=_complete,
        ),
    ] = None,
    targeted: Annotated[
        bool, typer.Option("--targeted", help="Towards the class after the true one.")
    ] = False,
    mode: Annotated[
        str, typer.Option("--mode", help="first ends an image when it is won, minimise goes on.")
    ] = "first",
    layout: Annotated[
        str, typer.Option("--layout", help="What the target takes: nchw or nhwc.")
    ] = "nchw",
    bounds: Annotated[
        str, typer.Option("--bounds", metavar="LOW,HIGH", help="Its black and its full pixel.")
    ] = "0,1",
    answers: Annotated[
        str,
        typer.Option(
            "--answers",
            help="What it answers: scores, probs or label; or one number of two classes: binary "
            "(probability of class 1) or binary_logits.",
        ),
    ] = "scores",
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=2, help="Number of its classes; needed for label."),
    ] = None,
    arrays: Annotated[
        str, typer.Option("--arrays", help="What a function takes: torch or numpy.")
    ] = "torch",
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Round to 8 bits; always so over http.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Take so many images, evenly over classes.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Of the attackers.")] = 0,
    encoding: Annotated[
        str, typer.Option("--encoding", help="Images over http: array or png.")
    ] = "array",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images of a request.")] = 16,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests side by side.")
    ] = 4,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds for a request and its whole reply.")
    ] = 30.0,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0, help="Images a second over http, at most.")
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="How often a failed request is sent again.")
    ] = 5,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            metavar="NAME:VALUE",
            help="HTTP header to send; repeatable; never written to disk.",
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy", metavar="URL", help="Proxy to go through; the environment's aren't used."
        ),
    ] = None,
    repeats: Annotated[
        bool,
        typer.Option("--repeats", help="Ask the same image again: answers over http are random."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what the address answered before.")
    ] = False,
    fail_under: Annotated[
        float | None,
        typer.Option("--fail-under", help="Exit 3 below this robust accuracy (worst case)."),
    ] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the report.")
    ] = Path("attack-report"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Attack, write the report, and print what the target withstands.

    Raises:
        LazybenchError: as the harness has it.
        typer.Exit: the robust accuracy is below `--fail-under`.
    """
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise UsageError(f"--fail-under takes a share in [0, 1], such as 0.60, got {fail_under:g}")
    if query_budget < 1:
        raise UsageError(f"--query-budget: query_budget must be at least 1, got {query_budget}")
    for option, value in (("--timeout", timeout), ("--rate", rate)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{option} takes a finite number, got {value}")
    need_folder(out_dir, "--out")
    form = {"layout": layout, "bounds": _bounds(bounds), "answers": answers}
    http = {"encoding": encoding, "batch": batch, "concurrency": concurrency, "rate": rate}
    http |= {"timeout_s": timeout, "retries": retries, "repeats": repeats}
    protocol = {"norm": norm, "eps": eps, "query_budget": query_budget}
    names = tuple(part.strip() for part in (attacks or "").split(",") if part.strip())
    headers = _headers(header or [])
    from lazybench.cli.progress import watching
    from lazybench.envs.own_target import report
    from lazybench.envs.own_target.attack import AttackRequest, attack

    request = AttackRequest(
        target=target,
        images=images,
        labels=labels,
        attacks=names,
        form={**form, "classes": classes, "arrays": arrays},
        protocol={**protocol, "mode": mode, "targeted": targeted},
        http={**http, "headers": headers, "proxy": proxy},
        eight_bit=eight_bit,
        limit=limit,
        seed=seed,
        out=out_dir,
        fresh=fresh,
    )
    report.need_own_folder(out_dir)
    with watching(quiet=quiet or json) as watch:
        outcome = attack(request, watch)
    aside = report.set_aside(outcome, out_dir)
    files = report.write(outcome, out_dir)
    told = report.facts(outcome)
    if json:
        console.as_json(told)
    else:
        console.line(_table(told))
        console.note("written: " + ", ".join(map(str, files)))
    if quiet or json:
        for each in outcome.notes:
            console.note(console.one_line(each))
    if aside is not None:
        console.note(f"the earlier report there has other results; it is now in {aside}")
    worst = told["worst_case"]["accuracy"]
    if fail_under is not None and worst < fail_under:
        console.note(f"robust accuracy {worst:.4f} is below --fail-under {fail_under:g}")
        raise typer.Exit(_WEAK)


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--bounds takes two numbers, such as 0,255, got '{text}'") from None
    return low, high


def _headers(pairs: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name.strip():
            # Not the text itself, which may be a secret.
            raise UsageError("--header takes NAME:VALUE, such as --header 'X-Key: abc'")
        if name.strip() in found:
            raise UsageError(f"--header gives '{name.strip()}' twice; give it once")
        found[name.strip()] = value.strip()
    return found


def _table(told: dict[str, Any]) -> str:
    rows = [("no attack", *_shares(told["clean_accuracy"]), "", "")]
    for each in told["attacks"]:
        far = each["median_distance"]
        numbers = (f"{each['mean_queries']:.1f}", "" if far is None else f"{far:.4f}")
        rows.append((each["attack"], *_shares(each), *numbers))
    rows.append(("worst case", *_shares(told["worst_case"]), "", ""))
    header = ("attack", "robust accuracy", "95 % interval", "mean queries", "median distance")
    return console.table(header, rows, columns=console.width())


def _shares(told: dict[str, Any]) -> tuple[str, str]:
    low, high = told["interval"]
    return f"{100 * told['accuracy']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %"


TARGETS_HELP = "List and train the networks that are attacked, and their white boxes."
TARGETS_EXAMPLES = ("lazybench targets list", "lazybench targets train mnist-net4")
LIST_HELP = "List the networks and whether they are trained on this machine."
LIST_EXAMPLES = ("lazybench targets list", "lazybench targets list --json")
TRAIN_HELP = "Train networks and keep them in the cache folder."
TRAIN_EXAMPLES = (
    "lazybench targets train mnist-net4",
    "lazybench targets train mnist-net2 mnist-net3 --only",
    "lazybench targets train cifar10-resnet8 --budget paper --replace",
)


def _targets_complete(incomplete: str) -> list[str]:
    from lazybench.envs.targets.nets import names

    return [name for name in names() if name.startswith(incomplete)]


Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="Networks; a target's white boxes come with it.",
        autocompletion=_targets_complete,
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
    from lazybench.envs.targets.nets import names

    found = [_status(name) for name in names()]
    if json:
        console.as_json({"targets": found})
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
    console.line(console.table(header, rows, columns=console.width()))


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
    from lazybench.envs.targets.training import keep_net

    wanted = _wanted(names, only=only)
    told = []
    with watching(quiet=quiet or json) as watch:
        if into is not None:
            told = _written(wanted, into, budget, seed, watch)
        else:
            for name in wanted:
                held, fresh = keep_net(name, budget=budget, seed=seed, replace=replace, watch=watch)
                told.append(held.facts() | {"fresh": fresh, "sha256": held.sha256})
    if json:
        console.as_json({"targets": told})
        return
    for each in told:
        why = "" if each["fresh"] else "; was there already, --replace trains it anew"
        if each["name"].startswith("glyphs-") and not each["fresh"]:
            why = "; it comes with the package"
        console.line(
            f"{each['name']}: {100 * each['accuracy']:.2f} % of the test images right "
            f"({each['budget']}, {each['epochs']:g} epochs, seed {each['seed']}){why}"
        )


def _written(
    names: list[str], path: Path, budget: str, seed: int, watch: Watch
) -> list[dict[str, Any]]:
    from lazybench.envs.targets.nets import write_nets
    from lazybench.envs.targets.training import train_net

    nets = {name: train_net(name, budget=budget, seed=seed, watch=watch) for name in names}
    write_nets(path, nets)
    return [held.facts() | {"fresh": True, "sha256": held.sha256} for held in nets.values()]


def _wanted(names: list[str], *, only: bool) -> list[str]:
    """The networks asked for, each once, the targets' white boxes after them.

    Raises:
        UsageError: no such network.
    """
    from lazybench.envs.targets.nets import WHITEBOXES, split_name

    found: list[str] = []
    for name in names:
        split_name(name)
        found.append(name)
        if name in WHITEBOXES and not only:
            found += [*WHITEBOXES[name].train, WHITEBOXES[name].val]
    return list(dict.fromkeys(found))


def _status(name: str) -> dict[str, Any]:
    from lazybench.envs.targets.nets import WHITEBOXES, is_trained, load_net

    role = "target" if name in WHITEBOXES else "white box"
    try:
        trained = is_trained(name)
        detail = "" if trained else f"train it with: lazybench targets train {name}"
        accuracy = None
        if trained:
            held = load_net(name)[1]
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
