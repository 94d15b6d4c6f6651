"""A board as a terminal shows it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lazybench.boards import Board, Row
from lazybench.boards.render import number_text
from lazybench.cli import out

_HEADER = (
    "",
    "rank",
    "agent",
    "score",
    "95 % interval",
    "seed std",
    "to best",
    "seeds",
    "trials",
    "train s",
    "test s",
    "peak MB",
    "notes",
)


def board_text(board: Board, *, new: Collection[str] = (), columns: int | None = None) -> str:
    """Return a board as text: a heading, one aligned table, and what a reader must know.

    Args:
        board: the board.
        new: first 12 digits of the keys whose rows are marked with `>`.
        columns: width of the terminal; None where lines may be of any length.
    """
    unit = "" if board.unit == "%" else f" {board.unit}"
    heading = (
        f"{board.name}, budget {board.budget}, data {board.data} {board.fingerprint[:12]} "
        f"prep {board.prep}: "
        f"{board.metric}{f' in {board.unit}' if board.unit == '%' else unit and f' ({board.unit})'}"
        f", {board.better} is better"
    )
    lines = [out.one_line(heading)]
    several = board.rank_groups
    parts = [(f"ranked: {name or 'without a network'}", rows) for name, rows in several]
    rest = (*board.unranked, *board.transferred, *board.failed)
    if len(several) < 2:
        parts = [("", (*board.ranked, *rest))]
    elif rest:
        parts.append(("not ranked", rest))
    for name, rows in parts:
        lines += [out.one_line(name)] if name else []
        lines.append(out.table(_HEADER, [_cells(row, board, new) for row in rows], columns=columns))
    if any(set(row.keys) & set(new) for row in board.rows):
        lines.append("> is this run")
    lines.extend(board.notes)
    return "\n".join(lines)


def reported_text(board: Board, *, columns: int | None = None) -> str:
    """Return what papers report for the board's environment, or an empty string."""
    from lazybench.boards.reported import place_text, value_text

    if not board.reported:
        return ""
    header = ("as printed", "metric", "reported", "unit", "batch norm", "where", "note")
    rows = [
        (
            r.row,
            r.metric.replace("_", " "),
            value_text(r),
            r.unit,
            r.batch_norm or "",
            place_text(r),
            r.note or "",
        )
        for r in board.reported
    ]
    head = f"Reported for {board.env}: not measured here, unranked"
    return f"{head}\n{out.table(header, rows, columns=columns)}"


def gamma_text(diagnostics: Mapping[str, Any]) -> str:
    """Return one line on the gammas that a lazy agent chose, or an empty string for any other."""
    from lazybench.boards.pictures import gamma_counts, is_drawable

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


def _cells(row: Row, board: Board, new: Collection[str]) -> tuple[str, ...]:
    return (
        ">" if set(row.keys) & set(new) else "",
        "" if row.rank is None else str(row.rank),
        row.agent,
        number_text(row.score, board.unit),
        _interval(row.lo, row.hi, board.unit),
        number_text(row.seed_std, board.unit),
        "" if row.diff is None else number_text(row.diff.mean, board.unit),
        str(len(row.seeds)),
        str(row.trials or ""),
        "" if row.train_wall_s is None else f"{row.train_wall_s:.1f}",
        "" if row.eval_wall_s is None else f"{row.eval_wall_s:.1f}",
        "" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
        "; ".join(_notes(row)),
    )


def _notes(row: Row) -> Iterator[str]:
    if row.reason is not None:
        yield row.reason
    if row.batch_norm is not None:
        yield row.batch_norm
    if row.backbone is not None:
        yield row.backbone
    if row.weights not in (None, "fresh"):
        yield f"weights: {row.weights}"
    yield from row.marks
    if not row.tuned:
        yield "untuned"


def _interval(low: float | None, high: float | None, unit: str) -> str:
    if low is None or high is None:
        return ""
    return f"{number_text(low, unit)} to {number_text(high, unit)}"
