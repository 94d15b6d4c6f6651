"""`lazybench data import` and `forget`: your own images or features as environments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from lazybench.data.importing import Imported

HELP = (
    "Make environments of your own data: a folder of images (class/image, super/class/image, or "
    "either below train, val and test), an .npz of images or features x with labels y (optionally "
    "group and split), or a folder of train.npz, val.npz and test.npz."
)
EXAMPLES = (
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
    from lazybench.data.importing import ImportRequest, import_data

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
            licence=out.one_line(licence),
            replace=replace,
        )
    )
    envs = _envs(name)
    if json:
        facts = done.meta.text() | {"folder": str(done.folder), "notes": done.notes, "envs": envs}
        out.as_json(facts)
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
    from lazybench.data.importing import forget, imported_folder

    folder = imported_folder(name)
    if not yes:
        raise UsageError(f"this removes {folder}; add --yes to do it")
    forget(name)
    out.line(f"removed {folder}")


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
    out.line(f"{meta.name}: {meta.about.removeprefix('imported: ')}; {meta.source}")
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
    out.line(out.table(header, rows))
    facts = {"prep": meta.prep, "fingerprint": meta.fingerprint[:12], "folder": str(done.folder)}
    out.line(out.facts(facts))
    for note in done.notes:
        out.line(f"note: {note}")
    plain = [env for env in envs if not env.endswith("-noniid")]
    out.line(f"environments: {', '.join(plain)} (each also with -noniid)")
    most = f"any other way up to {meta.most_way} and shot up to {meta.most_shot}"
    out.line(f"{most} works too, on every split")
    out.line(f"try: lazybench run --agent protonet --env {plain[0]} --budget smoke")
