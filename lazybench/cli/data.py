"""`lazybench data`: list, download, verify, import and embed data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import console, options
from lazybench.cli.command import Group, command
from lazybench.data.splits import DEV_PER_CLASS
from lazybench.errors import DataUnavailable, UsageError

if TYPE_CHECKING:
    from lazybench.data.download import Fetched, Progress
    from lazybench.data.folders import DataStatus
    from lazybench.data.importing.catalogue import Meta
    from lazybench.data.importing.embed import Embedded
    from lazybench.data.importing.importer import Imported
    from lazybench.runner.callbacks import Callback


def list_data(*, json: bool) -> None:
    """Print all data sets, one per line, and the plug-ins that failed to load."""
    from lazybench.cli.listing import show_broken
    from lazybench.data.folders import data_root, status
    from lazybench.registry import DATASETS

    sets = status()
    if json:
        console.as_json({"data": [_facts(each) for each in sets], "broken": DATASETS.broken})
        return
    rows = [(each.name, "yes" if each.installed else "no", _detail(each)) for each in sets]
    console.line(console.table(("data set", "installed", "details"), rows, columns=console.width()))
    console.line(f"folder of data sets: {data_root()} (set by LAZYBENCH_DATA)")
    show_broken(DATASETS.broken)


@command(
    "list",
    "lazybench data list",
    "lazybench data list --json",
)
def list_command(json: options.Json = False) -> None:
    """List the data sets and whether they are installed."""
    list_data(json=json)


@command(
    "where",
    "lazybench data where omniglot",
    "LAZYBENCH_DATA=~/data lazybench data where omniglot",
)
def where_command(name: options.DataName) -> None:
    """Print the folder of a data set, installed or not."""
    from lazybench.data.folders import where

    console.line(str(where(name)))


@command(
    "verify",
    "lazybench data verify omniglot",
    "lazybench data verify",
)
def verify_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help=options.DATA_HELP, autocompletion=options.complete_data
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Read data sets completely and compare them with their prepared copies.

    Without ID, all installed data sets are verified. Exits with 69 if one is damaged.
    """
    from lazybench.data.folders import status, verify
    from lazybench.data.importing.catalogue import ORIGIN
    from lazybench.registry import DATASETS

    if name is None:
        # An import is there even where its files are damaged.
        imported = {spec.id for spec in DATASETS.specs() if spec.origin == ORIGIN}
        names = [each.name for each in status() if each.installed or each.name in imported]
    else:
        names = [name]
    checked = [verify(each) for each in names]
    if json:
        console.as_json([_facts(each) for each in checked])
    else:
        answers = {True: "yes", False: "no", None: "unknown"}
        rows = [
            (each.name, answers[each.verified], each.fingerprint[:12], each.detail)
            for each in checked
        ]
        console.line(console.table(("data set", "intact", "fingerprint", "detail"), rows))
    bad = [f"{each.name}: {each.detail}" for each in checked if each.verified is False]
    if name is None:
        bad += [f"{broken}: {why}" for broken, why in DATASETS.broken.items()]
    if bad:
        raise DataUnavailable("; ".join(bad))


def _facts(status: DataStatus) -> dict[str, object]:
    return asdict(status) | {"path": None if status.path is None else str(status.path)}


def _detail(status: DataStatus) -> str:
    if status.installed:
        return f"{status.source}; {status.detail}"
    return f"{status.source}; how to get it: lazybench show {status.name}"


def _complete(incomplete: str) -> list[str]:
    from lazybench.data.folders import SOURCES

    return [name for name in SOURCES if name.startswith(incomplete)]


@command(
    "get",
    "lazybench data get cifarfs",
    "lazybench data get omniglot --from https://mirror.example.org/omniglot",
)
def get_command(
    name: Annotated[
        str, typer.Argument(metavar="ID", help=options.DATA_HELP, autocompletion=_complete)
    ],
    mirror: Annotated[
        str,
        typer.Option("--from", metavar="URL", help="Folder of a mirror with the original names."),
    ] = "",
    replace: Annotated[bool, options.replace("Downloads again.")] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Download and verify a data set; never leaves a partial file."""
    from lazybench.cli.progress import watching
    from lazybench.data.download import fetch
    from lazybench.data.folders import SOURCES
    from lazybench.registry import DATASETS

    spec = DATASETS.resolve(name).spec
    if name not in SOURCES and not spec.embedded:
        raise UsageError(
            f"no address is known for '{name}' ({spec.origin}); these can be downloaded: "
            f"{', '.join(SOURCES)}"
        )
    installed = _installed(name)
    if spec.embedded or (installed is not None and not replace):
        path = None if installed is None else installed.path
        if json:
            console.as_json({"name": name, "path": path, "files": []})
            return
        why = " that is included in the package"
        why = why if spec.embedded else "; --replace downloads it again"
        console.line(f"{name} is installed already, in {path}{why}")
        return
    with watching(quiet=quiet or json) as watch:
        files = fetch(name, mirror=mirror, replace=replace, progress=_progress(watch))
    if json:
        facts = [asdict(file) | {"path": str(file.path)} for file in files]
        console.as_json({"name": name, "path": str(files[0].path.parent), "files": facts})
        return
    for file in files:
        console.line(_line(file))
    now = _installed(name)
    console.line(
        f"{name} is in {files[0].path.parent}"
        + ("" if now is None else f"; verify it with: lazybench data verify {name}")
    )


def _installed(name: str) -> DataStatus | None:
    from lazybench.data.folders import status

    return next((each for each in status() if each.name == name and each.installed), None)


def _progress(watch: Callback, unit: str = "bytes") -> Progress:
    """Show the bytes, or whatever the unit is, of each file as a separate stage."""
    shown: dict[str, int] = {}

    def show(file: str, done: int, total: int) -> None:
        if done < shown.get(file, done + 1):
            # The first bytes of a file, or of a repeated download.
            watch.stage(f"{file} ({unit})", total)
            shown[file] = 0
        watch.advance(done - shown[file], {})
        shown[file] = done

    return show


def _line(file: Fetched) -> str:
    checksum = f"md5 {file.md5} as published"
    if not file.md5:
        checksum = f"no checksum is published; its sha256 is {file.sha256}"
    source = f"from {file.url}" if file.fresh else "downloaded before"
    return f"{file.path}: {file.bytes} bytes, {source}; {checksum}"


@command(
    "import",
    "lazybench data import photos/ --name birds --size 84",
    "lazybench data import clip.npz --name clip-birds --split birds.json --licence CC-BY-4.0",
    "lazybench data import scans/ --name scans --grey --size 28 --fractions .6,.2,.2",
)
def import_command(  # noqa: PLR0913 - each is a flag of the command line
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of images, .npz, or folder of three.")
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name",
            "-n",
            help="Id of the data set, with which environment ids begin: a-z, 0-9, dashes.",
        ),
    ],
    split: Annotated[
        Path | None,
        typer.Option(
            "--split", metavar="FILE.json", help="File with the classes of train, val and test."
        ),
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", min=0, help="Seed of a random split.")
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option("--fractions", help="Fractions of a random split. [default: .64,.16,.2]"),
    ] = None,
    size: Annotated[int | None, options.size()] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Convert images to greyscale.")] = False,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Scale features to mean 0 and std 1 over train.")
    ] = False,
    skip_small: Annotated[
        bool, typer.Option("--skip-small", help="Skip classes with too few instances.")
    ] = False,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the data.")] = "",
    replace: Annotated[bool, options.replace("Imports again under this name.")] = False,
    json: options.Json = False,
) -> None:
    """Import your own data and register environments for it.

    PATH is a folder of images (class/image or super/class/image, optionally below train, val and
    test), an .npz of images or features x with labels y (optionally group and split), or a folder
    with train.npz, val.npz and test.npz. Images with the same classes in train and test make
    long-tailed environments.
    """
    shares = _shares(fractions)
    from lazybench.data.importing.importer import ImportRequest, import_data

    done = import_data(
        ImportRequest(
            source=path,
            name=name,
            split_file=split,
            split_seed=split_seed,
            fractions=shares,
            size=size,
            grey=grey,
            standardise=standardise,
            skip_small=skip_small,
            licence=console.one_line(licence),
            replace=replace,
        )
    )
    envs = _envs(name)
    if json:
        facts = done.meta.text() | {"folder": str(done.folder), "notes": done.notes, "envs": envs}
        console.as_json(facts)
        return
    _show(done, envs)


@command(
    "embed",
    "lazybench data embed cifarfs --with effnet-lite0",
    "lazybench data embed omniglot --with timm:resnet18.a1_in1k --size 64 --splits val,test",
    "lazybench data embed glyphs --with my_net.py:factory --weights none",
)
def embed_command(  # noqa: PLR0913 - each is a flag of the command line
    data: options.DataName,
    backbone: Annotated[
        str,
        typer.Option(
            "--with",
            "-w",
            metavar="BACKBONE",
            help="effnet-lite0, timm:NAME, torchvision:NAME, open_clip:NAME/TAG (each also with "
            "@FILE.safetensors), or FILE.py:FACTORY.",
        ),
    ],
    size: Annotated[int | None, options.size("[default: the backbone's]", least=1)] = None,
    name: Annotated[
        str, typer.Option("--name", "-n", help="Id of the features. [default: DATA@BACKBONE]")
    ] = "",
    splits: Annotated[
        str,
        typer.Option(
            "--splits",
            help="Splits of few-shot tasks to embed; the others can follow later. The parts of "
            "long tails are always embedded.",
        ),
    ] = "train,val,test",
    weights: Annotated[
        str,
        typer.Option("--weights", help="What the weights were trained on, if the name says not."),
    ] = "",
    allow_overlap: options.AllowOverlap = False,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    replace: Annotated[bool, options.replace("Embeds again under this name.")] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Compute features of a data set by a pre-trained network and register their environments.

    Each image passes through the network once. Ctrl-C keeps what is done; the same command goes on
    from there.
    """
    from lazybench.cli.progress import watching
    from lazybench.data.importing.embed import EmbedRequest, embed_data
    from lazybench.data.splits import SPLITS
    from lazybench.errors import nearest
    from lazybench.runner.request import check_device
    from lazybench.runtime.threads import set_threads

    chosen = tuple(part.strip() for part in splits.split(","))
    wrong = [part for part in chosen if part not in SPLITS]
    if wrong:
        raise UsageError(
            f"--splits takes some of {', '.join(SPLITS)}, got '{wrong[0]}'."
            f"{nearest(wrong[0], SPLITS)}"
        )
    if threads is not None:
        set_threads(threads)
    with watching(quiet=quiet or json) as watch:
        done = embed_data(
            EmbedRequest(
                data=data,
                backbone=backbone,
                size=size,
                name=name,
                splits=tuple(split for split in SPLITS if split in chosen),
                weights=console.one_line(weights),
                allow_overlap=allow_overlap,
                device=check_device(device),
                replace=replace,
            ),
            _progress(watch, "images"),
        )
    envs = _envs(done.meta.name)
    if json:
        facts = {"computed": done.computed, "resumed": done.resumed, "envs": envs}
        console.as_json(done.meta.text() | {"folder": str(done.folder)} | facts)
        return
    _show_embedded(done, envs)


@command(
    "forget",
    "lazybench data forget birds --yes",
)
def forget_command(
    name: options.DataName,
    yes: options.Yes = False,
) -> None:
    """Remove imported data or features."""
    from lazybench.data.importing.importer import forget, imported_folder

    folder = imported_folder(name)
    if not yes:
        raise UsageError(f"this removes {folder}; add --yes to do it")
    forget(name)
    console.line(f"removed {folder}")


def _shares(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--fractions takes three numbers such as .64,.16,.2; got '{text}'"
        ) from error


def _envs(name: str) -> list[str]:
    """Ids of the listed environments of a data set, without -noniid first."""
    from lazybench.registry import ENVS

    envs = [spec for spec in ENVS.specs() if spec.data == name]
    envs.sort(key=lambda spec: (spec.kwargs["noniid"], spec.kwargs["way"], spec.kwargs["shot"]))
    return [spec.id for spec in envs]


def _show_embedded(done: Embedded, envs: list[str]) -> None:
    meta = done.meta
    console.line(f"{meta.name}: {meta.about}; {meta.source}")
    left = [split for split, facts in meta.splits.items() if not facts.bytes]
    facts = {"fingerprint": meta.fingerprint[:12], "folder": str(done.folder)}
    facts |= {"computed": f"{done.computed} images", "found": f"{done.resumed} of a run cut short"}
    facts |= {"not embedded": ", ".join(left)} if left else {}
    console.line(console.facts(facts))
    if envs:
        plain = [env for env in envs if not env.endswith("-noniid")]
        console.line(f"environments: {', '.join(plain)} (each also with -noniid)")
    if meta.embedding is not None and (meta.embedding.parts or meta.embedding.held_out):
        console.line(f"long tails: {_long_tails(meta)}")
    if envs and not left:
        console.line(f"try: lazybench run --agent protonet --set backbone=linear --env {envs[0]}")


def _show(done: Imported, envs: list[str]) -> None:
    meta = done.meta
    console.line(f"{meta.name}: {meta.about.removeprefix('imported: ')}; {meta.source}")
    rows = [
        (
            name,
            str(len(split.classes)),
            str(len(set(split.groups))) if split.groups != split.classes else "",
            str(sum(split.counts)),
            f"{min(split.counts)} to {max(split.counts)}",
        )
        for name, split in (meta.splits or meta.parts).items()
    ]
    header = ("split", "classes", "super-categories", "instances", "per class")
    console.line(console.table(header, rows))
    facts = {"prep": meta.prep, "fingerprint": meta.fingerprint[:12], "folder": str(done.folder)}
    console.line(console.facts(facts))
    for note in done.notes:
        console.line(f"note: {note}")
    if meta.parts:
        console.line(f"environments: {_long_tails(meta)}")
        for env in _long_tail_ids(meta)[:1]:
            console.line(f"try: lazybench run --agent drw --env {env} --budget smoke")
        return
    plain = [env for env in envs if not env.endswith("-noniid")]
    console.line(f"environments: {', '.join(plain)} (each also with -noniid)")
    console.line(
        f"any other way up to {meta.most_way} and shot up to {meta.most_shot} works as well, on "
        "every split"
    )
    if meta.kind == "images":
        console.line(f"long tails: {_long_tails(meta)}")
    console.line(f"try: lazybench run --agent protonet --env {plain[0]} --budget smoke")


def _long_tail_ids(meta: Meta) -> list[str]:
    """Ids of long-tailed streams of a data set: one with an imbalance, and with its own counts."""
    most = meta.most_imbalance
    train = meta.stream_parts.get("train") or meta.splits["train"]
    ids = [f"{meta.name}-lt-{min(100, most)}"] if most > 1 else []
    own = most >= 1 and len(set(train.counts)) > 1
    return [*ids, f"{meta.name}-lt-natural"] if own else ids


def _long_tails(meta: Meta) -> str:
    """The long-tailed streams of a data set, or why it has none."""
    most, ids = meta.most_imbalance, _long_tail_ids(meta)
    if not ids:
        train = meta.stream_parts.get("train") or meta.splits["train"]
        return (
            f"none, since the smallest class has {min(train.counts)} training images: "
            f"{DEV_PER_CLASS} are for the dev set, and at least two must be left for training"
        )
    texts = [
        f"{each}, which keeps the classes' own counts"
        if each.endswith("-natural")
        else f"{each}, and any other imbalance up to {most}"
        for each in ids
    ]
    return ", and ".join(texts)


DATA = Group(
    "data",
    "List, download, verify, import and embed data sets.",
    ("lazybench data list", "lazybench data where omniglot", "lazybench data verify glyphs"),
    (
        list_command,
        where_command,
        get_command,
        verify_command,
        import_command,
        embed_command,
        forget_command,
    ),
)
