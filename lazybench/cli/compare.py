"""`lazybench compare`: two agents on the trials that both faced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.checks import need_folder
from lazybench.cli import options, out
from lazybench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.boards.compare import Comparison
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
    from lazybench.harness.environment import check_budget, resolve_env
    from lazybench.records import Store

    spec, note = resolve_env(env)
    if note and not json:
        out.note(note)
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
        out.as_json(_facts(found))
        return
    out.line(_text(found))


def _one_board(records: list[Record], told: str, protocol: Mapping[str, str]) -> list[Record]:
    """The records, of the one board that has the settings.

    Raises:
        UnknownName: there are none.
        UsageError: several boards have them.
    """
    from lazybench.boards.choose import one_table

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
        [out.table(head, rows, columns=out.width()), told, *filter(None, [found.note])]
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
    from lazybench.boards.compare_picture import compare_picture
    from lazybench.records import write_bytes

    write_bytes(path, compare_picture(found, path.suffix.lower()[1:]))
