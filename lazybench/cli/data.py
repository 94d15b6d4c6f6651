"""`lazybench data`: which data sets are installed, where they lie, and whether they are whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import console, options
from lazybench.errors import DataUnavailable, UsageError

if TYPE_CHECKING:
    from lazybench.data.catalogue import DataStatus
    from lazybench.data.download import Fetched, Progress
    from lazybench.data.importing.importer import Imported
    from lazybench.runner.callbacks import Watch


HELP = "List, find and verify data sets."
EXAMPLES = ("lazybench data list", "lazybench data where omniglot", "lazybench data verify glyphs")
LIST_HELP = "List the data sets and whether they are installed."
LIST_EXAMPLES = ("lazybench data list", "lazybench data list --json")
WHERE_HELP = "Print the folder that a data set lies in, or belongs in."
WHERE_EXAMPLES = (
    "lazybench data where omniglot",
    "LAZYBENCH_DATA=~/data lazybench data where omniglot",
)
VERIFY_HELP = "Read data sets as a whole and compare with what was prepared."
VERIFY_EXAMPLES = ("lazybench data verify omniglot", "lazybench data verify")

Name = Annotated[
    str, typer.Argument(metavar="ID", help="Data set.", autocompletion=options.complete_data)
]
MaybeName = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="Data set.", autocompletion=options.complete_data),
]


def list_data(*, json: bool) -> None:
    """Print all data sets, one a line, and those that couldn't be registered."""
    from lazybench.cli.listing import show_broken
    from lazybench.data.catalogue import status
    from lazybench.data.folders import data_root
    from lazybench.registry import DATASETS

    found = status()
    if json:
        console.as_json({"data": [_facts(each) for each in found], "broken": DATASETS.broken})
        return
    rows = [(each.name, "yes" if each.installed else "no", _detail(each)) for each in found]
    console.line(
        console.table(("data set", "installed", "what and where"), rows, columns=console.width())
    )
    console.line(f"folder for data sets: {data_root()} (LAZYBENCH_DATA sets another)")
    show_broken(DATASETS.broken)


def list_command(json: options.Json = False) -> None:
    """Print all data sets."""
    list_data(json=json)


def where_command(name: Name) -> None:
    """Print a folder.

    Raises:
        UnknownName: no such data set.
    """
    from lazybench.data.catalogue import where

    console.line(str(where(name)))


def verify_command(name: MaybeName = None, json: options.Json = False) -> None:
    """Print what verifying found.

    Raises:
        UnknownName: no such data set.
        DataUnavailable: the one asked for isn't installed, or one is damaged.
    """
    from lazybench.data.catalogue import status, verify

    names = [each.name for each in status() if each.installed] if name is None else [name]
    found = [verify(each) for each in names]
    if json:
        console.as_json([_facts(each) for each in found])
    else:
        answers = {True: "yes", False: "no", None: "not told"}
        rows = [
            (each.name, answers[each.verified], each.fingerprint[:12], each.detail)
            for each in found
        ]
        console.line(console.table(("data set", "whole", "fingerprint", "detail"), rows))
    bad = [each for each in found if each.verified is False]
    if bad:
        raise DataUnavailable("; ".join(f"{each.name}: {each.detail}" for each in bad))


def _facts(status: DataStatus) -> dict[str, object]:
    return asdict(status) | {"path": None if status.path is None else str(status.path)}


def _detail(status: DataStatus) -> str:
    if status.installed:
        return f"{status.source}; {status.detail}"
    return f"{status.source}; how to get it: lazybench show {status.name}"


DATA_GET_HELP = "Fetch a data set into the data folder."
DATA_GET_EXAMPLES = (
    "lazybench data get cifarfs",
    "lazybench data get omniglot --from https://mirror.example.org/omniglot",
)


def _complete(incomplete: str) -> list[str]:
    from lazybench.data.sources import SOURCES

    return [name for name in SOURCES if name.startswith(incomplete)]


data_get_Name = Annotated[
    str, typer.Argument(metavar="ID", help="Data set.", autocompletion=_complete)
]
Mirror = Annotated[
    str,
    typer.Option(
        "--from", metavar="URL", help="Folder of a mirror that holds the files under their names."
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Fetch what is there already too.")]


def get_command(
    name: data_get_Name,
    mirror: Mirror = "",
    replace: Replace = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Print what was fetched, where it lies and how sure it is.

    Raises:
        UnknownName: no such data set.
        UsageError: it can't be fetched.
        DataUnavailable: a file couldn't be fetched, or isn't the published one.
        OutputUnavailable: the data folder can't be written.
        Busy: another process is fetching.
    """
    from lazybench.cli.progress import watching
    from lazybench.data.download import fetch
    from lazybench.data.sources import SOURCES
    from lazybench.registry import DATASETS

    spec = DATASETS.resolve(name).spec
    if name not in SOURCES and not spec.embedded:
        raise UsageError(
            f"no address is known for '{name}' ({spec.origin}); these can be fetched: "
            f"{', '.join(SOURCES)}"
        )
    installed = _installed(name)
    if spec.embedded or (installed is not None and not replace):
        path = None if installed is None else installed.path
        if json:
            console.as_json({"name": name, "path": path, "files": []})
            return
        why = "; --replace fetches it anew" if not spec.embedded else " that comes with the package"
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
        + ("" if now is None else f"; read all of it with: lazybench data verify {name}")
    )


def _installed(name: str) -> DataStatus | None:
    from lazybench.data.catalogue import status

    return next((each for each in status() if each.name == name and each.installed), None)


def _progress(watch: Watch) -> Progress:
    """Bytes of each file as a stage of its own."""
    shown: dict[str, int] = {}

    def show(file: str, done: int, total: int) -> None:
        if done < shown.get(file, done + 1):
            # The first bytes of a file, or of another try at it.
            watch.stage(f"{file} (bytes)", total)
            shown[file] = 0
        watch.advance(done - shown[file], {})
        shown[file] = done

    return show


def _line(file: Fetched) -> str:
    sure = f"md5 {file.md5} as published"
    if not file.md5:
        sure = f"no checksum is published for it; its sha256 is {file.sha256}"
    came = f"from {file.url}" if file.fresh else "was there already"
    return f"{file.path}: {file.bytes} bytes, {came}; {sure}"


DATA_IMPORT_HELP = (
    "Make environments of your own data: a folder of images (class/image, super/class/image, or "
    "either below train, val and test), an .npz of images or features x with labels y (optionally "
    "group and split), or a folder of train.npz, val.npz and test.npz."
)
DATA_IMPORT_EXAMPLES = (
    "lazybench data import photos/ --name birds --size 84",
    "lazybench data import clip.npz --name clip-birds --split birds.json --licence CC-BY-4.0",
    "lazybench data import scans/ --name scans --grey --size 28 --fractions .6,.2,.2",
)
FORGET_HELP = "Remove data that were imported."
FORGET_EXAMPLES = ("lazybench data forget birds --yes",)


def import_command(  # noqa: PLR0913 - each is a flag of the command line
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Image folder, .npz or folder of 3.")
    ],
    name: Annotated[
        str, typer.Option("--name", "-n", help="Id that environments begin with: a-z, 0-9, dashes.")
    ],
    split: Annotated[
        Path | None,
        typer.Option("--split", metavar="FILE.json", help="Classes of train, val and test."),
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", min=0, help="Re-make the split by this seed.")
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option("--fractions", help="Shares of a re-made split; .64,.16,.2 unless given."),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Resize images to squares of so many pixels.")
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Make images grey.")] = False,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Features to mean 0 and deviation 1 over train.")
    ] = False,
    skip_small: Annotated[
        bool, typer.Option("--skip-small", help="Leave out classes of too few or no instances.")
    ] = False,
    licence: Annotated[str, typer.Option("--licence", help="Licence, as it is shown.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what was imported under this name.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Import, and print what now works.

    Raises:
        UsageError: an option, layout or value that isn't allowed.
        DuplicateName: the name is taken.
        DataUnavailable: a file can't be read.
        OutputUnavailable: the data folder can't be written.
    """
    shares = _shares(fractions)
    from lazybench.data.importing.importer import ImportRequest, import_data

    done = import_data(
        ImportRequest(
            path=path,
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


def forget_command(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="Data set.", autocompletion=options.complete_data)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Really remove it.")] = False,
) -> None:
    """Remove imported data.

    Raises:
        UnknownName: nothing is imported under this name.
        UsageError: it wasn't said that it should really be removed.
    """
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
    """Ids of the listed environments on a data set, the plain ones first."""
    from lazybench.registry import ENVS

    found = [spec for spec in ENVS.specs() if spec.data == name]
    found.sort(key=lambda spec: (spec.kwargs["noniid"], spec.kwargs["way"], spec.kwargs["shot"]))
    return [spec.id for spec in found]


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
        for name, split in meta.splits.items()
    ]
    header = ("split", "classes", "super-categories", "instances", "of a class")
    console.line(console.table(header, rows))
    facts = {"prep": meta.prep, "fingerprint": meta.fingerprint[:12], "folder": str(done.folder)}
    console.line(console.facts(facts))
    for note in done.notes:
        console.line(f"note: {note}")
    plain = [env for env in envs if not env.endswith("-noniid")]
    console.line(f"environments: {', '.join(plain)} (each also with -noniid)")
    most = f"any other way up to {meta.most_way} and shot up to {meta.most_shot}"
    console.line(f"{most} works too, on every split")
    console.line(f"try: lazybench run --agent protonet --env {plain[0]} --budget smoke")
