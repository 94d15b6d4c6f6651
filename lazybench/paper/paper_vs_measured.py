"""What papers report beside what was measured here, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lazybench.boards.group import TRANSDUCTIVE, Group, batch_norm, end_of, groups, newest
from lazybench.records.fields import Reported
from lazybench.records.schema import Record
from lazybench.stats import over_seeds


@dataclass(frozen=True)
class Measured:
    """What was measured of a reported cell, in its unit.

    Attributes:
        value: mean over the seeds.
        lo: lower end of the 95 % interval; None where it can't be told.
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
class Beside:
    """A reported number and the measured one.

    Attributes:
        reported: the number and where it stands.
        measured: None where nothing was.
        difference: measured less reported; None where one of them is missing.
        same_protocol: whether what was measured follows the paper's protocol, as far as it is
            printed; None where nothing was measured.
        note: in what the protocols differ, or why nothing was measured.
    """

    reported: Reported
    measured: Measured | None
    difference: float | None
    same_protocol: bool | None
    note: str


def beside(
    reported: Iterable[Reported],
    records: Sequence[Record],
    budget: str,
    whys: Mapping[tuple[str, str], str] | None = None,
) -> list[Beside]:
    """Return each reported number with what the records of a budget have of it.

    A row's cell is its agent on its environment with its settings and batch norm (transductive
    where the paper doesn't tell), on all official trials, trained there.

    Args:
        reported: rows of papers.
        records: any records.
        budget: of the records.
        whys: why cells can't be run or have no score, by agent and environment.
    """
    whole = [
        record
        for record in records
        if (record.budget, record.limited, record.trained_on) == (budget, False, None)
        and record.agent.trained_by != "external"
    ]
    rows = groups(whole)
    whys = whys or {}
    return [_one(row, _cell(row, rows), whys.get((row.agent or "", row.env))) for row in reported]


def _cell(row: Reported, found: Sequence[Group]) -> Group | None:
    """The group of a row's cell, of the newest version of its agent."""
    wanted = row.batch_norm or TRANSDUCTIVE
    ours = [
        group
        for group in found
        if (group.records[0].env.id, group.records[0].agent.origin) == (row.env, "lazybench")
    ]
    return newest(ours, row.agent, row.settings, wanted)


def _one(row: Reported, group: Group | None, why: str | None) -> Beside:
    measured = None if group is None else _measured(row, group)
    if group is None or measured is None:
        return Beside(row, None, None, None, _noted([_unmeasured(row, group, why)], row))
    differs = _differences(row, group)
    difference = None if row.value is None else measured.value - row.value
    return Beside(row, measured, difference, not differs, _noted(differs, row))


def _noted(notes: Sequence[str], row: Reported) -> str:
    """Our notes, and the one that the reported number has itself."""
    return "; ".join([*notes, *([row.note] if row.note else [])])


def _unmeasured(row: Reported, group: Group | None, why: str | None) -> str:
    """Why a cell has no number."""
    if row.agent is None:
        return "not measured: lazybench has no such agent"
    if group is not None and group.scored:
        # Such as the distance of successes where nothing succeeded.
        return "its runs have no value of this, as where nothing succeeded"
    return "not measured yet" if why is None else f"not measured: {why}"


def _measured(row: Reported, group: Group) -> Measured | None:
    """What a group has of a row's metric; None where no record has it."""
    held = [record for record in group.scored if row.metric in record.metrics]
    told = [(record, record.metrics[row.metric]) for record in held]
    values = [
        metric.value * (100.0 if metric.unit == "fraction" else 1.0)
        for _, metric in told
        if metric.value is not None
    ]
    if not values or len(values) < len(told):
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
    """In what the measured cell's protocol differs from what the paper prints."""
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
        found.append("the paper doesn't tell its batch norm here")
    if first.env.family == "attack":
        limit = first.env.protocol.get("query_budget")
        found.append(f"{first.trials.n} images, at most {limit} queries each")
    return found
