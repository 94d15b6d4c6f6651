"""`lazybench table`: agents against environments, for a paper."""

from __future__ import annotations

import enum
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out
from lazybench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.boards.pivot import Pivot
    from lazybench.boards.pivot_cells import Wanted

HELP = "Print agents against environments: best bold, ties underlined, average rank."
EXAMPLES = (
    "lazybench table --batch-norm transductive --agents maml,reptile,lazy_reptile "
    "--envs omniglot-5way-1shot,"
    "omniglot-20way-1shot",
    "lazybench table --agents 'Ours=lazy_reptile,Reptile=reptile' --envs cifarfs-5way-5shot "
    "--format latex > table.tex",
    "lazybench table --agents square,hopskipjump --envs glyphs-net4-untargeted,"
    "mnist-net4-untargeted --protocol query_budget=1000 --metric median_queries",
)
# A comma inside brackets belongs to a row's name, such as `reptile (inner_steps=5, lr=0.1)`.
_COMMA = re.compile(r",(?![^(]*\))")


class Format(enum.StrEnum):
    """How tables are printed."""

    md = "md"
    latex = "latex"
    csv = "csv"


def table_command(  # noqa: PLR0913 - one parameter for each option
    agents: Annotated[
        str,
        typer.Option(
            "--agents",
            "-a",
            help="Rows, separated by commas: agents, rows of boards, or digits of keys; "
            "LABEL=NAME renames one, NAME|NAME takes the first that a board has.",
        ),
    ],
    envs: Annotated[
        str, typer.Option("--envs", "-e", help="Columns: environments, separated by commas.")
    ],
    budget: options.Budget = "small",
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.md,
    metric: Annotated[
        str | None, typer.Option("--metric", help="A further metric instead of the score.")
    ] = None,
    protocol: options.Protocol = None,
    batch_norm: Annotated[
        str | None, typer.Option("--batch-norm", help="Only rows judged so: transductive, …")
    ] = None,
    out_dir: options.Out = Path("leaderboards"),
) -> None:
    """Print the table.

    Raises:
        UnknownName: no such agent or environment, or nothing was measured.
        UsageError: an environment has several boards, several rows are of one name, or the budget
            is never ranked.
    """
    from lazybench.boards import pivot, pivot_text
    from lazybench.cli.leaderboard import env_id
    from lazybench.harness.environment import check_budget
    from lazybench.records import Store

    check_budget(budget)
    if budget == "smoke":
        raise UsageError(
            "a table is made of ranked rows and smoke runs are never ranked; got "
            "--budget smoke; take small, medium or paper"
        )
    records = Store(need_folder(out_dir, "--out")).records()
    for skipped in records.skipped:
        out.note(out.one_line(str(skipped)))
    known = {record.env.id for record in records}
    choice = pivot.Choice(
        budget=budget,
        protocol=options.parse_settings(protocol or [], "--protocol"),
        batch_norm=batch_norm,
        metric=metric,
    )
    columns = [env_id(name, known) for name in split_names(envs, "--envs")]
    wanted = parse_agents(agents)
    table = pivot.pivot(records, wanted, columns, choice)
    _check_unfilled(table, wanted)
    asked = ["--agents", agents, "--envs", envs, "--budget", budget, "--format", form.value]
    asked += ["--metric", metric] if metric else []
    asked += ["--batch-norm", batch_norm] if batch_norm else []
    asked += [part for pair in protocol or [] for part in ("--protocol", pair)]
    render = {
        Format.md: pivot_text.pivot_markdown,
        Format.latex: pivot_text.pivot_latex,
        Format.csv: pivot_text.pivot_csv,
    }[form]
    out.text(render(table, command=shlex.join(["lazybench", "table", *asked])))


def split_names(text: str, option: str) -> list[str]:
    """Return the names in a list with commas; those in brackets part nothing.

    Raises:
        UsageError: there is none, or one is given twice.
    """
    names = [name.strip() for name in _COMMA.split(text) if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"{option} takes names separated by commas, each once, such as maml,reptile; "
            f"got '{text}'"
        )
    return names


def parse_agents(text: str) -> list[Wanted]:
    """Return the rows asked for by `[LABEL=]NAME[|NAME]`, separated by commas.

    Raises:
        UsageError: there is none, or two have one label.
    """
    from lazybench.boards.pivot_cells import Wanted

    wanted = []
    for part in split_names(text, "--agents"):
        label, equals, names = part.partition("=")
        # Behind a bracket, the sign is a setting's in a row's name.
        if not equals or "(" in label:
            label, names = part.partition("|")[0], part
        found = tuple(name.strip() for name in names.split("|") if name.strip())
        if not found:
            raise UsageError(f"--agents takes LABEL=NAME or NAME; got '{part}'; name a row")
        wanted.append(Wanted(label.strip(), found))
    if len({row.label for row in wanted}) < len(wanted):
        raise UsageError(f"--agents gives one label to two rows: '{text}'; use LABEL=NAME")
    return wanted


def _check_unfilled(table: Pivot, wanted: list[Wanted]) -> None:
    """Take rows without a cell for names that were mistyped, unless an agent is called so.

    Raises:
        UnknownName: no agent and no row is.
    """
    from lazybench.boards.pivot_notes import unfilled
    from lazybench.registry import AGENTS

    empty = set(unfilled(table))
    for row in wanted:
        known = {spec.id for spec in AGENTS.specs()}
        if row.label in empty and not known & set(row.names):
            try:
                AGENTS.resolve(row.names[0])
            except UnknownName as error:
                raise UnknownName(
                    f"no row '{row.names[0]}' on {', '.join(c.env for c in table.columns)}: {error}"
                ) from error
