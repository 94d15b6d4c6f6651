"""Data of a board's plots: intervals, learning curves, attacks, cost against score."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazybench.boards.build import SUPERSEDED, Board
from lazybench.boards.class_shift import DISTRIBUTIONS, recalls, shifted
from lazybench.boards.columns import AXES, COLUMNS, MEAN_QUERIES
from lazybench.boards.flags import ON_VALIDATION
from lazybench.boards.group import LARGEST, Group, bounded, factor, is_drawable
from lazybench.boards.rows import Row
from lazybench.files import canonical_json
from lazybench.records.schema import Record
from lazybench.records.store import slug

if TYPE_CHECKING:
    from numpy.typing import NDArray

Points = tuple[tuple[float, float], ...]

_COSTS = [(each.key, each.sort) for each in COLUMNS if each.axis and each.sort is not None]
_TRAINING = ("train_cpu_s", "train_wall_s", "image_gradients", "gradient_equivalents")
_QUERY_STEPS = 160
_MOST_QUERIES = 1 << 53


@dataclass(frozen=True)
class Series:
    """Plot data of one row.

    Attributes:
        name: the row's name, with the batch norm where two rows share it.
        ranked: whether the row is ranked.
        score: in the board's unit.
        lo: lower end of the 95 % interval; None if it is unknown.
        hi: upper end.
        costs: by the names of `AXES`, those that are known.
        learning: for each seed, validation against what `PlotData.learning_x` says.
        success: share of images won by so many queries, mean over seeds; empty for other tests.
        shifts: for each seed of a long tail, test images of the last class over those of the first,
            and the expected accuracy in the board's unit; empty for others.
    """

    name: str
    ranked: bool
    score: float
    lo: float | None
    hi: float | None
    costs: dict[str, float]
    learning: tuple[Points, ...]
    success: Points
    shifts: tuple[Points, ...] = ()


@dataclass(frozen=True)
class PlotData:
    """Plot data of one board.

    Attributes:
        board: the board.
        id: names the board among others, safe in file names and anchors.
        rows: those with a score that no newer version of their agent supersedes, in the board's
            order.
        series: one for each of them.
        learning_x: what the horizontal axis of learning curves counts.
        learning_y: what its vertical axis shows.
        learning_note: a caution for readers of the curves, or an empty string.
    """

    board: Board
    id: str
    rows: tuple[Row, ...]
    series: tuple[Series, ...]
    learning_x: str
    learning_y: str
    learning_note: str

    @property
    def costs(self) -> list[tuple[str, str]]:
        """Names and labels of the costs that any row has, the one to begin with first."""
        known = [cost for cost in AXES if any(each.costs.get(cost[0]) for each in self.series)]
        attacks = [MEAN_QUERIES] if self.board.family == "attack" else []
        first = [*attacks, "train_cpu_s"]
        return sorted(known, key=lambda cost: (*first, cost[0]).index(cost[0]))

    def cost_note(self, cost: str) -> str:
        """Which rows a picture of one of the `AXES` leaves out, or an empty string."""
        names = [each.name for each in self.series if cost not in each.costs]
        return f"Left out, since their records don't have it: {', '.join(names)}." if names else ""


def plot_data(boards: Sequence[Board], records: Iterable[Record]) -> list[PlotData]:
    """Return the plot data of each board.

    Args:
        boards: made of `records`, maybe of some only.
        records: where learning curves and trials are taken from.
    """
    by_key = {record.key12: record for record in records}
    return [
        _pictures(board, ident, by_key) for board, ident in zip(boards, _ids(boards), strict=True)
    ]


def row_labels(rows: Sequence[Row]) -> list[str]:
    """Return a name for each row that no other has: its agent, and what differs among namesakes."""
    labels = [row.agent for row in rows]
    facts: tuple[Callable[[Row], str], ...] = (
        lambda row: row.batch_norm or "no batch norm",
        lambda row: row.rank_group,
        lambda row: row.track or "",
        lambda row: ", ".join(row.marks),
        lambda row: ", ".join(f"seed {seed}" for seed in row.seeds),
        lambda row: row.keys[0][:6],
    )
    for fact in facts:
        held: dict[str, set[str]] = defaultdict(set)
        for label, row in zip(labels, rows, strict=True):
            held[label].add(fact(row))
        labels = [
            f"{label}, {fact(row)}" if len(held[label]) > 1 and fact(row) else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return labels


def front(series: Sequence[Series], cost: str, better: str) -> list[int]:
    """Return the places of the rows that no other row beats in both cost and score, by cost."""
    sign = 1 if better == "higher" else -1
    known = [
        (each.costs[cost], -sign * each.score, i)
        for i, each in enumerate(series)
        if cost in each.costs
    ]
    kept: list[int] = []
    best = math.inf
    for _, loss, i in sorted(known):
        if loss < best:
            best = loss
            kept.append(i)
    return kept


def _ids(boards: Sequence[Board]) -> list[str]:
    plain = [slug(f"{board.env}-v{board.version}-{board.budget}") for board in boards]
    counts = Counter(plain)
    return [
        name if counts[name] == 1 else f"{name}-{_digest(board)}"
        for name, board in zip(plain, boards, strict=True)
    ]


def _digest(board: Board) -> str:
    facts = [board.env, board.data, board.fingerprint, board.prep, dict(board.protocol)]
    return hashlib.sha256(canonical_json(facts).encode("ascii")).hexdigest()[:6]


def _pictures(board: Board, ident: str, by_key: dict[str, Record]) -> PlotData:
    rows = [row for row in board.rows if row.score is not None and SUPERSEDED not in row.marks]
    labels = dict(zip(map(id, rows), row_labels(rows), strict=True))
    records_of = {id(row): [by_key[key] for key in row.keys if key in by_key] for row in rows}
    curves = [record for row in rows for record in records_of[id(row)] if record.curve]
    by_images = all(record.cost.image_gradients for record in curves)
    series, on_validation = [], []
    for row in rows:
        label = labels[id(row)]
        series.append(_series(label, row, records_of[id(row)], by_images=by_images))
        if row.track == ON_VALIDATION and series[-1].learning:
            on_validation.append(label)
    return PlotData(
        board=board,
        id=ident,
        rows=tuple(rows),
        series=tuple(series),
        learning_x="image-gradients" if by_images else "meta-iterations",
        learning_y="validation error (MSE)"
        if board.family == "attack"
        else f"validation {board.metric} ({board.unit})",
        learning_note=f"Track {ON_VALIDATION}: training may have used the images that validation "
        "counts, so that these curves can be far above the test score: "
        f"{', '.join(on_validation)}."
        if on_validation
        else "",
    )


def _series(name: str, row: Row, records: Sequence[Record], *, by_images: bool) -> Series:
    costs = {cost: clipped(value) for cost, number in _COSTS if (value := number(row)) is not None}
    if row.train_wall_s == 0 and not row.outer_steps:
        costs = dict.fromkeys(_TRAINING, 0.0) | costs
    costs |= {name: clipped(value) for name, _, value in row.measures if name == MEAN_QUERIES}
    return Series(
        name=name,
        ranked=row.rank is not None,
        score=clipped(row.score or 0.0),
        lo=None if row.lo is None else clipped(row.lo),
        hi=None if row.hi is None else clipped(row.hi),
        costs=costs,
        learning=tuple(
            points for record in records if (points := _learning(record, by_images=by_images))
        ),
        success=_success(records),
        shifts=_shifts(records),
    )


def _shifts(records: Sequence[Record]) -> tuple[Points, ...]:
    """The accuracy of each seed under each test distribution, from forward to backward."""
    by_seed = recalls(Group(tuple(records), "")) if records else None
    scale = factor(records[0]) if records else 1.0
    return tuple(
        tuple((1 / ratio, scale * accuracy[name]) for name, ratio in DISTRIBUTIONS)
        for accuracy in map(shifted, by_seed or ())
    )


def clipped(value: float) -> float:
    """The value where a chart draws it: at most `LARGEST` from zero."""
    return min(max(float(value), -LARGEST), LARGEST)


def _learning(record: Record, *, by_images: bool) -> Points:
    """Validations of one run; a point without a step or a value is left out."""
    scale = 1.0 if record.env.family == "attack" else factor(record)
    steps = bounded(record.cost.outer_steps or 0)
    images = bounded(record.cost.image_gradients or 0)
    per_step = images / steps if by_images and steps else 1.0
    points = (
        (float(point["step"]) * per_step, float(point["val"]) * scale)
        for point in record.curve
        if is_drawable(point.get("step")) and is_drawable(point.get("val"))
    )
    return tuple((x, y) for x, y in points if is_drawable(x) and is_drawable(y))


def gamma_counts(diagnostics: Mapping[str, Any]) -> dict[str, float]:
    """How often a lazy agent chose each gamma; empty for others, and where a count is none."""
    histogram = diagnostics.get("gamma_histogram")
    counts = histogram if isinstance(histogram, Mapping) else {}
    sound = all(is_drawable(count) and count >= 0 for count in counts.values())
    return dict(counts) if sound and 0 < sum(counts.values()) <= LARGEST else {}


def gamma_text(diagnostics: Mapping[str, Any]) -> str:
    """Return one line on the gammas that a lazy agent chose, or an empty string for any other."""
    histogram = gamma_counts(diagnostics)
    if not histogram:
        return ""
    total = sum(histogram.values())
    shares = ", ".join(f"{gamma} {100 * n / total:.0f} %" for gamma, n in histogram.items())
    parts = [f"gammas chosen: {shares}"]
    if is_drawable(edge := diagnostics.get("gamma_edge_share")):
        parts.append(f"{100 * edge:.0f} % at the grid's edge")
    if is_drawable(leap := diagnostics.get("mean_leap")):
        parts.append(f"mean leap {leap:.3g}")
    return "; ".join(parts)


def _success(records: Sequence[Record]) -> Points:
    """The share of images won by a number of queries, at steps that grow by a factor."""
    import numpy as np

    firsts: list[NDArray[Any]] = []
    budget = 1
    for record in records:
        column = record.trials.columns.get("success_query")
        if column is None:
            return ()
        firsts.append(np.where(column.unpack() > 0, column.unpack(), np.inf))
        limit = record.env.protocol.get("query_budget")
        budget = max(budget, min(limit, _MOST_QUERIES) if isinstance(limit, int) else 1)
    if not firsts:
        return ()
    counts = np.unique(np.geomspace(1, budget, _QUERY_STEPS).round().astype(int))
    shares = [
        float(np.mean([(first <= count).mean() for first in firsts])) * 100 for count in counts
    ]
    return tuple(zip(map(float, counts), shares, strict=True))
