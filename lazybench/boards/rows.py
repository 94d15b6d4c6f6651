"""Rows of boards, each from a group of runs that differ only in their seed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lazybench.boards.class_shift import ClassShift, class_shift
from lazybench.boards.flags import flags
from lazybench.boards.group import (
    Group,
    batch_norm,
    bounded,
    end_of,
    factor,
    is_drawable,
    is_usable,
    rank_group,
    score_of,
    weights_of,
)
from lazybench.data.importing.catalogue import overlap
from lazybench.errors import UnknownName
from lazybench.records.schema import Cost, Record
from lazybench.registry import ENVS
from lazybench.specs import EnvSpec
from lazybench.stats import Difference, over_seeds


@dataclass(frozen=True)
class ToTarget:
    """Cost of training until validation first reached a target.

    Choice: medians are over all seeds, of which one that never reaches the target counts as
    infinite; a median over those alone that do would favour agents that rarely get there.

    Attributes:
        target: level of the validation metric, in the board's unit.
        train_cpu_s: processor seconds of training, without validation, median over seeds; None
            where at least half of the seeds don't reach the target.
        image_gradients: images that a gradient was taken of, median over seeds; None in that case
            and where the agent doesn't count them.
        reached: seeds that reach the target.
        seeds: seeds whose validations carry their cost.
        processors: names of the processors, and of the GPUs where those trained.
    """

    target: float
    train_cpu_s: float | None
    image_gradients: float | None
    reached: int
    seeds: int
    processors: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One agent in one configuration, over its seeds.

    Attributes:
        rank: 1 for the best, shared inside a tied group; None if the row isn't ranked.
        ranks: the highest and lowest rank that its comparisons allow; None if the row or all
            others have too few seeds.
        agent: name shown: the id, with overrides and whatever else differs among its rows.
        agent_id: the agent's id.
        score: mean score in the board's unit; None if there is none.
        lo: lower end of the 95 % interval; None if it is unknown.
        hi: upper end of the 95 % interval.
        classes_lo: lower end of the 95 % interval over the trials' classes, too; None if these
            aren't known or aren't a sample.
        classes_hi: upper end of that interval.
        seed_std: standard deviation of the seeds' means in the board's unit; None for one seed.
        diff: paired difference to the best row in the board's unit; None for the best row itself
            and where the trials aren't the same.
        seeds: the seeds.
        trials: trials of each seed.
        batch_norm: `transductive`, `inductive`, … or None if the agent has no such switch.
        backbone: name of the network; None if the agent has none or it is unknown.
        parameters: number of trained parameters, head included.
        weights: `fresh`, or where the weights come from that training started from; of a
            pre-trained backbone or its features, what these weights were trained on.
        rank_group: names the rows that it is ranked among: those of equal backbone and weights.
        train_wall_s: seconds, mean over seeds, as are all costs but the memory.
        eval_wall_s: seconds.
        train_cpu_s: processor seconds over all threads, which other work on the machine changes
            far less.
        peak_memory_mb: the largest over seeds, in 10^6 bytes.
        peak_gpu_memory_mb: the most that tensors took on a GPU, the largest over seeds, in 10^6
            bytes; None for runs on a CPU.
        inner_steps: steps of inner loops, training and evaluation.
        outer_steps: meta-iterations.
        image_gradients: images that a gradient was taken of.
        queries: rows that a target predicted.
        gradient_equivalents: forward and backward passes on one mini-batch that training cost.
        track: what data the training used, where the environment offers more than one kind.
        measures: further metrics by name with their unit, mean over seeds; `fraction` as `%`.
        tuned: whether the preset was tuned with the same effort as the others.
        tuning_trials: configurations that a search tried for the row's settings, mean over seeds;
            None if they are the preset's or the caller's.
        to_target: what training cost until each target of the environment; None if it has
            none, and where the records' validations don't carry their cost.
        class_shift: results under other test distributions, of a long tail whose records keep the
            answer to each test image; None for others.
        versions: package versions that ran it.
        marks: what a reader must know (dirty, limited, external, diverged 1 of 3, …), what any
            run's diagnostics say of it, and its flags (below baseline, still rising).
        reason: why there is no score.
        keys: the first 12 digits of the records' keys, by seed.
    """

    rank: int | None
    ranks: tuple[int, int] | None
    agent: str
    agent_id: str
    score: float | None
    lo: float | None
    hi: float | None
    classes_lo: float | None
    classes_hi: float | None
    seed_std: float | None
    diff: Difference | None
    seeds: tuple[int, ...]
    trials: int
    batch_norm: str | None
    backbone: str | None
    parameters: int | None
    weights: str | None
    rank_group: str
    train_wall_s: float | None
    eval_wall_s: float | None
    train_cpu_s: float | None
    peak_memory_mb: float | None
    peak_gpu_memory_mb: float | None
    inner_steps: float | None
    outer_steps: float | None
    image_gradients: float | None
    queries: float | None
    gradient_equivalents: float | None
    track: str | None
    measures: tuple[tuple[str, str, float], ...]
    tuned: bool
    tuning_trials: float | None
    to_target: tuple[ToTarget, ...] | None
    class_shift: ClassShift | None
    versions: tuple[str, ...]
    marks: tuple[str, ...]
    reason: str | None
    keys: tuple[str, ...]


_ROUNDING = 1e-9
_TUNING = (
    ("tuning_image_gradients", "images", "image_gradients"),
    ("tuning_cpu_s", "s", "cpu_s"),
)
"""Columns of what a search of settings cost: name, unit, and its name in the record."""


def _marks(group: Group, mixed_devices: bool) -> tuple[str, ...]:
    first, records = group.records[0], group.records
    lost = Counter(_loss(record) for record in records if score_of(record) is None)
    marks = [
        ("dirty", any(record.code.dirty for record in records)),
        ("limited", first.limited),
        ("smoke", "smoke" in (first.budget, first.preset)),
        ("external", first.agent.trained_by == "external"),
        ("submitted", first.kind == "submitted"),
        ("data-subset", "subset" in first.data.source),
        ("overlap", overlap(first.data.name, weights_of(first))),
        (f"trained on {first.trained_on}", first.trained_on not in (None, first.env.id)),
        (first.device, mixed_devices),
    ]
    flags = dict.fromkeys(
        name for record in records for name, value in record.diagnostics.items() if value is True
    )
    marks += [(name.replace("_", "-"), True) for name in flags]
    counted = [f"{status} {n} of {len(records)}" for status, n in sorted(lost.items())]
    return tuple([mark for mark, holds in marks if holds] + counted)


def _loss(record: Record) -> str:
    return "no score" if record.status == "ok" else record.status


def _mean(costs: Sequence[Cost], name: str) -> float | None:
    values = [bounded(value) for cost in costs if (value := vars(cost)[name]) is not None]
    return bounded(sum(values) / len(values)) if values else None


def row_of(group: Group, rows: Sequence[Group], *, mixed_devices: bool) -> Row:
    """The row of a group with at least one score, not ranked yet.

    Args:
        group: the runs of the row.
        rows: all groups of the board, which has the baselines.
        mixed_devices: whether the board has runs of several devices.
    """
    scored, first = group.scored, group.records[0]
    scale = factor(first)
    values = [value for record in scored if (value := score_of(record)) is not None]
    # Exact, so that a mean over equal scores is that score and shares its rank.
    mean = statistics.mean(values)
    ends: tuple[float | None, float | None] = (None, None)
    over_classes: tuple[float | None, float | None] = (None, None)
    trials = group.trial_scores()
    if trials is not None:
        summary, effects = over_seeds(trials), group.class_effects()
        ends = (summary.lo, summary.hi)
        if effects is not None:
            summary = over_seeds(trials, effects)
            over_classes = (summary.lo, summary.hi)
    elif len(values) > 1 and is_usable(values):
        # No trials behind the score: the seeds are all that is random.
        summary = over_seeds([[value] for value in values])
        ends = (summary.lo, summary.hi)
    elif (metric := scored[0].metrics.get(first.env.metric)) is not None:
        ends = metric.ci95 or ends
    lo, hi, classes_lo, classes_hi = (
        None if x is None or not math.isfinite(x) else end_of(x, first)
        for x in (*ends, *over_classes)
    )
    spread = bounded(statistics.stdev(values) * scale) if len(values) > 1 else None
    metrics = [record.metrics.get(first.env.metric) for record in scored]
    counts = [record.trials.n for record in scored if record.trials.n]
    counts = counts or [metric.n for metric in metrics if metric is not None]
    return Row(
        rank=None,
        ranks=None,
        agent=group.name,
        agent_id=first.agent.id,
        score=bounded(mean * scale),
        lo=lo,
        hi=hi,
        classes_lo=classes_lo,
        classes_hi=classes_hi,
        seed_std=spread,
        diff=None,
        seeds=tuple(record.seed for record in scored),
        trials=min(counts, default=0),
        to_target=_to_target(group.records),
        class_shift=class_shift(group),
        marks=(*_marks(group, mixed_devices), *flags(group, rows)),
        reason=None,
        **_facts(scored),
    )


def failed_row(record: Record, name: str, *, mixed_devices: bool) -> Row:
    """The row of one run without a score, with the reason."""
    reason = " ".join((record.reason or "").split())
    status = _loss(record)
    return Row(
        rank=None,
        ranks=None,
        agent=name,
        agent_id=record.agent.id,
        score=None,
        lo=None,
        hi=None,
        classes_lo=None,
        classes_hi=None,
        seed_std=None,
        diff=None,
        seeds=(record.seed,),
        trials=record.trials.n,
        to_target=None,
        class_shift=None,
        marks=_marks(Group((record,), name), mixed_devices)[:-1],
        reason=f"{status}: {reason}" if reason else status,
        **_facts([record]),
    )


def _facts(records: Sequence[Record]) -> dict[str, Any]:
    costs = [record.cost for record in records]
    network = records[0].network
    names = (
        "train_wall_s",
        "eval_wall_s",
        "train_cpu_s",
        "inner_steps",
        "outer_steps",
        "image_gradients",
        "queries",
        "gradient_equivalents",
    )
    return {name: _mean(costs, name) for name in names} | {
        "track": records[0].track,
        "measures": _measures(records),
        "batch_norm": batch_norm(records[0]),
        "backbone": None if network is None else network.name,
        "parameters": None if network is None else network.parameters,
        "weights": weights_of(records[0]),
        "rank_group": rank_group(records[0]),
        "peak_memory_mb": _largest_mb(cost.peak_memory_bytes for cost in costs),
        "peak_gpu_memory_mb": _largest_mb(cost.peak_gpu_memory_bytes for cost in costs),
        "tuned": not any(record.untuned for record in records),
        "tuning_trials": _tuning(records, "trials"),
        "versions": tuple(sorted({record.code.version for record in records})),
        "keys": tuple(record.key12 for record in records),
    }


def _to_target(records: Sequence[Record]) -> tuple[ToTarget, ...] | None:
    """What training cost until each target, over the runs whose validations carry their cost."""
    timed = [
        record
        for record in records
        if record.trained_on is None
        # A run that diverged before its first validation never reaches a target.
        and (record.curve or score_of(record) is None)
        and all(is_drawable(point.get("train_cpu_s")) for point in record.curve)
    ]
    if not any(record.curve for record in timed):
        return None
    try:
        spec: EnvSpec = ENVS.resolve(records[0].env.id).spec
    except UnknownName:
        return None
    scale = factor(records[0])
    entries = []
    for target in spec.targets:
        points = [_first_at(record, target, spec.validation[1]) for record in timed]
        entries.append(
            ToTarget(
                target=target * scale,
                train_cpu_s=_median(points, "train_cpu_s"),
                image_gradients=_median(points, "image_gradients"),
                reached=sum(point is not None for point in points),
                seeds=len(timed),
                processors=tuple(sorted({_processor(record) for record in timed})),
            )
        )
    return tuple(entries) or None


def _first_at(record: Record, target: float, better: str) -> dict[str, Any] | None:
    """The first validation of a run that is at least as good as a target; None without any."""
    sign = 1.0 if better == "higher" else -1.0
    values = ((point, point.get("val")) for point in record.curve)
    return next(
        (
            point
            for point, value in values
            # A mean over trials may miss a round number by the last bits.
            if is_drawable(value) and sign * value >= sign * target - _ROUNDING
        ),
        None,
    )


def _median(points: Sequence[dict[str, Any] | None], name: str) -> float | None:
    """The median cost, infinite for runs without a point; None if it isn't finite or known."""
    costs = [math.inf if point is None else point.get(name) for point in points]
    known = [cost for cost in costs if cost == math.inf or is_drawable(cost)]
    middle = statistics.median(known) if len(known) == len(costs) else math.inf
    return None if math.isinf(middle) else float(middle)


def _processor(record: Record) -> str:
    """The processor that trained a run, in the words of its maker without the marks."""
    machine = record.machine
    names = [machine.processor] if machine.gpu is None else [machine.processor, machine.gpu]
    plain = (name.replace("(R)", "").replace("(TM)", "") for name in names)
    return ", ".join(" ".join(name.split()) for name in plain)


def _largest_mb(sizes: Iterable[int | None]) -> float | None:
    known = [size for size in sizes if size is not None]
    return bounded(max(known)) / 1e6 if known else None


def _measures(records: Sequence[Record]) -> tuple[tuple[str, str, float], ...]:
    """Name, unit and mean over the records of each metric but the headline one."""
    names = dict.fromkeys(name for record in records for name in record.metrics)
    names.pop(records[0].env.metric, None)
    measures = []
    for name in names:
        held = [record.metrics[name] for record in records if name in record.metrics]
        values = [metric.value for metric in held if metric.value is not None]
        if values:
            fraction = held[0].unit == "fraction"
            mean = sum(values) / len(values) * (100.0 if fraction else 1.0)
            measures.append((name, "%" if fraction else held[0].unit, bounded(mean)))
    # Columns that are there only where a row has them, as those of further metrics.
    for name, unit, attribute in _TUNING:
        cost = _tuning(records, attribute)
        if cost is not None:
            measures.append((name, unit, cost))
    return tuple(measures)


def _tuning(records: Sequence[Record], name: str) -> float | None:
    """The mean of what a search of settings cost, over the records that have it."""
    costs = [
        bounded(value)
        for record in records
        if record.tuning is not None and (value := vars(record.tuning)[name]) is not None
    ]
    return bounded(sum(costs) / len(costs)) if costs else None
