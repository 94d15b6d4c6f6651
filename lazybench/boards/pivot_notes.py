"""What must be read beside a table of agents against environments."""

from __future__ import annotations

from collections import defaultdict

from lazybench.boards.build import FEWEST_SEEDS
from lazybench.boards.pivot import Pivot
from lazybench.boards.pivot_cells import NOT_MEASURED, Cell

FEW = "‡"
"""Stands by cells of few seeds, where others have enough."""


def footnotes(table: Pivot) -> list[str]:
    """Sentences that belong under the table."""
    filled = [cell for column in table.columns for cell in column.cells if isinstance(cell, Cell)]
    headline = table.choice.metric is None or any(cell.half is not None for cell in filled)
    # A further metric is a number of a whole run, such as a median.
    means = "means over test trials and seeds"
    means = means if headline else "each run's value over its test trials, mean over seeds"
    shown = f"{table.shared}: {means}" if table.shared else f"{means[0].upper()}{means[1:]}"
    notes = [f"{shown}, budget {table.choice.budget}."]
    if headline:
        notes.append("± is the wider half of the 95 % interval.")
    notes.append("Bold: best of its column.")
    if any(cell.place is not None for cell in filled):
        notes.append(
            f"Underlined: not told apart from the best (at least {FEWEST_SEEDS} seeds a side, "
            "paired over trials, corrected for the number of pairs). Average rank: over all "
            "columns, among the rows without a gap; ties share the mean of their places."
        )
    counts = sorted({len(cell.row.seeds) for cell in filled})
    notes.append(f"Seeds: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}.")
    if counts[0] < FEWEST_SEEDS:
        which = f"{FEW}: fewer" if some_are_few(table) else "All cells have fewer"
        notes.append(
            f"{which} than {FEWEST_SEEDS} seeds, which tell of a trained model, not of an "
            "algorithm."
        )
    if any(cell.outside for cell in filled):
        notes.append("†: another backbone or other weights than the ranked rows; not ranked.")
    notes += _told_of_cells(table)
    data: dict[str, list[str]] = defaultdict(list)
    for column in table.columns:
        data[column.data] += [column.env] if column.data else []
    told = [f"{name} ({', '.join(envs)})" for name, envs in data.items() if envs]
    return [*notes, f"Data: {'; '.join(told)}."]


def _told_of_cells(table: Pivot) -> list[str]:
    """What a reader must know of single cells, and why some have no score."""
    told: dict[str, list[str]] = defaultdict(list)
    filled = 0
    for column in table.columns:
        for label, cell in zip(table.labels, column.cells, strict=True):
            if isinstance(cell, str):
                places = [] if cell == NOT_MEASURED else [f"{label} on {column.env}"]
                told[f"-- {cell}"] += places
                continue
            filled += 1
            for mark in (*cell.row.marks, *([] if cell.row.tuned else ["untuned"])):
                told[mark].append(f"{label} on {column.env}")
    return [f"{mark}{_where(mark, places, filled)}." for mark, places in told.items()]


def _where(mark: str, places: list[str], filled: int) -> str:
    whole = len(places) == filled > 1 and not mark.startswith("--")
    return ": all cells" if whole else f": {', '.join(places)}" if places else ""


def some_are_few(table: Pivot) -> bool:
    """Whether some cells have fewer seeds than tell of an algorithm, and others enough."""
    cells = [cell for column in table.columns for cell in column.cells if isinstance(cell, Cell)]
    return len({is_few(cell) for cell in cells}) > 1


def is_few(cell: Cell) -> bool:
    """Whether a cell has fewer seeds than tell of an algorithm."""
    return len(cell.row.seeds) < FEWEST_SEEDS


def unfilled(table: Pivot) -> list[str]:
    """Labels of the rows without a single cell."""
    return [
        label
        for label in table.labels
        if not any(isinstance(cell, Cell) for cell in table.cells(label))
    ]
