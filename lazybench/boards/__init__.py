"""Boards, as pure functions of records: equal records give equal bytes on every machine."""

from __future__ import annotations

from lazybench.boards.build import Board, build, rows_for, tables
from lazybench.boards.compare import Comparison, compare
from lazybench.boards.page import to_html
from lazybench.boards.render import to_csv, to_json, to_latex, to_markdown
from lazybench.boards.rows import Row
from lazybench.boards.write import check, expected_files, write

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
