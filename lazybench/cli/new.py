"""`lazybench new`: a small working package to begin a plug-in with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out

HELP = "Write a small working package: an agent or an environment of your own."
EXAMPLES = (
    "lazybench new agent my_learner",
    "lazybench new agent my_sampler --family longtail",
    "lazybench new agent my_attack --family attack --dir ~/projects",
    "lazybench new env my-images",
)


def new_command(
    kind: Annotated[options.Kind, typer.Argument(help="What to write.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name: small letters, digits, - and _.")
    ],
    family: Annotated[
        options.Family, typer.Option("--family", help="Family of environments.")
    ] = options.Family.fewshot,
    parent: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Folder that the package's folder goes to.")
    ] = Path("."),
    json: options.Json = False,
) -> None:
    """Write the package and print what comes next.

    Raises:
        UsageError: a name that can't be a package's or that is taken, or a folder that exists.
        OutputUnavailable: the folder can't be written.
    """
    need_folder(parent, "--dir")
    from lazybench.scaffold import new_package

    made = new_package(kind.value, name, family.value, parent)
    commands = [
        f"pip install -e '{made.folder}[test]'",
        f"lazybench check {kind} {made.id}",
        f"lazybench run --agent {made.player} --env {made.env} --budget smoke",
        f"lazybench leaderboard --env {made.env}",
    ]
    if json:
        out.as_json(
            {
                "folder": str(made.folder),
                "files": made.files,
                "id": made.id,
                "env": made.env,
                "next": commands,
            }
        )
        return
    out.line(f"{kind} {made.id} ({family}) in {made.folder}:")
    for path in made.files:
        out.line(f"  {path}")
    out.line("next:")
    for command in commands:
        out.line(f"  {command}")
