"""What must be read beside a table of agents against environments."""

from __future__ import annotations

from collections import defaultdict

from lazybench.boards.build import FEWEST_SEEDS
from lazybench.boards.pivot import Pivot
from lazybench.boards.pivot_cells import NOT_MEASURED, Cell


def footnotes(table: Pivot) -> list[str]:
    """Sentences that belong under the table."""
    filled = [cell for column in table.columns for cell in column.cells if isinstance(cell, Cell)]
    headline = table.choice.metric is None or any(cell.half is not None for cell in filled)
    shown = f"{table.shared}: means" if table.shared else "Means"
    notes = [f"{shown} over test trials and seeds, budget {table.choice.budget}."]
    if headline:
        notes.append("± is the wider half of the 95 % interval.")
    notes.append("Bold: best of its column.")
    fewest = min(len(cell.row.seeds) for cell in filled)
    if any(cell.place is not None for cell in filled):
        notes.append(
            f"Underlined: not told apart from the best (at least {FEWEST_SEEDS} seeds a side, "
            "paired over trials, corrected for the number of pairs). Average rank: over all "
            "columns, among the rows without a gap; ties share the mean of their places."
        )
        if fewest < FEWEST_SEEDS:
            notes.append(
                f"A row of fewer than {FEWEST_SEEDS} seeds is one of trained models, not of "
                "algorithms."
            )
    counts = sorted({len(cell.row.seeds) for cell in filled})
    notes.append(f"Seeds: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}.")
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
    for column in table.columns:
        for label, cell in zip(table.labels, column.cells, strict=True):
            if isinstance(cell, str):
                places = [] if cell == NOT_MEASURED else [f"{label} on {column.env}"]
                told[f"-- {cell}"] += places
                continue
            for mark in (*cell.row.marks, *([] if cell.row.tuned else ["untuned"])):
                told[mark].append(f"{label} on {column.env}")
    return [
        f"{mark}: {', '.join(places)}." if places else f"{mark}." for mark, places in told.items()
    ]


def unfilled(table: Pivot) -> list[str]:
    """Labels of the rows without a single cell."""
    return [
        label
        for label in table.labels
        if not any(isinstance(cell, Cell) for cell in table.cells(label))
    ]
