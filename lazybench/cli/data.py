"""`lazybench data`: which data sets are installed, where they lie, and whether they are whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import options, out
from lazybench.errors import DataUnavailable

if TYPE_CHECKING:
    from lazybench.data.catalogue import DataStatus

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
        out.as_json({"data": [_facts(each) for each in found], "broken": DATASETS.broken})
        return
    rows = [(each.name, "yes" if each.installed else "no", _detail(each)) for each in found]
    out.line(out.table(("data set", "installed", "what and where"), rows, columns=out.width()))
    out.line(f"folder for data sets: {data_root()} (LAZYBENCH_DATA sets another)")
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

    out.line(str(where(name)))


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
        out.as_json([_facts(each) for each in found])
    else:
        answers = {True: "yes", False: "no", None: "not told"}
        rows = [
            (each.name, answers[each.verified], each.fingerprint[:12], each.detail)
            for each in found
        ]
        out.line(out.table(("data set", "whole", "fingerprint", "detail"), rows))
    bad = [each for each in found if each.verified is False]
    if bad:
        raise DataUnavailable("; ".join(f"{each.name}: {each.detail}" for each in bad))


def _facts(status: DataStatus) -> dict[str, object]:
    return asdict(status) | {"path": None if status.path is None else str(status.path)}


def _detail(status: DataStatus) -> str:
    if status.installed:
        return f"{status.source}; {status.detail}"
    return f"{status.source}; how to get it: lazybench show {status.name}"
