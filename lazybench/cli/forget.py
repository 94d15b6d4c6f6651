"""`lazybench forget`: remove a run's folder, or move a record to quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.records import Store

_DIGITS = 6


@command(
    "forget",
    "lazybench forget runs/protonet-glyphs-5way-1shot-s0-3f9c01d2aa17 --yes",
    "lazybench forget 3f9c01d2 --yes",
)
def forget_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RECORD",
            help="A run's folder, a record's file, or the first digits of a key.",
            autocompletion=options.complete_key,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Confirm the removal.")] = False,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
) -> None:
    """Remove a run's folder, or move a record to quarantine and update the boards.

    Of a folder, only what lazybench wrote is removed. Without --yes, nothing is changed.
    """
    from lazybench.records import Store

    store = Store(need_folder(out_dir, "--out"))
    path = _find(target, store, runs)
    if path.is_dir():
        _forget_run(path, yes=yes)
    else:
        _forget_record(path, store, yes=yes)


def _find(target: str, store: Store, runs: Path) -> Path:
    """The folder of a run or the file of a record.

    Raises:
        UnknownName: there is neither.
        UsageError: there are several.
    """
    from lazybench.runner.run_dir import list_runs

    path = Path(target)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{path} isn't a run's folder; see: lazybench list runs")
        return path
    if path.is_file():
        record = store.find(path.stem) if _is_key(path.stem) else None
        if record is None or store.path(record).resolve() != path.resolve():
            raise UsageError(f"{path} isn't a record of {store.root}; give its folder with --out")
        return path
    if not _is_key(target):
        raise UsageError(
            f"RUN|RECORD takes a folder, a file or at least {_DIGITS} hex digits of a key, got "
            f"'{target}'"
        )
    found = [run.path for run in list_runs(runs) if run.key12.startswith(target[:12])]
    record = store.find(target)
    found += [] if record is None else [store.path(record)]
    if not found:
        raise UnknownName(
            f"no run in {runs} and no record in {store.root} has a key that begins with "
            f"'{target}'; see: lazybench list runs"
        )
    if len(found) > 1:
        raise UsageError(f"'{target}' names several; give one: {', '.join(map(str, found))}")
    return found[0]


def _is_key(text: str) -> bool:
    return _DIGITS <= len(text) <= 64 and set(text) <= set("0123456789abcdef")


def _forget_run(folder: Path, *, yes: bool) -> None:
    from lazybench.runner.run_dir import remove_run

    if not yes:
        raise UsageError(f"this removes the run {folder}; add --yes to do it")
    kept = remove_run(folder)
    console.line(f"removed {folder}" + (", but not what lazybench didn't write:" if kept else ""))
    for path in kept:
        console.line(f"  {path}")


def _forget_record(path: Path, store: Store, *, yes: bool) -> None:
    from lazybench.boards import write
    from lazybench.doctor import Quarantine, move

    if not yes:
        raise UsageError(
            f"this moves the record {path} to quarantine and updates the boards; add --yes to do it"
        )
    place = move(path, store.root, Quarantine())
    write(store)
    console.line(f"{path}: moved to {place}")
