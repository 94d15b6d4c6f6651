"""Tables of agents against environments as LaTeX, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Callable

from lazybench.boards.csv_table import MADE_BY, csv_text
from lazybench.boards.latex import NEEDS, footnote, latex_cell, latex_comment, latex_text, tabular
from lazybench.boards.pivot import Column, Pivot
from lazybench.boards.pivot_cells import Cell
from lazybench.boards.pivot_notes import FEW, footnotes, is_few, some_are_few
from lazybench.boards.render import markdown_text, number_text

MISSING = "--"
_AVERAGE = "average rank"


def _text(cell: Cell | str, unit: str, *, few: bool) -> str:
    if isinstance(cell, str):
        return MISSING
    half = "" if cell.half is None else f" ± {number_text(cell.half, unit)}"
    marks = ("†" if cell.outside else "") + (FEW if few and is_few(cell) else "")
    return f"{number_text(cell.score, unit)}{half}{f' {marks}' if marks else ''}"


def _heading(column: Column, *, shared: str = "") -> str:
    if shared or not column.unit:
        return column.env
    return f"{column.env}, {column.metric} ({column.unit})"


def _average(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _grid(table: Pivot, marked: Callable[[Cell | str, str], str]) -> list[list[str]]:
    ranked = any(value is not None for value in table.average)
    grid = []
    for label, average in zip(table.labels, table.average, strict=True):
        cells = zip(table.columns, table.cells(label), strict=True)
        row = [label, *(marked(cell, column.unit) for column, cell in cells)]
        grid.append([*row, _average(average)] if ranked else row)
    return grid


def _header(table: Pivot) -> list[str]:
    ranked = any(value is not None for value in table.average)
    names = [_heading(column, shared=table.shared) for column in table.columns]
    return ["agent", *names, *([_AVERAGE] if ranked else [])]


def pivot_markdown(table: Pivot, *, command: str) -> str:
    """The table as Markdown, its footnote under it.

    Args:
        table: what to show.
        command: the command that made it, named in the first line.
    """
    from tabulate import tabulate

    few = some_are_few(table)

    def marked(cell: Cell | str, unit: str) -> str:
        text = _text(cell, unit, few=few)
        if isinstance(cell, str):
            return text
        return f"**{text}**" if cell.best else f"<u>{text}</u>" if cell.tied else text

    rows = [[markdown_text(row[0]), *row[1:]] for row in _grid(table, marked)]
    header = [markdown_text(name) for name in _header(table)]
    shown = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    notes = " ".join(markdown_text(note) for note in footnotes(table))
    made = " ".join(_made(command).replace(">", " ").split())
    return f"<!-- {made} -->\n\n{shown}\n\n{notes}\n"


def pivot_latex(table: Pivot, *, command: str) -> str:
    """The table as LaTeX with booktabs, its footnote under it.

    Args:
        table: what to show.
        command: the command that made it, named in the first line.
    """
    few = some_are_few(table)

    def marked(cell: Cell | str, unit: str) -> str:
        text = latex_cell(_text(cell, unit, few=few))
        if isinstance(cell, str):
            return text
        if cell.best:
            return rf"\textbf{{{text}}}"
        return rf"\underline{{{text}}}" if cell.tied else text

    rows = [[latex_cell(row[0]), *row[1:]] for row in _grid(table, marked)]
    header = [latex_text(name) for name in _header(table)]
    return "\n".join(
        [
            latex_comment(_made(command)),
            NEEDS,
            r"\begin{table}[htbp]",
            r"\centering\small",
            tabular(header, [("", rows)], "l" + "r" * (len(header) - 1)),
            footnote(" ".join(footnotes(table))),
            r"\end{table}",
            "",
        ]
    )


def pivot_csv(table: Pivot, *, command: str) -> str:
    """The table as CSV: score, half interval, place and seeds of each environment; gaps empty.

    Args:
        table: what to show.
        command: the command that made it, which each row names.
    """
    header: list[str] = ["agent"]
    for column in table.columns:
        header += [_heading(column), f"{column.env} ±", f"{column.env} place"]
        header.append(f"{column.env} seeds")
    rows = []
    for label, average in zip(table.labels, table.average, strict=True):
        row: list[object] = [label]
        for cell in table.cells(label):
            if isinstance(cell, Cell):
                row += [cell.score, cell.half, cell.place, len(cell.row.seeds)]
            else:
                row += [None] * 4
        rows.append([*row, average, command])
    return csv_text([*header, _AVERAGE, MADE_BY], rows)


def _made(command: str) -> str:
    return f"Made by `{command}`. Don't edit."
