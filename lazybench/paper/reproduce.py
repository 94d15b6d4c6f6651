"""The tables and figures of the lazy paper: runs for each number, and paper versus measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lazybench.boards.build import usual_tables
from lazybench.boards.group import (
    TRANSDUCTIVE,
    Group,
    batch_norm,
    end_of,
    groups,
    is_own,
    newest,
)
from lazybench.errors import UnknownName, nearest
from lazybench.records.schema import Record, Reported
from lazybench.stats import over_seeds
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
"""Names of tables and figures on the command line, and in the files of reported numbers."""

ALL, CLAIMS, VALIDITY = "all", "claims", "validity"

ELSEWHERE: Mapping[str, str] = {
    "fig3": "Figure 3 is no score: it states that the lazy teacher stays under 5 GB, and that MAML "
    "needs 12 GB after 5 steps. `make cost` in a checkout measures memory, time and the norm of "
    "the meta-gradient against inner steps; docs/cost.md has what was measured.",
}
"""Figures that no run reproduces, and where they are reproduced."""


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
    """Return the runs behind the rows of our agents, each once.

    Args:
        rows: reported numbers; several may be of one run.
        budget: `smoke`, `small` or `paper`.
        seeds: of each run.
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


@dataclass(frozen=True)
class Measured:
    """The measured value of a reported number, in its unit.

    Attributes:
        value: mean over the seeds.
        lo: lower end of the 95 % interval; None if it is unknown.
        hi: upper end.
        seeds: the seeds.
        keys: the first 12 digits of the records' keys.
    """

    value: float
    lo: float | None
    hi: float | None
    seeds: tuple[int, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class PaperVsMeasured:
    """A reported number and the measured one.

    Attributes:
        reported: the number and where it was published.
        measured: None if nothing was.
        difference: measured less reported; None if one of them is missing.
        same_protocol: whether the runs follow the paper's protocol, as far as it is published;
            None if nothing was measured.
        note: how the protocols differ, or why nothing was measured.
    """

    reported: Reported
    measured: Measured | None
    difference: float | None
    same_protocol: bool | None
    note: str


def paper_vs_measured(
    reported: Iterable[Reported],
    records: Sequence[Record],
    budget: str,
    whys: Mapping[tuple[str, str], str] | None = None,
) -> list[PaperVsMeasured]:
    """Return each reported number with the measured one at a budget.

    It is measured by the row's agent, trained and tested on its environment with its settings and
    batch norm (transductive where the paper doesn't say), on all official trials.

    Args:
        reported: rows of papers.
        records: any records.
        budget: of the records.
        whys: why runs are impossible or have no score, by agent and environment.
    """
    usual = usual_tables(r for r in records if (r.budget, r.limited) == (budget, False))
    rows = [row for table in usual for row in groups(filter(is_own, table))]
    whys = whys or {}
    return [_one(row, _cell(row, rows), whys.get((row.agent or "", row.env))) for row in reported]


def _cell(row: Reported, found: Sequence[Group]) -> Group | None:
    """The runs of a row, with the newest version of its agent."""
    wanted = row.batch_norm or TRANSDUCTIVE
    ours = [group for group in found if group.records[0].env.id == row.env]
    return newest(ours, row.agent, row.settings, wanted)


def _one(row: Reported, group: Group | None, why: str | None) -> PaperVsMeasured:
    measured = None if group is None else _measured(row, group)
    if group is None or measured is None:
        return PaperVsMeasured(row, None, None, None, _noted([_unmeasured(row, group, why)], row))
    differs = _differences(row, group)
    difference = None if row.value is None else measured.value - row.value
    return PaperVsMeasured(row, measured, difference, not differs, _noted(differs, row))


def _noted(notes: Sequence[str], row: Reported) -> str:
    """Our notes and that of the reported number."""
    return "; ".join([*notes, *([row.note] if row.note else [])])


def _unmeasured(row: Reported, group: Group | None, why: str | None) -> str:
    """Why nothing was measured."""
    if row.agent is None:
        return "not measured: lazybench has no such agent"
    if group is not None and group.scored:
        # Such as the distance of successes where nothing succeeded.
        return "its runs have no value of this, as where nothing succeeded"
    return "not measured yet" if why is None else f"not measured: {why}"


def _measured(row: Reported, group: Group) -> Measured | None:
    """A group's mean of a row's metric; None if no record has it."""
    held = [record for record in group.scored if row.metric in record.metrics]
    found = [record.metrics[row.metric] for record in held]
    values = [
        metric.value * (100.0 if metric.unit == "fraction" else 1.0)
        for metric in found
        if metric.value is not None
    ]
    if not values or len(values) < len(found):
        return None
    lo = hi = None
    trials = group.trial_scores() if row.metric == held[0].env.metric else None
    if trials is not None:
        summary = over_seeds(trials)
        lo, hi = (end_of(end, held[0]) for end in (summary.lo, summary.hi))
    elif len(values) > 1:
        summary = over_seeds([[value] for value in values])
        lo, hi = summary.lo, summary.hi
    return Measured(
        sum(values) / len(values),
        lo,
        hi,
        tuple(record.seed for record in held),
        tuple(record.key12 for record in held),
    )


def _differences(row: Reported, group: Group) -> list[str]:
    """How the protocol of the runs differs from the paper's."""
    first = group.records[0]
    found = []
    if first.budget != "paper":
        effort = first.cost.image_gradients
        trained = "" if not effort else f" ({effort:,.0f} image-gradients)"
        found.append(f"budget {first.budget}{trained}, not the paper's")
    if "subset" in first.data.source:
        found.append("a subset of the data")
    if "re-made" in first.data.source:
        found.append("a re-made split")
    if row.batch_norm is None and batch_norm(first) is not None:
        found.append("the paper doesn't state its batch norm here")
    if first.env.family == "attack":
        limit = first.env.protocol.get("query_budget")
        found.append(f"{first.trials.n} images, at most {limit} queries each")
    return found
