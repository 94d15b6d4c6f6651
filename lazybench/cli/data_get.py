"""`lazybench data get`: fetch a data set from its official address or a mirror."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from lazybench.data.catalogue import DataStatus
    from lazybench.data.download import Fetched, Progress
    from lazybench.harness.watch import Watch

HELP = "Fetch a data set into the data folder."
EXAMPLES = (
    "lazybench data get cifarfs",
    "lazybench data get omniglot --from https://mirror.example.org/omniglot",
)


def _complete(incomplete: str) -> list[str]:
    from lazybench.data.sources import SOURCES

    return [name for name in SOURCES if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="ID", help="Data set.", autocompletion=_complete)]
Mirror = Annotated[
    str,
    typer.Option(
        "--from", metavar="URL", help="Folder of a mirror that holds the files under their names."
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Fetch what is there already too.")]


def get_command(
    name: Name,
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
            out.as_json({"name": name, "path": path, "files": []})
            return
        why = "; --replace fetches it anew" if not spec.embedded else " that comes with the package"
        out.line(f"{name} is installed already, in {path}{why}")
        return
    with watching(quiet=quiet or json) as watch:
        files = fetch(name, mirror=mirror, replace=replace, progress=_progress(watch))
    if json:
        facts = [asdict(file) | {"path": str(file.path)} for file in files]
        out.as_json({"name": name, "path": str(files[0].path.parent), "files": facts})
        return
    for file in files:
        out.line(_line(file))
    now = _installed(name)
    out.line(
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
