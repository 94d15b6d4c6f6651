"""`lazybench compare`: two agents on the trials that both faced."""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.boards.compare import Comparison
    from lazybench.boards.pivot import Pivot, Wanted
    from lazybench.records import Record


HELP = "Tell how two agents differ on the trials that both faced, with interval and p."
EXAMPLES = (
    "lazybench compare lazy_reptile reptile_matched --env glyphs-20way-5shot",
    "lazybench compare maml reptile --env omniglot-5way-1shot --batch-norm inductive",
    "lazybench compare two_component drw --env cifar100-lt-100 --json",
    "lazybench compare square bandits --env mnist-net4-untargeted --protocol query_budget=3000",
    "lazybench compare 3f9c01d2 a7715e90 --env glyphs-5way-1shot --plot scatter.png",
)


def compare_command(  # noqa: PLR0913 - one parameter for each option
    left: Annotated[str, typer.Argument(help="Agent, row of the board, or digits of a key.")],
    right: Annotated[str, typer.Argument(help="Likewise; the difference is LEFT - RIGHT.")],
    env: options.Env,
    budget: options.Budget = "small",
    protocol: options.Protocol = None,
    batch_norm: Annotated[
        str | None,
        typer.Option(
            "--batch-norm",
            help="Only rows judged so. [default: transductive where a name has several]",
        ),
    ] = None,
    out_dir: options.Out = Path("leaderboards"),
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw both sides trial by trial (PNG or SVG).")
    ] = None,
    json: options.Json = False,
) -> None:
    """Print the paired difference.

    Raises:
        UnknownName: no such environment or row.
        UsageError: records of several protocols or data contents, or a name of several rows.
    """
    from lazybench.boards import compare
    from lazybench.records import Store
    from lazybench.runner.request import check_budget, resolve_env

    spec, note = resolve_env(env)
    if note and not json:
        console.note(note)
    check_budget(budget)
    store = Store(need_folder(out_dir, "--out"))
    whole = [r for r in store.records(env=spec.id) if r.budget == budget and not r.limited]
    settings = options.parse_settings(protocol or [], "--protocol")
    found = compare(
        _one_board(whole, f"{spec.id} at budget {budget}", settings), left, right, norm=batch_norm
    )
    if plot is not None:
        _draw(found, plot)
    if json:
        console.as_json(_facts(found))
        return
    console.line(_text(found))


def _one_board(records: list[Record], told: str, protocol: Mapping[str, str]) -> list[Record]:
    """The records, of the one board that has the settings.

    Raises:
        UnknownName: there are none.
        UsageError: several boards have them.
    """
    from lazybench.boards.build import one_table

    found = one_table(records, protocol)
    if not found:
        asked = "".join(f", {name}={value}" for name, value in protocol.items())
        raise UnknownName(f"no records of {told}{asked}; see: lazybench leaderboard")
    return found


def _text(found: Comparison) -> str:
    sign = f" {found.unit}"
    rows = [
        (
            side.name,
            f"{side.summary.mean:.2f}",
            f"{side.summary.lo:.2f} to {side.summary.hi:.2f}",
            f"{side.summary.seed_std:.2f}" if side.summary.n_seeds > 1 else "",
            str(side.summary.n_seeds),
            str(side.summary.n_trials),
            " ".join(side.keys),
        )
        for side in (found.left, found.right)
    ]
    head = (
        "row",
        f"{found.metric}{sign}",
        "95 % interval",
        "std over seeds",
        "seeds",
        "trials",
        "keys",
    )
    mean, lo, hi, p = found.difference
    told = (
        f"{found.left.name} - {found.right.name}: {mean:+.2f}{sign} "
        f"(95 % interval {lo:+.2f} to {hi:+.2f}, p = {p:.2g}); {found.better} is better"
    )
    return "\n".join(
        [console.table(head, rows, columns=console.width()), told, *filter(None, [found.note])]
    )


def _facts(found: Comparison) -> dict[str, object]:
    sides = {
        name: {"name": side.name, "keys": list(side.keys), **side.summary._asdict()}
        for name, side in (("left", found.left), ("right", found.right))
    }
    plain = {
        name: value
        for name, value in asdict(found).items()
        if name not in ("left", "right", "difference")
    }
    return {**plain, **sides, "difference": found.difference._asdict()}


def _draw(found: Comparison, path: Path) -> None:
    """Write a scatter of the trials' scores.

    Raises:
        LazybenchError: matplotlib isn't installed.
        UsageError: the picture's kind isn't known.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot takes a .png or .svg file, got '{path}'")
    from lazybench.boards.plots import compare_picture
    from lazybench.records import write_bytes

    write_bytes(path, compare_picture(found, path.suffix.lower()[1:]))


TABLE_HELP = "Print agents against environments: best bold, ties underlined, average rank."
TABLE_EXAMPLES = (
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
    from lazybench.boards import pivot
    from lazybench.boards import pivot as pivot_text
    from lazybench.cli.leaderboard import env_id
    from lazybench.records import Store
    from lazybench.runner.request import check_budget

    check_budget(budget)
    if budget == "smoke":
        raise UsageError(
            "a table is made of ranked rows and smoke runs are never ranked; got "
            "--budget smoke; take small, medium or paper"
        )
    records = Store(need_folder(out_dir, "--out")).records()
    for skipped in records.skipped:
        console.note(console.one_line(str(skipped)))
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
    console.text(render(table, command=shlex.join(["lazybench", "table", *asked])))


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
    from lazybench.boards.pivot import Wanted

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
    from lazybench.boards.pivot import unfilled
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
