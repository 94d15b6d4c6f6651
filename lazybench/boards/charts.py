"""The charts of a board, described once: the page and picture files draw the same description.

A chart holds places from 0 to 1 on both axes, with ticks and labels, so that what draws it only
scales. No library draws both: those that draw in browsers and to files (Vega-Lite, Plotly) would
add one to four megabytes of script to each page, and Vega makes code from text, which the page's
content security policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from lazybench.boards.build import Board
from lazybench.boards.plot_data import PlotData, Points, Series, clipped, front

Place = tuple[float, float]
Tick = tuple[float, str]

PICKED = 5
"""Rows that have their colour at first; the others are grey until a reader picks them."""
_HEADS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))
"""Leading digits of the ticks of a logarithmic axis, from few to many."""
_FEWEST_TICKS = 3
_GUTTER = 0.12
"""Share of a logarithmic axis for rows at zero, separate from it."""
_ROOM = 0.06
_REACH = 4.0
"""The axis of scores spans so many times the distance from the best row to the middle one."""
_SIZES = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""From which number on, divided by what, with which sign."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, its ticks, and where a number is on it.

    Attributes:
        label: what it shows, with the unit.
        ticks: place and text of each tick.
        at: function from a number to its place.
        gutter: where the part for zeros ends on a logarithmic axis; 0 without that part.
    """

    label: str
    ticks: tuple[Tick, ...]
    at: Callable[[float], float]
    gutter: float = 0.0


@dataclass(frozen=True)
class Mark:
    """Chart data of one row.

    Attributes:
        series: place of the row among the board's series.
        tip: the row and its number in words.
        line: places that are joined.
        band: lower and upper end of a band around the line, at the line's horizontal places; empty
            without one.
        dots: whether the places of the line are marked.
        interval: lower and upper end around a single place; None without one.
        label: name written at the place, or an empty string.
    """

    series: int
    tip: str
    line: tuple[Place, ...]
    band: tuple[Place, ...] = ()
    dots: bool = False
    interval: Place | None = None
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: what it shows.
        x: horizontal axis.
        y: vertical axis.
        marks: one for each row with something to show.
        steps: whether lines go in steps.
        front: line of the rows that no other row beats in both, or nothing.
        note: what a reader must know, or an empty string.
    """

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    steps: bool = False
    front: tuple[Place, ...] = ()
    note: str = ""


def short(value: float) -> str:
    """A number of at most four digits: `12.5k`, `0.1234`."""
    size = next((each for each in _SIZES if abs(value) >= each[0]), None)
    if size is None or abs(value) >= 1e15:
        return f"{value:.4g}"
    return f"{value / size[1]:.3g}{size[2]}"


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, about `most` of them."""
    span = high / most - low / most
    if not 0 < span < math.inf:
        return [low]
    power = 10.0 ** math.floor(math.log10(span))
    step = power * next(m for m in (1, 2, 5, 10, 20) if m * power >= span * (1 - 1e-9))
    if not step or math.isinf(step) or low + step == low:
        return [low]
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)] or [low]


def linear(label: str, low: float, high: float) -> Axis:
    """A linear axis from `low` to `high`, which may be equal."""
    if not high / 2 - low / 2 > 0:
        low, high = low - 0.5 - abs(low) / 2, high + 0.5 + abs(high) / 2

    def at(value: float) -> float:
        return (value / 2 - low / 2) / (high / 2 - low / 2)

    return Axis(label, tuple((at(tick), short(tick)) for tick in linear_ticks(low, high)), at)


def logarithmic(label: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis of some values; it has no zero, so zeros get a part of their own."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    room = max(0.06, (high - low) * _ROOM, (0.3 - (high - low)) / 2)
    low, high = low - room, high + room
    gutter = _GUTTER if len(positive) < len(values) else 0.0
    powers = range(math.floor(low), math.ceil(high) + 1)
    choices = [
        [
            tick
            for power in powers
            for head in heads
            if low <= (tick := math.log10(head) + power) <= high
        ]
        for heads in _HEADS
    ]
    kept = next((each for each in choices if len(each) >= _FEWEST_TICKS), choices[-1])

    def place(power: float) -> float:
        return gutter + (power - low) / (high - low) * (1 - gutter)

    def at(value: float) -> float:
        return place(math.log10(value)) if value > 0 else gutter / 2

    ticks = tuple((place(tick), short(float(f"{10**tick:.6g}"))) for tick in kept)
    none = ((gutter / 2, "none"),) if gutter else ()
    return Axis(f"{label} (logarithmic)", none + ticks, at, gutter)


def _extent(values: Sequence[float]) -> Place:
    low, high = min(values), max(values)
    return low - (high - low) * _ROOM, high + (high - low) * _ROOM


def score_axis(board: Board, label: str) -> Axis | None:
    """The axis of a board's scores; None if no row has one.

    It shows the contenders: from the best ranked row over four times the distance to the middle
    one, and the intervals of the better half. Rows beyond it, such as chance, are marked at its
    end.
    """
    ends_of_rows = [
        [clipped(end) for end in (row.score, row.lo, row.hi) if end is not None]
        for row in board.ranked or board.rows
        if row.score is not None
    ]
    if not ends_of_rows:
        return None
    ends_of_rows.sort(key=lambda ends: ends[0], reverse=board.better == "higher")
    best, middle = ends_of_rows[0][0], median(ends[0] for ends in ends_of_rows)
    reach = best - _REACH * (best - middle)
    every = [end for ends in ends_of_rows for end in ends]
    half = [end for ends in ends_of_rows[: (len(ends_of_rows) + 1) // 2] for end in ends]
    low, high = max(min(every), min(*half, reach)), min(max(every), max(*half, reach))
    room = (high - low) / 25
    return linear(label, low - room, high + room)


def mean_and_band(curves: Sequence[Points]) -> tuple[Points, Points]:
    """The mean of some seeds' curves, and its band from the lowest to the highest seed.

    Where seeds have other places than each other, each is read between its own places, over the
    part that all of them cover.
    """
    import numpy as np

    ordered = [sorted(curve) for curve in curves]
    first = max(curve[0][0] for curve in ordered)
    last = min(curve[-1][0] for curve in ordered)
    places = sorted({x for curve in ordered for x, _ in curve if first <= x <= last})
    if not places:
        return tuple(ordered[0]), ()
    values = np.array(
        [np.interp(places, [x for x, _ in curve], [y for _, y in curve]) for curve in ordered]
    )
    mean = tuple(zip(places, values.mean(0).tolist(), strict=True))
    band = tuple(zip(values.min(0).tolist(), values.max(0).tolist(), strict=True))
    return mean, band if len(ordered) > 1 else ()


def learning_chart(shown: PlotData) -> Chart | None:
    """Validation against training: mean over seeds with a band; None without any."""
    lines = [
        (i, each, *mean_and_band(each.learning))
        for i, each in enumerate(shown.series)
        if each.learning
    ]
    if not lines:
        return None
    x = linear(shown.learning_x, 0.0, max(point[0] for *_, line, _ in lines for point in line))
    values = [
        value for *_, line, band in lines for value in (*(v for _, v in line), *sum(band, ()))
    ]
    y = linear(shown.learning_y, *_extent(values))
    marks = tuple(
        Mark(
            i,
            f"{each.name}: {short(line[-1][1])} at {short(line[-1][0])} {shown.learning_x}",
            tuple((x.at(a), y.at(b)) for a, b in line),
            tuple((y.at(low), y.at(high)) for low, high in band),
            dots=True,
        )
        for i, each, line, band in lines
    )
    band = (
        "Line: mean over seeds. Band: lowest to highest seed." if any(m.band for m in marks) else ""
    )
    note = " ".join(filter(None, (band, shown.learning_note)))
    return Chart("Learning curves", x, y, marks, note=note)


def success_chart(shown: PlotData) -> Chart | None:
    """Share of images won against queries; None for other tests than attacks."""
    curves = [(i, each) for i, each in enumerate(shown.series) if each.success]
    if not curves:
        return None
    x = logarithmic("queries an image", [place for _, each in curves for place, _ in each.success])
    y = linear("images won (%)", 0.0, 100.0)
    marks = tuple(
        Mark(
            i,
            f"{each.name}: {short(each.success[-1][1])} % by {short(each.success[-1][0])} queries",
            tuple((x.at(a), y.at(b)) for a, b in _corners(each.success)),
        )
        for i, each in curves
    )
    return Chart("Success against queries", x, y, marks, steps=True)


def _corners(points: Points) -> list[Place]:
    """The points of a step curve at which it changes, with its ends."""
    kept = [after for before, after in pairwise(points) if after[1] != before[1]]
    return list(dict.fromkeys([points[0], *kept, points[-1]]))


def shift_chart(shown: PlotData) -> Chart | None:
    """Accuracy against the test distribution; None for other tests than long tails."""
    curves = [
        (i, each, *mean_and_band(each.shifts)) for i, each in enumerate(shown.series) if each.shifts
    ]
    if not curves:
        return None
    ratios = [ratio for ratio, _ in curves[0][2]]
    far = math.log(max(ratios))

    def at(ratio: float) -> float:
        return 0.5 + math.log(ratio) / far * (0.5 - _ROOM)

    ticks = tuple((at(ratio), short(max(ratio, 1 / ratio))) for ratio in ratios)
    label = "ratio of the long-tailed test set: forward (left) to backward"
    x = Axis(label, ticks, at)
    values = [v for *_, line, band in curves for v in (*(y for _, y in line), *sum(band, ()))]
    y = linear(f"expected {shown.board.metric} ({shown.board.unit})", *_extent(values))
    marks = tuple(
        Mark(
            i,
            f"{each.name}: {short(line[0][1])} forward, {short(line[-1][1])} backward "
            f"{shown.board.unit} at ratio {short(max(ratios))}",
            tuple((x.at(a), y.at(b)) for a, b in line),
            tuple((y.at(low), y.at(high)) for low, high in band),
            dots=True,
        )
        for i, each, line, band in curves
    )
    note = "Forward: classes with more training images have more test images. 1: balanced."
    if any(mark.band for mark in marks):
        note = f"Line: mean over seeds. Band: lowest to highest seed. {note}"
    return Chart("Accuracy against test distribution", x, y, marks, note=note)


def cost_chart(shown: PlotData, cost: str) -> Chart:
    """Score against one of the board's costs, with the rows that no other beats in both."""
    board = shown.board
    y = score_axis(board, f"{board.metric} ({board.unit}), {board.better} is better")
    known = [(i, each) for i, each in enumerate(shown.series) if cost in each.costs]
    if y is None or not known:
        raise ValueError(f"no row of {board.name} has a score and the cost {cost!r}")
    inside = [(i, each) for i, each in known if 0 <= y.at(each.score) <= 1]
    beyond = [f"{each.name} ({short(each.score)})" for i, each in known if (i, each) not in inside]
    x = logarithmic(dict(shown.costs)[cost], [each.costs[cost] for _, each in inside])
    kept = {i for i, _ in inside}
    best = [i for i in front(shown.series, cost, board.better) if i in kept]
    line = [(x.at(shown.series[i].costs[cost]), y.at(shown.series[i].score)) for i in best]
    named = _apart(best, line)
    marks = tuple(
        Mark(
            i,
            f"{each.name}: {short(each.score)} {board.unit} at {short(each.costs[cost])}",
            ((x.at(each.costs[cost]), y.at(each.score)),),
            dots=True,
            interval=_interval(each, y),
            label=each.name if i in named else "",
        )
        for i, each in inside
    )
    left_out = f"Beyond the axis: {', '.join(beyond)}." if beyond else ""
    note = " ".join(filter(None, (left_out, shown.cost_note(cost))))
    return Chart("Cost against score", x, y, marks, front=tuple(line), note=note)


def _interval(each: Series, y: Axis) -> Place | None:
    if each.lo is None or each.hi is None:
        return None
    return max(y.at(each.lo), 0.0), min(y.at(each.hi), 1.0)


def _apart(best: Sequence[int], line: Sequence[Place]) -> set[int]:
    """The rows whose names don't cover each other, written at their places."""
    named: dict[int, Place] = {}
    for i, (a, b) in reversed(list(zip(best, line, strict=True))):
        if all(abs(a - left) > 0.25 or abs(b - up) > 0.06 for left, up in named.values()):
            named[i] = (a, b)
    return set(named)
