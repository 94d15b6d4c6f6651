"""The pictures of boards as PNG or SVG files, by matplotlib (extra `plots`)."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazybench.boards.build import Board
from lazybench.boards.compare import Comparison
from lazybench.boards.group import bounded, factor, is_drawable
from lazybench.boards.plot_data import (
    PlotData,
    Points,
    Series,
    front,
    gamma_counts,
    plot_data,
)
from lazybench.errors import LazybenchError, UsageError
from lazybench.files import write_bytes
from lazybench.records.schema import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_COLOURS = ("#0b62a8", "#c4500a", "#00795a", "#a6417f", "#8a6100", "#5a55c9", "#b3261e", "#2c7480")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "D", "^")
_LONGEST_NAME = 40
_CAPTION_WIDTH = 125
_HEADS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))
"""Leading digits of the ticks of a logarithmic axis, from few to many."""
_FEWEST_TICKS = 3


def draw(boards: Sequence[Board], records: Iterable[Record], folder: Path, form: str) -> list[Path]:
    """The paths of the pictures of each board, once they are written.

    `<board>-scores`, `-learning`, `-success` (attacks) and `-pareto`, those that have something to
    show. The same records give the same SVG.

    Args:
        boards: made of `records`, maybe of some only.
        records: where learning curves and trials are taken from.
        folder: where the files go.
        form: `png` or `svg`.

    Raises:
        LazybenchError: matplotlib isn't installed.
        StoreError: the disk is full.
        OutputUnavailable: the folder can't be made or written to.
    """
    written = []
    for shown in plot_data(boards, records):
        for kind, painter in _PAINTERS.items():
            figure = painter(shown)
            if figure is not None:
                path = folder / f"{shown.id}-{kind}.{form}"
                written.append(write_bytes(path, as_bytes(figure, form)))
    return written


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of some inches, with its axes.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    figure, (axes,) = panels(width, height)
    return figure, axes


def panels(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """An empty figure of some inches with a grid of axes, row after row.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LazybenchError(
            "pictures need matplotlib; get it with: pip install 'lazybench[plots]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    found = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, found


def as_bytes(figure: Figure, form: str) -> bytes:
    """A figure as the content of a `png` or `svg` file; equal figures give equal SVG."""
    from matplotlib import rc_context

    held = io.BytesIO()
    with rc_context({"svg.hashsalt": "lazybench"}), warnings.catch_warnings():
        # A name may hold characters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata: dict[str, Any] = {"Date": None} if form == "svg" else {}
        figure.savefig(held, format=form, dpi=150, metadata=metadata)
    return held.getvalue()


def _style(place: int) -> dict[str, Any]:
    colour = _COLOURS[place % len(_COLOURS)]
    return {"color": colour, "linestyle": _DASHES[place // len(_COLOURS) % len(_DASHES)]}


def _plain(text: str) -> str:
    """`text` as one line that matplotlib doesn't take for a formula."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")


def _name(text: str) -> str:
    """`text` as a label that matplotlib neither hides nor takes for a formula."""
    line = _plain(text)
    short = line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"
    return f"\N{WORD JOINER}{short}" if short.startswith("_") else short


def _titled(axes: Axes, shown: PlotData) -> None:
    axes.set_title(_name(f"{shown.board.name}, {shown.board.budget}"), fontsize=10, loc="left")


def _captioned(figure: Figure, text: str) -> None:
    if text:
        lines = textwrap.fill(_plain(text), _CAPTION_WIDTH)
        figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color="0.35")


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0
        )


def _scores(shown: PlotData) -> Figure | None:
    """Scores with their intervals, best on top."""
    if not shown.series:
        return None
    figure, axes = new_figure(6.5, 1.2 + 0.24 * len(shown.series))
    for place, each in enumerate(shown.series):
        if each.lo is not None and each.hi is not None:
            axes.plot((each.lo, each.hi), (place, place), color="#0b62a8", linewidth=3, alpha=0.35)
        face = "#0b62a8" if each.ranked else "white"
        axes.plot(
            each.score, place, "o", markersize=5, markeredgecolor="#0b62a8", markerfacecolor=face
        )
    axes.set_yticks(range(len(shown.series)), [_name(each.name) for each in shown.series])
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(_name(f"{shown.board.metric} ({shown.board.unit}), 95 % interval"))
    _titled(axes, shown)
    return figure


def _lines(
    shown: PlotData, each: Callable[[Series], Sequence[Points]], *, step: bool
) -> tuple[Figure, Axes] | None:
    if not any(each(series) for series in shown.series):
        return None
    figure, axes = new_figure(7.5, 4)
    for place, series in enumerate(shown.series):
        for i, points in enumerate(each(series)):
            x, y = zip(*points, strict=True)
            label = _name(series.name) if i == 0 else None
            style = _style(place) | {"label": label, "linewidth": 1.5}
            if step:
                axes.step(x, y, where="post", **style)
            else:
                axes.plot(x, y, marker="o", markersize=3, **style)
    _legend(axes)
    _titled(axes, shown)
    return figure, axes


def _learning(shown: PlotData) -> Figure | None:
    """Validation against training, a line for each seed."""
    drawn = _lines(shown, lambda series: series.learning, step=False)
    if drawn is None:
        return None
    from matplotlib.ticker import EngFormatter

    figure, axes = drawn
    axes.set_xlim(left=0)
    # In full, hundreds of thousands of images run into each other.
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(shown.learning_x)
    axes.set_ylabel(_name(shown.learning_y))
    _captioned(figure, shown.learning_note)
    return figure


def _success(shown: PlotData) -> Figure | None:
    """Share of images won against queries."""
    drawn = _lines(shown, lambda series: [series.success] if series.success else [], step=True)
    if drawn is None:
        return None
    figure, axes = drawn
    axes.set_xscale("log")
    axes.set_ylim(0, 101)
    axes.set_xlabel("queries an image (logarithmic)")
    axes.set_ylabel("images won (%)")
    return figure


def _pareto(shown: PlotData) -> Figure | None:
    """Cost against score, with the line of those that no other beats in both."""
    if not shown.costs:
        return None
    cost, label = shown.costs[0]
    figure, axes = new_figure(7.5, 4)
    for place, each in enumerate(shown.series):
        if cost not in each.costs:
            continue
        x, colour = each.costs[cost], _COLOURS[place % len(_COLOURS)]
        if each.lo is not None and each.hi is not None:
            axes.plot((x, x), (each.lo, each.hi), color=colour, linewidth=1)
        face = colour if each.ranked else "white"
        axes.plot(
            x,
            each.score,
            _MARKERS[place // len(_COLOURS) % len(_MARKERS)],
            label=_name(each.name),
            markeredgecolor=colour,
            markerfacecolor=face,
        )
    line = [shown.series[i] for i in front(shown.series, cost, shown.board.better)]
    costs, scores = [each.costs[cost] for each in line], [each.score for each in line]
    axes.step(costs, scores, where="post", color="0.5", linestyle="--", linewidth=1, zorder=0)
    _logarithmic(axes, [each.costs[cost] for each in shown.series if cost in each.costs])
    axes.set_xlabel(f"{label} (logarithmic)")
    axes.set_ylabel(_name(f"{shown.board.metric} ({shown.board.unit})"))
    _legend(axes)
    _titled(axes, shown)
    _captioned(figure, shown.cost_note(cost))
    return figure


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A horizontal axis for costs, of which some are above 0; zeros are at its left edge."""
    positive = [value for value in values if value > 0]
    low, high = min(positive) / 1.15, max(positive) * 1.15
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [head * 10**power for power in powers for head in heads if low <= head * 10**power <= high]
        for heads in _HEADS
    ]
    ticks = next((each for each in choices if len(each) >= _FEWEST_TICKS), choices[-1])
    if len(positive) < len(values):
        room = max(0.1, 0.15 * math.log10(high / low))
        axes.set_xscale("symlog", linthresh=low, linscale=room)
        axes.set_xlim(-low / 5, high)
        ticks = [0, *ticks]
    else:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], fontsize=8)
    axes.set_xticks([], minor=True)


_PAINTERS: dict[str, Callable[[PlotData], Figure | None]] = {
    "scores": _scores,
    "learning": _learning,
    "success": _success,
    "pareto": _pareto,
}


_DOT = 12.0
_LARGEST = 900.0
_FEW_PLACES = 16
"""The most places whose trials are counted next to them: those of three seeds of hits."""


def compare_picture(found: Comparison, form: str) -> bytes:
    """Return a scatter of the trials' scores as `png` or `svg`.

    The area of a dot grows with the trials at its place; where those are at few places, such as
    hits and misses, their counts are written next to them.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    figure, axes = new_figure(5, 5)
    x, y = ([round(v, 6) for v in side.by_trial.tolist()] for side in (found.right, found.left))
    levels = sorted({*x, *y})
    counts = Counter(zip(x, y, strict=True))
    ends = (levels[0], levels[-1])
    axes.plot(ends, ends, color="0.6", linewidth=1)
    scale = min(_DOT, _LARGEST / max(counts.values()))
    axes.scatter(
        [place[0] for place in counts],
        [place[1] for place in counts],
        s=[scale * count for count in counts.values()],
        alpha=0.5,
        edgecolors="none",
    )
    if len(counts) <= _FEW_PLACES and len(counts) < len(x):
        # Of hits, a corner without a trial says something, too.
        corners = [(a, b) for a in levels for b in levels] if len(levels) == 2 else []
        for place in {**dict.fromkeys(corners), **counts}:
            axes.annotate(
                str(counts[place]), place, (0, 18), textcoords="offset points", ha="center"
            )
        axes.margins(0.2)
        axes.set_xticks(levels, [f"{level:.3g}" for level in levels])
        axes.set_yticks(levels, [f"{level:.3g}" for level in levels])
    for side, label in ((found.right, axes.set_xlabel), (found.left, axes.set_ylabel)):
        label(f"{side.name}, {found.metric} ({found.unit}) of a trial")
    mean, lo, hi, _ = found.difference
    axes.set_title(f"{found.env}: {mean:+.2f} ({lo:+.2f} to {hi:+.2f})")
    return as_bytes(figure, form)


_BLUE, _ORANGE = "#0b62a8", "#c4500a"
_BINS = 20


def record_picture(record: Record) -> bytes:
    """Return a PNG of one record: its learning curve, its histogram of gamma, its trials' scores.

    What a record doesn't have is left out: baselines learn nothing, greedy teachers choose nothing.

    Raises:
        UsageError: it has none of them, as a run that failed early.
        LazybenchError: matplotlib isn't installed.
    """
    painters: list[Callable[[Axes, Record], None]] = []
    if _points(record):
        painters.append(_curve)
    if gamma_counts(record.diagnostics):
        painters.append(_gammas)
    if _trial_scores(record):
        painters.append(_record_picture_scores)
    if not painters:
        raise UsageError(
            f"record {record.key12} ({record.status}) has neither a learning curve nor trials to "
            f"draw; see: lazybench show {record.key12}"
        )
    figure, places = panels(4.2 * len(painters), 3.6, columns=len(painters))
    for axes, paint in zip(places, painters, strict=True):
        paint(axes, record)
    figure.suptitle(
        f"{record.agent.id} on {record.env.id}, {record.budget}, seed {record.seed} "
        f"({record.key12})",
        fontsize=10,
    )
    return as_bytes(figure, "png")


def _curve(axes: Axes, record: Record) -> None:
    attack = record.env.family == "attack"
    scale = 1.0 if attack else factor(record)
    steps, values = zip(*_points(record), strict=True)
    axes.plot(steps, [bounded(value * scale) for value in values], "o-", color=_BLUE, markersize=4)
    label = f"validation {record.env.metric} ({_unit(record)})"
    axes.set_ylabel("validation error (MSE)" if attack else label)
    axes.set_xlabel("meta-iterations" if record.env.family == "fewshot" else "updates")
    axes.set_xlim(left=0)
    axes.set_title("learning", fontsize=9, loc="left")


def _gammas(axes: Axes, record: Record) -> None:
    counts = gamma_counts(record.diagnostics)
    total = sum(counts.values())
    shares = [100 * count / total for count in counts.values()]
    axes.bar(range(len(shares)), shares, width=0.75, color=_ORANGE)
    axes.set_xticks(range(len(shares)), list(counts), fontsize=8)
    axes.set_xlabel("gamma, the weight of theta in the leap")
    axes.set_ylabel("share of leaps (%)")
    axes.set_title(f"{total:,} leaps", fontsize=9, loc="left")


def _record_picture_scores(axes: Axes, record: Record) -> None:
    scale = factor(record)
    scores = _trial_scores(record)
    if set(scores) <= {0.0, scale}:
        won = sum(1 for score in scores if score)
        axes.bar((0, 1), (len(scores) - won, won), width=0.6, color=_BLUE)
        axes.set_xticks((0, 1), ("0", f"{scale:g}"))
    else:
        axes.hist(scores, bins=_BINS, color=_BLUE)
    axes.set_xlabel(f"{record.env.metric} of a trial ({_unit(record)})")
    axes.set_ylabel("trials")
    axes.set_title(f"{len(scores):,} test trials", fontsize=9, loc="left")


def _points(record: Record) -> list[tuple[float, float]]:
    """Step and value of each validation that can be drawn."""
    points = [(point.get("step"), point.get("val")) for point in record.curve]
    return [(x, y) for x, y in points if is_drawable(x) and is_drawable(y)]


def _trial_scores(record: Record) -> list[float]:
    """The trials' scores in the board's unit; empty if one can't be drawn."""
    packed, scale = record.trials.scores, factor(record)
    scores = [] if packed is None else [score * scale for score in packed.unpack().tolist()]
    return scores if all(map(is_drawable, scores)) else []


def _unit(record: Record) -> str:
    return "%" if record.env.unit == "fraction" else record.env.unit
