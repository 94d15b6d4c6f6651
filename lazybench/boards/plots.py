"""The pictures of boards as PNG or SVG files, by matplotlib (extra `plots`)."""

from __future__ import annotations

import functools
import io
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazybench.arguments import check_one_of
from lazybench.boards.build import Board
from lazybench.boards.charts import (
    Axis,
    Chart,
    Mark,
    cost_chart,
    learning_chart,
    score_axis,
    shift_chart,
    short,
    success_chart,
)
from lazybench.boards.compare import Comparison
from lazybench.boards.group import bounded, factor, is_drawable
from lazybench.boards.plot_data import PlotData, Series, gamma_counts, plot_data
from lazybench.errors import LazybenchError, UsageError
from lazybench.files import check_replaceable, replace_ours
from lazybench.records.schema import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


_METADATA: Mapping[str, Mapping[str, str | None]] = {
    "png": {"Software": "lazybench"},
    "svg": {"Creator": "lazybench", "Date": None},
}
_MARKS = {".png": b"Software\0lazybench", ".svg": b"<dc:title>lazybench<"}
_INSTEAD = "give another path, or move that file away"
_COLOURS = ("#0b62a8", "#c4500a", "#00795a", "#a6417f", "#8a6100", "#5a55c9", "#b3261e", "#2c7480")
_MARKERS = ("o", "s", "D", "^")
_LONGEST_NAME = 40
_CAPTION_WIDTH = 125
_BLUE, _ORANGE = "#0b62a8", "#c4500a"


def draw(boards: Sequence[Board], records: Iterable[Record], folder: Path, form: str) -> list[Path]:
    """The paths of the pictures of each board, once they are written.

    `<board>-scores`, `-learning`, `-success` (attacks), `-shifts` (long tails) and `-pareto`, those
    that have something to show. The same records give the same SVG.

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
                written.append(write_picture(path, as_bytes(figure, form)))
    return written


def board_figure(board: Board, records: Iterable[Record], kind: str) -> Figure:
    """Return one of the figures of a board.

    Args:
        board: the board.
        records: those that it is made from.
        kind: `scores`, `learning`, `success`, `shifts` or `pareto`.

    Raises:
        LazybenchError: matplotlib isn't installed.
        UsageError: no such kind, or the board has no data for it.
    """
    check_one_of("kind", kind, tuple(_PAINTERS))
    (shown,) = plot_data([board], records)
    figure = _PAINTERS[kind](shown)
    if figure is None:
        raise UsageError(
            f"{board.name} at budget {board.budget} has no data for kind={kind!r}; kinds: "
            f"{', '.join(_PAINTERS)}"
        )
    return figure


@functools.cache
def _shown_in_notebooks(kind: type[Figure]) -> type[Figure]:
    """The class of figures with a picture for notebooks, whether pyplot is loaded or not."""

    class ShownFigure(kind):  # type: ignore[misc, valid-type]
        def _repr_png_(self) -> bytes:
            return as_bytes(self, "png")

    return ShownFigure


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
    figure = _shown_in_notebooks(Figure)(figsize=(width, height), layout="constrained")
    every = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, every


def as_bytes(figure: Figure, form: str) -> bytes:
    """A figure as the content of a `png` or `svg` file; equal figures give equal SVG."""
    from matplotlib import rc_context

    held = io.BytesIO()
    with rc_context({"svg.hashsalt": "lazybench"}), warnings.catch_warnings():
        # A name may hold characters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(held, format=form, dpi=150, metadata=_METADATA[form])
    return held.getvalue()


def write_picture(path: Path, content: bytes) -> Path:
    """Write what `as_bytes` returned, and return its path; no other file is replaced.

    Args:
        path: a file that ends in `.png` or `.svg`.
        content: its whole content.

    Raises:
        OutputUnavailable: a file that lazybench didn't draw has the path, or it can't be written.
        StoreError: the disk is full.
    """
    return replace_ours(path, content, mark=_MARKS[path.suffix.lower()], instead=_INSTEAD)


def check_picture(path: Path) -> None:
    """Check that `write_picture` may write a file, before the work whose result it shows.

    Raises:
        OutputUnavailable: a file that lazybench didn't draw has the path, or it can't be written.
    """
    check_replaceable(path, mark=_MARKS[path.suffix.lower()], instead=_INSTEAD)


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
    """Scores with their intervals, best on top; rows beyond the contenders' axis are marked."""
    axis = score_axis(shown.board, f"{shown.board.metric} ({shown.board.unit}), 95 % interval")
    if axis is None or not shown.series:
        return None
    figure, axes = new_figure(6.5, 1.2 + 0.24 * len(shown.series))
    for place, each in enumerate(shown.series):
        at = axis.at(each.score)
        if not 0 <= at <= 1:
            low = at < 0
            end, side, shift = (0.0, "left", 8) if low else (1.0, "right", -8)
            axes.plot(end, place, "<" if low else ">", markersize=5, color="0.5", clip_on=False)
            axes.annotate(
                short(each.score),
                *((end, place), (shift, 0)),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=7,
                color="0.35",
            )
            continue
        if each.lo is not None and each.hi is not None:
            ends = [min(max(axis.at(end), 0.0), 1.0) for end in (each.lo, each.hi)]
            axes.plot(ends, (place, place), color=_BLUE, linewidth=3, alpha=0.35)
        face = _BLUE if each.ranked else "white"
        axes.plot(at, place, "o", markersize=5, markeredgecolor=_BLUE, markerfacecolor=face)
    axes.set_yticks(range(len(shown.series)), [_name(each.name) for each in shown.series])
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks(*_ticks(axis), fontsize=8)
    axes.set_xlabel(_name(axis.label))
    _titled(axes, shown)
    return figure


def _ticks(axis: Axis) -> tuple[list[float], list[str]]:
    shown = [(at, text) for at, text in axis.ticks if 0 <= at <= 1]
    return [at for at, _ in shown], [text for _, text in shown]


def _chart(shown: PlotData, chart: Chart | None) -> Figure | None:
    """A chart as a figure, from the description that the page of boards draws, too."""
    if chart is None:
        return None
    figure, axes = new_figure(7.5, 4)
    lines = any(len(mark.line) > 1 for mark in chart.marks)
    for mark in chart.marks:
        _draw_mark(axes, chart, mark, shown.series[mark.series], lines=lines)
    if chart.front:
        x, y = zip(*chart.front, strict=True)
        axes.step(x, y, where="post", color="0.5", linestyle="--", linewidth=1, zorder=0)
    if chart.x.gutter:
        axes.axvline(chart.x.gutter, color="0.8", linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks(*_ticks(chart.x), fontsize=8)
    axes.set_yticks(*_ticks(chart.y), fontsize=8)
    axes.set_xlabel(chart.x.label)
    axes.set_ylabel(_name(chart.y.label))
    _legend(axes)
    _titled(axes, shown)
    _captioned(figure, chart.note)
    return figure


def _draw_mark(axes: Axes, chart: Chart, mark: Mark, series: Series, *, lines: bool) -> None:
    """What one row shows; of many lines those beyond the first colours are grey."""
    i = mark.series
    grey = lines and i >= len(_COLOURS)
    colour = "0.75" if grey else _COLOURS[i % len(_COLOURS)]
    x, y = zip(*mark.line, strict=True)
    if mark.band:
        low, high = zip(*mark.band, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if mark.interval is not None:
        axes.plot((x[0], x[0]), mark.interval, color=colour, linewidth=1)
    style: dict[str, Any] = {"color": colour, "label": None if grey else _name(series.name)}
    if mark.dots:
        style["marker"] = _MARKERS[i // len(_COLOURS) % len(_MARKERS)]
        style["markersize"] = 3 if lines else 6
        style["markerfacecolor"] = colour if series.ranked else "white"
    axes.plot(
        x,
        y,
        linestyle="-" if lines else "none",
        linewidth=0.8 if grey else 1.5,
        drawstyle="steps-post" if chart.steps else "default",
        # The best rows on top.
        zorder=3 - i / (i + 1),
        **style,
    )


def _pareto(shown: PlotData) -> Figure | None:
    """Cost against score, for the cost that a page begins with."""
    return _chart(shown, cost_chart(shown, shown.costs[0][0])) if shown.costs else None


_PAINTERS: dict[str, Callable[[PlotData], Figure | None]] = {
    "scores": _scores,
    "learning": lambda shown: _chart(shown, learning_chart(shown)),
    "success": lambda shown: _chart(shown, success_chart(shown)),
    "shifts": lambda shown: _chart(shown, shift_chart(shown)),
    "pareto": _pareto,
}


_DOT = 12.0
_LARGEST = 900.0
_CLASS_GROUPS = 10
"""Groups of classes whose means are drawn; single classes are noisy."""
_FEW_PLACES = 16
"""The most places whose trials are counted next to them: those of three seeds of hits."""


def compare_picture(comparison: Comparison, form: str) -> bytes:
    """Return `compare_figure` as the content of a `png` or `svg` file.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    return as_bytes(compare_figure(comparison), form)


def compare_figure(comparison: Comparison) -> Figure:
    """Return a figure of two sides of a comparison.

    Long tail: the accuracy of both over the classes, from most to fewest training images, and
    their difference. Others: a scatter of the trials' scores; the area of a dot grows with the
    trials at its place, and where those are at few places, such as hits and misses, their counts
    are written next to them.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    if comparison.left.by_class is not None and comparison.right.by_class is not None:
        figure = _compare_classes(comparison, comparison.left.by_class, comparison.right.by_class)
    else:
        figure = _compare_trials(comparison)
    mean, lo, hi, _ = comparison.difference
    points = "points" if comparison.unit == "%" else comparison.unit
    figure.suptitle(
        f"{comparison.env}: {_name(comparison.left.name)} less {_name(comparison.right.name)}\n"
        f"{mean:+.2f} {points} (95 % interval {lo:+.2f} to {hi:+.2f})",
        fontsize=10,
    )
    return figure


def _compare_classes(comparison: Comparison, left: NDArray[Any], right: NDArray[Any]) -> Figure:
    """Both sides' accuracy from head to tail, and their difference, in groups of classes."""
    import numpy as np

    figure, (upper, lower) = panels(7.5, 5.6, rows=2)
    groups = np.array_split(np.arange(len(left)), min(_CLASS_GROUPS, len(left)))
    middles = [float(group.mean()) + 1 for group in groups]
    for side, values, colour in (
        (comparison.left, left, _BLUE),
        (comparison.right, right, _ORANGE),
    ):
        means = [values[group].mean() for group in groups]
        upper.plot(range(1, len(values) + 1), values, ".", color=colour, alpha=0.3, markersize=4)
        upper.plot(middles, means, "o-", color=colour, markersize=4, label=_name(side.name))
    upper.set_ylabel(f"{comparison.metric} of a class ({comparison.unit})")
    upper.legend(fontsize=8, frameon=False)
    differences = [(left - right)[group].mean() for group in groups]
    widths = [0.85 * len(group) for group in groups]
    colours = [_BLUE if value > 0 else _ORANGE for value in differences]
    lower.bar(middles, differences, width=widths, color=colours)
    lower.axhline(0, color="0.4", linewidth=0.8)
    lower.set_ylabel(f"difference ({'points' if comparison.unit == '%' else comparison.unit})")
    lower.set_xlabel(f"classes, from most to fewest training images (groups of {len(groups[0])})")
    for axes in (upper, lower):
        axes.set_xlim(0, len(left) + 1)
    return figure


def _compare_trials(comparison: Comparison) -> Figure:
    figure, axes = new_figure(5, 5.3)
    sides = (comparison.right, comparison.left)
    x, y = ([round(v, 6) for v in side.by_trial.tolist()] for side in sides)
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
    for side, label in ((comparison.right, axes.set_xlabel), (comparison.left, axes.set_ylabel)):
        label(f"{_name(side.name)}, {comparison.metric} ({comparison.unit}) of a trial")
    return figure


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
