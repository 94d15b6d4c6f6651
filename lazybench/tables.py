"""Tables as plain text, Markdown, LaTeX, HTML and CSV; markup in cells is escaped."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

_GAP = "  "
_LEAST = 16
_DIGITS = 6
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._,:;'=+/()%-]*[A-Za-z0-9)%])?")
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~!^$])")
# Also after a semicolon, which separates cells where the comma is the decimal sign. The last four
# are the full-width signs, which East Asian locales treat like the plain ones.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_STEERING = ("\t", "\r", "\n")
MADE_BY = "made_by"
"""The CSV column that names the command; CSV readers would read a comment as the header."""

LATEX_NEEDS = r"% Needs \usepackage{booktabs,graphicx}."
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    # LaTeX would read brackets or a star after a line break as its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "…": r"\ldots{}",
    "\N{EN DASH}": "--",
    "—": "---",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}
_ESCAPED |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")
# Every TeX engine sets these without further packages.
_LETTERS = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßŒœŠšŽžŁłĆćČčĎďĚěĞğŃńŇňŘřŚśŞşŤťŮůŹźŻż"
)


def one_line(content: str) -> str:
    """Return `content` as one line without terminal control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in content).split())


def text_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, columns: int | None = None
) -> str:
    """Return rows as aligned columns under a header; empty columns are left out.

    Numbers are aligned to the right.

    Args:
        header: names of the columns.
        rows: a cell for each column.
        columns: width of the terminal. If the table is wider, headings are wrapped between words,
            and then the last column is cut. None for lines of any length.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(header)) if not cells or any(row[i] for row in cells)]
    head = [header[i] for i in kept]
    body = [[row[i] for i in kept] for row in cells]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    heads = [head]
    if columns is not None and _over(widths, columns) > 0:
        # A heading needs the width of its longest word, or of the widest cell below it.
        widths = [
            max(map(len, (*name.split(), *column)), default=0)
            for name, *column in zip(head, *body, strict=True)
        ]
        heads = _wrapped(head, widths)
        over = _over(widths, columns)
        if over > 0:
            widths[-1] = max(min(_LEAST, widths[-1]), widths[-1] - over)
    right = [all(_is_number(row[i]) for row in body) and bool(body) for i in range(len(head))]
    ruled = [*heads, ["-" * size for size in widths], *body]
    return "\n".join(_aligned(row, widths, right) for row in ruled)


def _over(widths: Sequence[int], columns: int) -> int:
    """Characters by which a table of these columns is wider than the terminal."""
    return sum(widths) + len(_GAP) * (len(widths) - 1) - columns if widths else 0


def _wrapped(head: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """The lines of the headings, each in the width of its column, the last words at the rule."""
    parts = [
        textwrap.wrap(name, size) if name else [] for name, size in zip(head, widths, strict=True)
    ]
    tall = max(map(len, parts), default=0)
    return [list(line) for line in zip(*([""] * (tall - len(p)) + p for p in parts), strict=True)]


def _is_number(cell: str) -> bool:
    if not cell:
        return True
    with contextlib.suppress(ValueError):
        float(cell.replace(",", ""))
        return True
    return False


def _aligned(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cut = [
        cell if len(cell) <= w else cell[: w - 1] + "…" for cell, w in zip(row, widths, strict=True)
    ]
    placed = (
        cell.rjust(w) if to_right else cell.ljust(w)
        for cell, w, to_right in zip(cut, widths, right, strict=True)
    )
    return _GAP.join(placed).rstrip()


def markdown_text(text: str) -> str:
    """Return `text` as one line, escaped for Markdown and HTML, also inside a table."""
    line = one_line(text)
    if _PLAIN.fullmatch(line):
        return line
    return _MARKUP.sub(r"\\\1", html.escape(line, quote=False))


def markdown_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    align: Sequence[str] | None = None,
    *,
    padded: bool = True,
) -> str:
    """Return a Markdown table.

    Args:
        header: names of the columns, as Markdown.
        rows: cells, as Markdown (see `markdown_text`).
        align: `left` or `right` for each column; None leaves it to the Markdown viewer.
        padded: whether the text is padded to columns; without it, changes of tables with long cells
            are easier to compare.
    """
    if not padded:
        rule = "|".join("---:" if side == "right" else "---" for side in align or header)
        first, *lines = (f"| {' | '.join(row)} |" for row in (header, *rows))
        return "\n".join([first, f"|{rule}|", *lines])
    from tabulate import tabulate

    table = tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=align)
    return str(table)


def html_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    notes: Iterable[str] = (),
) -> str:
    """Return an HTML table for notebooks: a title, the table and notes, all of it escaped.

    Args:
        header: names of the columns; all empty for a table without a header.
        rows: a cell for each column.
        title: a line above the table.
        notes: paragraphs below the table.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        texts = (f"<{tag}>{html.escape(one_line(cell))}</{tag}>" for cell in row)
        return f"<tr>{''.join(texts)}</tr>"

    head = f"<thead>{cells('th', header)}</thead>" if any(header) else ""
    body = "\n".join(cells("td", row) for row in rows)
    above = f"<p><b>{html.escape(one_line(title))}</b></p>\n" if title else ""
    below = "".join(f"\n<p>{html.escape(one_line(note))}</p>" for note in notes)
    return f"{above}<table>{head}<tbody>\n{body}\n</tbody></table>{below}"


def latex_text(text: str) -> str:
    """Return `text` as one line, escaped for any LaTeX; rare characters become `[U+1F642]`."""
    return "".join(map(_character, one_line(text)))


def _character(c: str) -> str:
    if (escaped := _ESCAPED.get(c)) is not None:
        return escaped
    return c if c.isascii() or c in _LETTERS else f"{{[}}U+{ord(c):04X}{{]}}"


def latex_cell(text: str) -> str:
    """Return `latex_text` with a typographic minus before numbers."""
    return _MINUS.sub("$-$", latex_text(text))


def latex_comment(text: str) -> str:
    """Return `text` as one comment line."""
    return f"% {' '.join(text.split())}"


def latex_table(
    header: Sequence[str], blocks: Sequence[tuple[str, Sequence[Sequence[str]]]], align: str
) -> str:
    """Return a booktabs table, scaled down if it is wider than the text.

    Args:
        header: names of the columns, as LaTeX.
        blocks: rows of LaTeX cells, each block under its title; empty for no title.
        align: a letter for each column.
    """
    lines = [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule", _latex_line(header)]
    for title, rows in blocks:
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{len(header)}}}{{@{{}}l@{{}}}}{{\emph{{{title}}}}} \\")
        lines += map(_latex_line, rows)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def latex_heading(name: str) -> str:
    """Return a heading on two lines, since most are wider than the cells below them."""
    words = latex_text(name).split(" ")
    if len(words) == 1:
        return words[0]
    lines = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    upper, lower = min(lines, key=lambda pair: max(map(len, pair)))
    return rf"\shortstack[l]{{{upper}\\{lower}}}"


def latex_footnote(text: str) -> str:
    """Return `text` as a small paragraph under a table."""
    return rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {latex_text(text)}}}"


def latex_float(body: str, caption: str = "", *, narrow: bool = False) -> str:
    """Return `body` as a floating table.

    Args:
        body: LaTeX.
        caption: LaTeX; empty for none.
        narrow: whether to reduce the space between columns, for wide tables.
    """
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\small" + (r"\setlength{\tabcolsep}{3pt}" if narrow else ""),
            *([rf"\caption{{{caption}}}"] if caption else []),
            body,
            r"\end{table}",
        ]
    )


def csv_cell(value: Any) -> Any:
    """Return `value`, with text escaped that a spreadsheet would run as a formula."""
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return "" if value is None else rounded(value)
    line = _FORMULA.sub(r"\1'", "".join(c if c.isprintable() else " " for c in value))
    return f"'{line}" if value.startswith(_STEERING) and not line.startswith("'") else line


def csv_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a CSV table with its header in the first line; `csv_cell` escapes cells and names.

    Repeated names in the header get a number, since readers keep one column per name.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names: dict[str, None] = {}
    for name in map(csv_cell, header):
        again = (f"{name} {number}" for number in itertools.count(2))
        names[next(each for each in itertools.chain([name], again) if each not in names)] = None
    writer.writerow(names)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def is_made_by(data: bytes, command: str) -> bool:
    """Return whether the first row of a CSV table names `command` as its origin."""
    lines = csv.DictReader(io.StringIO(data.decode("utf-8", "replace")))
    try:
        return next(lines, {}).get(MADE_BY) == command
    except csv.Error:
        return False


def rounded(value: Any) -> Any:
    """Return `value` with floats rounded to 6 significant digits, equal on every machine."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value
