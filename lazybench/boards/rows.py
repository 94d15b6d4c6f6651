"""One row of a board from the runs that differ in the seed alone."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazybench.records.atomic import canonical_json
from lazybench.records.parts import Cost
from lazybench.records.schema import Record
from lazybench.stats import Difference, over_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Settings that a column shows, so that neither the row's name nor the board's head needn't.
SHOWN = frozenset({"batch_norm"})
_LONGEST_OVERRIDES = 80
_AGREE = 1e-4


@dataclass(frozen=True)
class Row:
    """One agent in one configuration, over its seeds.

    Attributes:
        rank: 1 for the best, shared inside a tied group; None where the row isn't ranked.
        agent: name shown: the id, with overrides and what else tells it from its neighbours.
        agent_id: the agent's id.
        score: mean score in the board's unit; None where there is none.
        lo: lower end of the 95 % interval; None where it can't be told.
        hi: upper end of the 95 % interval.
        diff: paired difference to the best row in the board's unit; None for the best row itself
            and where the trials aren't the same.
        seeds: the seeds.
        trials: trials of each seed.
        batch_norm: `transductive`, `inductive`, … or None where the agent has no such switch.
        train_wall_s: seconds, mean over seeds, as are all costs but the memory.
        eval_wall_s: seconds.
        peak_memory_mb: the largest over seeds, in 10^6 bytes.
        inner_steps: steps of inner loops, training and evaluation.
        outer_steps: meta-iterations.
        image_gradients: images that a gradient was taken of.
        queries: rows that a target was asked for.
        tuned: whether the preset was tuned with the same effort as the others.
        versions: package versions that ran it.
        marks: what a reader must know (dirty, limited, external, diverged 1 of 3, …).
        reason: why there is no score.
        keys: the first 12 digits of the records' keys, by seed.
    """

    rank: int | None
    agent: str
    agent_id: str
    score: float | None
    lo: float | None
    hi: float | None
    diff: Difference | None
    seeds: tuple[int, ...]
    trials: int
    batch_norm: str | None
    train_wall_s: float | None
    eval_wall_s: float | None
    peak_memory_mb: float | None
    inner_steps: float | None
    outer_steps: float | None
    image_gradients: float | None
    queries: float | None
    tuned: bool
    versions: tuple[str, ...]
    marks: tuple[str, ...]
    reason: str | None
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Attributes:
        records: all of them, by seed.
        name: the row's name.
    """

    records: tuple[Record, ...]
    name: str

    @property
    def scored(self) -> list[Record]:
        """Those that have a score."""
        return [record for record in self.records if score_of(record) is not None]

    def trial_scores(self) -> list[NDArray[Any]] | None:
        """Each scored seed's [n] trial scores, or None where they aren't what the score is of.

        An env may judge by something other than the mean over trials; then the trials' scores
        give neither an interval nor a paired difference.
        """
        arrays = []
        for record in self.scored:
            scores, score = record.trials.scores_array(), score_of(record)
            if score is None or not _is_mean_of(score, scores):
                return None
            arrays.append(scores)
        return arrays or None


def _is_mean_of(score: float, scores: NDArray[Any]) -> bool:
    if scores.size == 0:
        return False
    mean = float(scores.astype("<f8").mean())
    return math.isfinite(mean) and abs(mean - score) <= _AGREE * max(1.0, abs(score))


def score_of(record: Record) -> float | None:
    """The record's score in its env's unit; None unless the run ended well."""
    if record.status != "ok":
        return None
    metric = record.metrics.get(record.env.metric)
    if metric is not None:
        return metric.value
    scores = record.trials.scores_array()
    mean = float(scores.astype("<f8").mean()) if scores.size else math.nan
    return mean if math.isfinite(mean) else None


def factor(record: Record) -> float:
    """What a score is multiplied by to stand on the board: 100 for fractions."""
    return 100.0 if record.env.unit == "fraction" else 1.0


def batch_norm(record: Record) -> str | None:
    """Whose batch statistics judged the run, from its config or protocol; None without any."""
    value = record.config.get("batch_norm", record.env.protocol.get("batch_norm"))
    return None if value is None else str(value)


def groups(records: Iterable[Record]) -> list[Group]:
    """The records by everything but the seed, each group under a name of its own."""
    members: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        members[_sameness(record)].append(record)
    ordered = sorted(members.items(), key=lambda item: (item[1][0].agent.id, item[0]))
    firsts = [group[0] for _, group in ordered]
    names = [_name(first, firsts) for first in firsts]
    shown = Counter((n, batch_norm(r), r.limited) for n, r in zip(names, firsts, strict=True))
    result = []
    for (digest, group), name, first in zip(ordered, names, firsts, strict=True):
        unique = shown[name, batch_norm(first), first.limited] == 1
        by_seed = sorted(group, key=lambda record: (record.seed, record.key))
        result.append(Group(tuple(by_seed), name if unique else f"{name} #{digest[:6]}"))
    return result


def _sameness(record: Record) -> str:
    same = {name: value for name, value in record.identity().items() if name != "seed"}
    same |= {"kind": record.kind, "origin": record.agent.origin, "by": record.agent.trained_by}
    return hashlib.sha256(canonical_json(same).encode("ascii")).hexdigest()


def _name(record: Record, others: Sequence[Record]) -> str:
    """The agent's id, its overrides, and what else differs among the rows of that agent."""
    parts = []
    for key, value in sorted(record.overrides.items()):
        if key not in SHOWN:
            text = value if isinstance(value, str) else canonical_json(value)
            parts.append(f"{key}={' '.join(text.split())}")
    text = ", ".join(parts)
    if len(text) > _LONGEST_OVERRIDES:
        text = text[: _LONGEST_OVERRIDES - 1] + "…"
    parts = [text] if text else []
    rows = [_varying(other) for other in others if other.agent.id == record.agent.id]
    for key, value in _varying(record).items():
        if value and len({row[key] for row in rows}) > 1:
            parts.append(value)
    return f"{record.agent.id} ({', '.join(parts)})" if parts else record.agent.id


def _varying(record: Record) -> dict[str, str]:
    return {
        "preset": record.preset,
        "origin": record.agent.origin,
        "precision": record.precision,
        "device": record.device,
        "world": f"{record.world_size} processes",
    }


def _marks(group: Group, mixed_devices: bool) -> tuple[str, ...]:
    first, records = group.records[0], group.records
    lost = Counter(_loss(record) for record in records if score_of(record) is None)
    marks = [
        ("dirty", any(record.code.dirty for record in records)),
        ("limited", first.limited),
        ("smoke", first.budget == "smoke"),
        ("external", first.agent.trained_by == "external"),
        ("submitted", first.kind == "submitted"),
        ("data-subset", "subset" in first.data.source),
        (f"trained on {first.trained_on}", first.trained_on not in (None, first.env.id)),
        (first.device, mixed_devices),
    ]
    counted = [f"{status} {n} of {len(records)}" for status, n in sorted(lost.items())]
    return tuple([mark for mark, holds in marks if holds] + counted)


def _loss(record: Record) -> str:
    return "no score" if record.status == "ok" else record.status


def _mean(costs: Sequence[Cost], name: str) -> float | None:
    values = [value for cost in costs if (value := getattr(cost, name)) is not None]
    return sum(values) / len(values) if values else None


def row_of(group: Group, *, mixed_devices: bool) -> Row:
    """The row of a group with at least one score, not ranked yet."""
    scored, first = group.scored, group.records[0]
    scale = factor(first)
    values = [value for record in scored if (value := score_of(record)) is not None]
    mean = sum(values) / len(values)
    ends: tuple[float | None, float | None] = (None, None)
    trials = group.trial_scores()
    if trials is not None:
        summary = over_seeds(trials)
        ends = (summary.lo, summary.hi)
    elif len(values) > 1:
        # No trials behind the score: the seeds are all that is random.
        summary = over_seeds([[value] for value in values])
        ends = (summary.lo, summary.hi)
    elif (metric := scored[0].metrics.get(first.env.metric)) is not None:
        ends = metric.ci95 or ends
    lo, hi = (_end(x, first.env.unit) for x in ends)
    metrics = [record.metrics.get(first.env.metric) for record in scored]
    counts = [record.trials.n for record in scored if record.trials.n]
    counts = counts or [metric.n for metric in metrics if metric is not None]
    return Row(
        rank=None,
        agent=group.name,
        agent_id=first.agent.id,
        score=mean * scale,
        lo=lo,
        hi=hi,
        diff=None,
        seeds=tuple(record.seed for record in scored),
        trials=min(counts, default=0),
        marks=_marks(group, mixed_devices),
        reason=None,
        **_facts(scored),
    )


def _end(value: float | None, unit: str) -> float | None:
    """The end of an interval on the board; that of a fraction stays within 0 and 100 %."""
    if value is None or not math.isfinite(value):
        return None
    return 100 * min(1.0, max(0.0, value)) if unit == "fraction" else value


def failed_row(record: Record, name: str, *, mixed_devices: bool) -> Row:
    """The row of one run without a score, with the reason."""
    reason = " ".join((record.reason or "").split())
    status = _loss(record)
    return Row(
        rank=None,
        agent=name,
        agent_id=record.agent.id,
        score=None,
        lo=None,
        hi=None,
        diff=None,
        seeds=(record.seed,),
        trials=record.trials.n,
        marks=_marks(Group((record,), name), mixed_devices)[:-1],
        reason=f"{status}: {reason}" if reason else status,
        **_facts([record]),
    )


def _facts(records: Sequence[Record]) -> dict[str, Any]:
    costs = [record.cost for record in records]
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    names = ("train_wall_s", "eval_wall_s", "inner_steps", "outer_steps", "image_gradients")
    return {name: _mean(costs, name) for name in (*names, "queries")} | {
        "batch_norm": batch_norm(records[0]),
        "peak_memory_mb": max(peaks) / 1e6 if peaks else None,
        "tuned": not any(record.untuned for record in records),
        "versions": tuple(sorted({record.code.version for record in records})),
        "keys": tuple(record.key12 for record in records),
    }
