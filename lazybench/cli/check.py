"""`lazybench check`: does an agent or environment keep its contract?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from lazybench.check.findings import Finding
    from lazybench.specs import AgentSpec


HELP = "Check that an agent or environment keeps its contract."
EXAMPLES = (
    "lazybench check agent lazy_reptile",
    "lazybench check agent my_agent.py:MyAgent --env glyphs-5way-1shot",
    "lazybench check env glyphs-20way-5shot",
)
BROKEN = 1
DEFAULT_ENVS = {
    "fewshot": "glyphs-5way-1shot",
    "longtail": "glyphs-lt-100",
    "attack": "glyphs-net4-untargeted",
}
"""The quickest environment of a family, which agents are checked on unless another is named."""


def check_command(
    kind: Annotated[options.Kind, typer.Argument(help="What ID names.")],
    name: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, or FILE.py:CLASS of an agent.")
    ],
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            "-e",
            help="Environment to check an agent on; a small one of its family by default.",
            autocompletion=options.complete_env,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Print what the checks found.

    Raises:
        UsageError: an unknown id, or `--env` beside an environment.
        typer.Exit: a check failed.
    """
    if kind is options.Kind.env and env is not None:
        raise UsageError(
            f"--env goes with agents; to check an environment: lazybench check env {name}"
        )
    from lazybench.registry import ENVS, agent_spec

    chosen = None
    if kind is options.Kind.agent:
        chosen = env or default_env(agent_spec(name))
    else:
        ENVS.resolve(name)
    findings = _check_env(name) if chosen is None else _check_agent(name, chosen, quiet=json)
    if json:
        console.as_json([asdict(finding) for finding in findings])
    else:
        console.line(f"{kind} {name}" + (f" on {chosen}" if chosen else ""))
        rows = [("ok" if f.ok else "FAILED", f.name, f.detail) for f in findings]
        console.line(console.table(("", "check", "detail"), rows))
    failed = sum(not finding.ok for finding in findings)
    if failed:
        console.note(f"{failed} of {len(findings)} checks failed")
        raise typer.Exit(BROKEN)


def _check_env(name: str) -> list[Finding]:
    from lazybench.check.env import check_env

    return check_env(name)


def _check_agent(name: str, env: str, *, quiet: bool) -> list[Finding]:
    from lazybench.check.agent import check_agent
    from lazybench.cli.progress import watching

    with watching(quiet=quiet) as watch:
        return check_agent(name, env, watch)


def default_env(spec: AgentSpec) -> str:
    """Return the id of an environment that an agent can be checked on.

    Raises:
        UsageError: there is none of its families.
    """
    from lazybench.registry import ENVS

    for family in spec.families:
        if family in DEFAULT_ENVS:
            return DEFAULT_ENVS[family]
    found = next((each.id for each in ENVS.specs() if each.family in spec.families), None)
    if found is None:
        raise UsageError(
            f"no environment for the families of '{spec.id}': {', '.join(spec.families)}; "
            "name one with --env"
        )
    return found


NEW_HELP = "Write a small working package: an agent or an environment of your own."
NEW_EXAMPLES = (
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
        console.as_json(
            {
                "folder": str(made.folder),
                "files": made.files,
                "id": made.id,
                "env": made.env,
                "next": commands,
            }
        )
        return
    console.line(f"{kind} {made.id} ({family}) in {made.folder}:")
    for path in made.files:
        console.line(f"  {path}")
    console.line("next:")
    for command in commands:
        console.line(f"  {command}")
