"""The tables and figures of the lazy paper as cells that can be run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lazybench.errors import UnknownName, nearest
from lazybench.records.fields import Reported
from lazybench.sweep.suite import SuiteCell

PLACES: Mapping[str, str] = {
    "table1": "Table 1",
    "table2": "Table 2",
    "table3": "Table 3",
    "table5": "Table 5",
    "table6": "Table 6",
    "table7": "Table 7",
    "fig2-left": "Figure 2 (left)",
    "fig2-right": "Figure 2 (right)",
    "fig3": "Figure 3",
    "fig4-left": "Figure 4 (left)",
    "fig4-right": "Figure 4 (right)",
    "50shot": "Appendix A.6, text",
}
"""What a table or figure is called on the command line, and in the files of reported numbers."""

ALL, CLAIMS, VALIDITY = "all", "claims", "validity"

ELSEWHERE: Mapping[str, str] = {
    "fig3": "Figure 3 is no score: it states that the lazy teacher stays under 5 GB, and that MAML "
    "needs 12 GB after 5 steps. `make cost` in a checkout measures memory, time and the norm of "
    "the meta-gradient against inner steps; docs/cost.md has what was measured.",
}
"""What isn't reproduced by running cells, and where it is."""


def rows_of(name: str, reported: Iterable[Reported]) -> list[Reported]:
    """Return the reported rows of a table or figure, or of `all`, in their order.

    Raises:
        UnknownName: no such table or figure.
    """
    if name not in PLACES and name != ALL:
        names = (*PLACES, ALL, CLAIMS, VALIDITY)
        raise UnknownName(
            f"nothing called '{name}' to reproduce.{nearest(name, names)} Names: {', '.join(names)}"
        )
    wanted = set(PLACES.values()) if name == ALL else {PLACES[name]}
    return [row for row in reported if row.table in wanted]


def cells(rows: Iterable[Reported], budget: str, seeds: Sequence[int]) -> list[SuiteCell]:
    """Return the cells that the rows of agents of ours stand for, each once.

    Args:
        rows: reported numbers; several may be of one cell.
        budget: `smoke`, `small` or `paper`.
        seeds: of each cell.
    """
    found: dict[str, SuiteCell] = {}
    for row in rows:
        if row.agent is None:
            continue
        norm = {"batch_norm": row.batch_norm} if row.batch_norm == "inductive" else {}
        for seed in seeds:
            cell = SuiteCell(row.agent, row.env, seed, budget, {**row.settings, **norm})
            found.setdefault(cell.name, cell)
    return list(found.values())
