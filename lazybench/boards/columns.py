"""The columns of boards, each defined once: every format is made from `COLUMNS`.

A new column is one entry: where its heading is given, the format shows it. Rows are facts of
`lazybench.boards.rows`; a column that no row fills is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from lazybench.boards.build import Board
from lazybench.boards.class_shift import DISTRIBUTIONS
from lazybench.boards.group import bounded
from lazybench.boards.rows import Row, ToTarget
from lazybench.records.schema import Reported

CellText = Callable[[Row, str], str]
"""The text of a row's cell; the second argument is the board's unit."""
Number = Callable[[Row], float | None]

_LONG = 1e15
"""Numbers from this size on are shown with a power of ten."""
_NUMBER = re.compile(r"([0-9]+)")
FIGURE_ONLY = "figure only"
_REASON_WIDTH = 80
"""Characters of a failed run's reason that a terminal shows."""


def number_text(value: float | None, unit: str) -> str:
    """A score as boards show it: two decimals of a percentage, else four digits."""
    if value is None:
        return ""
    return f"{value:.2f}" if unit == "%" and abs(value) < _LONG else f"{value:.4g}"


def count_text(value: float | None) -> str:
    """A count as boards show it, with commas between thousands; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) < _LONG else f"{bounded(value):.4g}"


def _fixed(value: float | None, decimals: int = 1) -> str:
    if value is None:
        return ""
    return f"{value:.{decimals}f}" if abs(value) < _LONG else f"{value:.4g}"


def _interval(low: float | None, high: float | None, unit: str) -> str:
    if low is None or high is None:
        return ""
    return f"{number_text(low, unit)} to {number_text(high, unit)}"


def _with_interval(value: float | None, low: float | None, high: float | None, unit: str) -> str:
    ends = _interval(low, high, unit)
    return number_text(value, unit) + (f" ({ends})" if ends else "")


def _over_classes(row: Row, unit: str) -> str:
    return _interval(row.classes_lo, row.classes_hi, unit)


def _tuning(row: Row) -> str:
    """The number of configurations of a search, or the source of the settings."""
    if row.tuning_trials is not None:
        return count_text(row.tuning_trials)
    return "preset" if row.tuned else "none"


def _notes(row: Row) -> Iterator[str]:
    """The notes in a terminal's last column. Pages and CSV files have the whole reason."""
    if row.reason is not None:
        whole = len(row.reason) <= _REASON_WIDTH
        yield row.reason if whole else f"{row.reason[: _REASON_WIDTH - 3].rstrip()}..."
    if row.batch_norm is not None:
        yield row.batch_norm
    if row.backbone is not None:
        yield row.backbone
    if row.weights not in (None, "fresh"):
        yield f"weights: {row.weights}"
    yield from row.marks
    if not row.tuned:
        yield "untuned"


def _block_agent(row: Row, unit: str) -> str:
    name = row.agent if row.batch_norm is None else f"{row.agent}, {row.batch_norm}"
    return f"{name} ({', '.join(row.marks)})" if row.marks else name


class Look(NamedTuple):
    """How one format shows a column: its heading and the text of its cells."""

    heading: str
    text: CellText


class Block(NamedTuple):
    """How a README block shows a column; `name` is its name in a mark; empty: always shown."""

    heading: str
    text: CellText
    name: str = ""
    left: bool = False


@dataclass(frozen=True)
class Column:
    """One column in all formats.

    Attributes:
        key: its name in CSV, and in JSON where that has it.
        help: what it holds, for readers of boards.
        page: in Markdown and HTML; None leaves it out.
        latex: heading in LaTeX, whose cells are those of `page`; empty leaves it out.
        terminal: in `lazybench leaderboard` and after a run; None leaves it out.
        block: in README blocks; None leaves it out.
        csv: the value in CSV; None leaves it out.
        csv_after: key of the column that it follows in CSV where the order differs there.
        optional: whether CSV and JSON leave it out where no row has a value.
        sort: what HTML sorts the column by; None sorts by text.
        ascending: whether a first click in HTML sorts from least to greatest.
        first: whether HTML shows it before a reader chooses all columns.
        axis: label of plots of the score against it; empty if there is none.
    """

    key: str
    help: str
    page: Look | None = None
    latex: str = ""
    terminal: Look | None = None
    block: Block | None = None
    csv: Callable[[Row, str], Any] | None = None
    csv_after: str = ""
    optional: bool = False
    sort: Number | None = None
    ascending: bool = False
    first: bool = False
    axis: str = ""

    def heading(self, board: Board) -> str:
        """The heading in Markdown and HTML; that of the score names the board's metric."""
        if self.key == "score":
            return f"{board.metric} ({board.unit}), 95 % CI"
        return self.page.heading if self.page is not None else ""

    def cells(self, board: Board, rows: Iterable[Row]) -> list[str]:
        """The text in Markdown, LaTeX and HTML of each row."""
        page = self.page
        return [] if page is None else [page.text(row, board.unit) for row in rows]


def _cost(  # noqa: PLR0913 - where it is shown
    key: str,
    heading: str,
    value: Number,
    about: str,
    cell: Callable[[float | None], str],
    *,
    latex: str = "",
    terminal: str = "",
    block: tuple[str, str] | None = None,
    optional: bool = False,
    first: bool = False,
    axis: str = "",
) -> Column:
    """A column of a number that is less the better; `block` is its heading and name there."""

    def text(row: Row, _: str) -> str:
        return cell(value(row))

    return Column(
        key,
        about,
        page=Look(heading, text),
        latex=latex,
        terminal=Look(terminal, text) if terminal else None,
        block=None
        if block is None
        else Block(block[0], lambda r, _: count_text(value(r)), block[1]),
        csv=lambda row, _: value(row),
        optional=optional,
        sort=value,
        ascending=True,
        first=first,
        axis=axis,
    )


_MEASURES = "measures"
"""The key of the place at which a board's further metrics come, a column each."""
_TO_TARGET = "to_target"
"""The key of the place at which the costs to an environment's targets come."""
NEVER = "--"
"""Shown for rows that don't reach a target."""

_CLASS_SHIFT = "class_shift"
"""The key under which JSON has the results of other test distributions."""
_SHOWN_SHIFTS = ("forward_50", "backward_50")
"""Those of `DISTRIBUTIONS` that pages and README blocks show; CSV and pictures have all."""


def _class_shift_columns() -> Iterator[Column]:
    """The columns of long tails under other test distributions; boards without them skip them."""
    yield Column(_CLASS_SHIFT, "long tails: results under other test distributions", optional=True)
    yield _class_shift_column(
        "worst_recall",
        "worst class",
        "long tails: recall of the worst class, mean over seeds",
        lambda row: None if row.class_shift is None else row.class_shift.worst_recall,
    )
    yield _class_shift_column(
        "harmonic_recall",
        "harmonic mean",
        "long tails: harmonic mean of the class recalls; a recall of 0 counts as half an image",
        lambda row: None if row.class_shift is None else row.class_shift.harmonic_recall,
    )
    for name, ratio in DISTRIBUTIONS:
        if ratio == 1:
            # The score itself.
            continue
        most = "most" if ratio > 1 else "least"
        yield _class_shift_column(
            name,
            name.replace("_", " "),
            f"long tails: expected accuracy on a long-tailed test set of ratio "
            f"{max(ratio, 1 / ratio):g}; the class with most training images has the {most}",
            partial(_shifted_accuracy, name),
            shown=name in _SHOWN_SHIFTS,
        )


def _shifted_accuracy(name: str, row: Row) -> float | None:
    return None if row.class_shift is None else row.class_shift.accuracy[name]


def _class_shift_column(
    key: str, words: str, about: str, value: Number, *, shown: bool = True
) -> Column:
    """A number of `Row.class_shift`; where it isn't shown, CSV alone has it."""
    return Column(
        key,
        about,
        page=Look(f"{words} (%)", lambda row, unit: number_text(value(row), unit))
        if shown
        else None,
        block=Block(f"{words}, %", lambda row, _: _fixed(value(row)), key) if shown else None,
        csv=lambda row, _: value(row),
        optional=True,
        sort=value,
    )


COLUMNS: tuple[Column, ...] = (
    Column(
        "rank",
        "1 for the best; rows with the same rank are statistically tied",
        page=Look("rank", lambda row, _: "" if row.rank is None else str(row.rank)),
        latex="rank",
        terminal=Look("rank", lambda row, _: "" if row.rank is None else str(row.rank)),
        block=Block("rank", lambda row, _: str(row.rank)),
        csv=lambda row, _: row.rank,
        sort=lambda row: row.rank,
        ascending=True,
        first=True,
    ),
    Column(
        "ranks",
        "all positions that the pairwise tests allow",
        page=Look(
            "ranks", lambda row, _: "" if row.ranks is None else "{} to {}".format(*row.ranks)
        ),
        latex="ranks",
        csv=lambda row, _: row.ranks,
        sort=lambda row: None if row.ranks is None else row.ranks[0],
        ascending=True,
    ),
    Column(
        "agent",
        "the agent's id with its overrides and whatever else differs among its rows",
        page=Look("agent", lambda row, _: row.agent),
        latex="agent",
        terminal=Look("agent", lambda row, _: row.agent),
        block=Block("agent", _block_agent, left=True),
        csv=lambda row, _: row.agent,
        ascending=True,
        first=True,
    ),
    Column(
        "score",
        "mean score over trials and seeds with its 95 % interval over both",
        page=Look("score", lambda row, unit: _with_interval(row.score, row.lo, row.hi, unit)),
        latex="score",
        terminal=Look("score", lambda row, unit: number_text(row.score, unit)),
        block=Block("score", lambda row, _: _fixed(row.score)),
        csv=lambda row, _: row.score,
        sort=lambda row: row.score,
        first=True,
    ),
    Column(
        "lo",
        "95 % interval of the score",
        terminal=Look("95 % interval", lambda row, unit: _interval(row.lo, row.hi, unit)),
        block=Block(
            "95 % interval",
            lambda row, _: (
                "" if row.lo is None or row.hi is None else f"{_fixed(row.lo)} to {_fixed(row.hi)}"
            ),
        ),
        csv=lambda row, _: row.lo,
    ),
    Column("hi", "upper end of the 95 % interval", csv=lambda row, _: row.hi),
    Column(
        "classes_lo",
        "95 % interval over the test's classes, too: how classes of the same kind would score",
        page=Look("95 % CI, classes", _over_classes),
        latex="95 % CI, classes",
        terminal=Look("over classes", _over_classes),
        block=Block(
            "over classes",
            lambda row, _: (
                ""
                if row.classes_lo is None
                else f"{_fixed(row.classes_lo)} to {_fixed(row.classes_hi)}"
            ),
        ),
        csv=lambda row, _: row.classes_lo,
        optional=True,
        sort=lambda row: row.classes_lo,
    ),
    Column(
        "classes_hi",
        "upper end of the 95 % interval over classes",
        csv=lambda row, _: row.classes_hi,
        optional=True,
    ),
    Column(
        "seed_std",
        "standard deviation of the seeds' scores",
        page=Look("std over seeds", lambda row, unit: number_text(row.seed_std, unit)),
        latex="std over seeds",
        terminal=Look("seed std", lambda row, unit: number_text(row.seed_std, unit)),
        csv=lambda row, _: row.seed_std,
        sort=lambda row: row.seed_std,
        ascending=True,
    ),
    Column("unit", "unit of the score", csv=lambda _, unit: unit),
    Column(
        "diff",
        "paired difference to the best row with its 95 % interval",
        page=Look(
            "to best",
            lambda row, unit: "" if row.diff is None else _with_interval(*row.diff[:3], unit),
        ),
        latex="to best",
        terminal=Look(
            "to best", lambda row, unit: number_text(row.diff.mean if row.diff else None, unit)
        ),
        csv=lambda row, _: row.diff and row.diff.mean,
        sort=lambda row: row.diff.mean if row.diff else None,
        first=True,
    ),
    Column(
        "diff_lo", "lower end of its 95 % interval", csv=lambda row, _: row.diff and row.diff.lo
    ),
    Column(
        "diff_hi", "upper end of its 95 % interval", csv=lambda row, _: row.diff and row.diff.hi
    ),
    Column("diff_p", "two-sided p of the difference", csv=lambda row, _: row.diff and row.diff.p),
    Column(_MEASURES, "further metrics, a column each, in their own units"),
    *_class_shift_columns(),
    Column(
        "track",
        "data that the training used, where the environment offers more than one kind",
        page=Look("track", lambda row, _: row.track or ""),
        latex="track",
        block=Block("track", lambda row, _: row.track or "", "track", left=True),
        csv=lambda row, _: row.track,
        csv_after="queries",
    ),
    Column(
        "reason",
        "why there is no score",
        page=Look("why no score", lambda row, _: row.reason or ""),
        latex="why no score",
        csv=lambda row, _: row.reason,
        csv_after="marks",
    ),
    Column(
        "seeds",
        "number of seeds; of a run without a score, its seed",
        page=Look(
            "seeds",
            lambda row, _: str(len(row.seeds)) if row.reason is None else f"seed {row.seeds[0]}",
        ),
        latex="seeds",
        terminal=Look("seeds", lambda row, _: str(len(row.seeds))),
        block=Block("seeds", lambda row, _: str(len(row.seeds))),
        csv=lambda row, _: row.seeds,
        sort=lambda row: len(row.seeds),
        first=True,
    ),
    Column(
        "trials",
        "test trials of each seed",
        page=Look("trials", lambda row, _: str(row.trials or "")),
        terminal=Look("trials", lambda row, _: str(row.trials or "")),
        csv=lambda row, _: row.trials,
        sort=lambda row: row.trials,
    ),
    Column(
        "batch_norm",
        "whether batch norm uses the statistics of the test set (transductive) or not (inductive)",
        page=Look("batch norm", lambda row, _: row.batch_norm or ""),
        latex="batch norm",
        csv=lambda row, _: row.batch_norm,
    ),
    Column(
        "backbone",
        "name of the network",
        page=Look("backbone", lambda row, _: row.backbone or ""),
        csv=lambda row, _: row.backbone,
    ),
    _cost(
        "parameters",
        "parameters",
        lambda row: row.parameters,
        "trained numbers, head included",
        count_text,
    ),
    Column(
        "weights",
        "`fresh`, or the source of the weights that training started from; of a pre-trained "
        "backbone or its features, what those were trained on",
        page=Look("weights", lambda row, _: row.weights or ""),
        csv=lambda row, _: row.weights,
    ),
    _cost(
        "train_wall_s",
        "train wall s",
        lambda row: row.train_wall_s,
        "wall time of training",
        _fixed,
        latex="train wall s",
        terminal="train s",
        axis="training, wall seconds",
    ),
    _cost(
        "eval_wall_s",
        "eval wall s",
        lambda row: row.eval_wall_s,
        "wall time of the test",
        _fixed,
        terminal="test s",
    ),
    _cost(
        "train_cpu_s",
        "train CPU s",
        lambda row: row.train_cpu_s,
        "processor time of training over all threads",
        _fixed,
        block=("training, CPU s", ""),
        first=True,
        axis="training, CPU seconds",
    ),
    _cost(
        "peak_memory_mb",
        "peak MB",
        lambda row: row.peak_memory_mb,
        "largest resident memory over the seeds, in 10^6 bytes",
        count_text,
        latex="peak MB",
        terminal="peak MB",
        block=("peak MB", "peak_mb"),
        axis="peak memory, MB",
    ),
    _cost(
        "peak_gpu_memory_mb",
        "GPU memory MB",
        lambda row: row.peak_gpu_memory_mb,
        "most that tensors took on the GPU over the seeds, in 10^6 bytes",
        count_text,
        latex="GPU MB",
        terminal="GPU MB",
        block=("GPU MB", "gpu_mb"),
        optional=True,
        axis="peak GPU memory, MB",
    ),
    _cost(
        "inner_steps",
        "inner steps",
        lambda row: row.inner_steps,
        "steps of inner loops, training and evaluation",
        count_text,
        latex="inner steps",
    ),
    _cost(
        "outer_steps",
        "outer steps",
        lambda row: row.outer_steps,
        "meta-iterations",
        count_text,
        latex="outer steps",
    ),
    _cost(
        "image_gradients",
        "image-gradients",
        lambda row: row.image_gradients,
        "images that a gradient was taken of",
        count_text,
        axis="image-gradients",
    ),
    _cost(
        "gradient_equivalents",
        "gradient-equivalents (F)",
        lambda row: row.gradient_equivalents,
        "forward and backward passes on one mini-batch that training cost",
        count_text,
        latex="F",
        block=("F", "F"),
        axis="gradient-equivalents (F)",
    ),
    _cost(
        "queries",
        "queries",
        lambda row: row.queries,
        "queries to the target over the whole test",
        count_text,
        axis="queries, whole test",
    ),
    Column(_TO_TARGET, "what training cost until validation reached a target", optional=True),
    Column("tuned", "whether the preset was tuned like the others", csv=lambda row, _: row.tuned),
    Column(
        "tuning_trials",
        "configurations that a search tried; `preset` or `none` where there was no search",
        page=Look("tuning trials", lambda row, _: _tuning(row)),
        csv=lambda row, _: row.tuning_trials,
    ),
    Column(
        "versions",
        "versions of lazybench that ran it",
        page=Look("version", lambda row, _: ", ".join(row.versions)),
        csv=lambda row, _: row.versions,
    ),
    Column(
        "marks",
        "what to know of the row: dirty, limited, below baseline, still rising, diverged 1 of 3, …",
        page=Look("marks", lambda row, _: ", ".join(row.marks)),
        latex="marks",
        csv=lambda row, _: row.marks,
    ),
    Column(
        "notes",
        "what the terminal has no columns for",
        terminal=Look("notes", lambda row, _: "; ".join(_notes(row))),
    ),
)

MEAN_QUERIES = "mean_queries"
AXES = (
    *((column.key, column.axis) for column in COLUMNS if column.axis),
    (MEAN_QUERIES, "queries an image"),
)
"""Costs that plots show the score against, with the label of their axis."""


def columns_of(board: Board, rows: Sequence[Row]) -> list[Column]:
    """The columns of Markdown, LaTeX and HTML that some of a board's rows fill."""
    columns: list[Column] = []
    for column in _with_targets(rows, board.unit):
        columns += _measures(board, rows) if column.key == _MEASURES else [column]
    return [column for column in columns if any(column.cells(board, rows))]


def csv_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns of CSV but further metrics, in their order there."""
    shown = [
        column
        for column in _with_targets(rows)
        if column.csv is not None
        and not (column.optional and all(column.csv(row, "") is None for row in rows))
    ]
    columns = [column for column in shown if not column.csv_after]
    for column in shown:
        if column.csv_after:
            place = next(i for i, each in enumerate(columns) if each.key == column.csv_after)
            columns.insert(place + 1, column)
    return columns


def is_shown_first(column: Column, board: Board) -> bool:
    """Whether HTML shows a column at first: attacks are compared by queries, others by CPU time."""
    return column.first and (column.key != "train_cpu_s" or board.family != "attack")


OPTIONAL = frozenset(column.key for column in COLUMNS if column.optional)


def _with_targets(rows: Sequence[Row], unit: str = "") -> Iterator[Column]:
    """`COLUMNS` with those of the targets that some rows have at their place."""
    for column in COLUMNS:
        if column.key == _TO_TARGET:
            for target in targets_of(rows):
                yield from _target_columns(target, unit)
        else:
            yield column


def targets_of(rows: Iterable[Row]) -> list[float]:
    """Return the targets whose cost some rows have, from least to greatest."""
    return sorted({each.target for row in rows for each in row.to_target or ()})


def to_target(row: Row, target: float) -> ToTarget | None:
    """Return what a row's training cost until a target; None if its records don't have it."""
    return next((each for each in row.to_target or () if each.target == target), None)


def target_text(to_reach: ToTarget | None) -> str:
    """The cost to a target with the processor; `--` where a row never gets there."""
    if to_reach is None:
        return ""
    if not to_reach.reached:
        return NEVER
    seeds = f"{to_reach.reached} of {to_reach.seeds} seeds"
    if to_reach.train_cpu_s is None:
        return f"{NEVER} ({seeds})"
    images = to_reach.image_gradients
    parts = [
        f"{_fixed(to_reach.train_cpu_s)} s",
        "" if images is None else f"{count_text(images)} image-gradients",
        seeds,
        "; ".join(to_reach.processors),
    ]
    return ", ".join(filter(None, parts))


def _target_cell(to_reach: ToTarget | None) -> str:
    """The processor seconds to a target, how many seeds got there if not all, the processor."""
    if to_reach is None or to_reach.train_cpu_s is None:
        return target_text(to_reach)
    some = to_reach.reached < to_reach.seeds
    seeds = [f"{to_reach.reached} of {to_reach.seeds} seeds"] if some else []
    return ", ".join([count_text(to_reach.train_cpu_s), *seeds, *to_reach.processors])


def target_blocks(rows: Sequence[Row], unit: str) -> dict[str, Block]:
    """Return how Markdown blocks show the cost to each target of some rows, by name (`to_95`)."""
    blocks = (c.block for t in targets_of(rows) for c in _target_columns(t, unit))
    return {block.name: block for block in blocks if block is not None}


def _target_columns(target: float, unit: str) -> Iterator[Column]:
    """The columns of one target; Markdown and HTML have one, CSV one for each number."""

    def number(name: str) -> Number:
        def value(row: Row) -> float | None:
            to_reach = to_target(row, target)
            return None if to_reach is None else vars(to_reach)[name]

        return value

    def processors(row: Row, _: str) -> str | None:
        to_reach = to_target(row, target)
        return None if to_reach is None else "; ".join(to_reach.processors)

    key = f"to_{target:g}"
    heading = f"CPU s and image-gradients to {target:g} {unit}".rstrip()
    cpu_s, images, reached = map(number, ("train_cpu_s", "image_gradients", "reached"))
    yield Column(
        f"{key}_cpu_s",
        "what training cost until validation first reached the target: processor seconds and "
        "image-gradients, median over seeds, how many seeds got there, and the processor",
        page=Look(heading, lambda row, _: target_text(to_target(row, target))),
        block=Block(
            f"CPU s to {target:g} {unit}".rstrip(),
            lambda row, _: _target_cell(to_target(row, target)),
            key,
        ),
        csv=lambda row, _: cpu_s(row),
        optional=True,
        sort=cpu_s,
        ascending=True,
    )
    yield Column(
        f"{key}_image_gradients",
        "image-gradients to the target, median over seeds",
        csv=lambda row, _: images(row),
        optional=True,
    )
    yield Column(
        f"{key}_seeds",
        "seeds that reach the target",
        csv=lambda row, _: reached(row),
        optional=True,
    )
    yield Column(f"{key}_processors", "processors behind it", csv=processors, optional=True)


def _measures(board: Board, rows: Sequence[Row]) -> Iterator[Column]:
    """A column for each further metric of some rows."""
    for name, unit in measures_of(rows):
        heading = f"{metric_words(name)} ({unit})"
        yield Column(
            # A metric may have the name of a column.
            f"{_MEASURES}.{name}",
            "further metric in its own unit",
            page=Look(heading, partial(_measure_cell, name)),
            latex=metric_words(name) if (name, unit) == (MEAN_QUERIES, "queries") else "",
            sort=partial(_measure_value, name),
            first=name == MEAN_QUERIES,
        )


def _measure_cell(name: str, row: Row, _: str) -> str:
    return measure_text(row, name)


def _measure_value(name: str, row: Row) -> float | None:
    return next((value for measure, _, value in row.measures if measure == name), None)


def measures_of(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return names and units of the further metrics of some rows, each once, by name.

    Numbers in names go by their value: `median_l2_at_300` comes before `median_l2_at_1000`.
    """
    measures = {(name, unit) for row in rows for name, unit, _ in row.measures}
    return sorted(measures, key=lambda measure: (_natural(measure[0]), measure))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key of names: their text, and the value of the numbers in it."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBER.split(name)]


def metric_words(name: str) -> str:
    """The words of a further metric's name, without its unit."""
    return name.removesuffix("_pct").replace("_", " ")


def measure_text(row: Row, wanted: str) -> str:
    """The text of a further metric of a row in its own unit; empty if the row has none."""
    for name, own_unit, value in row.measures:
        if name == wanted:
            return number_text(value, own_unit)
    return ""


@dataclass(frozen=True)
class ReportedColumn:
    """One column of the numbers that papers report.

    Attributes:
        heading: its name.
        text: the text of a cell.
        style: class of its cells in HTML.
        latex: whether LaTeX shows it.
        terminal: whether the terminal shows it.
    """

    heading: str
    text: Callable[[Reported], str]
    style: str = ""
    latex: bool = True
    terminal: bool = True


def row_name(row: Reported) -> str | None:
    """The board's name of a run of its agent and settings; None if lazybench has no such agent."""
    settings = ", ".join(f"{name}={value}" for name, value in sorted(row.settings.items()))
    return f"{row.agent} ({settings})" if row.agent is not None and settings else row.agent


def value_text(row: Reported) -> str:
    """`48.70 ± 1.84` in the row's unit, or that the paper only draws the number."""
    if row.value is None:
        return FIGURE_ONLY
    half = "" if row.ci95_half is None else f" ± {row.ci95_half:.2f}"
    return f"{row.value:.2f}{half}"


def place_text(row: Reported) -> str:
    """Return source and table of the published number."""
    return f"{row.source}, {row.table}"


_WHERE = "where"
REPORTED_COLUMNS = (
    ReportedColumn("as printed", lambda row: row.row),
    ReportedColumn("agent", lambda row: row.agent or "", terminal=False),
    ReportedColumn("metric", lambda row: row.metric.replace("_", " ")),
    ReportedColumn("reported", value_text, "number"),
    ReportedColumn("unit", lambda row: row.unit),
    ReportedColumn("batch norm", lambda row: row.batch_norm or ""),
    ReportedColumn(_WHERE, place_text, "prose"),
    ReportedColumn("note", lambda row: row.note or "", "prose", latex=False),
)


def common_source(rows: Sequence[Reported]) -> str:
    """The source that all rows share; empty if there are several."""
    sources = {row.source for row in rows}
    return sources.pop() if len(sources) == 1 else ""


def short_places(columns: Sequence[ReportedColumn]) -> list[ReportedColumn]:
    """The columns with only the table as the place, for a text that names the source elsewhere."""
    return [
        replace(column, text=lambda row: row.table) if column.heading == _WHERE else column
        for column in columns
    ]
