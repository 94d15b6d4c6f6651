"""`lazybench trials`: the official trials as a file, for another framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lazybench.cli import options, out

HELP = "Write an environment's official trials to a file: indices, support labels, image hashes."
EXAMPLES = (
    "lazybench trials omniglot-5way-1shot",
    "lazybench trials glyphs-5way-1shot --arrays --to glyphs.npz",
    "lazybench trials cifarfs-5way-5shot --to trials.jsonl --limit 100",
)


def trials_command(  # noqa: PLR0913 - one parameter for each option
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV", help="Environment id or alias.", autocompletion=options.complete_env
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help=".npz or .jsonl. [default: trials-ENV-BUDGET.npz]"
        ),
    ] = None,
    arrays: Annotated[
        bool, typer.Option("--arrays", help="The images themselves, beside their hashes.")
    ] = False,
    budget: Annotated[
        str, typer.Option("--budget", "-b", help="Whose number of trials.")
    ] = "small",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first ones only.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the file and print what it holds.

    Raises:
        LazybenchError: as `lazybench.verify.export_trials` has it.
    """
    from lazybench.cli.progress import watching
    from lazybench.harness.environment import resolve_env
    from lazybench.verify import export_trials

    path = to or Path(f"trials-{resolve_env(env)[0].id}-{budget}.npz")
    with watching(quiet=quiet) as watch:
        found = export_trials(env, path, budget=budget, limit=limit, arrays=arrays, watch=watch)
    if json:
        out.as_json({"path": str(found.path), "bytes": found.size, **found.about})
        return
    shape = ", ".join(map(str, found.about["predictions"]))
    out.line(f"{found.path}: {found.about['env']}, {found.size / 1e6:.1f} MB, no query labels")
    out.line(
        f"predictions [{shape}] are judged by: lazybench score predictions.npz --env "
        f"{found.about['env']} --budget {budget} --name NAME"
    )
