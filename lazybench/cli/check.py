"""`lazybench check`, `new` and `doctor`: contracts of plug-ins, packages, the installation."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.errors import UsageError
from lazybench.files import need_folder

if TYPE_CHECKING:
    from lazybench.doctor import Examined
    from lazybench.findings import Finding
    from lazybench.specs import AgentSpec


BROKEN = 1
DEFAULT_ENVS = {
    "fewshot": "glyphs-5way-1shot",
    "longtail": "glyphs-lt-100",
    "attack": "glyphs-net4-untargeted",
}
"""The fastest environment of each family, on which agents are checked by default."""


@command(
    "check",
    "lazybench check agent lazy_reptile",
    "lazybench check agent my_agent.py:MyAgent --env glyphs-5way-1shot",
    "lazybench check env glyphs-20way-5shot",
)
def check_command(
    kind: Annotated[options.Kind, typer.Argument(help="Kind of plug-in.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id of the plug-in, or FILE.py:CLASS of an agent.",
            autocompletion=options.complete_plug_in,
        ),
    ],
    env: Annotated[
        str | None,
        options.env("Agents are checked on it. [default: a small one of the agent's family]"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check that an agent or environment satisfies its contract.

    Exits with 1 if a check fails.
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
        console.as_json([finding.facts() for finding in findings])
    else:
        console.line(f"{kind} {name}" + (f" on {chosen}" if chosen else ""))
        rows = [("ok" if f.ok else "FAILED", f.name, f.detail) for f in findings]
        console.line(console.table(("", "check", "detail"), rows))
    failed = sum(not finding.ok for finding in findings)
    if failed:
        console.note(f"{failed} of {len(findings)} checks failed")
        raise typer.Exit(BROKEN)


def _check_env(name: str) -> list[Finding]:
    from lazybench.check.env_checker import check_env

    return check_env(name)


def _check_agent(name: str, env: str, *, quiet: bool) -> list[Finding]:
    from lazybench.check.agent_checker import check_agent
    from lazybench.cli.progress import watching

    with watching(quiet=quiet) as watch:
        return check_agent(name, env, watch)


def default_env(spec: AgentSpec) -> str:
    """Return the id of an environment for the check of an agent.

    Raises:
        UsageError: no environment is of its families.
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


@command(
    "new",
    "lazybench new agent my_learner",
    "lazybench new agent my_sampler --family longtail",
    "lazybench new agent my_attack --family attack --dir ~/projects",
    "lazybench new env my-images",
)
def new_command(
    kind: Annotated[options.Kind, typer.Argument(help="Kind of plug-in.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the package: lower-case letters, digits, - and _."
        ),
    ],
    family: Annotated[options.Family, options.family()] = options.Family.fewshot,
    parent: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Parent folder of the package.")
    ] = Path("."),
    json: options.Json = False,
) -> None:
    """Create a small working package with an agent or environment of your own.

    Prints the commands that install, check and run it.
    """
    need_folder(parent, "--dir")
    from lazybench.scaffold import new_package

    package = new_package(kind.value, name, family.value, parent)
    commands = [
        f"pip install -e {shlex.quote(f'{package.folder}[test]')}",
        f"lazybench check {kind} {package.id}",
        f"lazybench run --agent {package.agent} --env {package.env} --budget smoke",
        f"lazybench leaderboard --env {package.env}",
    ]
    if json:
        console.as_json(
            {
                "folder": str(package.folder),
                "files": package.files,
                "id": package.id,
                "env": package.env,
                "next": commands,
            }
        )
        return
    console.line(f"{kind} {package.id} ({family}) in {package.folder}:")
    for path in package.files:
        console.line(f"  {path}")
    console.line("next:")
    for each in commands:
        console.line(f"  {each}")


BAD = 3
STATES = {True: "ok", None: "warn", False: "bad"}
"""Names of the states of findings, as in `doctor`."""


@command(
    "doctor",
    "lazybench doctor",
    "lazybench doctor --quiet",
    "lazybench doctor --deep",
    "lazybench doctor --repair",
    "lazybench doctor --out leaderboards --runs runs --json",
)
def doctor_command(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hash all data and compute with torch; slow.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair; broken files are moved to quarantine/.")
    ] = False,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check the installation, data, cache, records, boards, runs and plug-ins.

    Exits with 3 if it finds a problem. Broken files are quarantined, never deleted; derived files
    are regenerated. Nothing is changed without --repair.
    """
    from lazybench.doctor import Quarantine, examine
    from lazybench.doctor import repair as repaired

    found, done, kept = examine(out_dir, runs, deep=deep), [], Quarantine()
    if repair:
        # Twice: boards can only be regenerated once a damaged record is in quarantine.
        for _ in range(2):
            done += repaired(found.repairable, kept)
            found = examine(out_dir, runs, deep=deep) if done else found
    if json:
        console.as_json(
            {
                "well": found.well,
                "findings": [_facts(each) for each in found.findings],
                "repaired": done,
            }
        )
    else:
        for line in done:
            console.line(console.one_line(f"repaired: {line}"))
        console.line(_text(found, quiet=quiet))
    if not found.well:
        raise typer.Exit(BAD)


def _facts(finding: Finding) -> dict[str, Any]:
    return finding.facts() | {
        "area": finding.area,
        "subject": finding.name,
        "state": STATES[finding.ok],
        "advice": finding.advice,
        "repair": None if finding.repair is None else finding.repair.text,
    }


def _text(found: Examined, *, quiet: bool) -> str:
    """A table, what to do about each problem, and a summary."""
    shown = [each for each in found.findings if not (quiet and each.ok)]
    rows = [(STATES[each.ok], each.area, each.name, each.detail) for each in shown]
    parts = [console.table(("", "area", "subject", "finding"), rows)] if rows else []
    for each in shown:
        steps = [each.advice] if each.advice else []
        steps += [each.repair.text] if each.repair is not None else []
        if not each.ok and steps:
            parts.append(console.one_line(f"{each.name}: {'; '.join(steps)}"))
    states = Counter(STATES[each.ok] for each in found.findings)
    warned = f", {states['warn']} warnings" if states["warn"] else ""
    parts.append(f"all is well{warned}" if found.well else f"{states['bad']} bad{warned}")
    return "\n".join(parts)
