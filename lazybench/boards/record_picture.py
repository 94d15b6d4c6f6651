"""A record as a picture: how it learned, what its teacher chose, what its trials scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lazybench.boards.groups import bounded, factor
from lazybench.boards.pictures import gamma_counts, is_drawable
from lazybench.boards.plots import as_bytes, panels
from lazybench.errors import UsageError
from lazybench.records.schema import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE = "#0b62a8", "#c4500a"
_BINS = 20


def record_picture(record: Record) -> bytes:
    """Return a PNG of one record: its learning curve, its histogram of gamma, its trials' scores.

    What a record doesn't have is left out: floors learn nothing, greedy teachers choose nothing.

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
        painters.append(_scores)
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
    told = f"validation {record.env.metric} ({_unit(record)})"
    axes.set_ylabel("validation error (MSE)" if attack else told)
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


def _scores(axes: Axes, record: Record) -> None:
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
    """The trials' scores in the board's unit; empty where one can't be drawn."""
    packed, scale = record.trials.scores, factor(record)
    scores = [] if packed is None else [score * scale for score in packed.unpack().tolist()]
    return scores if all(map(is_drawable, scores)) else []


def _unit(record: Record) -> str:
    return "%" if record.env.unit == "fraction" else record.env.unit
