"""Boards are pure functions of records: the same records give the same bytes, everywhere."""

from __future__ import annotations

from lazybench.boards.build import Board, build, tables
from lazybench.boards.compare import Comparison, compare
from lazybench.boards.csv_table import to_csv
from lazybench.boards.latex import to_latex
from lazybench.boards.page import to_html
from lazybench.boards.render import to_json, to_markdown
from lazybench.boards.rows import Row
from lazybench.boards.write import check, expected_files, write
from lazybench.paper.reported import rows_for

__all__ = [
    "Board",
    "Comparison",
    "Row",
    "build",
    "check",
    "compare",
    "expected_files",
    "rows_for",
    "tables",
    "to_csv",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
    "write",
]
