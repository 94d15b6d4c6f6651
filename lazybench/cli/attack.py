"""`lazybench attack` and `lazybench targets`: robustness of your own model; included targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import console, options
from lazybench.cli.command import Group, command
from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import check_new, first_free, need_folder

if TYPE_CHECKING:
    from lazybench.envs.own_target.attack import AttackOutcome
    from lazybench.runner.callbacks import Callback


_WEAK = 3
_MOST_SIZE = 4096


def _complete(incomplete: str) -> list[str]:
    from lazybench.registry import AGENTS

    return [
        spec.id
        for spec in AGENTS.specs()
        if "attack" in spec.families and not spec.trains and spec.id.startswith(incomplete)
    ]


@command(
    "attack",
    "lazybench attack --target my_model.py:predict --images pictures/ --norm linf --eps 8/255",
    "lazybench attack --target my.module:net --images test.npz --bounds 0,255 --layout nhwc",
    "lazybench attack --target my.module:net --images test.npz --attacks square,nes,hopskipjump",
    "lazybench attack --target robustbench:Standard --images test.npz --norm linf --white-box",
    "lazybench attack --target timm:resnet18 --images pictures/ --size 224",
    "lazybench attack --target http://localhost:8501/v1/models/m:predict --images pictures/ "
    "--answers probs --concurrency 8 --rate 50",
    "lazybench attack --target my.module:net --images test.npz --eps 0.5 --fail-under 0.60",
)
def attack_command(  # noqa: PLR0913 - one parameter for each option
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="Model: MODULE:NAME or FILE.py:NAME of a function or network, timm:NAME, "
            "robustbench:NAME, or http://…",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--images", metavar="DIR|NPZ", help="Images: a folder class/image, or x and y."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Labels: lines of name,label, JSON or .npy."),
    ] = None,
    norm: Annotated[str, typer.Option("--norm", help="Norm of the distance: l2 or linf.")] = "l2",
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Largest distance: a number, a fraction such as 8/255, or inf."),
    ] = None,
    query_budget: Annotated[int, options.query_budget()] = 1000,
    bad_query_budget: Annotated[int | None, options.bad_query_budget()] = None,
    bad_answers: Annotated[
        str,
        typer.Option(
            "--bad-answers",
            metavar="WHICH",
            help="Bad answers: missed (all that miss the aim), original (the true class), or "
            "classes that your guard flags, such as 0,3.",
        ),
    ] = "missed",
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks",
            metavar="A,B",
            help="Attacks. [default: square,hopskipjump; for labels: hopskipjump,boundary]",
            autocompletion=_complete,
        ),
    ] = None,
    targeted: Annotated[
        bool, typer.Option("--targeted", help="Attack towards the class after the true one.")
    ] = False,
    mode: Annotated[
        str, typer.Option("--mode", help="first stops at the first success, minimise goes on.")
    ] = "first",
    layout: Annotated[
        str, typer.Option("--layout", help="Image layout that the model expects: nchw or nhwc.")
    ] = "nchw",
    bounds: Annotated[
        str,
        typer.Option("--bounds", metavar="LOW,HIGH", help="Pixel range that the model expects."),
    ] = "0,1",
    answers: Annotated[
        str,
        typer.Option(
            "--answers",
            help="Output of the model: scores, probs or label; of two classes with one output: "
            "binary (probability of class 1) or binary_logits.",
        ),
    ] = "scores",
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=2, help="Number of classes; required for label."),
    ] = None,
    arrays: Annotated[
        str, typer.Option("--arrays", help="Arrays that a function expects: torch or numpy.")
    ] = "torch",
    eight_bit: Annotated[
        bool,
        typer.Option("--eight-bit", help="Round images to 8 bits, as is always done over HTTP."),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, help="Only N images, spread evenly over the classes."
        ),
    ] = None,
    size: Annotated[int | None, options.size(least=1, most=_MOST_SIZE)] = None,
    white_box: Annotated[
        bool,
        typer.Option(
            "--white-box", help="Attack the network by its gradients, too (foolbox): the bound."
        ),
    ] = False,
    seed: Annotated[int, options.seed("the attacks.")] = 0,
    encoding: Annotated[
        str, typer.Option("--encoding", help="Encoding of images over HTTP: array or png.")
    ] = "array",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per request.")] = 16,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests in parallel.")
    ] = 4,
    timeout: Annotated[
        float, options.timeout("request in seconds, including its reply.", least=0)
    ] = 30.0,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0, help="Most images per second over HTTP.")
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="How many times a failed request is repeated.")
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
            "--proxy", metavar="URL", help="HTTP proxy; proxies of the environment aren't used."
        ),
    ] = None,
    repeats: Annotated[
        bool,
        typer.Option("--repeats", help="Send repeated images again: the endpoint is random."),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Query again; earlier answers are kept in a file of their own."
        ),
    ] = False,
    fail_under: Annotated[
        float | None,
        typer.Option(
            "--fail-under", help="Exit with 3 if the worst-case robust accuracy is lower."
        ),
    ] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the report.")
    ] = Path("attack-report"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the robustness of your own model, a Python function or an HTTP endpoint.

    Writes a report with the robust accuracy against each attack, and in the worst case. Attack
    only models that you are allowed to attack.
    """
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise UsageError(
            f"--fail-under takes a fraction in [0, 1], such as 0.60, got {fail_under:g}"
        )
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
    protocol |= {"bad_query_budget": bad_query_budget, "bad_answers": bad_answers}
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
        size=size,
        white_box=white_box,
        seed=seed,
        out=out_dir,
        fresh=fresh,
    )
    report.need_own_folder(out_dir)

    def written(found: AttackOutcome) -> tuple[Path, ...]:
        earlier = report.set_aside(found, out_dir)
        files = report.write(found, out_dir)
        if earlier is not None:
            console.note(f"the earlier report has other results; it was moved to {earlier}")
        return files

    with watching(quiet=quiet or json) as watch:
        outcome = attack(
            request, watch, lambda found: watch.note(f"{found.notes[-1]} {written(found)[0]}")
        )
    files = written(outcome)
    facts = report.facts(outcome)
    if json:
        console.as_json(facts)
    else:
        console.line(_table(facts))
        console.note("written: " + ", ".join(map(str, files)))
    if quiet or json:
        for each in outcome.notes:
            console.note(console.one_line(each))
    worst = facts["worst_case"]["accuracy"]
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
    headers: dict[str, str] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name.strip():
            # The text may hold a secret, so the message leaves it out.
            raise UsageError("--header takes NAME:VALUE, such as --header 'X-Key: abc'")
        if name.strip() in headers:
            raise UsageError(f"--header gives '{name.strip()}' twice; give it once")
        headers[name.strip()] = value.strip()
    return headers


def _table(facts: dict[str, Any]) -> str:
    rows = [("no attack", *_percentages(facts["clean_accuracy"]), "", "")]
    for each in facts["attacks"]:
        far = each["median_distance"]
        numbers = (f"{each['mean_queries']:.1f}", "" if far is None else f"{far:.4f}")
        rows.append((each["attack"], *_percentages(each), *numbers))
    rows.append(("worst case", *_percentages(facts["worst_case"]), "", ""))
    rows += [(each["attack"], *_percentages(each), "", "") for each in facts.get("white_box", ())]
    header = ("attack", "robust accuracy", "95 % interval", "mean queries", "median distance")
    return console.table(header, rows, columns=console.width())


def _percentages(score: dict[str, Any]) -> tuple[str, str]:
    low, high = score["interval"]
    return f"{100 * score['accuracy']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %"


def _complete_target(incomplete: str) -> list[str]:
    from lazybench.envs.targets.nets import names

    return [name for name in names() if name.startswith(incomplete)]


@command("list", "lazybench targets list", "lazybench targets list --json")
def list_command(json: options.Json = False) -> None:
    """List the included networks, and whether they are trained on this machine."""
    from lazybench.envs.targets.nets import names

    targets = [_status(name) for name in names()]
    if json:
        console.as_json({"targets": targets})
        return
    rows = [
        (
            each["name"],
            "yes" if each["trained"] else "no",
            "" if each["accuracy"] is None else f"{100 * each['accuracy']:.2f} %",
            each["role"],
            each["detail"],
        )
        for each in targets
    ]
    header = ("network", "trained", "accuracy", "role", "details")
    console.line(console.table(header, rows, columns=console.width()))


@command(
    "train",
    "lazybench targets train mnist-net4",
    "lazybench targets train mnist-net2 mnist-net3 --only",
    "lazybench targets train cifar10-resnet8 --budget paper --replace",
)
def train_command(  # noqa: PLR0913 - one argument for each option
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Networks; the white-box networks of a target are trained with it.",
            autocompletion=_complete_target,
        ),
    ],
    budget: Annotated[str, options.budget("Networks have no medium.")] = "small",
    seed: Annotated[int, options.seed("the initial weights and of the data's order.")] = 0,
    replace: Annotated[bool, options.replace("Trains again.")] = False,
    only: Annotated[
        bool, typer.Option("--only", help="Train without the white-box networks of a target.")
    ] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write one safetensors file instead of the cache."
        ),
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train networks, save them in the cache folder and print their accuracy."""
    from lazybench.cli.progress import watching
    from lazybench.envs.targets.training import keep_net

    wanted = _wanted(names, only=only)
    if into is not None and not replace:
        check_new(into, "add --replace to replace it, or name another file with --out")
    elif into is not None:
        need_folder(into.absolute().parent, "the output's folder", writes=True)
    facts = []
    with watching(quiet=quiet or json) as watch:
        if into is not None:
            facts = _written(wanted, into, budget, seed, watch, replace=replace)
        else:
            for name in wanted:
                held, fresh = keep_net(name, budget=budget, seed=seed, replace=replace, watch=watch)
                facts.append(held.facts() | {"fresh": fresh, "sha256": held.sha256})
    from lazybench.envs.targets.nets import embedded

    if json:
        console.as_json({"targets": facts})
        return
    for each in facts:
        why = "" if each["fresh"] else "; already trained, --replace trains it again"
        if embedded(each["name"]) and not each["fresh"]:
            why = "; included in the package"
        console.line(
            f"{each['name']}: {100 * each['accuracy']:.2f} % accuracy on the test images "
            f"({each['budget']}, {each['epochs']:g} epochs, seed {each['seed']}){why}"
        )


def _written(
    names: list[str], path: Path, budget: str, seed: int, watch: Callback, *, replace: bool
) -> list[dict[str, Any]]:
    from lazybench.envs.targets.nets import write_nets
    from lazybench.envs.targets.training import train_net

    nets = {name: train_net(name, budget=budget, seed=seed, watch=watch) for name in names}
    try:
        write_nets(path, nets, replace=replace)
    except FileExistsError:
        kept = write_nets(first_free(path.parent, path.stem, path.suffix), nets, replace=False)
        watch.note(f"{path} was made by another program meanwhile; written to {kept} instead")
    return [held.facts() | {"fresh": True, "sha256": held.sha256} for held in nets.values()]


def _wanted(names: list[str], *, only: bool) -> list[str]:
    """The chosen networks without repetitions, each followed by its white-box networks.

    Raises:
        UsageError: no such network.
    """
    from lazybench.envs.targets.nets import WHITEBOXES, split_name

    wanted: list[str] = []
    for name in names:
        split_name(name)
        wanted.append(name)
        if name in WHITEBOXES and not only:
            wanted += [*WHITEBOXES[name].train, WHITEBOXES[name].val]
    return list(dict.fromkeys(wanted))


def _status(name: str) -> dict[str, Any]:
    from lazybench.envs.targets.nets import WHITEBOXES, is_trained, load_net

    trained, accuracy = False, None
    try:
        trained = is_trained(name)
        detail = "" if trained else f"train it with: lazybench targets train {name}"
        if trained:
            held = load_net(name)[1]
            accuracy, detail = held.accuracy, f"{held.budget}, seed {held.seed}"
    except DataUnavailable as error:
        trained, accuracy, detail = False, None, str(error)
    return {
        "name": name,
        "trained": trained,
        "accuracy": accuracy,
        "role": "target" if name in WHITEBOXES else "white box",
        "detail": detail,
    }


TARGETS = Group(
    "targets",
    "List and train the networks that are attacked, and their white-box networks.",
    ("lazybench targets list", "lazybench targets train mnist-net4"),
    (list_command, train_command),
)
